"""What only a browser shows of dashboard and queue: dragging, and figures that move."""

from playwright.sync_api import Page, expect

from tests.browser.test_live import SLOW_MS, sign_in
from tests.e2e.lab import Lab


def queue_one(page: Page, lab: Lab, name: str) -> None:
    """A run that nothing here has the GPUs for, so that it waits."""
    done = page.evaluate(
        """async ([url, name]) => {
            const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
            const wish = { project: "line", name, command: ["true"], resources: { gpus: 8 } };
            const body = JSON.stringify(wish);
            const headers = { "Content-Type": "application/json", "X-CSRFToken": token };
            return (await fetch(`${url}/api/jobs/`, { method: "POST", headers, body })).status;
        }""",
        [lab.url, name],
    )
    assert done == 201


def test_a_run_is_dragged_before_another_and_the_dashboard_counts_by_itself(
    page: Page, lab: Lab, password: str
):
    sign_in(page, lab, password)
    page.goto(lab.url)
    expect(page.locator("#live")).to_have_text("Live", timeout=SLOW_MS)
    waiting = page.locator(".figures > div", has_text="Waiting")
    before = int(waiting.locator("dd").first.inner_text())
    for name in ("first", "second", "third"):
        queue_one(page, lab, name)
    expect(waiting.locator("dd").first).to_have_text(str(before + 3), timeout=SLOW_MS)

    page.goto(f"{lab.url}/queue/?project=line")
    rows = page.locator("tr[data-uid]")
    expect(rows).to_have_count(3)
    grip, target = rows.nth(2).locator(".grip"), rows.nth(0)
    box, goal = grip.bounding_box(), target.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(goal["x"] + 60, goal["y"] + 3, steps=4)
    expect(target).to_have_class("over-before")
    page.mouse.up()

    expect(rows.nth(0)).to_contain_text("third", timeout=SLOW_MS)
    expect(rows.nth(1)).to_contain_text("first")
    rows.nth(1).get_by_role("button", name="up").focus()
    page.keyboard.press("Enter")
    expect(rows.nth(0)).to_contain_text("first", timeout=SLOW_MS)
