"""What a log may do to a terminal: print, colour, and go back to the beginning of its line.

A log is written by anybody's script. Escape sequences that set the clipboard, the title or the
keyboard do not reach the reader's terminal; colours and progress bars do.
"""

import re

_COLOUR = re.compile(rb"\x1b\[[0-9;:]*m")
#: What a terminal takes for one sequence: CSI …, OSC … up to BEL or ST, the other strings, ESC x.
_SEQUENCE = re.compile(
    rb"\x1b\[[0-?]*[ -/]*[@-~]"
    rb"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"
    rb"|\x1b[ -/]*[0-Z\\^-~]"
)
_LINE_ERASED = (b"\x1b[K", b"\x1b[0K", b"\x1b[2K")  # what progress bars write
#: C2 begins a control character in UTF-8; alone it would, once what lies between is taken out.
_CONTROLS = re.compile(
    rb"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]|\xc2[\x80-\x9f]|\xc2(?![\xa0-\xbf])"
)
_LEAD = b"\xc2"
MAX_SEQUENCE_BYTES = 4096


class Screen:
    """Filters a log that comes in pieces, which may cut a sequence or a letter anywhere."""

    def __init__(self) -> None:
        self._held = b""

    def shown(self, data: bytes) -> bytes:
        """What of it may be shown; a sequence that is not whole yet is held back."""
        text = self._held + data
        self._held = b""
        parts, at = [], 0
        while (start := text.find(b"\x1b", at)) >= 0:
            parts.append(_CONTROLS.sub(b"", text[at:start]))
            found = _SEQUENCE.match(text, start)
            if found is None:
                if len(text) - start < MAX_SEQUENCE_BYTES:
                    self._held = text[start:]
                    return b"".join(parts)
                at = start + 1  # no sequence at all: what follows is text
                continue
            if _COLOUR.fullmatch(found[0]) or found[0] in _LINE_ERASED:
                parts.append(found[0])
            at = found.end()
        rest = text[at:]
        if rest.endswith(_LEAD):  # of what, the next piece tells
            rest, self._held = rest[:-1], _LEAD
        parts.append(_CONTROLS.sub(b"", rest))
        return b"".join(parts)
