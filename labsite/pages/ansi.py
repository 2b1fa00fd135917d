"""One line of a log as a terminal would show it: colours as classes, progress bars folded.

All of it is escaped. The 16, 256 and true colours of terminals become the six colours of the
theme and its dim one, nearest by hue: what was chosen for a black window is read on a white one
too, and a page has no styles of its own. Only http and https addresses become links.
"""

import colorsys
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from html import escape  # Django's own does the same, and asks first whether it has to

from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import ngettext

LINE_CHARACTERS = 4000

_ESCAPE = re.compile(
    r"\x1b\[(?P<sgr>[0-9;:]*)m"  # colours
    r"|\x1b\[[0-?]*[ -/]*[@-~]"  # every other control sequence
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles and links
    r"|\x1b."
)
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_LINK = re.compile(r"https?://[^\s<>\"'`|\\^{}]+")
_ANCHOR = '<a href="{0}" rel="noopener noreferrer nofollow" target="_blank">{0}</a>'
_AFTER_LINK = ".,;:!?)]"  # what ends a sentence rather than an address
_HUES = "rygcbm"  # each the middle of a sixth of the circle, red first
_NAMED = {1: "r", 2: "g", 3: "y", 4: "b", 5: "m", 6: "c"}
_SWITCHES = {1: "a-1", 2: "a-dim", 3: "a-i", 4: "a-u", 7: "a-inv", 9: "a-x"}
_SWITCHED_OFF = {22: ("a-1", "a-dim"), 23: ("a-i",), 24: ("a-u",), 27: ("a-inv",), 29: ("a-x",)}
_LEVELS = (0, 95, 135, 175, 215, 255)


@dataclass(frozen=True)
class Style:
    ink: str = ""
    ground: str = ""
    switches: tuple[str, ...] = ()

    @property
    def classes(self) -> str:
        """Made of names of ours only."""
        return " ".join(filter(None, (self.ink, *self.switches, self.ground)))


def line_html(raw: bytes) -> SafeString:
    """One line: what a carriage return overwrote is folded, colours are classes."""
    updates = raw.rstrip(b"\r\n").split(b"\r")
    shown = next((part for part in reversed(updates) if part.strip()), b"")
    fold = ""
    if len(updates) > 2:
        words = ngettext("%(n)d update folded", "%(n)d updates folded", len(updates) - 1)
        fold = f'<span class="fold">{escape(words % {"n": len(updates) - 1})}</span>'
    return mark_safe(fold + _coloured(shown.decode("utf-8", "replace")))  # noqa: S308  escaped


def plain(text: str) -> str:
    """Without what is not seen, on one line."""
    return _UNSEEN.sub("", _ESCAPE.sub("", text.replace("\r", " ")))


def _coloured(text: str) -> str:
    """HTML."""
    more = ""
    if len(text) > LINE_CHARACTERS:
        text, more = text[:LINE_CHARACTERS], " …"
    pieces = (
        f'<span class="{css}">{_linked(piece)}</span>' if css else _linked(piece)
        for css, piece in _runs(text)
    )
    return "".join(pieces) + more


def _linked(text: str) -> str:
    """HTML."""
    if "://" not in text:
        return escape(text)
    parts, at = [], 0
    for found in _LINK.finditer(text):
        address = escape(found[0].rstrip(_AFTER_LINK))
        link = _ANCHOR.format(address)
        parts += [escape(text[at : found.start()]), link]
        at = found.start() + len(found[0].rstrip(_AFTER_LINK))
    return "".join([*parts, escape(text[at:])])


def _runs(text: str) -> Iterator[tuple[str, str]]:
    """Pieces of one style, as (classes, text)."""
    style = Style()
    at = 0
    for found in _ESCAPE.finditer(text):
        if piece := _UNSEEN.sub("", text[at : found.start()]):
            yield style.classes, piece
        at = found.end()
        if found["sgr"] is not None:
            style = _styled(found["sgr"], style)
    if piece := _UNSEEN.sub("", text[at:]):
        yield style.classes, piece


@lru_cache(4096)
def _styled(codes: str, style: Style) -> Style:
    numbers = [int(code[:4] or 0) for code in codes.replace(":", ";").split(";")]
    while numbers:
        number = numbers.pop(0)
        if number in (38, 48):
            colour = _long_colour(numbers)
            style = replace(style, ink=f"a-{colour}" if colour else "") if number == 38 else (
                replace(style, ground=f"b-{colour}" if colour else "")
            )  # fmt: skip
        else:
            style = _switched(number, style)
    return style


def _switched(number: int, style: Style) -> Style:
    if number == 0:
        return Style()
    if number in _SWITCHES:
        kept = tuple(one for one in style.switches if one != _SWITCHES[number])
        return replace(style, switches=(*kept, _SWITCHES[number]))
    if number in _SWITCHED_OFF:
        off = _SWITCHED_OFF[number]
        return replace(style, switches=tuple(one for one in style.switches if one not in off))
    tens, colour = divmod(number, 10)
    if tens in (3, 9):
        named = "dim" if number == 90 else _NAMED.get(colour)
        return replace(style, ink=f"a-{named}" if named else "")
    if tens in (4, 10):
        named = "dim" if number == 100 else _NAMED.get(colour)
        return replace(style, ground=f"b-{named}" if named else "")
    return style


def _long_colour(numbers: list[int]) -> str:
    """`38;5;N` or `38;2;R;G;B`: takes what belongs to it, and names the nearest colour."""
    kind = numbers.pop(0) if numbers else 0
    if kind == 5 and numbers:
        return _of_palette(numbers.pop(0))
    if kind == 2 and len(numbers) >= 3:
        red, green, blue = numbers[:3]
        del numbers[:3]
        return nearest(red, green, blue)
    return ""


def _of_palette(number: int) -> str:
    if number < 16:
        return "dim" if number == 8 else _NAMED.get(number % 8, "")
    if number > 231:  # greys, from black to white
        return "dim" if 236 <= number <= 249 else ""
    number -= 16
    return nearest(*(_LEVELS[number // step % 6] for step in (36, 6, 1)))


def nearest(red: int, green: int, blue: int) -> str:
    """The colour of the theme that is nearest by hue; greys are dim, black and white nothing."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(min(c, 255) / 255 for c in (red, green, blue)))
    if saturation < 0.2 or value < 0.2:
        return "dim" if 0.3 < value < 0.75 else ""
    return _HUES[round(hue * 6) % 6]
