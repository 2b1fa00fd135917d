"""Sizes and durations as people write them: always with a unit.

A bare number is refused, because `time_limit: 120` was meant as minutes by half of those who
wrote it. The sentences of the ValueErrors are shown to them as they stand, in their language.
"""

import re

from django.utils.translation import gettext as _

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
_BYTES = {
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgtp", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgtp", 1)},
}
_PARTS = re.compile(r"(?:\d+(?:\.\d+)?\s*[a-z]+\s*)+")
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")
_SECONDS = {"w": 7 * 86_400, "d": 86_400, "h": 3600, "m": 60, "min": 60, "s": 1}
_BARE = re.compile(r"\d+(?:\.\d+)?")
_CLOCK = re.compile(r"(\d+):(\d\d)(?::(\d\d))?")

MAX_BYTES = 2**53  # more than any GPU or disk, and exact in JavaScript
MAX_TEXT = 40


def size_bytes(text: str) -> int:
    """`24GiB`, `1.5TB`, `512 MiB`: bytes.

    Raises:
        ValueError: with a sentence that holds a corrected example.
    """
    text = _short(text)
    if _BARE.fullmatch(text):
        raise ValueError(
            _("%(text)s has no unit: write %(text)sGiB, or MiB, or GB") % {"text": text}
        )
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(
            _("“%(text)s” is not a size: write a number and a unit, as in 24GiB") % {"text": text}
        )
    number, unit = match[1], match[2].lower()
    if unit in ("k", "m", "g", "t", "p"):
        either = {"text": text, "size": f"{number}{unit.upper()}"}
        raise ValueError(
            _(
                "“%(text)s” may mean two sizes: write %(size)siB (powers of 1024)"
                " or %(size)sB (powers of 1000)"
            )
            % either
        )
    if unit not in _BYTES:
        words = _("“%(unit)s” is not a unit of size: write %(number)sGiB, or MiB, or GB")
        raise ValueError(words % {"unit": match[2], "number": number})
    value = int(float(number) * _BYTES[unit])
    if value > MAX_BYTES:
        raise ValueError(
            _("“%(text)s” is larger than any GPU: was another unit meant?") % {"text": text}
        )
    return value


def duration_seconds(text: str) -> float:
    """`2h`, `90m`, `1d`, `1h30m`, `45s`: seconds.

    Raises:
        ValueError: with a sentence that holds a corrected example.
    """
    text = _short(text).lower()
    if _BARE.fullmatch(text):
        words = _("%(text)s has no unit: write %(text)ss, %(text)sm or %(text)sh")
        raise ValueError(words % {"text": text})
    if clock := _CLOCK.fullmatch(text):
        raise ValueError(_not_a_clock(text, clock))
    if not _PARTS.fullmatch(text):
        raise ValueError(
            _("“%(text)s” is not a duration: write it as 2h, 90m or 1h30m") % {"text": text}
        )
    total, smallest = 0.0, float("inf")
    for number, unit in _PART.findall(text):
        if unit not in _SECONDS:
            words = _("“%(unit)s” is not a unit of time: write w, d, h, m or s, as in 1h30m")
            raise ValueError(words % {"unit": unit})
        if _SECONDS[unit] >= smallest:
            words = _("“%(text)s” is out of order: write the larger unit first, as in 1h30m")
            raise ValueError(words % {"text": text})
        smallest = _SECONDS[unit]
        total += float(number) * smallest
    return total


def _short(text: str) -> str:
    text = text.strip()
    if len(text) > MAX_TEXT:
        words = _("“%(text)s…” is too long for a number and a unit")
        raise ValueError(words % {"text": text[:MAX_TEXT]})
    return text


def _not_a_clock(text: str, clock: re.Match[str]) -> str:
    first, second, third = clock.groups()
    if third is not None:
        words = _("“%(text)s” is read as a number by YAML: write %(h)sh%(m)sm%(s)ss")
        return words % {"text": text, "h": first, "m": second, "s": third}
    words = _("“%(text)s” may mean two durations: write %(a)sh%(b)sm or %(a)sm%(b)ss")
    return words % {"text": text, "a": first, "b": second}
