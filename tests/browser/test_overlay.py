"""Curves over one another miss nothing of what is told once."""

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route

from bench.screenshots import pages

#: Time is the test's: the page's timers go off when it says so.
PAUSE_MS = 4000
TELL = "(detail) => document.dispatchEvent(new CustomEvent('lab:message', {detail}))"
STRANGER = {"kind": "file", "id": 987654}


@pytest.fixture
def page(browser: Browser, made_up: str, visitors: dict[str, Any]):
    context = browser.new_context(storage_state=visitors[pages.MANAGER])
    page = context.new_page()
    page.clock.install()
    yield page
    context.close()


def opened(page: Page, url: str) -> list[str]:
    """The page of a sweep, at rest; and what of its curves is asked for from now on."""
    asked: list[str] = []
    page.goto(f"{url}/sweeps/1/")
    page.wait_for_selector("#overlay-plot canvas")
    page.wait_for_selector("#live[data-state=on]")  # or it gives the line up as time goes on
    page.clock.run_for(PAUSE_MS)
    page.on("request", lambda one: asked.append(one.url) if "/curve/" in one.url else None)
    return asked


def test_a_file_that_nobody_knows_is_asked_about_once(page: Page, made_up: str):
    asked = opened(page, made_up)

    with page.expect_response("**/curve/**") as first:
        page.evaluate(TELL, STRANGER)
    first.value.finished()
    page.evaluate("() => fetch('/words.js').then((one) => one.text())")  # by then it was read
    page.clock.run_for(2 * PAUSE_MS)
    page.evaluate(TELL, STRANGER)
    page.clock.run_for(2 * PAUSE_MS)

    assert len(asked) == 1


def test_a_question_that_failed_is_asked_again(page: Page, made_up: str):
    opened(page, made_up)

    def fail(route: Route) -> None:
        route.fulfill(status=503)

    page.route("**/curve/**", fail, times=1)
    with page.expect_response(lambda one: "/curve/" in one.url and one.status == 503):
        page.evaluate(TELL, {"kind": "job", "job": 1, "sweep": 1})
    page.wait_for_timeout(100)
    with page.expect_response("**/curve/**") as again:
        page.clock.run_for(2 * PAUSE_MS)

    assert again.value.ok
