"""Sending the files of an imported run: what the server has already is not sent again, and a large
file that was cut goes on where it was."""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from urllib.parse import quote

from agent import wire
from agent.cli.api import Api
from agent.cli.errors import CliError, Exit, ServerRefused
from agent.cli.findruns import LocalFile, LocalRun
from agent.cli.statcache import StatCache

TRIES = 5  # of one request, while the line is cut or another one writes the file
PAUSE_SECONDS = 2.0
BLOCK_BYTES = 1024 * 1024
#: At which a server reads again what it was sent, in bytes a second.
SLOWEST_DISK = 20e6
ANSWER_SECONDS = 60.0
RAW = {"Content-Type": "application/octet-stream"}
#: Refusals of one file alone; the run's others are sent all the same.
OF_ONE_FILE = (400, 410, 413)
NO_ROOM = 507
#: Somebody sent a later version meanwhile.
NEWER = "stale_generation"
#: A file of the run, as an earlier import brought it, is where this one needs a folder.
TAKEN = "name_taken"
#: It is not what it was when its SHA-256 was taken: written anew meanwhile.
CHANGED = ("checksum_differs", "offset_mismatch", "diverged")
CHANGED_WORDS = "it changed while it was sent: import once more"


@dataclass
class Sent:
    """What became of a run's files."""

    count: int = 0
    size: int = 0
    there: int = 0  # the same byte for byte, or newer
    refused: list[tuple[str, str]] = field(default_factory=list)  # tail, why


class Changed(CliError):
    """A file became shorter than it was."""


