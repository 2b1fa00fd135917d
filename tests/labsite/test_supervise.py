"""What a program inherits from its supervisor, and when it is started again."""

import gc
import os

import pytest

from labsite.run import supervise
from labsite.run.journal import Journal
from labsite.run.supervise import _empty_all_but


def test_a_disk_without_room_for_its_status_ends_no_program(tmp_path):
    (tmp_path / "run" / "status.tmp").mkdir(parents=True)  # nothing can be written there

    journal = Journal(tmp_path, "http://127.0.0.1:8000")

    journal.status({})

    journal._file.close()
    assert not (tmp_path / "run" / "status.json").exists()


def test_a_file_object_of_the_supervisor_closes_nothing_of_the_programs(tmp_path):
    """Its number must not be given to another file while the object may still close it."""
    inherited = [open(tmp_path / "supervisors", "w") for _ in range(3)]  # noqa: SIM115
    kept = os.open(tmp_path / "kept", os.O_RDWR | os.O_CREAT)

    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _empty_all_but(frozenset({kept}))
            own = os.open(tmp_path / "own", os.O_RDWR | os.O_CREAT)
            inherited.clear()
            gc.collect()
            os.write(own, b"still mine")
            os.write(kept, b"kept")
            status = 0
        finally:
            os._exit(status)
    _pid, ended = os.waitpid(pid, 0)
    os.close(kept)
    for file in inherited:
        file.close()

    assert os.waitstatus_to_exitcode(ended) == 0
    assert (tmp_path / "own").read_bytes() == b"still mine"
    assert (tmp_path / "kept").read_bytes() == b"kept"
    assert (tmp_path / "supervisors").read_bytes() == b""


@pytest.mark.parametrize(
    ("ran_seconds", "delay_seconds"),
    [
        (supervise.STEADY_SECONDS, 0.0),
        (supervise.STEADY_SECONDS - 1, 4 * supervise.FIRST_DELAY_SECONDS),
    ],
)
def test_a_program_waits_longer_before_each_start_unless_it_ran_steadily(
    ran_seconds, delay_seconds, monkeypatch
):
    child = supervise._Child(supervise.Program("web", run=lambda: None))
    now = [1000.0]
    monkeypatch.setattr(supervise, "signal_group", lambda *_: None)
    monkeypatch.setattr(supervise.time, "monotonic", lambda: now[0])
    for ran in (0.0, 0.0, ran_seconds):
        child.pid, child._since = 1, now[0]
        now[0] += ran
        child.clear(supervise.Cause("status", "it ended"), 1, at_once=False)

    assert child.start_at - now[0] == delay_seconds
