"""The header of a safetensors file: JSON that names each tensor, before all the numbers."""

import json
from typing import Any, BinaryIO

from django.utils.translation import gettext as _

from sync.checkpoints.errors import Unreadable
from sync.checkpoints.tensors import MAX_DIMENSIONS, MAX_NAME, MAX_VALUES, Found, Tensor

MAX_HEADER_BYTES = 16 * 1024 * 1024
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "U16": "uint16", "U32": "uint32",
    "U64": "uint64", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "C64": "complex64",
}  # fmt: skip


def read(file: BinaryIO, size: int) -> Found:
    """Raises: Unreadable."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise Unreadable(_("Its header is damaged, or larger than what is looked at."))
    try:
        header = json.loads(file.read(length))
        return _found(header)
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as exc:
        raise Unreadable(_("Its header is damaged, or larger than what is looked at.")) from exc


def _found(header: dict[str, Any]) -> Found:
    found = Found()
    said = header.pop("__metadata__", {})
    for name, value in list(said.items())[:MAX_VALUES]:
        found.values.append((name[:MAX_NAME], str(value)[:MAX_NAME]))
    for name, entry in header.items():
        found.add(Tensor(name[: 4 * MAX_NAME], _dtype(entry), _shape(entry)), is_known=False)
    return found


def _dtype(entry: dict[str, Any]) -> str:
    return _DTYPES.get(entry["dtype"], str(entry["dtype"])[:20])


def _shape(entry: dict[str, Any]) -> tuple[int, ...]:
    shape = tuple(entry["shape"])
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError
    if not all(type(size) is int and 0 <= size < 2**62 for size in shape):
        raise ValueError
    return shape
