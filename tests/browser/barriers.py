"""What keeps somebody out of a page: what axe-core finds, and what sticks out.

The pages are those of the lab that bench/screenshots makes up, in every state that it has.
"""

import os
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from bench.screenshots import pages
from bench.screenshots.browser import WIDTHS
from tests.browser.watching import complaints

AXE = (Path(__file__).parent / "vendor/axe-core/axe.min.js").read_text()
#: Each page is asked in one language, wide in the light and narrow in the dark; with
#: LAB_LANGUAGES=all in both and in each way, which takes four times as long.
IN_ALL = os.environ.get("LAB_LANGUAGES") == "all"
WAYS = [("1440", "light"), ("390", "dark"), ("1440", "dark"), ("390", "light")]
ENGLISH = pages.PAGES if IN_ALL else pages.PAGES[0::2]
KOREAN = pages.PAGES if IN_ALL else pages.PAGES[1::2]
#: Each rule is asked of everything; where each element lies that keeps it is not written down,
#: which takes axe-core the longer half of its time.
ONLY_VIOLATIONS = "axe.run(document, { resultTypes: ['violations'] })"
#: No answer comes any more: a page that changes under axe-core's hands breaks it.
NOTHING_NEW = "() => { window.fetch = () => new Promise(() => {}); }"
#: Curves are drawn anew for another width or theme.
AT_REST = """() => new Promise((resolve) => {
    let timer = setTimeout(resolve, 200);
    new MutationObserver(() => { clearTimeout(timer); timer = setTimeout(resolve, 200); })
        .observe(document.body, {childList: true, subtree: true});
})"""
#: What is wider than the page, and not within a box that scrolls by itself.
STICKS_OUT = """() => {
    const wide = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= wide) return [];
    return [...document.body.querySelectorAll("*")]
        .filter((e) => e.getBoundingClientRect().right > wide + 1)
        .map((e) => `${e.tagName.toLowerCase()}.${e.className} sticks out`);
}"""


def barriers_of(
    browser: Browser, made_up: str, visitors: dict[str, Any], name: str, language: str
) -> dict[tuple[int, str], list[str]]:
    """By width and theme: what keeps somebody out of the page of that name; and what the page
    complains of."""
    context = browser.new_context(
        locale=language, storage_state=visitors[pages.visitor_of(name)], reduced_motion="reduce"
    )
    page = context.new_page()
    broken = complaints(page)
    pages.visit(page, made_up, name)
    page.wait_for_load_state("networkidle")
    page.evaluate(NOTHING_NEW)
    page.evaluate(AXE)

    found = {}
    for name_of_width, theme in WAYS if IN_ALL else WAYS[:2]:
        width, height = WIDTHS[name_of_width]
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=theme)
        page.evaluate(AT_REST)
        found[width, theme] = barriers(page)
    context.close()

    if name != "strange":  # by a name that it does not know, the server gives out no script
        found[0, "console"] = broken
    return {where: some for where, some in found.items() if some}


def barriers(page: Page) -> list[str]:
    """Each thing that axe-core calls a violation, with its place, and what sticks out."""
    result = page.evaluate(ONLY_VIOLATIONS)
    assert result["passes"], "axe-core looked at nothing"
    return page.evaluate(STICKS_OUT) + [
        f"{rule['id']}: {node['html'][:160]} {node['failureSummary']}"
        for rule in result["violations"]
        for node in rule["nodes"]
    ]
