"""Hostile texts (payloads.txt): what others have put into names, notes and logs of other sites."""

import re
from pathlib import Path

_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|(\\))")


def _read(line: str) -> str:
    return _ESCAPE.sub(lambda m: m[3] or chr(int(m[1] or m[2], 16)), line)


def _payloads() -> list[str]:
    lines = Path(__file__).with_name("payloads.txt").read_text("utf-8").split("\n")
    return [_read(line) for line in lines if line and not line.startswith("# ")]


#: Some hold line breaks, escape sequences, or what is no character; none holds NUL, which neither
#: database keeps.
PAYLOADS = [text.replace("\x00", "") for text in _payloads()]
