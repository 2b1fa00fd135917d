"""What a config says otherwise than the one that it came from, line by line."""

import difflib
from dataclasses import dataclass

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from labsite.pages import yamlcolour

#: Longer configs are not compared: that takes the square of their lines.
MAX_LINES = 2000


@dataclass(frozen=True)
class Difference:
    html: SafeString  # all lines, those that differ marked
    count: int  # of lines that came or went; a line that changed is both, and counts once


def difference(before: str, after: str) -> Difference | None:
    """None if they are alike, or too long to be compared."""
    old, new = yamlcolour.split(before), yamlcolour.split(after)
    if old == new or max(len(old), len(new)) > MAX_LINES:
        return None
    marked, count = [], 0
    for what, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if what == "equal":
            marked += [("", line) for line in new[k:m]]
            continue
        marked += [("−", line) for line in old[i:j]] + [("+", line) for line in new[k:m]]
        count += max(j - i, m - k)
    return Difference(format_html_join("", "{}", ((_line(*one),) for one in marked)), count)


def _line(sign: str, text: str) -> SafeString:
    """The sign is read out too, as it stands in the text."""
    if not sign:
        return format_html('<span class="l">{}</span>', yamlcolour.line(text))
    tag = "ins" if sign == "+" else "del"
    return format_html('<{0} class="l" data-op="{1}">{2}</{0}>', tag, sign, yamlcolour.line(text))
