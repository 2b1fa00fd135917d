"""A large file on its way in chunks, step by step, to a host in memory."""

import random
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import shim, wire
from agent.backoff import FLOOR_SECONDS
from agent.files import packing, upload
from agent.files.filejournal import FileJournal
from agent.files.regular import Mark
from agent.files.runfiles import RunFiles
from agent.files.upload import Whole
from agent.store import Store
from tests.agent.filehost import UID, Direct, FileHost, Refusal

NAME = "run_001.pt"
CHUNK = 4096


def weights(seed: int, size: int = 5 * CHUNK + 100) -> bytes:
    return random.Random(seed).randbytes(size)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.host = FileHost()
        self.transport = Direct(self.host)
        self.run = RunFiles("a1", UID, "digits", "run_001", 1, folder)
        self.store = Store(Path(":memory:"))
        self.restart()

    def restart(self) -> None:
        """Another agent process, with the same journal."""
        self.file = Whole(self.run, NAME, FileJournal(self.store), threading.Event())

    def replace(self, content: bytes) -> None:
        part = self.path.with_name("new")
        part.write_bytes(content)
        part.rename(self.path)

    def look(self) -> None:
        self.file.see(Mark.of(self.path.stat()), shim.now())

    def sync(self) -> None:
        self.look()
        self.file.nudge()
        self.file.work(self.transport)

    def after_chunk(self, number: int, do: Callable[[], object]) -> None:
        """Do something once so many chunks have arrived, before the next one is read."""
        left = [number]
        answer = self.transport._answer

        def and_then(request: Callable[[], object]) -> dict[str, object]:
            told = answer(request)
            left[0] -= "acked_bytes" in told["data"]
            if not left[0]:
                left[0] = -1
                do()
            return told

        self.transport._answer = and_then  # type: ignore[method-assign]

    @property
    def sent_bytes(self) -> int:
        return sum(length for _, length in self.host.bodies)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(wire, "MAX_WHOLE_FILE_BYTES", CHUNK)
    monkeypatch.setattr(wire, "MAX_UPLOAD_CHUNK_BYTES", CHUNK)
    monkeypatch.setattr(upload, "MIN_CHUNK_BYTES", CHUNK // 4)
    monkeypatch.setattr(Whole, "_chunk_bytes", CHUNK)
    return Bench(tmp_path)


def test_each_byte_is_sent_once(bench: Bench) -> None:
    bench.replace(weights(1))
    bench.sync()

    assert bench.host.results[NAME].content == weights(1)
    assert bench.file.settled
    assert bench.host.bodies == [(NAME, CHUNK)] * 5 + [(NAME, 100)]


@pytest.mark.parametrize("fate", ["lost_request", "lost_answer"])
def test_a_line_that_is_cut_at_each_chunk_costs_less_than_a_chunk_each(
    bench: Bench, fate: str
) -> None:
    bench.replace(weights(1, 40 * CHUNK))
    cuts = 10
    bench.transport.fates.extend(["ok", fate] * cuts)
    for _ in range(cuts + 1):
        bench.sync()

    assert bench.file.settled
    assert bench.host.results[NAME].content == weights(1, 40 * CHUNK)
    assert bench.host.results[NAME].generation == 1
    assert bench.sent_bytes <= 40 * CHUNK + cuts * CHUNK


def test_a_line_that_carries_something_between_two_cuts_is_not_waited_for_ever_longer(
    bench: Bench,
) -> None:
    bench.replace(weights(1, 40 * CHUNK))
    bench.transport.fates.extend(["ok", "lost_request"] * 10)
    for _ in range(10):
        bench.look()
        bench.file._not_before = 0.0
        bench.file.work(bench.transport)

    assert bench.file._backoff._bound <= 2 * FLOOR_SECONDS


@pytest.mark.parametrize("fate", ["lost_request", "lost_answer"])
def test_another_process_goes_on_where_the_last_was_killed(bench: Bench, fate: str) -> None:
    bench.replace(weights(1))
    bench.transport.fates.extend(["ok", "ok", fate])
    bench.sync()
    before = len(bench.host.uploads[NAME].content)
    bench.restart()
    bench.host.bodies.clear()

    bench.sync()

    assert bench.file.settled
    assert bench.sent_bytes == len(weights(1)) - before


def test_the_last_answer_may_be_lost(bench: Bench) -> None:
    bench.replace(weights(1))
    bench.transport.fates.extend(["ok"] * 5 + ["lost_answer"])
    bench.sync()
    assert not bench.file.settled

    bench.sync()

    assert bench.file.settled
    assert bench.host.results[NAME].generation == 1


def test_a_slow_line_gets_smaller_chunks(bench: Bench) -> None:
    bench.replace(weights(1))
    bench.transport.fates.extend(["lost_request", "lost_request"])
    for _ in range(3):
        bench.sync()

    assert [length for _, length in bench.host.bodies[:2]] == [CHUNK // 4, CHUNK // 2]


def test_the_newest_version_wins_at_the_end_of_a_chunk(bench: Bench) -> None:
    bench.replace(weights(1))
    bench.after_chunk(2, lambda: (bench.replace(weights(2)), bench.look()))
    bench.sync()
    assert NAME not in bench.host.results
    assert bench.sent_bytes == 2 * CHUNK

    bench.sync()

    assert bench.host.results[NAME].content == weights(2)
    assert bench.host.results[NAME].generation == 2


def test_but_not_twice_in_a_row(bench: Bench) -> None:
    """A script that saves more often than the line carries still gets checkpoints home."""
    for version in (1, 2, 3):
        bench.replace(weights(version))
        bench.after_chunk(
            2, lambda version=version: (bench.replace(weights(version + 1)), bench.look())
        )
        bench.sync()
        bench.file._not_before = 0

    assert bench.host.results[NAME].content == weights(2)  # whole, though renamed away
    assert not bench.file.settled
    bench.sync()
    bench.sync()
    assert bench.host.results[NAME].content == weights(4)


def test_a_file_that_is_written_while_it_is_sent_is_never_stored(bench: Bench) -> None:
    bench.replace(weights(1))
    bench.after_chunk(2, lambda: bench.path.write_bytes(weights(2)))
    bench.sync()
    assert NAME not in bench.host.results

    bench.sync()

    assert bench.host.results[NAME].content == weights(2)


def test_a_file_that_only_grows_while_it_is_sent_arrives_as_it_was(bench: Bench) -> None:
    def grow() -> None:
        with open(bench.path, "ab") as file:
            file.write(weights(2))
        bench.look()

    bench.replace(weights(1))
    bench.after_chunk(2, grow)
    bench.sync()
    assert bench.host.results[NAME].content == weights(1)
    assert not bench.file.settled

    bench.sync()

    assert bench.host.results[NAME].content == weights(1) + weights(2)


def test_a_file_that_was_written_anew_and_longer_is_found_out_by_its_hash(bench: Bench) -> None:
    longer = weights(2, 9 * CHUNK)
    bench.replace(weights(1))
    bench.after_chunk(2, lambda: bench.path.write_bytes(longer))
    bench.sync()
    assert NAME not in bench.host.results
    assert bench.file.error is not None

    for _ in range(3):
        bench.sync()

    assert bench.host.results[NAME].content == longer


def test_an_upload_that_was_thrown_away_begins_anew_under_another_name(bench: Bench) -> None:
    bench.replace(weights(1))
    bench.transport.fates.extend(["ok", "lost_request"])
    bench.sync()
    bench.host.uploads[NAME].expired = True
    bench.sync()
    bench.sync()

    assert bench.file.settled
    assert bench.host.results[NAME].generation == 2


def test_bytes_that_the_server_lost_are_sent_again(bench: Bench) -> None:
    bench.replace(weights(1))
    bench.transport.fates.extend(["ok", "ok", "lost_request"])
    bench.sync()
    bench.host.uploads[NAME].content = weights(1)[:100]
    bench.sync()

    assert bench.file.settled


def test_a_full_disk_is_waited_for(bench: Bench) -> None:
    bench.replace(weights(1))
    bench.host.refuse = Refusal(507, "disk_full")
    bench.sync()
    assert bench.file.state == "waiting"
    bench.host.refuse = None

    bench.sync()

    assert bench.file.settled


def test_how_far_it_is_can_be_read(bench: Bench) -> None:
    bench.replace(weights(1))
    bench.transport.fates.extend(["ok", "ok", "lost_request"])
    bench.sync()

    assert bench.file.report().acked_bytes == 2 * CHUNK


def test_a_version_is_read_once_to_be_hashed_however_often_the_line_is_cut(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.replace(weights(1))
    bench.transport.fates.append("lost_request")
    bench.sync()
    monkeypatch.setattr(upload, "BLOCK_BYTES", 0)  # reading again would find nothing

    bench.sync()

    assert bench.file.settled


def test_a_checkpoint_is_packed_only_where_that_saves_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MIN_BYTES", 1)
    zeros = bytes(range(64)) * (10 * CHUNK // 64)
    bench.replace(zeros)
    bench.transport.slow_seconds = 0.05  # a chunk
    bench.sync()
    assert bench.host.bodies[0] == (NAME, CHUNK)  # the first one shows how fast the line is
    assert all(length < CHUNK for _, length in bench.host.bodies[1:])

    bench.host.bodies.clear()
    bench.replace(weights(1))
    bench.sync()
    assert bench.host.bodies[1] == (NAME, CHUNK)
    assert bench.host.results[NAME].content == weights(1)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    size = 64 * 1024 * 1024
    with open(tmp_path / NAME, "wb") as file:
        file.truncate(size)
    bench = Bench(tmp_path)
    bench.host._chunk = lambda name, headers, body, version: {  # type: ignore[method-assign]
        "data": {
            "generation": version[1],
            "acked_bytes": int(headers["X-Upload-Offset"]) + len(body),
            "complete": int(headers["X-Upload-Offset"]) + len(body) == size,
        }
    }
    tracemalloc.start()
    bench.sync()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert bench.file.settled
    assert peak < 5 * wire.MAX_UPLOAD_CHUNK_BYTES
