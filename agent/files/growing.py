"""A file that grows: metrics, logs and other text, event files; sent as deltas (protocol §6.1).

The file is known by its content, not by its inode: loggers append, rewrite the whole with
the same beginning, or add a column and begin anew. As long as its beginning is what was
acknowledged, what follows is sent; else the file goes up as a new generation.
"""

import hashlib
import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from agent import shim, wire
from agent.errors import Rejected, ServerUnreachable
from agent.files import masks, packing
from agent.files.filejournal import EMPTY_SHA256, Sent
from agent.files.masks import Covered
from agent.files.regular import Mark
from agent.files.tracked import STILL_SECONDS, Tracked, read_at, read_mark, stored
from agent.transport import TRANSFER_SECONDS, Transport, hashing_seconds

if TYPE_CHECKING:
    from hashlib import _Hash

logger = logging.getLogger(__name__)

MIN_CHUNK_BYTES = 64 * 1024
BLOCK_BYTES = 1024 * 1024
ALWAYS_READ_BYTES = 1024 * 1024  # a beginning of this size is read again at each change
ENDS_BYTES = 64 * 1024  # of a longer one: its first and last bytes, and all of it now and then
REWRITING_SECONDS = 5.0  # a file that is shorter than it was for so long will stay so


@dataclass
class _Prefix:
    """The acknowledged beginning of the file, as it was read here."""

    digest: "_Hash"
    inode: int
    head: bytes
    tail: bytes
    read_bytes: int  # how long it was when all of it was last read

    def extended(self, chunk: bytes) -> "_Prefix":
        digest = self.digest.copy()
        digest.update(chunk)
        head = (self.head + chunk[:ENDS_BYTES])[:ENDS_BYTES]
        tail = (self.tail + chunk[-ENDS_BYTES:])[-ENDS_BYTES:]
        return replace(self, digest=digest, head=head, tail=tail)


