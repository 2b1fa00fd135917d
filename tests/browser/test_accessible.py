"""Every page can be used by everybody: axe-core finds nothing, and nothing sticks out."""

from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.barriers import AXE, ENGLISH, barriers, barriers_of


@pytest.mark.parametrize("name", ENGLISH)
def test_a_page_keeps_nobody_out(
    browser: Browser, made_up: str, visitors: dict[str, Any], name: str
):
    assert barriers_of(browser, made_up, visitors, name, "en") == {}


def test_a_barrier_is_found(page: Page):
    page.set_content("<html><body><img src='x'><p style='width: 200vw'>wide</p></body></html>")
    page.evaluate(AXE)

    found = " ".join(barriers(page))

    assert "image-alt" in found
    assert "p. sticks out" in found
