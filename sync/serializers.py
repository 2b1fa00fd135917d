"""Form of what the sync endpoints take: headers, and the checkpoint's object."""

import math
from typing import Any

from rest_framework import serializers

from agent import wire
from labsite.errors import BadRequest, Refused

SHA256 = r"^[0-9a-f]{64}$"


class UnsupportedEncoding(Refused):
    status = 415
    code = "unsupported_encoding"


class SyncHeaders(serializers.Serializer):
    """The optional headers of an upload; absent ones are None or empty."""

    attempt = serializers.IntegerField(min_value=1, max_value=2**31 - 1, default=None)
    # Below the database's largest integer, since the next version counts on from here.
    generation = serializers.IntegerField(min_value=0, max_value=2**62, default=None)
    offset = serializers.IntegerField(min_value=0, max_value=wire.MAX_OFFSET, default=None)
    mtime = serializers.IntegerField(min_value=0, max_value=wire.MAX_OFFSET, default=None)
    chunk_sha256 = serializers.RegexField(SHA256, default="")
    file_sha256 = serializers.RegexField(SHA256, default="")
    key = serializers.CharField(max_length=200, default="")


_HEADERS = {
    "attempt": "X-Sync-Attempt",
    "generation": "X-Sync-Generation",
    "offset": "X-Sync-Offset",
    "mtime": "X-File-Mtime",
    "chunk_sha256": "X-Chunk-SHA256",
    "file_sha256": "X-File-SHA256",
    "key": "Idempotency-Key",
}


def read_headers(headers: Any) -> dict[str, Any]:
    """
    Raises:
        BadRequest: one of them is not what it must be; it is named.
        UnsupportedEncoding: a compressed body.
    """
    if headers.get("Content-Encoding", "identity") != "identity":
        raise UnsupportedEncoding("Send the body as it is, without Content-Encoding.")
    given = {name: headers[header] for name, header in _HEADERS.items() if header in headers}
    form = SyncHeaders(data=given)
    if not form.is_valid():
        name, problems = next(iter(form.errors.items()))
        raise BadRequest(f"{_HEADERS[name]}: {problems[0]}", field=_HEADERS[name])
    return form.validated_data


MAX_DEPTH = 4


def read_point(data: Any) -> dict[str, Any]:
    """A checkpoint's object, if it is one.

    Raises:
        BadRequest: no object, nested deeper than MAX_DEPTH, or a number that is not finite.
    """
    if not isinstance(data, dict):
        raise BadRequest("A checkpoint is a JSON object, such as {“epoch”: 5, “step”: 1000}.")
    _check_depth(data, MAX_DEPTH)
    return data


def _check_depth(value: Any, levels: int) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRequest("Numbers in a checkpoint must be finite.")
    if not isinstance(value, dict | list):
        return
    if not levels:
        raise BadRequest(f"A checkpoint may be nested {MAX_DEPTH} levels deep at most.")
    for inner in value.values() if isinstance(value, dict) else value:
        _check_depth(inner, levels - 1)
