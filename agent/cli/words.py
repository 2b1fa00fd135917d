"""Numbers and times as people read them, and what they write as data."""

import json
import re
from datetime import datetime, timezone
from typing import Any

from agent.cli.errors import CliError

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}
_OPENS, _CLOSES = "[{", "]}"


def size(count: int | float | None) -> str:
    if count is None:
        return ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def moment(text: str | None) -> datetime | None:
    """What the server wrote as ISO 8601; None: it is none."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None
    except ValueError:
        return None


def ago(text: str | None, now: datetime | None = None) -> str:
    at = moment(text)
    if at is None:
        return ""
    return f"{span(((now or datetime.now(timezone.utc)) - at).total_seconds())} ago"


def took(begin: str | None, end: str | None) -> str:
    """How long; without an end, until now."""
    first = moment(begin)
    if first is None:
        return ""
    return span(((moment(end) or datetime.now(timezone.utc)) - first).total_seconds())


def span(seconds: float) -> str:
    """The two largest units: "2d 4h", "3m 5s"."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        if left >= length or (unit == "s" and not parts):
            parts.append(f"{left // length}{unit}")
            left %= length
    return " ".join(parts[:2])


def value(text: str) -> Any:
    """What was typed as a value of a config: a number, true, a [list], else text.

    Raises:
        CliError: it begins like a list or keys, and is none.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if text[:1] in ("[", "{", '"'):
        try:
            return json.loads(text)
        except ValueError as exc:
            raise CliError(f"{text} is not JSON: {exc}") from None
    return text


def assignment(text: str, option: str) -> tuple[str, str]:
    """`lr=0.05` as its two sides.

    Raises:
        CliError: it is none.
    """
    name, equals, said = text.partition("=")
    if not name.strip() or not equals:
        raise CliError(f"{option} {text}: write a name and a value, as in {option} lr=0.1")
    return name.strip(), said


def several(text: str) -> list[str]:
    """`0.1,0.01` at its commas, but for those within brackets or quotation marks."""
    parts: list[str] = [""]
    depth, quoted = 0, False
    for letter in text:
        quoted ^= letter == '"'
        depth += (letter in _OPENS) - (letter in _CLOSES) if not quoted else 0
        if letter == "," and not depth and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
