"""A batch's body: parts of multipart/form-data, each with headers of its own (protocol §6.3).

Django's reader of forms keeps no headers of a part but Content-Type.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from django.utils.datastructures import CaseInsensitiveMapping
from django.utils.http import parse_header_parameters

from agent import wire
from labsite.errors import BadRequest, TooLarge

MAX_BOUNDARY_LENGTH = 70  # RFC 2046
MAX_HEAD_BYTES = 8 * 1024


@dataclass(frozen=True)
class Part:
    kind: str  # the field's name
    name: str  # the file's
    headers: CaseInsensitiveMapping
    data: bytes


def parts(content_type: str, body: bytes) -> list[Part]:
    """
    Raises:
        BadRequest: it is no form, or not whole.
        TooLarge: more than wire.MAX_BATCH_PARTS.
    """
    edge = b"\r\n--" + _boundary(content_type)
    before, *pieces = (b"\r\n" + body).split(edge, wire.MAX_BATCH_PARTS + 2)
    if len(pieces) > wire.MAX_BATCH_PARTS + 1:
        raise TooLarge(
            f"A batch may have {wire.MAX_BATCH_PARTS} parts; send the rest as another one.",
            limit=wire.MAX_BATCH_PARTS,
        )
    if before or not pieces or pieces.pop().strip() != b"--":
        raise BadRequest("The body is no whole multipart/form-data.")
    return [_part(piece) for piece in pieces]


def _boundary(content_type: str) -> bytes:
    kind, parameters = _parameters(content_type)
    boundary = parameters.get("boundary", "")
    if kind != "multipart/form-data" or not 0 < len(boundary) <= MAX_BOUNDARY_LENGTH:
        raise BadRequest("A batch is multipart/form-data with a boundary.", field="Content-Type")
    return boundary.encode("utf-8", "replace")


def _part(piece: bytes) -> Part:
    head, found, data = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    if not found or len(head) > MAX_HEAD_BYTES:
        raise BadRequest("A part of the batch has no headers, or too long ones.")
    headers = CaseInsensitiveMapping(dict(_headers(head.decode("utf-8", "replace"))))
    _, said = _parameters(headers.get("Content-Disposition", ""))
    if not said.get("name") or not said.get("filename"):
        raise BadRequest(
            "Each part needs a name (delta or file) and a filename: the file's name in the run.",
            field="Content-Disposition",
        )
    return Part(said["name"], said["filename"], headers, data)


def _parameters(header: str) -> tuple[str, dict[str, str]]:
    try:
        kind, parameters = parse_header_parameters(header)
    except ValueError as exc:  # one in an encoding that nobody knows (RFC 2231)
        raise BadRequest(f"A header of the form cannot be read: {header[:80]}") from exc
    return kind, parameters


def _headers(head: str) -> Iterator[tuple[str, str]]:
    for line in head.split("\r\n"):
        name, _, value = line.partition(":")
        yield name.strip(), value.strip()
