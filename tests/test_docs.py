"""The docs name what there is: links lead somewhere, and no option or setting is missing."""

import re
from pathlib import Path

import pytest

from experiments.options import KEYS, RESOURCES

ROOT = Path(__file__).parents[1]
#: English, and beside it Korean.
LANGUAGES = ["docs", "docs/ko"]
PAGES = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "bench").glob("*.md"),
    ]
)


def anchors(page: Path) -> set[str]:
    """The names that a link may point at, as GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(found), f"{page.name} links to {target}"


def options(*sources: str) -> set[str]:
    text = "".join((ROOT / source).read_text() for source in sources)
    shown = re.findall(r"\"(--[a-z0-9-]+)\"", text)
    return {
        option for option in shown if not re.match(r"--(client-|url$|verbose|version)", option)
    }


@pytest.mark.parametrize(
    "source",
    [
        "labsite/run/options.py",
        "agent/config.py",
        "agent/service/options.py",
        "agent/service/managers.py",
    ],
)
@pytest.mark.parametrize("docs", LANGUAGES)
def test_every_option_stands_in_operations(source, docs):
    page = (ROOT / docs / "operations.md").read_text()

    assert {option for option in options(source) if option not in page} == set()


@pytest.mark.parametrize("docs", LANGUAGES)
def test_every_setting_stands_in_operations(docs):
    page = (ROOT / docs / "operations.md").read_text()
    settings = set(re.findall(r"\"(LAB_[A-Z_]+)\"", (ROOT / "labsite/env.py").read_text()))

    assert {name for name in settings if name not in page} == set()


@pytest.mark.parametrize("docs", LANGUAGES)
def test_every_key_of_the_lab_block_stands_in_config(docs):
    page = (ROOT / docs / "config.md").read_text()

    assert {word for word in [*KEYS, *RESOURCES] if f"{word}:" not in page} == set()


def test_adrs_are_numbered_without_a_gap():
    numbers = [int(path.name[:4]) for path in sorted((ROOT / "docs/adr").glob("*.md"))]

    assert numbers == list(range(1, len(numbers) + 1))
