"""Chromium, led from page to page in each width, theme and language."""

from itertools import product
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from bench.screenshots import pages

WIDTHS = {"1440": (1440, 900), "390": (390, 844)}
_GUIDES = {"dashboard", "run", "devices", "compare", "execute", "people"}
#: What README and the guides show, by the reader's language and the folder that it lies in.
SHOWN = {
    "en": ("img", {*_GUIDES, "runs", "sweep"}),
    "ko": ("img/ko", _GUIDES),
}
#: Each way to look at a page: its width, theme and language.
WAYS = ["-".join(way) for way in product(WIDTHS, ("light", "dark"), ("en", "ko"))]
ZONE = "Asia/Seoul"
LAUNCH = ["--no-sandbox", f"--host-resolver-rules=MAP {pages.STRANGE_NAME} 127.0.0.1"]
#: Until what comes by itself has come: curves, and the line to the server.
SETTLED_MS = 700


def take(url: str, folder: Path, names: list[str], ways: list[str]) -> None:
    """Pictures named page-width-theme-language."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=LAUNCH)
        for way in ways:
            _tour(browser, url, folder, names, way)
        browser.close()


def _tour(browser: Browser, url: str, folder: Path, names: list[str], way: str) -> None:
    width, theme, language = way.split("-")
    w, h = WIDTHS[width]
    for user in ("", pages.RESEARCHER, pages.MANAGER):
        page = browser.new_page(
            viewport={"width": w, "height": h},
            color_scheme=theme,
            locale=language,
            timezone_id=ZONE,
        )
        page.on("console", lambda message: print("console:", message.text))
        if user:
            pages.sign_in(page, url, user)
        for name in names:
            if pages.visitor_of(name) == user:
                pages.visit(page, url, name)
                _shoot(page, folder, name, way)
        page.close()


def _shoot(page: Page, folder: Path, name: str, way: str) -> None:
    page.wait_for_timeout(SETTLED_MS)
    page.screenshot(path=folder / f"{name}-{way}.png", full_page=True)
    for language, (place, names) in SHOWN.items():
        if way == f"1440-light-{language}" and name in names:  # as a reader sees it at first
            page.screenshot(path=folder / place / f"{name}.png")
