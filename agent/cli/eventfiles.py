"""TensorBoard's event files, as far as their names and their times tell of a run.

    events.out.tfevents.1709287200.gpu-01.4711.0       when it was begun, where, by which process

A file is a row of records: length, crc of it, an Event, crc of that; an Event begins with its wall
time. What is in them the server reads (sync/curves/events.py).
"""

import os
import re
import struct
from pathlib import Path

_NAME = re.compile(r"events\.out\.tfevents\.(?P<began>\d{1,12})\.(?P<rest>.+)")
_WRITER = re.compile(r"(?P<writer>.+\.\d+)\.\d+(\.v2)?")
_HEAD = struct.Struct("<QI")
_TIME = struct.Struct("<xd")  # field 1, which is written first: a double
_WALL_TIME = b"\x09"
_CRC_BYTES = 4
#: After so many records the file's own time is as good.
MAX_RECORDS = 2_000_000
MAX_FIRST_BYTES = 4096


def began(name: str) -> float | None:
    """When it was begun, in seconds since 1970; None: its name does not tell."""
    named = _NAME.fullmatch(name)
    return float(named["began"]) if named else None


def writer(name: str) -> str:
    """The host and the process that wrote it; empty: its name does not tell."""
    named = _NAME.fullmatch(name)
    found = _WRITER.fullmatch(named["rest"]) if named else None
    return found["writer"] if found else ""


def first_record(path: Path) -> bytes:
    """What no other file begins with, as its time is in it; empty: it has none yet."""
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return b""
        length = _HEAD.unpack(head)[0]
        body = file.read(min(length, MAX_FIRST_BYTES))
        return head + body if len(body) == min(length, MAX_FIRST_BYTES) else b""


def last_time(path: Path) -> float | None:
    """Of the last whole record, in seconds since 1970; None: there is none."""
    found = None
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for _ in range(MAX_RECORDS):
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                break
            end = file.tell() + _HEAD.unpack(head)[0] + _CRC_BYTES
            if end > size:
                break
            found = _time_in(file.read(_TIME.size)) or found
            file.seek(end)
    return found


def _time_in(start: bytes) -> float | None:
    if len(start) < _TIME.size or start[:1] != _WALL_TIME:
        return None
    seconds: float = _TIME.unpack(start)[0]
    return seconds if 0 < seconds < 2**40 else None
