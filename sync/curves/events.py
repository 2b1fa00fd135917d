"""Reader of TensorBoard's event files: scalars only, and nothing is built from what they say.

A file is a row of records, each `length, crc of it, bytes, crc of them`; a record is an Event in
protobuf's wire form. Of its messages only the handful of fields below are looked at:

    Event          1 wall_time (double)   2 step (varint)   5 summary
    Summary        1 value (repeated)
    Summary.Value  1 tag   2 simple_value (float)   8 tensor   9 metadata
    TensorProto    1 dtype   4 tensor_content   5 float_val   6 double_val   7 int_val
                   10 int64_val   13 half_val
    SummaryMetadata  1 plugin_data, of which 1 is the plugin's name

Own code, because `tensorboard` brings 60 MB (grpc, protobuf, Pillow, a server) for these forty
lines, and reads a file on trust: a length of 2^60 in a record makes it allocate that.
"""

import struct
from collections.abc import Iterator

from django.utils.translation import gettext_lazy

from sync.curves.lines import add_rows
from sync.curves.table import Table, name_of

STEP, TIME = "step", "time"
#: A larger record holds an image or a graph, and is passed over unread.
MAX_RECORD_BYTES = 256 * 1024
#: Of so many tags it is remembered whether they are scalars.
MAX_TAGS = 10_000
HEADER = struct.Struct("<QI")
FOOTER_BYTES = 4

NOT_READABLE = gettext_lazy("It is not readable from byte %(at)d on.")

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
#: dtype → how its one value lies in tensor_content.
CONTENT = {1: "<f", 2: "<d", 3: "<i", 9: "<q", 19: "<e"}
#: Field of TensorProto → how a value lies in it where it is not a varint.
FIELDS = {5: "<f", 6: "<d"}
INTEGERS = {7, 10}
HALVES = 13
BFLOAT16 = 14


class Malformed(ValueError):
    """These bytes are no message."""


class Events:
    """A row for each event that holds scalars: `step`, `time` (since 1970) and its tags."""

    BLOCK_BYTES = 4 * 1024 * 1024

    def __init__(self, table: Table) -> None:
        self.table = table
        self._at = 0
        self._is_scalar: dict[str, bool] = {}

    def take(self, data: bytes) -> int:
        """Read the whole records in `data`, and return how many bytes to go on; these may be
        more than there are, where a large record is passed over."""
        used, rows = 0, []
        try:
            for record, end in _records(data):
                used = end
                if record and (row := self._row(record)):
                    rows.append(row)
        except Malformed:
            self.table.refuse(NOT_READABLE, at=self._at + used)
        self._at += used
        add_rows(self.table, rows)
        return used

    def _row(self, record: bytes) -> dict[str, float]:
        event = dict(_fields(record))
        if not isinstance(summary := event.get(5), bytes):
            return {}
        cells = {}
        for number, value in _fields(summary):
            if number == 1 and isinstance(value, bytes) and (cell := self._cell(value)):
                cells[cell[0]] = cell[1]
        if not cells:
            return {}
        return {STEP: _signed(event.get(2, 0)), TIME: _real(event.get(1, 0.0)), **cells}

    def _cell(self, message: bytes) -> tuple[str, float] | None:
        value = dict(_fields(message))
        tag = name_of(_bytes(value.get(1)).decode("utf-8", "replace"))
        if not tag or tag in (STEP, TIME) or not self._holds_scalars(tag, value.get(9)):
            return None
        if isinstance(value.get(2), float):
            return tag, value[2]
        scalar = _scalar(_bytes(value.get(8)))
        return None if scalar is None else (tag, scalar)

    def _holds_scalars(self, tag: str, metadata: object) -> bool:
        """As the tag's first event said; hyperparameters and texts are tensors, too."""
        if isinstance(metadata, bytes) and len(self._is_scalar) < MAX_TAGS:
            plugin = dict(_fields(_bytes(dict(_fields(metadata)).get(1)))).get(1)
            self._is_scalar.setdefault(tag, plugin in (None, b"", b"scalars"))
        return self._is_scalar.get(tag, True)


def _records(data: bytes) -> Iterator[tuple[bytes, int]]:
    """The whole records, each with where it ends; an empty one is to be passed over.

    Raises:
        Malformed: a header's checksum is wrong.
    """
    at = 0
    while at + HEADER.size <= len(data):
        length, crc = HEADER.unpack_from(data, at)
        if masked_crc32c(data[at : at + 8]) != crc:
            raise Malformed
        start = at + HEADER.size
        at = start + length + FOOTER_BYTES
        if length > MAX_RECORD_BYTES:
            yield b"", at
        elif at <= len(data):
            yield data[start : start + length], at


Value = int | float | bytes


def _fields(message: bytes) -> Iterator[tuple[int, Value]]:
    """The fields of a message by number. Raises Malformed."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
        elif kind == BYTES:
            length, start = _varint(message, at)
            at = start + length
            value = message[start:at]
        elif kind in (FIXED64, FIXED32):
            form, size = ("<d", 8) if kind == FIXED64 else ("<f", 4)
            if at + size > len(message):
                raise Malformed
            value = struct.unpack_from(form, message, at)[0]
            at += size
        else:
            raise Malformed
        if at > len(message):
            raise Malformed
        yield key >> 3, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise Malformed
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), at
    raise Malformed


def _scalar(tensor: bytes) -> float | None:
    """The value of a tensor that holds exactly one number."""
    dtype, found = 0, None
    for number, value in _fields(tensor):
        if number == 1:
            dtype = value
        elif number == 4:
            found = _content(dtype, _bytes(value))
        elif number in FIELDS:
            found = value if isinstance(value, float) else _unpacked(FIELDS[number], value)
        elif number in INTEGERS or number == HALVES:
            found = _integer(number, dtype, value)
    return found


def _content(dtype: object, data: bytes) -> float | None:
    if dtype == BFLOAT16 and len(data) == 2:
        return _unpacked("<f", b"\0\0" + data)
    return _unpacked(CONTENT.get(dtype, ""), data)


def _unpacked(form: str, data: object) -> float | None:
    if not form or not isinstance(data, bytes) or len(data) != struct.calcsize(form):
        return None
    return float(struct.unpack(form, data)[0])


def _integer(number: int, dtype: object, value: Value) -> float | None:
    """Of a field of varints, packed or not, that holds one."""
    if isinstance(value, bytes):
        packed = value
        value, end = _varint(packed, 0)
        if end != len(packed):
            return None
    if not isinstance(value, int):
        return None
    return (
        _content(dtype, struct.pack("<H", value & 0xFFFF)) if number == HALVES else _signed(value)
    )


def _signed(value: Value) -> float:
    if not isinstance(value, int):
        return 0.0
    return float(value - 2**64 if value >= 2**63 else value)


def _real(value: Value) -> float:
    return value if isinstance(value, float) else 0.0


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _crc_table()


def masked_crc32c(data: bytes) -> int:
    """CRC-32C as TFRecord masks it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 255] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
