"""A run that a device executes, and the ways to send its files."""

import hashlib
import io
from dataclasses import dataclass

import pytest

from experiments.models import Attempt
from sync import append, chunks, ownership, tasks, upload
from sync.models import SyncFile
from sync.ownership import Target
from tests import make

TOKEN = "labd_abcdefgh_" + "s" * 43


@pytest.fixture(autouse=True)
def _own_logs(settings, tmp_path):
    settings.LAB_LOGS_DIR = tmp_path / "logs"


@pytest.fixture(autouse=True)
def _tidy_at_once(monkeypatch):
    """In one slice, on however busy a machine."""
    monkeypatch.setattr(tasks, "SECONDS", 60)


@dataclass
class Run:
    """One running attempt, seen from the agent's side of the sync endpoints."""

    attempt: Attempt

    @property
    def uid(self) -> str:
        return self.attempt.job.uid

    def target(self, name: str = "run_001.csv", number: int | None = None) -> Target:
        return ownership.target(self.attempt.device, self.uid, name, number)

    def delta(self, data: bytes, name: str = "run_001.csv", **said) -> append.Stored:
        return append.append(self.target(name), append.Delta(data, **said))

    def full(self, data: bytes, name: str = "run_001.pt", **said) -> append.Stored:
        return upload.store(self.target(name), io.BytesIO(data), upload.Whole(**said))

    def chunk(
        self,
        whole: bytes,
        offset: int,
        length: int,
        *,
        upload_id: str = "u1",
        generation: int | None = 1,
        name: str = "run_001.pt",
        number: int | None = None,
    ) -> append.Stored | chunks.Progress:
        """Send so many bytes of `whole` as a chunk of its upload."""
        chunk = chunks.Chunk(
            whole[offset : offset + length],
            upload_id=upload_id,
            length=len(whole),
            sha256=sha256(whole),
            offset=offset,
            generation=generation,
        )
        return chunks.receive(self.target(name, number), chunk)

    def row(self, name: str = "run_001.csv") -> SyncFile:
        return SyncFile.objects.results().get(name=name)

    def stored(self, name: str = "run_001.csv") -> bytes:
        """The acknowledged bytes, as they lie on the disk."""
        path = self.target(name).place.path
        return path.read_bytes()[: self.row(name).size] if path.exists() else b""


@pytest.fixture
def run(db) -> Run:
    device = make.device(gpus=1, token=TOKEN, host_id="gpu-01")
    return Run(make.attempt(make.job(config="lr: 0.1\n", command=["x"]), device, started=True))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
