"""A config as the page shows it: one span a line, keys, texts, numbers and comments coloured.

Line by line and by pattern, so that a text that is not quite YAML is shown all the same.
"""

import re

from django.utils.html import conditional_escape, format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

_LINE = re.compile(
    r"^(?P<indent>\s*(?:-\s+)*)"
    r"(?:(?P<key>[^\s#'\"\[\]{},&*!|>%@`][^:#]*?|\"[^\"]*\"|'[^']*')(?P<colon>\s*:)(?=\s|$))?"
    r"(?P<gap>\s*)(?P<value>.*?)(?P<comment>(?:^|\s+)#.*)?$"
)
_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*([eE][-+]?\d+)?|\.\d+|\.inf|\.nan)|true|false|null|~")


def lines(text: str) -> SafeString:
    return format_html_join("", '<span class="l">{}</span>', ((line(t),) for t in split(text)))


def split(text: str) -> list[str]:
    """Its lines, without their ends."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


def line(text: str) -> SafeString:
    """One of them, coloured."""
    found = _LINE.match(text)
    if found is None:
        return conditional_escape(text)
    value = found["value"]
    parts = [
        conditional_escape(found["indent"]),
        _span("k", found["key"]),
        conditional_escape(found["colon"] or ""),
        conditional_escape(found["gap"]),
        _span("d" if _NUMBER.fullmatch(value) else "s", value),
        _span("c", found["comment"]),
    ]
    return mark_safe("".join(parts))  # noqa: S308  each part was escaped above


def _span(css: str, text: str | None) -> SafeString | str:
    return format_html('<span class="{}">{}</span>', css, text) if text else ""
