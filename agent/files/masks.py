"""The values of a run's secrets, to be laid over with stars before its text files leave the host.

A star for each byte, in the file itself as in what is sent: so the file here and the one at the
server stay the same, byte for byte. A value is found as it is, as URLs write it and as JSON
writes it; what a script makes of it otherwise (base64, a hash, half of it) is not.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

Span = tuple[int, int]  # from, to: in bytes of what was looked at
STAR = b"*"


@dataclass(frozen=True)
class Covered:
    """What was found in a piece of a file."""

    spans: list[Span]
    kept: int  # bytes that may be sent; the rest may be the beginning of a value


class Masks:
    def __init__(self, values: Iterable[str]) -> None:
        forms = {form for value in values for form in _forms(value)}
        self._patterns = [form.encode() for form in forms if form]

    def look(self, piece: bytes, *, is_end: bool) -> Covered:
        """Find the values in a piece of a file, which begins where what was sent ends.

        Args:
            is_end: nothing comes after it any more, so that nothing has to be waited for.
        """
        spans = sorted(span for pattern in self._patterns for span in _all(piece, pattern))
        kept = len(piece) if is_end else len(piece) - self._begun(piece)
        # One that reaches into what is held back is left as it is until all of that is there; and
        # so is one that reaches into that.
        for start, end in reversed(spans):
            kept = start if start < kept < end else kept
        return Covered([span for span in spans if span[1] <= kept], kept)

    def _begun(self, piece: bytes) -> int:
        """How many bytes at the end may be the beginning of a value."""
        return max((_overlap(piece, pattern) for pattern in self._patterns), default=0)


def starred(piece: bytes, covered: Covered) -> bytes:
    """What may be sent of it."""
    made = bytearray(piece[: covered.kept])
    for start, end in covered.spans:
        made[start:end] = STAR * (end - start)
    return bytes(made)


def _forms(value: str) -> set[str]:
    in_urls = {quote(value, safe=""), quote(value), quote_plus(value)}
    return {value, *in_urls, *(json.dumps(value, ensure_ascii=one)[1:-1] for one in (True, False))}


def _all(piece: bytes, pattern: bytes) -> Iterable[Span]:
    at = piece.find(pattern)
    while at >= 0:
        yield at, at + len(pattern)
        at = piece.find(pattern, at + 1)


def _overlap(piece: bytes, pattern: bytes) -> int:
    """The longest end of `piece` that is a beginning of `pattern`, and not all of it."""
    longest = min(len(piece), len(pattern) - 1)
    return next((n for n in range(longest, 0, -1) if piece.endswith(pattern[:n])), 0)
