"""Checkpoints that were cut off while they were written, told by a look at their ends.

`torch.save` writes where the last checkpoint lay: killed in the middle, or out of disk, it leaves
the beginning of a file. What cannot be judged (pickles of before torch 1.6, raw bytes) counts as
whole.
"""

import json
import os
import struct
from typing import BinaryIO

from agent.files.runfiles import finished_name
from agent.files.tracked import read_at
from agent.files.wishes import CHECKPOINTS

SUFFIXES = (*CHECKPOINTS, ".bin")  # Hugging Face's, and of others: one of few bytes may be meant

MAX_HEADER_BYTES = 16 * 1024 * 1024  # of safetensors that are read; a large model has some 200 kB
_MOST_IN_HEADER = 100_000_000  # by the format: above that it is none

_LOCAL = b"PK\x03\x04"
_CENTRAL = b"PK\x01\x02"
_END = struct.Struct("<4s4H2LH")  # …, entries, bytes and offset of the directory, bytes of comment
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_TAIL_BYTES = 65_536 + _END.size


def may_be_judged(name: str) -> bool:
    return finished_name(name).lower().endswith(SUFFIXES)


def is_torn(source: BinaryIO, name: str) -> bool:
    """Whether it is only the beginning of what its script meant to write.

    Raises:
        OSError: it cannot be read.
    """
    size = os.fstat(source.fileno()).st_size
    lower = finished_name(name).lower()
    if not size:  # as a power cut leaves it
        return lower.endswith(CHECKPOINTS)
    if lower.endswith(".safetensors"):
        return _lacks_tensors(source, size)
    head = read_at(source, 0, len(_LOCAL))
    if len(head) < len(_LOCAL):
        return lower.endswith(CHECKPOINTS) and _LOCAL.startswith(head)
    return head == _LOCAL and not _has_directory(source, size)


# --- zip archives -------------------------------------------------------------------------------


def _has_directory(source: BinaryIO, size: int) -> bool:
    """Whether it ends with a directory that lies where its end says. In the tensors, which are
    stored as they are, there may be the end of another archive."""
    start = max(0, size - _TAIL_BYTES)
    tail = read_at(source, start, size - start)
    at = tail.rfind(b"PK\x05\x06")
    while at >= 0:
        if _leads_to_directory(source, tail[at : at + _END.size], start + at, size):
            return True
        at = tail.rfind(b"PK\x05\x06", 0, at)
    return False


def _leads_to_directory(source: BinaryIO, end: bytes, at: int, size: int) -> bool:
    if len(end) < _END.size:
        return False
    *_, entries, length, offset, comment = _END.unpack(end)
    if at + _END.size + comment > size:
        return False
    if entries == 0xFFFF or 0xFFFFFFFF in (length, offset):
        return _leads_to_directory_64(source, at)
    return _is_directory(source, offset, length, at)


def _leads_to_directory_64(source: BinaryIO, at: int) -> bool:
    """torch writes so what is above 4 GiB."""
    locator = read_at(source, max(0, at - _LOCATOR.size), _LOCATOR.size)
    if len(locator) < _LOCATOR.size or not locator.startswith(b"PK\x06\x07"):
        return False
    end_at = _LOCATOR.unpack(locator)[2]
    if end_at + _END64.size > at:
        return False
    end = read_at(source, end_at, _END64.size)
    if len(end) < _END64.size or not end.startswith(b"PK\x06\x06"):
        return False
    *_, length, offset = _END64.unpack(end)
    return _is_directory(source, offset, length, end_at)


def _is_directory(source: BinaryIO, offset: int, length: int, end_at: int) -> bool:
    fits = 0 < length <= end_at - offset
    return fits and read_at(source, offset, len(_CENTRAL)) == _CENTRAL


# --- safetensors --------------------------------------------------------------------------------


def _lacks_tensors(source: BinaryIO, size: int) -> bool:
    """Whether its header, or a tensor that it tells of, reaches beyond the end."""
    head = read_at(source, 0, 8)
    if len(head) < 8:
        return True
    length = int.from_bytes(head, "little")
    if length > _MOST_IN_HEADER:
        return False
    if 8 + length > size:
        return True
    if length > MAX_HEADER_BYTES:
        return False
    try:
        header = json.loads(read_at(source, 8, length))
        ends = [one["data_offsets"][1] for name, one in header.items() if name != "__metadata__"]
        return 8 + length + max(ends, default=0) > size
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return False
