"""What is acknowledged is on the disk first: in which order bytes, folders and rows are kept."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from experiments.errors import LostRace
from sync import append
from sync.errors import OffsetMismatch
from sync.models import SyncFile
from tests.sync.conftest import Run

pytestmark = pytest.mark.django_db


@dataclass(frozen=True)
class Seen:
    """An fsync: of what, how long it was, what lay in the target's place, what was promised."""

    inode: int
    size: int
    there: int | None  # inode
    promised: int


@pytest.fixture
def fsyncs(run: Run, monkeypatch) -> list[Seen]:
    seen = []
    real = os.fsync

    def spy(descriptor: int) -> None:
        facts = os.fstat(descriptor)
        paths = [run.target(name).place.path for name in ("run_001.csv", "run_001.pt")]
        there = next((path.stat().st_ino for path in paths if path.exists()), None)
        promised = sum(SyncFile.objects.values_list("size", flat=True))
        seen.append(Seen(facts.st_ino, facts.st_size, there, promised))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    return seen


def inode(path: Path) -> int:
    return path.stat().st_ino


def test_a_delta_is_on_the_disk_before_its_row_says_so(run, fsyncs):
    run.delta(b"epoch,loss\n")
    path = run.target().place.path

    bytes_first = fsyncs.index(Seen(inode(path), 11, None, 0))
    then_place = Seen(inode(path.parent), os.stat(path.parent).st_size, inode(path), 0)
    assert then_place in fsyncs[bytes_first:]

    fsyncs.clear()
    run.delta(b"1,0.5\n")
    assert fsyncs == [Seen(inode(path), 17, inode(path), 11)]


def test_a_whole_file_is_on_the_disk_before_it_takes_its_place_and_its_place_before_the_row(
    run, fsyncs
):
    run.full(b"weights")
    path = run.target("run_001.pt").place.path

    bytes_first = fsyncs.index(Seen(inode(path), 7, None, 0))
    then_place = [
        at for at, seen in enumerate(fsyncs)
        if seen.inode == inode(path.parent) and seen.there == inode(path) and not seen.promised
    ]  # fmt: skip
    assert then_place
    assert then_place[0] > bytes_first


def test_a_file_laid_aside_is_so_on_the_disk_before_the_next_one_begins(run, fsyncs):
    run.delta(b"first", generation=1, offset=0)
    path = run.target().place.path
    first = inode(path)
    fsyncs.clear()

    run.delta(b"other", generation=2, offset=0)

    folder = inode(run.target().place.path.parent)
    assert (fsyncs[0].inode, fsyncs[0].there, fsyncs[0].promised) == (folder, first, 5)
    assert inode(path.with_name("run_001.csv.g1")) == first


def test_whoever_reads_while_a_generation_is_laid_aside_finds_the_old_file_or_the_new(
    run, monkeypatch
):
    run.delta(b"first", generation=1, offset=0)
    path = run.target().place.path
    seen = set()

    def watched(real, *args, **where) -> None:
        seen.add(path.read_bytes())
        real(*args, **where)
        seen.add(path.read_bytes())

    for name in ("link", "rename", "fsync"):
        monkeypatch.setattr(os, name, partial(watched, getattr(os, name)))

    run.delta(b"other", generation=2, offset=0)
    run.full(b"third", "run_001.csv", generation=3)

    assert seen == {b"first", b"other", b"third"}


def test_a_new_generation_that_does_not_begin_at_zero_lays_nothing_aside(run):
    run.delta(b"first", generation=1, offset=0)

    with pytest.raises(OffsetMismatch) as refused:
        run.delta(b"other", generation=2, offset=5)

    assert refused.value.facts == {"expected_offset": 0}
    assert (run.row().generation, run.stored()) == (1, b"first")


def test_a_row_that_was_moved_by_somebody_else_is_not_moved_again(run):
    run.delta(b"first", generation=1, offset=0)
    seen = run.row()
    run.delta(b"second", generation=1, offset=5)

    with pytest.raises(LostRace):
        append.change(seen, size=9)

    assert run.row().size == 11