class Uploader:
    """Sends the files of one run after another."""

    def __init__(
        self, api: Api, hashes: StatCache, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._api = api
        self._hashes = hashes
        self._sleep = sleep

    def send(self, run: LocalRun, uid: str, run_name: str, advance: Callable[[int], None]) -> Sent:
        """
        Raises:
            CliError: the line stays cut, or the server has no room.
        """
        stored = self._api.get(f"/api/sync/status/{quote(uid)}")["data"]["files"]
        sent = Sent()
        for file in run.files:
            try:
                sha256 = self._hashes.sha256_of(str(file.path), file.result)
            except OSError as exc:
                sent.refused.append((file.tail, f"cannot be read: {exc.strerror}"))
                continue
            one = _One(uid, f"{run_name}{file.tail}", file, sha256)
            if one.is_there(known := stored.get(one.name)):
                sent.there += 1
                advance(file.size)
                continue
            try:
                self._send(one, _generation(one, known), advance)
            except CliError as exc:
                _note(exc, sent, file)
            else:
                sent.count, sent.size = sent.count + 1, sent.size + file.size
        return sent

    def _send(self, one: "_One", generation: int | None, advance: Callable[[int], None]) -> None:
        headers = {**RAW, "X-File-SHA256": one.sha256, "X-File-Mtime": str(one.mtime)}
        if generation is not None:
            headers["X-Sync-Generation"] = str(generation)
        try:
            with one.file.path.open("rb") as source:
                if one.file.size <= wire.MAX_WHOLE_FILE_BYTES:
                    self._post(one, one.read(source, one.file.size), headers)
                    advance(one.file.size)
                else:
                    self._in_chunks(one, source, headers, advance)
        except OSError as exc:
            raise CliError(f"{one.file.path} cannot be read: {exc.strerror}") from None

    def _in_chunks(
        self,
        one: "_One",
        source: BinaryIO,
        headers: dict[str, str],
        advance: Callable[[int], None],
    ) -> None:
        upload_id, offset = self._begun(one, headers)
        headers |= {"X-Upload-Id": upload_id, "X-Upload-Length": str(one.file.size)}
        source.seek(offset)
        advance(offset)
        while offset < one.file.size:
            length = min(wire.MAX_UPLOAD_CHUNK_BYTES, one.file.size - offset)
            chunk = one.read(source, length)
            digest = hashlib.sha256(chunk).hexdigest()
            said = {"X-Upload-Offset": str(offset), "X-Chunk-SHA256": digest}
            self._post(one, chunk, headers | said)
            offset += length
            advance(length)

    def _begun(self, one: "_One", headers: dict[str, str]) -> tuple[str, int]:
        """The upload's id, and how much of it has come before. One that lay so long that the
        server has given it up is begun anew, under another id."""
        upload_id = f"import-{one.sha256[:40]}"
        asked = {"upload_id": upload_id}
        answer = self._api.request("GET", one.path, params=asked, headers=headers, also=(404, 410))
        if answer.status_code == 410:
            return f"{upload_id}-{secrets.token_hex(4)}", 0
        if answer.status_code == 404:
            return upload_id, 0
        return upload_id, min(int(answer.json()["data"]["expected_offset"]), one.file.size)

    def _post(self, one: "_One", data: bytes, headers: dict[str, str]) -> None:
        seconds = ANSWER_SECONDS + one.file.size / SLOWEST_DISK
        for left in reversed(range(TRIES)):
            try:
                self._api.request("POST", one.path, data=data, headers=headers, seconds=seconds)
                return
            except CliError as exc:
                if not left or not _may_pass(exc):
                    raise _with_what_to_do(exc, one) from None
                self._sleep(PAUSE_SECONDS)


@dataclass(frozen=True)
class _One:
    uid: str
    name: str
    file: LocalFile
    sha256: str

    @property
    def mtime(self) -> int:
        return max(0, int(self.file.result.st_mtime))

    @property
    def path(self) -> str:
        return f"/api/sync/import/{quote(self.uid)}/{quote(self.name)}"

    def is_there(self, stored: dict[str, Any] | None) -> bool:
        """Whether the server has it whole: this one, or one that was written later."""
        if stored is None or not stored["complete"]:
            return False
        if (stored["size"], stored["sha256"]) == (self.file.size, self.sha256):
            return True
        return stored["mtime"] is not None and stored["mtime"] > self.mtime

    def read(self, source: BinaryIO, length: int) -> bytes:
        """
        Raises:
            Changed: it became shorter; what else changed, the server sees by the hash.
        """
        data = source.read(length)
        if len(data) != length:
            raise Changed(CHANGED_WORDS, Exit.FAILED)
        return data


def _generation(one: _One, stored: dict[str, Any] | None) -> int | None:
    """Of a file that is another by now the next; None: the first, or it goes on."""
    if stored is None or not stored["complete"] or not stored["sha256"]:
        return None
    if wire.grows(one.name) and _begins_with(one, stored["size"], stored["sha256"]):
        return int(stored["generation"])
    return int(stored["generation"]) + 1


def _begins_with(one: _One, size: int, sha256: str) -> bool:
    digest, left = hashlib.sha256(), size
    try:
        with one.file.path.open("rb") as source:
            while left and (block := source.read(min(BLOCK_BYTES, left))):
                digest.update(block)
                left -= len(block)
    except OSError:
        return False
    return not left and digest.hexdigest() == sha256


def _note(exc: CliError, sent: Sent, file: LocalFile) -> None:
    """What is of one file alone.

    Raises:
        CliError: it ends all of it.
    """
    code, status = (exc.code, exc.status) if isinstance(exc, ServerRefused) else ("", 0)
    if code == NEWER:
        sent.there += 1
    elif code in CHANGED or isinstance(exc, Changed):
        sent.refused.append((file.tail, CHANGED_WORDS))
    elif status in OF_ONE_FILE or code == TAKEN:
        sent.refused.append((file.tail, str(exc)))
    else:
        raise exc


def _may_pass(exc: CliError) -> bool:
    if isinstance(exc, ServerRefused):
        return bool(exc.facts.get("retryable")) and exc.status != NO_ROOM
    return exc.exit_code == Exit.UNREACHABLE


def _with_what_to_do(exc: CliError, one: _One) -> CliError:
    """A line that stays cut; a refusal says so itself."""
    if isinstance(exc, ServerRefused):
        return exc
    return CliError(f"{exc}. The same command goes on with {one.name} where it was", exc.exit_code)
