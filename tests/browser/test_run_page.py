"""The page of a run in a browser: a long log, charts, checkpoints and images."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from bench.screenshots import pages
from tests.browser.watching import complaints

MOST_LINES = 6 * 500 + 500
NUMBERS = "e => [...e.querySelectorAll('.l')].map((line) => Number(line.dataset.n))"
#: The number of the first line that is seen.
SEEN = """e => {
    const top = e.getBoundingClientRect().top;
    const line = [...e.querySelectorAll('.l')].find((l) => l.getBoundingClientRect().bottom > top);
    return Number(line.dataset.n);
}"""


@pytest.fixture
def page(browser: Browser, made_up: str, visitors: dict[str, Any]):
    context = browser.new_context(
        storage_state=visitors[pages.RESEARCHER], viewport={"width": 1440, "height": 900}
    )
    page = context.new_page()
    broken = complaints(page)
    yield page
    context.close()
    assert broken == []


def open_run(page: Page, url: str, words: str) -> None:
    page.goto(f"{url}/runs/?q={words}")
    page.click("td.lead a")
    page.wait_for_url("**/runs/*/")
    expect(page.locator("#follow")).to_have_attribute("data-ready", "1")


def test_a_long_log_is_scrolled_gone_to_and_searched(page: Page, made_up: str):
    open_run(page, made_up, "seed 1")
    log, count = page.locator("#terminal"), page.locator("#log-count")

    expect(log.locator(".l").last).to_have_attribute("data-n", "20000")
    page.fill("#log-go", "9000")
    page.press("#log-go", "Enter")
    expect(log.locator('.l[data-n="9000"].at')).to_be_in_viewport()
    assert page.url.endswith("#L9000")

    for step in [-600] * 25 + [600] * 25:
        log.evaluate("(e, step) => { e.scrollTop += step }", step)
        page.wait_for_timeout(10)
    numbers = log.evaluate(NUMBERS)
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert len(numbers) <= MOST_LINES
    assert abs(log.evaluate(SEEN) - 9000) < 400

    page.press("#log-go", "Enter")  # once more to the same line, from where scrolling has led
    expect(log.locator('.l[data-n="9000"].at')).to_be_in_viewport()
    assert log.evaluate(SEEN) < 9000  # it stands in the middle
    page.fill("#log-find", "GRADIENT norm of step")
    expect(count).to_have_text("9 / 20 lines")  # the next from where one is
    expect(log.locator('.l[data-n="9000"].at')).to_be_in_viewport()
    page.press("#log-find", "Enter")
    expect(count).to_have_text("10 / 20 lines")
    expect(log.locator('.l[data-n="10000"].at .a-r')).to_be_in_viewport()
    page.get_by_label("As a pattern").press("Space")
    page.fill("#log-find", "step 1999[0-9] ")
    expect(count).to_have_text("1 / 10 lines")
    page.fill("#log-find", "(")
    expect(count).to_contain_text("no pattern that can be searched for")

    page.click("#log-top")
    expect(log.locator('.l[data-n="1"]')).to_be_in_viewport()
    page.click("#follow")
    expect(log.locator('.l[data-n="20000"]')).to_be_in_viewport()


def test_a_link_to_a_line_leads_there(page: Page, made_up: str):
    open_run(page, made_up, "seed 1")
    page.goto(f"{page.url}#L4321")
    page.reload()

    expect(page.locator('.l[data-n="4321"].at')).to_be_in_viewport()


def test_a_failed_run_leads_to_its_error_and_to_a_change(page: Page, made_up: str):
    open_run(page, made_up, "smaller step")
    failed = page.locator(".failed")

    expect(failed.locator(".what")).to_contain_text("torch.OutOfMemoryError: CUDA out of memory")
    expect(failed.locator(".memory")).to_contain_text("22.62 GiB")
    failed.get_by_role("button", name="Show in the log").click()
    expect(page.locator("#terminal .l.at")).to_have_text("Traceback (most recent call last):")
    failed.get_by_role("link", name="Rerun with a change").click()
    page.locator(".CodeMirror").click()
    page.keyboard.press("Control+End")
    page.keyboard.type("seed: 7")
    expect(page.locator("#preview-wide .differs")).to_contain_text("seed")


def test_charts_are_pointed_at_zoomed_hidden_and_saved(page: Page, made_up: str, tmp_path: Path):
    open_run(page, made_up, "seed 0")
    chart = page.locator("#plots .plot").first
    expect(page.locator("#plots figcaption")).to_have_text(["accuracy", "loss", "lr"])

    chart.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert chart.get_attribute("aria-valuetext").startswith("epoch 2: test_accuracy 0.")
    expect(page.locator("#plots .legend").first).to_contain_text("epoch 2")
    page.keyboard.press("+")
    expect(page.locator("#zoom-reset")).to_be_visible()
    page.keyboard.press("0")
    expect(page.locator("#zoom-reset")).to_be_hidden()
    box = page.locator("#plots .u-over").first.bounding_box()
    page.mouse.move(box["x"] + 80, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 60, steps=4)
    page.mouse.up()
    expect(page.locator("#zoom-reset")).to_be_visible()
    page.click("#zoom-reset")

    page.locator(".of-chart summary").first.click()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as a table").click()
    saved.value.save_as(tmp_path / "accuracy.csv")
    header, first, *_rest = (tmp_path / "accuracy.csv").read_text().splitlines()
    assert header == "epoch,test_accuracy"
    assert first.startswith("1,0.")

    page.locator("#smooth").fill("60")
    page.get_by_label("Log axis").check()
    page.locator(".of-chart summary").last.click()
    page.get_by_role("button", name="Hide").click()
    expect(page.locator("#plots figure:visible")).to_have_count(2)
    page.reload()
    expect(page.locator("#plots figure:visible")).to_have_count(2)
    expect(page.locator("#smooth")).to_have_value("60")
    expect(page.get_by_label("Log axis")).to_be_checked()
    page.click("#chart-hidden")
    expect(page.locator("#plots figure:visible")).to_have_count(3)


def test_a_checkpoint_is_looked_into_and_images_move_with_the_step(page: Page, made_up: str):
    open_run(page, made_up, "seed 0")

    page.locator("details.more", has_text="epoch_060.safetensors").locator("summary").click()
    expect(page.locator(".loaded", has_text="conv1.weight")).to_contain_text("64 × 3 × 7 × 7")
    page.locator("details.more", has_text="broken.pt").locator("summary").click()
    expect(page.locator("#checkpoints")).to_contain_text("It is no checkpoint of a kind")

    image = page.locator(".pictures figure img").first
    assert "generated_00900" in image.get_attribute("src")
    page.locator("#picture-place").focus()
    for _press in range(3):
        page.keyboard.press("ArrowLeft")
    expect(page.locator("#picture-step")).to_have_text("600")
    assert "generated_00600" in image.get_attribute("src")
    assert image.evaluate("e => e.decode().then(() => e.naturalWidth)") == 32
