"""A sweep as one types it on one line: `lr=0.1,0.01 seed=1..3`.

Keys are parted by blanks, values by commas; `1..3` are whole numbers, with both ends. What stands
in brackets or quotes is one value. The values are read as YAML reads them.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from django.utils.translation import gettext as _

from experiments.errors import NotSubmitted
from experiments.grid import quoted
from experiments.yamltree import ConfigInvalid, Mistakes, Tree, clip, read

_RANGE = re.compile(r"(-?\d{1,9})\.\.(-?\d{1,9})")
_OPEN, _CLOSED = "[{(", "]})"
MAX_CHARACTERS = 4000
MAX_RANGE = 100_000


def grid_of(text: str) -> dict[str, Any]:
    """The words of a `sweep:` block.

    Raises:
        NotSubmitted: it is not of that form.
    """
    if len(text) > MAX_CHARACTERS:
        words = _("The sweep is longer than %(n)d characters: write it under lab: in the file.")
        raise NotSubmitted(words % {"n": MAX_CHARACTERS}, field="sweep")
    axes: dict[str, Any] = {}
    for part in _parted(text, " \t\r\n;"):
        key, sign, values = part.partition("=")
        if not sign or not key or not values:
            words = _("“%(part)s”: write a key and its values, as in lr=0.1,0.01 or seed=1..3.")
            raise NotSubmitted(words % {"part": clip(part)}, field="sweep")
        if key in axes:
            words = _("“%(key)s” is varied twice: keep one of them")
            raise NotSubmitted(words % {"key": clip(key)}, field="sweep")
        axes[key] = [one for word in _parted(values, ",") for one in _values(word)]
    return {"grid": axes}


def words_of(sweep: Mapping[str, Any]) -> str:
    """What one would type for the words of a `sweep:` block; empty: it cannot be typed so."""
    if sweep.keys() - {"grid", "max_running"}:
        return ""
    return " ".join(
        f"{key}={','.join(map(_typed, values))}" for key, values in sweep.get("grid", {}).items()
    )


def _typed(value: Any) -> str:
    return quoted(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parted(text: str, signs: str) -> Iterator[str]:
    """The parts between any of the signs that stand outside brackets and quotes."""
    part, depth, quote = "", 0, ""
    for sign in text:
        if quote or sign in "'\"":
            quote = "" if sign == quote else quote or sign
        elif sign in _OPEN:
            depth += 1
        elif sign in _CLOSED:
            depth -= 1
        elif depth <= 0 and sign in signs:
            if part:
                yield part
            part = ""
            continue
        part += sign
    if part:
        yield part


def _values(word: str) -> list[Any]:
    if match := _RANGE.fullmatch(word):
        first, last = int(match[1]), int(match[2])
        if abs(last - first) > MAX_RANGE:
            words = _("“%(part)s” are far too many values.")
            raise NotSubmitted(words % {"part": clip(word)}, field="sweep")
        step = 1 if last >= first else -1
        return list(range(first, last + step, step))
    mistakes = Mistakes()
    try:
        node = read(word)
        value = None if node is None else Tree(mistakes).plain(node)
        mistakes.raise_any()
    except ConfigInvalid as exc:
        words = _("“%(part)s” cannot be read as a value: put it into quotes.")
        raise NotSubmitted(words % {"part": clip(word)}, field="sweep") from exc
    return [value]
