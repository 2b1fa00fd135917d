"""What only a browser shows of a table of runs, and of runs beside each other."""

from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.test_live import SLOW_MS, sign_in
from tests.browser.watching import complaints
from tests.e2e.lab import Lab

SUBMIT = """async (name) => {
    const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
    const answer = await fetch("/api/jobs/", {
        method: "POST", headers: {"X-CSRFToken": token, "Content-Type": "application/json"},
        body: JSON.stringify({
            project: "beside", name, command: ["python3", "train.py"], resources: {gpus: 0},
        }),
    });
    if (!answer.ok) throw new Error(await answer.text());
}"""


def test_a_table_moves_while_its_runs_are_ticked_and_edited_and_they_are_compared(
    page: Page, lab: Lab, password: str, source: Path
):
    broken = complaints(page)
    (source / "go").unlink(missing_ok=True)
    sign_in(page, lab, password)
    page.evaluate(SUBMIT, "first")
    page.goto(f"{lab.url}/projects/beside/?c=state&c=tag&c=last:test_accuracy")
    page.evaluate("window.notReloaded = true")
    first = page.locator("#table tbody tr", has_text="first")
    expect(first).to_contain_text("0.7", timeout=SLOW_MS)

    box = page.get_by_label("Tick run_001")
    box.check()
    first.hover()
    page.get_by_label("Edit the tags of run_001").click()
    page.get_by_role("textbox", name="Edit the tags of run_001").fill("paper, seeds")
    page.keyboard.press("Enter")
    expect(first.locator(".tag").first).to_have_text("paper", timeout=SLOW_MS)

    (source / "go").touch()
    page.evaluate(SUBMIT, "second")
    expect(first).to_contain_text("0.97", timeout=SLOW_MS)
    expect(first).to_contain_text("succeeded", timeout=SLOW_MS)
    second = page.locator("#table tbody tr").first
    expect(second).to_contain_text("second", timeout=SLOW_MS)
    expect(second).to_contain_text("0.97", timeout=SLOW_MS)
    expect(box).to_be_checked()
    expect(page.locator("#ticked")).to_have_text("1 run ticked")
    assert page.evaluate("window.notReloaded")

    page.get_by_label("Tick run_002").check()
    page.get_by_role("button", name="Compare").click()
    accuracy = page.get_by_role("img", name="test_accuracy of")
    expect(accuracy).to_have_attribute("aria-label", "test_accuracy of 2 runs", timeout=SLOW_MS)
    expect(accuracy.locator("canvas")).to_be_visible()
    page.locator("#chosen li").first.hover()
    page.locator("#chosen input").first.uncheck()
    expect(accuracy).to_have_attribute("aria-label", "test_accuracy of 1 run")
    assert broken == []
