"""Form of what the sync endpoints take: headers, compressed bodies, the checkpoint's object."""

import math
import zlib
from typing import Any

from rest_framework import serializers

from agent import wire
from labsite.errors import BadRequest, Refused, TooLarge
from sync import freeing
from sync.errors import ChecksumDiffers
from sync.models import Trash, What

SHA256 = r"^[0-9a-f]{64}$"
UPLOAD_ID = r"^[A-Za-z0-9._-]{1,64}$"


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
    raw_length = serializers.IntegerField(min_value=0, max_value=wire.MAX_OFFSET, default=None)
    upload_id = serializers.RegexField(UPLOAD_ID, default="")
    upload_length = serializers.IntegerField(min_value=0, max_value=wire.MAX_OFFSET, default=None)
    upload_offset = serializers.IntegerField(min_value=0, max_value=wire.MAX_OFFSET, default=None)
    encoding = serializers.CharField(default="identity")


_HEADERS = {
    "attempt": "X-Sync-Attempt",
    "generation": "X-Sync-Generation",
    "offset": "X-Sync-Offset",
    "mtime": "X-File-Mtime",
    "chunk_sha256": "X-Chunk-SHA256",
    "file_sha256": "X-File-SHA256",
    "key": "Idempotency-Key",
    "raw_length": "X-Raw-Length",
    "upload_id": "X-Upload-Id",
    "upload_length": "X-Upload-Length",
    "upload_offset": "X-Upload-Offset",
    "encoding": "Content-Encoding",
}


#: One for all requests: a form of its own for each would cost more than what it reads.
_FORM = SyncHeaders()


def read_headers(headers: Any, *, asks: bool = False) -> dict[str, Any]:
    """
    Args:
        asks: the request has no body; it asks how far an upload is.

    Raises:
        BadRequest: one of them is not what it must be, or is missing; it is named.
        UnsupportedEncoding: a body compressed by anything but gzip.
    """
    given = {name: headers[header] for name, header in _HEADERS.items() if header in headers}
    try:
        read = _FORM.run_validation(given)
    except serializers.ValidationError as exc:
        name, problems = next(iter(exc.detail.items()))
        raise BadRequest(f"{_HEADERS[name]}: {problems[0]}", field=_HEADERS[name]) from None
    if read["encoding"] not in ("identity", "gzip"):
        raise UnsupportedEncoding("Send the body as it is, or with Content-Encoding: gzip.")
    if read["encoding"] == "gzip":
        _check_given(read, "raw_length")
    if read["upload_id"] and not asks:
        _check_given(read, "upload_length", "upload_offset", "file_sha256")
    return read


def _check_given(read: dict[str, Any], *names: str) -> None:
    for name in names:
        if read[name] in (None, ""):
            raise BadRequest(f"The header {_HEADERS[name]} is missing.", field=_HEADERS[name])


def check_plain(headers: dict[str, Any]) -> None:
    """
    Raises:
        UnsupportedEncoding: the body is compressed, which is not taken here.
    """
    if headers["encoding"] != "identity":
        raise UnsupportedEncoding(
            "Send this body as it is: only a raw delta or chunk may be compressed."
        )


def raw(body: bytes, headers: dict[str, Any], limit: int) -> bytes:
    """A body as it was before `Content-Encoding`; never more than `limit` bytes are made of it.

    Raises:
        TooLarge: it is, or would be, longer; or it is compressed more than so many times.
        ChecksumDiffers: it is no gzip, cut short, or not as long as X-Raw-Length says.
    """
    if headers["encoding"] == "identity":
        if len(body) > limit:
            raise _too_long(limit)
        return body
    length = headers["raw_length"]
    if length > limit:
        raise _too_long(limit)
    if length > wire.MAX_GZIP_RATIO * len(body):
        raise TooLarge(
            f"A body may be compressed {wire.MAX_GZIP_RATIO} to 1 at most; send it as it is.",
            limit=wire.MAX_GZIP_RATIO,
        )
    return _unzipped(body, length)


def _unzipped(body: bytes, length: int) -> bytes:
    unzip = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        data = unzip.decompress(body, length + 1)  # at most: this is what bounds the memory
    except zlib.error as exc:
        raise ChecksumDiffers("The body is no gzip, or was damaged; send it again.") from exc
    if len(data) != length or not unzip.eof or unzip.unused_data:
        raise ChecksumDiffers(
            f"The gzip body does not hold the {length} bytes of X-Raw-Length; send it again."
        )
    return data


def _too_long(limit: int) -> TooLarge:
    return TooLarge(
        f"At most {limit // 1024**2} MiB are taken at once; send the rest as another one.",
        limit=limit,
    )


class RuleSerializer(serializers.Serializer):
    """What to delete in a project; with `confirm`, that is done."""

    what = serializers.ChoiceField([what.value for what in freeing.RULES])
    older_than_days = serializers.IntegerField(min_value=0, max_value=36500, default=0)
    confirm = serializers.CharField(
        default="", max_length=64, help_text="Of the plan that was shown: do just that."
    )

    @property
    def rule(self) -> freeing.Rule:
        said = self.validated_data
        return freeing.Rule(What(said["what"]), said["older_than_days"])


class TrashSerializer(serializers.ModelSerializer):
    by = serializers.SlugRelatedField("username", read_only=True)
    changed_by = serializers.SlugRelatedField("username", read_only=True)
    project = serializers.SlugRelatedField("name", read_only=True)
    jobs = serializers.SlugRelatedField("uid", many=True, read_only=True)
    files = serializers.IntegerField(source="file_count", read_only=True)
    size_bytes = serializers.IntegerField(source="size", read_only=True)

    class Meta:
        model = Trash
        fields = [
            "id", "project", "what", "older_than_days", "jobs", "runs", "files", "size_bytes",
            "by", "made_at", "state", "changed_at", "changed_by",
        ]  # fmt: skip


class DiskSerializer(serializers.Serializer):
    """The disk of the runs' files; a forecast only where there is enough data."""

    free_bytes = serializers.IntegerField()
    total_bytes = serializers.IntegerField()
    growth_bytes_per_day = serializers.FloatField(allow_null=True)
    days_left = serializers.FloatField(allow_null=True)


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
