"""Sizes and durations as people write them: always with a unit.

A bare number is refused, because `time_limit: 120` was meant as minutes by half of those who
wrote it. The sentences of the ValueErrors are shown to them as they stand.
"""

import re

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
        raise ValueError(f"{text} has no unit: write {text}GiB, or MiB, or GB")
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"“{text}” is not a size: write a number and a unit, as in 24GiB")
    number, unit = match[1], match[2].lower()
    if unit in ("k", "m", "g", "t", "p"):
        long = unit.upper()
        raise ValueError(
            f"“{text}” may mean two sizes: write {number}{long}iB (powers of 1024)"
            f" or {number}{long}B (powers of 1000)"
        )
    if unit not in _BYTES:
        raise ValueError(f"“{match[2]}” is not a unit of size: write {number}GiB, or MiB, or GB")
    value = int(float(number) * _BYTES[unit])
    if value > MAX_BYTES:
        raise ValueError(f"“{text}” is larger than any GPU: was another unit meant?")
    return value


def duration_seconds(text: str) -> float:
    """`2h`, `90m`, `1d`, `1h30m`, `45s`: seconds.

    Raises:
        ValueError: with a sentence that holds a corrected example.
    """
    text = _short(text).lower()
    if _BARE.fullmatch(text):
        raise ValueError(f"{text} has no unit: write {text}s, {text}m or {text}h")
    if clock := _CLOCK.fullmatch(text):
        raise ValueError(_not_a_clock(text, clock))
    if not _PARTS.fullmatch(text):
        raise ValueError(f"“{text}” is not a duration: write it as 2h, 90m or 1h30m")
    total, smallest = 0.0, float("inf")
    for number, unit in _PART.findall(text):
        if unit not in _SECONDS:
            raise ValueError(f"“{unit}” is not a unit of time: write w, d, h, m or s, as in 1h30m")
        if _SECONDS[unit] >= smallest:
            raise ValueError(f"“{text}” is out of order: write the larger unit first, as in 1h30m")
        smallest = _SECONDS[unit]
        total += float(number) * smallest
    return total


def _short(text: str) -> str:
    text = text.strip()
    if len(text) > MAX_TEXT:
        raise ValueError(f"“{text[:MAX_TEXT]}…” is too long for a number and a unit")
    return text


def _not_a_clock(text: str, clock: re.Match[str]) -> str:
    first, second, third = clock.groups()
    if third is not None:
        return f"“{text}” is read as a number by YAML: write {first}h{second}m{third}s"
    return f"“{text}” may mean two durations: write {first}h{second}m or {first}m{second}s"
