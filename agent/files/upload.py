"""A file that is replaced as a whole: metadata, checkpoints, artifacts (protocol §6.2).

Each version gets a generation of its own, so that a late request of an older one can never take
the place of a newer. Of several unsent versions only the newest is sent. A large one goes in
chunks: cut off, or after a restart, it goes on where the server says that it is. A checkpoint of
which only the beginning is there is not sent at all: the server keeps the version before it.
"""

import hashlib
import io
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any, BinaryIO

from agent import shim, wire
from agent.errors import ServerUnreachable
from agent.files import packing, torn
from agent.files.filejournal import Sent
from agent.files.regular import Mark
from agent.files.tracked import STILL_SECONDS, Tracked, read_at, read_mark, stored
from agent.transport import TRANSFER_SECONDS, Body, Transport, hashing_seconds

BLOCK_BYTES = 1024 * 1024
PATIENCE_SECONDS = 3.0  # with one that is replaced again and again, until it counts as written
MIN_CHUNK_BYTES = 256 * 1024
TRIAL_BYTES = 4 * 1024 * 1024  # of a version, packed to see whether that pays


class Whole(Tracked):
    _hashed: tuple[Mark, str] | None = None
    _judged: tuple[Mark, bool] | None = None  # whether that version is torn
    _chunk_bytes = wire.MAX_UPLOAD_CHUNK_BYTES
    _confirmed_at = 0.0
    _gave_up = False  # the last version, for a newer one: the next is sent to its end

    def _note_arrived(self) -> None:
        if self._confirmed_at > self.backlog.since_seconds:  # a version that was behind then
            self.backlog.clear()
            self.backlog.grew(self.seen.size, self.seen_at)

    def look_inside(self, mark: Mark) -> None:
        """Before it is seen as `mark`, once for each version that counts as written: whether that
        can be what its script meant to write. What else is sent may depend on it."""
        if not torn.may_be_judged(self.name):
            return
        is_written = self.run.exited or (mark == self.seen and self.is_still)
        is_judged = self._judged is not None and self._judged[0] == mark
        is_there = self.sent is not None and self.sent.mark == str(mark)
        if is_judged or is_there or not is_written:
            return
        with suppress(OSError), self.run.open(self.name) as source:  # who sends it tells why
            self._judge(source)

    def _judge(self, source: BinaryIO) -> bool:
        mark = read_mark(source)
        if self._judged is None or self._judged[0] != mark:
            is_torn = torn.may_be_judged(self.name) and torn.is_torn(source, self.name)
            self._judged = mark, is_torn
            if is_torn:  # what the server said was of an earlier version
                self.error, self.parked = None, False
        return self._judged[1]

    @property
    def is_torn(self) -> bool:
        return self._judged == (self.seen, True)

    def _has_work(self, now_seconds: float) -> bool:
        changed = self.sent is None or self.sent.mark != str(self.seen)
        return changed and not self.is_torn and self._stands_still(now_seconds)

    def _stands_still(self, now_seconds: float) -> bool:
        """Whether it counts as written. What is renamed into place is whole at any time; where
        that happens more often than a file has to stand still, none would ever be sent."""
        still = now_seconds - self.still_since >= STILL_SECONDS
        unsent = now_seconds - max(self.backlog.since_seconds, self._confirmed_at)
        return self.run.exited or still or (self.is_replaced and unsent >= PATIENCE_SECONDS)

    def _confirmed(self) -> None:
        super()._confirmed()
        self._confirmed_at = shim.now()

    def _missing_bytes(self, sent: Sent) -> int:
        """Of the version that is being sent; of a newer one all of it."""
        return self.seen.size if sent.complete else max(0, self.seen.size - sent.acked_bytes)

    def _unconfirmed(self, sent: Sent) -> Sent:
        return replace(super()._unconfirmed(sent), acked_bytes=0)

    def _why_not_yet(self) -> str:
        if self.is_torn:
            return "it is still being written: only the beginning of a checkpoint is there"
        if self._stands_still(shim.now()):
            return super()._why_not_yet()
        return "it was written a moment ago, and is sent once it stands still"

    def _step(self, transport: Transport) -> bool:
        with self.run.open(self.name) as source:
            mark = read_mark(source)
            if self._judge(source):
                return False  # the next look tells what becomes of it
            source.seek(0)
            sha256 = self._hash(source, mark)
            if sha256 is None:
                return False  # it is being written; the next look tells when it stands still
            sent = self._offer(transport, sha256)
            if not sent.complete:
                if not self._send(transport, source, mark, sent):
                    return False
                self._confirmed()
        self._keep(replace(sent, acked_bytes=mark.size, complete=True, mark=str(mark)))
        return False

    def _hash(self, source: BinaryIO, mark: Mark) -> str | None:
        """None: it is not, or no longer, what was seen to stand still."""
        if mark != self.seen and not self.run.exited:
            return None
        if self._hashed is not None and self._hashed[0] == mark:
            return self._hashed[1]  # a line that is cut often must not cost a reading each time
        digest, size = hashlib.sha256(), 0
        while not self._stop.is_set() and (block := source.read(BLOCK_BYTES)):
            digest.update(block)
            size += len(block)
        if size != mark.size or read_mark(source) != mark:
            return None
        self._hashed = mark, digest.hexdigest()
        return self._hashed[1]

    def _offer(self, transport: Transport, sha256: str) -> Sent:
        """The generation of this version: that under which it was offered before, if it was."""
        if self.sent is None:
            return self._begin(transport, sha256=sha256)
        if self.sent.sha256 == sha256:
            return self.sent
        return self._renew(self.sent.generation + 1, sha256=sha256)

    def _send(self, transport: Transport, source: BinaryIO, mark: Mark, sent: Sent) -> bool:
        """Return whether it arrived; else a newer version is there, and wins."""
        if mark.size > wire.MAX_WHOLE_FILE_BYTES:
            arrived = self._send_in_chunks(transport, source, mark, sent)
            self._gave_up = not arrived
            return arrived
        source.seek(0)
        answer = transport.full(
            self.run.experiment_uid,
            self.name,
            Body(source, mark.size, self._stop),
            self._headers(sent, mark, X_File_SHA256=sent.sha256),
            TRANSFER_SECONDS + hashing_seconds(mark.size),
        )
        stored(answer, sent, mark.size)
        return True

    # --- in chunks ---

    def _send_in_chunks(
        self, transport: Transport, source: BinaryIO, mark: Mark, sent: Sent
    ) -> bool:
        upload_id = f"{self.run.number}-{sent.generation}-{sent.sha256[:16]}"
        headers = self._headers(sent, mark, X_File_SHA256=sent.sha256)
        offset = transport.upload_offset(self.run.experiment_uid, self.name, upload_id, headers)
        headers |= {"X-Upload-Id": upload_id, "X-Upload-Length": str(mark.size)}
        packs: bool | None = None  # not known before a chunk has shown how fast the line is
        while True:
            chunk = read_at(source, offset, min(self._chunk_bytes, mark.size - offset))
            if self._is_overtaken(mark, read_mark(source)):
                return False
            began = time.perf_counter()
            if self._send_chunk(transport, chunk, offset, packs, headers, sent):
                return True
            if packs is None:
                seconds_per_byte = (time.perf_counter() - began) / len(chunk)
                packs = packing.pays(chunk[:TRIAL_BYTES], seconds_per_byte)
            self._taken()  # a line that is cut often is not to be waited for ever longer
            offset += len(chunk)
            self.sent = replace(sent, acked_bytes=offset)  # for people; the server knows it

    def _is_overtaken(self, mark: Mark, now: Mark) -> bool:
        """Whether the version that is sent is of no use any more; `now`: of the open file.

        For a newer one it is not given up twice in a row: a script that saves faster than the line
        carries would have no checkpoint at the server at all, and what was renamed away is still
        open here, and whole.
        """
        if not _is_kept(mark, now):
            return True
        is_newest = self.run.exited or _is_kept(mark, self.seen)
        return not is_newest and not self._gave_up

    def _send_chunk(
        self,
        transport: Transport,
        chunk: bytes,
        offset: int,
        packs: bool | None,
        headers: dict[str, str],
        sent: Sent,
    ) -> bool:
        """Return whether the file is whole at the server."""
        length = int(headers["X-Upload-Length"])
        headers = {
            **headers,
            "X-Upload-Offset": str(offset),
            "X-Chunk-SHA256": hashlib.sha256(chunk).hexdigest(),
        }
        body = packing.packed(chunk) if packs else None
        if body is not None:
            headers |= packing.headers_of(chunk)
        is_last = offset + len(chunk) == length
        seconds = TRANSFER_SECONDS + (hashing_seconds(length) if is_last else 0.0)
        try:
            answer = transport.full(
                self.run.experiment_uid,
                self.name,
                Body(io.BytesIO(body or chunk), len(body or chunk), self._stop),
                headers,
                seconds,
            )
        except ServerUnreachable:  # what is cut off is sent again: let it be less
            self._chunk_bytes = max(MIN_CHUNK_BYTES, self._chunk_bytes // 2)
            raise
        self._chunk_bytes = min(wire.MAX_UPLOAD_CHUNK_BYTES, 2 * self._chunk_bytes)
        complete = bool(stored(answer, sent, offset + len(chunk)).get("complete"))
        if is_last and not complete:
            raise ServerUnreachable(f"The server did not confirm {self.name}")
        return complete

    # --- what may go wrong ---

    def _reread(self) -> None:
        self._hashed = None

    def _kept_when_renewed(self) -> dict[str, Any]:
        return {"sha256": self.sent.sha256} if self.sent is not None else {}


def _is_kept(mark: Mark, now: Mark) -> bool:
    """Whether a file still begins with that version: unchanged, or only longer. One that was
    written anew and grew beyond it is found out by its hash."""
    return now == mark or (now.inode == mark.inode and now.size > mark.size)
