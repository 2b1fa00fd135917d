"""A stored file as an answer: whole, or the one range of it that was asked for."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from django.http import HttpResponse, StreamingHttpResponse
from django.utils.http import content_disposition_header

from sync import storage

_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")


@dataclass(frozen=True)
class Asked:
    """Which bytes of a file, by a request's headers; empty: nothing was said."""

    range: str
    if_range: str = ""

    @classmethod
    def by(cls, headers: Mapping[str, str]) -> "Asked":
        return cls(headers.get("Range", ""), headers.get("If-Range", ""))

    def range_under(self, tag: str) -> str:
        """The range, unless it was meant for another version. A date tells of none."""
        return self.range if self.if_range in ("", f'"{tag}"') else ""


def ranged(
    file: BinaryIO, size: int, asked: "Asked | None", name: str, tag: str = ""
) -> HttpResponse | StreamingHttpResponse:
    """A file's first `size` bytes, or the one range of them that was asked for (RFC 9110 §14).

    The pool's loop sends the file by itself (`file_to_send`); other servers stream it.

    Args:
        asked: what the request said; None: the whole.
        tag: of the file's version, within which bytes are only added: its ETag. A range that is
            asked for under another one (If-Range) is the whole.
    """
    wanted = asked.range_under(tag) if asked else ""
    part = _range(wanted, size)
    tagged = {"ETag": f'"{tag}"'} if tag else {}
    if part is None:
        file.close()
        headers = {"Content-Range": f"bytes */{size}", **tagged}
        return HttpResponse(status=416, headers=headers)
    offset, length = part
    response = StreamingHttpResponse(
        FilePart(file, offset, length),
        status=206 if wanted and _RANGE.fullmatch(wanted) else 200,
        content_type="application/octet-stream",
        headers={
            "Content-Length": str(length),
            "Accept-Ranges": "bytes",
            "Content-Disposition": content_disposition_header(True, name),
            **tagged,
        },
    )
    if response.status_code == 206:
        response["Content-Range"] = f"bytes {offset}-{offset + length - 1}/{size}"
    response.file_to_send = (file, offset, length)
    return response


def _range(asked: str, size: int) -> tuple[int, int] | None:
    """Offset and length; the whole for a header we do not know; None if it cannot be had."""
    match = _RANGE.fullmatch(asked)
    if not match or match.groups() == ("", ""):
        return 0, size
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        return (size - length, length) if length else None
    start = int(first)
    end = min(int(last) if last else size - 1, size - 1)
    return (start, end - start + 1) if start <= end else None


class FilePart:
    """A stretch of an open file, block by block. Its response closes it, sent or not."""

    def __init__(self, file: BinaryIO, offset: int, length: int) -> None:
        self._file, self._offset, self._left = file, offset, length
        self.close = file.close

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(self._offset)
        while self._left and (block := self._file.read(min(storage.BLOCK_BYTES, self._left))):
            self._left -= len(block)
            yield block
