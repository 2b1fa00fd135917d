"""PyTorch's checkpoints: a zip archive with one pickle in it, or the pickles of before 1.6."""

import struct
import zipfile
import zlib
from typing import Any, BinaryIO

from django.utils.translation import gettext as _

from sync.checkpoints import pickles
from sync.checkpoints.errors import Unreadable

#: Of the pickle, without the numbers of the tensors; some thousand times what a large model has.
MAX_PICKLE_BYTES = 32 * 1024 * 1024
#: zipfile reads the whole list of an archive's members into memory.
MAX_LIST_BYTES = 4 * 1024 * 1024
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_TAIL_BYTES = 65_535 + _END.size
_PICKLES = ("data.pkl", "constants.pkl")
#: The numbers with which torch.save began before it wrote archives: a pickle of its own.
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_ERRORS = (
    zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error, EOFError, OSError,
    ValueError, struct.error, OverflowError, KeyError,
)  # fmt: skip


def read(file: BinaryIO, size: int) -> Any:
    """The notes of its pickle.

    Raises:
        Unreadable: it is neither, or damaged.
    """
    file.seek(0)
    head = file.read(4)
    if head == b"PK\x03\x04":
        return pickles.read(_pickle_in(file, size))[0]
    if not head.startswith((b"\x80", b"(", b"c", b"}")):
        raise Unreadable(_("It is no checkpoint of a kind that is known here."))
    file.seek(0)
    data = file.read(min(size, MAX_PICKLE_BYTES))
    at = 0
    if data.startswith(LEGACY):
        for _part in range(3):  # the number, the protocol, the machine
            at = pickles.read(data, at)[1]
    return pickles.read(data, at)[0]


def _pickle_in(file: BinaryIO, size: int) -> bytes:
    _check_list(file, size)
    try:
        with zipfile.ZipFile(file) as archive:
            member = _member(archive)
            if member is None:
                raise Unreadable(_("This archive is no checkpoint of PyTorch."))
            with archive.open(member) as opened:
                data = opened.read(MAX_PICKLE_BYTES + 1)
    except _ERRORS as exc:
        raise Unreadable(_("The archive is damaged.")) from exc
    if len(data) > MAX_PICKLE_BYTES:
        raise Unreadable(_("It holds more than can be looked through in a moment."))
    return data


def _member(archive: zipfile.ZipFile) -> zipfile.ZipInfo | None:
    """The pickle, packed in a way whose unpacking needs little memory."""
    plain = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    for name in _PICKLES:
        for member in archive.infolist():
            if member.filename.rsplit("/", 1)[-1] == name and member.compress_type in plain:
                return member
    return None


def _check_list(file: BinaryIO, size: int) -> None:
    """Refuse an archive whose list of members is too long, before anybody reads it."""
    start = max(0, size - _TAIL_BYTES)
    file.seek(start)
    tail = file.read(_TAIL_BYTES)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise Unreadable(_("The archive is damaged."))
    sizes = [_END.unpack_from(tail, at)[5]]
    if tail[max(0, at - _LOCATOR.size) : at].startswith(b"PK\x06\x07"):
        said = _LOCATOR.unpack_from(tail, at - _LOCATOR.size)[2]
        beside = start + at - _LOCATOR.size - _END64.size  # where Python looks for it
        sizes = [_list_bytes(file, place) for place in (said, beside)]
    if max(sizes) > MAX_LIST_BYTES:
        raise Unreadable(_("It holds more than can be looked through in a moment."))


def _list_bytes(file: BinaryIO, place: int) -> int:
    """As the record at `place` has it; 0 where there is none."""
    if not 0 <= place < 2**62:
        return 0
    file.seek(place)
    record = file.read(_END64.size)
    is_one = len(record) == _END64.size and record.startswith(b"PK\x06\x06")
    return _END64.unpack(record)[8] if is_one else 0
