"""A file that is much larger than the memory it may take, through the real pool by real curl."""

import hashlib
import json
import os
import subprocess
import threading
from pathlib import Path

import psutil
import pytest

from labsite.pool import Pool
from tests.labsite.serving import served
from tests.sync.conftest import TOKEN

pytestmark = pytest.mark.django_db(transaction=True)

SIZE_BYTES = 256 * 1024**2
MAX_GROWTH_BYTES = 64 * 1024**2


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file with a beginning and an end, and a hole of zeros between them."""
    path = tmp_path / "large.pt"
    with path.open("wb") as file:
        file.write(b"begin")
        file.truncate(SIZE_BYTES - 3)
        file.seek(0, os.SEEK_END)
        file.write(b"end")
    return path


class Memory:
    """The most that this process held while the block ran, beyond what it held before."""

    growth_bytes = 0

    def __enter__(self) -> "Memory":
        self._before = psutil.Process().memory_info().rss
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._watch.join()

    def _look(self) -> None:
        process = psutil.Process()
        while not self._over.wait(0.02):
            self.growth_bytes = max(self.growth_bytes, process.memory_info().rss - self._before)


@pytest.mark.parametrize(
    "how",
    [
        ["-F", "file=@large.pt"],
        ["-H", "Content-Type: application/octet-stream", "-X", "POST", "-T", "large.pt"],
    ],
    ids=["form", "raw"],
)
def test_memory_does_not_grow_with_the_file(run, large, how):
    pool = Pool(threads=1)
    with served(pool) as (host, port), Memory() as memory:
        done = subprocess.run(
            ["curl", "-sS", "-u", f"device:{TOKEN}", "-H", "Expect:", *how,
             f"http://{host}:{port}/api/sync/full/{run.uid}/run_001.pt"],
            cwd=large.parent, capture_output=True, timeout=120, check=True,
        )  # fmt: skip
    pool.close()

    assert json.loads(done.stdout)["data"]["size_bytes"] == SIZE_BYTES
    stored = run.target("run_001.pt").place.path
    with large.open("rb") as sent, stored.open("rb") as got:
        assert hashlib.file_digest(got, "sha256").digest() == (
            hashlib.file_digest(sent, "sha256").digest()
        )
    assert memory.growth_bytes < MAX_GROWTH_BYTES
