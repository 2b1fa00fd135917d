"""Without a mouse, and without scripts."""

import re
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, TimeoutError, expect

from bench.screenshots import pages
from tests.browser.watching import complaints

#: Whether what has the focus can be seen to have it.
IS_MARKED = """() => {
    const style = getComputedStyle(document.activeElement);
    return document.activeElement !== document.body && style.outlineStyle !== "none";
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


def press(page: Page, *keys: str) -> None:
    """Each, and see that the focus shows."""
    for key in keys:
        page.keyboard.press(key)
        assert page.evaluate(IS_MARKED), f"after {key} nobody sees where one is"


def test_a_table_of_runs_is_used_by_keys_alone(page: Page, made_up: str):
    page.goto(f"{made_up}/projects/mstar-curriculum/")
    press(page, "Tab")
    expect(page.locator(".skip")).to_be_focused()
    expect(page.locator(".skip")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()

    # A menu opens, takes the focus within, and gives it back
    columns = page.locator("details#columns")
    columns.locator("summary").focus()
    press(page, "Enter", "Tab")
    expect(columns.get_by_role("checkbox").first).to_be_focused()
    press(page, "Escape")
    expect(columns).not_to_have_attribute("open", re.compile(".*"))
    expect(columns.locator("summary")).to_be_focused()

    # Runs are ticked, sorted and compared
    page.locator("#table thead a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**sort=**")
    boxes = page.locator("#table input[name=run]")
    boxes.nth(0).focus()
    press(page, "Space", "Tab", "Tab", "Shift+Tab")
    boxes.nth(1).focus()
    press(page, "Space")
    expect(page.locator("#ticked")).to_have_text("2 runs ticked")
    page.get_by_role("button", name="Compare").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/compare/**")
    expect(page.locator("#chosen li")).to_have_count(2)


def test_a_run_is_queued_by_keys_alone(page: Page, made_up: str):
    page.goto(f"{made_up}/")
    page.keyboard.press("/")
    expect(page.locator(".top .find input")).to_be_focused()
    page.goto(f"{made_up}/execute/")
    page.get_by_role("textbox", name="YAML configuration").focus()
    page.keyboard.type("lr: 0.1\n")
    press(page, "Escape")  # Tab indents
    expect(page.get_by_label("Project")).to_be_focused()
    page.keyboard.type("by-keys")
    page.get_by_role("textbox", name="Command", exact=True).focus()
    page.keyboard.type("python train.py")
    expect(page.locator("#preview")).to_contain_text("python train.py")
    page.get_by_role("button", name="Add to queue").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs/*/")
    expect(page.locator("#config")).to_contain_text("lr: 0.1")


def test_two_keys_lead_to_a_page_and_one_lists_them(page: Page, made_up: str):
    page.goto(f"{made_up}/")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_contain_text("Queue")
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()

    lead_to(page, "q", "/queue/")

    page.keyboard.press("/")
    page.keyboard.type("gr")  # into the search, and nowhere else
    expect(page.locator(".top .find input")).to_have_value("gr")
    expect(page).to_have_url(re.compile("/queue/$"))


def lead_to(page: Page, letter: str, address: str) -> None:
    """ "g" and the letter, as often as a person would who was too slow for the second."""
    for _ in range(5):
        page.keyboard.press("g")
        page.keyboard.press(letter)
        try:
            return page.wait_for_url(f"**{address}", timeout=5000)
        except TimeoutError:
            continue
    raise AssertionError(f"g {letter} leads nowhere")


def test_enter_in_a_field_shows_what_will_run_and_queues_nothing(page: Page, made_up: str):
    page.goto(f"{made_up}/execute/")
    page.get_by_label("Project").fill("by-enter")
    page.get_by_role("textbox", name="Command", exact=True).fill("python train.py")
    page.get_by_role("textbox", name="Command", exact=True).press("Enter")
    expect(page.locator("#preview")).to_contain_text("python train.py")
    paths = page.get_by_label("Required paths")
    paths.fill("/data/a")
    paths.press("Enter")
    expect(paths).to_have_value("/data/a\n")  # a field of several lines has one more

    assert page.url == f"{made_up}/execute/"
    page.get_by_label("Name").press("Control+Enter")
    page.wait_for_url("**/runs/*/")
    expect(page.locator("main")).to_contain_text("/data/a")


READ = {
    "dashboard": "Waiting",
    "queue": "Why it waits",
    "runs": "mstar-curriculum",
    "run": "train_loss",
    "devices": "gpu-01",
    "device": "Runs that were here",
    "projects": "mstar-curriculum",
    "project": "test_accuracy",
    "sweep": "batch_size",
    "execute": "Command",
}


def test_without_scripts_each_page_is_read(
    browser: Browser, made_up: str, visitors: dict[str, Any]
):
    context = browser.new_context(java_script_enabled=False, storage_state=visitors[pages.MANAGER])
    page = context.new_page()
    for name, words in READ.items():
        pages.visit(page, made_up, name)
        page.wait_for_load_state()
        expect(page.locator("main")).to_contain_text(words)
        assert page.locator(".scripted:visible, .script-only:visible").count() == 0, name
    page.goto(f"{made_up}/projects/mstar-curriculum/?q=state:succeeded")
    for box in page.locator("input[name=run]").all()[:2]:
        box.check()
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("main")).to_contain_text("test_accuracy")
    context.close()
