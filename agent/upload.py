"""A file that is replaced as a whole: metadata, checkpoints, artifacts (protocol §6.2).

Each version gets a generation of its own, so that a late request of an older one can never take
the place of a newer. Of several unsent versions only the newest is sent.
"""

import hashlib
from dataclasses import replace
from typing import Any, BinaryIO

from agent.filejournal import Sent
from agent.runfiles import Mark
from agent.tracked import Tracked, read_mark, stored
from agent.transport import TRANSFER_SECONDS, Body, Transport, hashing_seconds

BLOCK_BYTES = 1024 * 1024
STILL_SECONDS = 1.0  # without a change, before a file counts as written


class Whole(Tracked):
    def _has_work(self, now_seconds: float) -> bool:
        still = self.run.exited or now_seconds - self.still_since >= STILL_SECONDS
        return still and (self.sent is None or self.sent.mark != str(self.seen))

    def _step(self, transport: Transport) -> bool:
        with self.run.open(self.name) as source:
            mark = read_mark(source)
            sha256 = self._hash(source, mark)
            if sha256 is None:
                return False  # it is being written; the next look tells when it stands still
            sent = self._offer(transport, sha256)
            if not sent.complete:
                self._send(transport, source, mark, sent)
                self._confirmed()
        self._keep(replace(sent, acked_bytes=mark.size, complete=True, mark=str(mark)))
        return False

    def _hash(self, source: BinaryIO, mark: Mark) -> str | None:
        """None: it is not, or no longer, what was seen to stand still."""
        if mark != self.seen and not self.run.exited:
            return None
        digest, size = hashlib.sha256(), 0
        while not self._stop.is_set() and (block := source.read(BLOCK_BYTES)):
            digest.update(block)
            size += len(block)
        return digest.hexdigest() if size == mark.size and read_mark(source) == mark else None

    def _offer(self, transport: Transport, sha256: str) -> Sent:
        """The generation of this version: that under which it was offered before, if it was."""
        if self.sent is None:
            return self._begin(transport, sha256=sha256)
        if self.sent.sha256 == sha256:
            return self.sent
        return self._renew(self.sent.generation + 1, sha256=sha256)

    def _send(self, transport: Transport, source: BinaryIO, mark: Mark, sent: Sent) -> None:
        source.seek(0)
        answer = transport.full(
            self.run.experiment_uid,
            self.name,
            Body(source, mark.size, self._stop),
            self._headers(sent, mark, X_File_SHA256=sent.sha256),
            TRANSFER_SECONDS + hashing_seconds(mark.size),
        )
        stored(answer, sent, mark.size)

    def _reread(self) -> None:
        pass  # each step reads all of it

    def _kept_when_renewed(self) -> dict[str, Any]:
        return {"sha256": self.sent.sha256} if self.sent is not None else {}