class Growing(Tracked):
    _prefix: _Prefix | None = None
    _short_since: float | None = None
    _chunk_bytes = wire.MAX_CHUNK_BYTES

    def see(self, mark: Mark, now_seconds: float) -> None:
        if mark != self.seen and self.left_out is wire.WhyLeftOut.UNMASKED:
            self.left_out = None  # whoever wrote it may have let us write too
        super().see(mark, now_seconds)

    def _has_work(self, now_seconds: float) -> bool:
        if self.sent is None:
            return self.seen.size > 0 or self.run.exited
        return self.run.exited or self.sent.mark != str(self.seen)

    @property
    def is_lacking(self) -> bool:
        """What has arrived of it is safe, also before it is confirmed as a whole."""
        return not self.settled and (self._doubted or self.behind_bytes > 0)

    def _note_arrived(self) -> None:
        self.backlog.arrived(self._acked)

    def _missing_bytes(self, sent: Sent) -> int:
        is_rewritten = self.seen.size < sent.acked_bytes
        return self.seen.size if is_rewritten else self.seen.size - sent.acked_bytes

    def _reread(self) -> None:
        self._prefix = None

    def _step(self, transport: Transport) -> bool:
        if self.left_out is not None:
            return False  # it has grown beyond what its job wishes
        exited = self.run.exited
        with self.run.open(self.name) as source:
            mark = read_mark(source)
            sent = self._as_growing(self.sent or self._begin(transport))
            # First the chunk, then what comes before it: a rewriting that began meanwhile shows.
            chunk = read_at(source, sent.acked_bytes, self._chunk_bytes)
            if not self._continues(source, read_mark(source), sent):
                return self._begin_anew(mark, sent, exited)
            self._short_since = None
            try:
                may_go = self._masked(transport, sent, chunk, exited=exited)
            except PermissionError as exc:
                return self._leave_out(exc)
            if may_go:
                self._send(transport, source, mark, may_go)
                held_back = len(chunk) - len(may_go)
                return exited or self._acked + held_back < mark.size
            if exited:
                return self._confirm(transport, source, mark, sent)
        self.sent = replace(sent, mark=str(mark))
        return False

    def _as_growing(self, sent: Sent) -> Sent:
        """An earlier agent may have sent it as a whole. A version that was acknowledged is the
        beginning of what follows. Of one that was not, a request may still be under way: what is
        sent now has to be above it."""
        if sent.acked_bytes or sent.sha256 == EMPTY_SHA256:
            return sent
        return self._renew(sent.generation + 1)

    def _masked(self, transport: Transport, sent: Sent, chunk: bytes, *, exited: bool) -> bytes:
        """What may be sent of the chunk: no value of a secret, nor what may become one."""
        if not self.run.secret_names or not wire.is_growing_text(self.name):
            return chunk  # stars in an event file would break its checksums
        known = self.run.masks_by(transport.secrets)
        found = known.look(chunk, is_end=exited and len(chunk) < self._chunk_bytes)
        if found.spans:
            self._lay_stars(sent.acked_bytes, chunk, found)
        return masks.starred(chunk, found)

    def _lay_stars(self, offset: int, chunk: bytes, found: Covered) -> None:
        """Into the file itself. What its script has written there since is looked at again, as
        it is not what was sent."""
        with self.run.open(self.name, to_write=True) as file:
            for start, end in found.spans:
                if os.pread(file.fileno(), end - start, offset + start) == chunk[start:end]:
                    os.pwrite(file.fileno(), masks.STAR * (end - start), offset + start)

    def _leave_out(self, exc: PermissionError) -> bool:
        """Rather no file than a secret in it: what has arrived of it stays, and no more comes."""
        logger.warning("%s is not sent further: it cannot be masked: %s", self._label, exc)
        self.left_out = wire.WhyLeftOut.UNMASKED
        return False

    def _begin_anew(self, mark: Mark, sent: Sent, exited: bool) -> bool:
        """It is another file by now. Return whether to go on with it at once."""
        if not exited and self._is_being_rewritten(mark, sent):
            return False
        self._short_since = None
        self._renew(sent.generation + 1)
        return True

    @property
    def _acked(self) -> int:
        return self.sent.acked_bytes if self.sent is not None else 0

    # --- whether it goes on from what was acknowledged ---

    def _continues(self, source: BinaryIO, mark: Mark, sent: Sent) -> bool:
        if mark.size < sent.acked_bytes:
            return False
        if not sent.acked_bytes:
            self._prefix = _empty(mark)
            return True
        prefix = self._prefix
        if prefix is None or self._is_to_be_read(prefix, mark, sent):
            return self._read_prefix(source, mark, sent)
        if str(mark) == sent.mark:
            return True
        head = read_at(source, 0, len(prefix.head))
        tail = read_at(source, sent.acked_bytes - len(prefix.tail), len(prefix.tail))
        return head == prefix.head and tail == prefix.tail

    def _is_to_be_read(self, prefix: _Prefix, mark: Mark, sent: Sent) -> bool:
        """Reading all of a long log at each line would cost more than the training. What is
        missed by that is found when the file has doubled, or at the end, by its whole hash."""
        if sent.acked_bytes <= ALWAYS_READ_BYTES:
            return str(mark) != sent.mark
        return mark.inode != prefix.inode or sent.acked_bytes >= 2 * prefix.read_bytes

    def _read_prefix(self, source: BinaryIO, mark: Mark, sent: Sent) -> bool:
        digest, size = hashlib.sha256(), sent.acked_bytes
        if _feed(digest, source, 0, size) != size or digest.hexdigest() != sent.sha256:
            return False
        head = read_at(source, 0, min(ENDS_BYTES, size))
        tail_bytes = min(ENDS_BYTES, size)
        tail = read_at(source, size - tail_bytes, tail_bytes)
        self._prefix = _Prefix(digest, mark.inode, head, tail, size)
        return True

    def _is_being_rewritten(self, mark: Mark, sent: Sent) -> bool:
        """Whether it is only short because its script is in the middle of writing it anew."""
        if mark.size >= sent.acked_bytes:
            return False
        now = shim.now()
        if self._short_since is None:
            self._short_since = now
        still = mark == self.seen and now - self.still_since >= STILL_SECONDS
        return not still and now - self._short_since < REWRITING_SECONDS

    # --- sending ---

    def _send(self, transport: Transport, source: BinaryIO, mark: Mark, chunk: bytes) -> None:
        sent, prefix = self.sent, self._prefix
        assert sent is not None
        assert prefix is not None
        headers = self._headers(
            sent,
            mark,
            X_Sync_Offset=str(sent.acked_bytes),
            X_Chunk_SHA256=hashlib.sha256(chunk).hexdigest(),
        )
        acked_bytes = sent.acked_bytes + len(chunk)
        body = packing.packed(chunk)
        if body is not None:
            headers |= packing.headers_of(chunk)
        try:
            answer = transport.delta(self.run.experiment_uid, self.name, body or chunk, headers)
            stored(answer, sent, acked_bytes)
        except ServerUnreachable:  # a slow line gets a long chunk through never, short ones slowly
            self._chunk_bytes = max(MIN_CHUNK_BYTES, self._chunk_bytes // 2)
            raise
        except Rejected as exc:
            if exc.code != "offset_mismatch":
                raise
            return self._go_back(source, mark, sent, exc)
        self._chunk_bytes = min(wire.MAX_CHUNK_BYTES, 2 * self._chunk_bytes)
        extended = prefix.extended(chunk)
        self._keep(
            replace(
                sent,
                acked_bytes=acked_bytes,
                sha256=extended.digest.hexdigest(),
                complete=False,
                mark=str(mark) if acked_bytes == mark.size else "",
            )
        )
        # Last: a journal that is full leaves the two as they were. A short one is read again at
        # each change, and a run may have thousands of these: it is not remembered.
        self._prefix = extended if acked_bytes > ALWAYS_READ_BYTES else None

    def _go_back(self, source: BinaryIO, mark: Mark, sent: Sent, exc: Rejected) -> None:
        """The server has less than it acknowledged: go on from there, if it is still the same."""
        offset = exc.facts.get("expected_offset")
        if not isinstance(offset, int) or not 0 <= offset < sent.acked_bytes:
            raise ServerUnreachable(f"The server expects {offset!r} after {sent.acked_bytes}")
        digest = hashlib.sha256()
        _feed(digest, source, 0, offset)
        sha256 = digest.hexdigest()
        _feed(digest, source, offset, sent.acked_bytes - offset)
        self._prefix = None
        if digest.hexdigest() == sent.sha256:
            self._keep(Sent(sent.generation, offset, sha256))
        else:
            self._renew(sent.generation + 1)

    def _confirm(self, transport: Transport, source: BinaryIO, mark: Mark, sent: Sent) -> bool:
        """The end: let the server hash its file, and compare. Return whether there is more."""
        digest = hashlib.sha256()
        size = _feed(digest, source, 0, None)
        sha256 = digest.hexdigest()
        if size != sent.acked_bytes or sha256 != sent.sha256:
            self._prefix = None  # it is not what was sent: the next step finds out
            if size == sent.acked_bytes:
                self._renew(sent.generation + 1)
            return True
        headers = self._headers(
            sent, mark, X_Sync_Offset=str(sent.acked_bytes), X_File_SHA256=sha256
        )
        seconds = TRANSFER_SECONDS + hashing_seconds(size)
        try:
            answer = transport.delta(self.run.experiment_uid, self.name, b"", headers, seconds)
        except Rejected as exc:
            if exc.code != "offset_mismatch":
                raise
            self._go_back(source, mark, sent, exc)
            return True
        if not stored(answer, sent, sent.acked_bytes).get("complete"):
            raise ServerUnreachable(f"The server did not confirm {self.name}")
        self._confirmed()
        self._keep(replace(sent, complete=True, mark=str(mark)))
        self._prefix = None  # it ends here, and a run may have thousands of these
        return False


def _empty(mark: Mark) -> _Prefix:
    return _Prefix(hashlib.sha256(), mark.inode, b"", b"", 0)


def _feed(digest: "_Hash", source: BinaryIO, offset: int, length: int | None) -> int:
    """Hash `length` bytes from `offset` on (None: all), and return how many there were."""
    source.seek(offset)
    total = 0
    while length is None or total < length:
        want = BLOCK_BYTES if length is None else min(BLOCK_BYTES, length - total)
        block = source.read(want)
        if not block:
            break
        digest.update(block)
        total += len(block)
    return total
