"""The same in Korean; a file of its own, so that another worker looks at the same time."""

from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.browser.barriers import KOREAN, barriers_of


@pytest.mark.parametrize("name", KOREAN)
def test_a_page_keeps_nobody_out(
    browser: Browser, made_up: str, visitors: dict[str, Any], name: str
):
    assert barriers_of(browser, made_up, visitors, name, "ko") == {}
