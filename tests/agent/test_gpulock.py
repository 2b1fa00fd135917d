"""A lock for each GPU of this host: who has it, how long, and what cannot break it."""

import errno
import fcntl
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent import gpulock
from agent.errors import ConfigError, GPUTaken, StartFailed
from agent.gpulock import GPULocks
from agent.wire import GPUReading

NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    """As /run/lock is: all users write there, nobody removes what is another's."""
    made = Path(tempfile.mkdtemp(prefix="gpulock-"))
    made.chmod(0o1777)
    yield made
    shutil.rmtree(made)


def cards(*uuids: str) -> list[GPUReading]:
    return [GPUReading(uuid, index, "H100") for index, uuid in enumerate(uuids)]


def elsewhere(locks: GPULocks, *uuids: str) -> list[bool]:
    return [reading.used_elsewhere for reading in locks.look(cards(*uuids))]


def start(locks: GPULocks, attempt_id: str, *uuids: str) -> subprocess.Popen[bytes]:
    """A supervisor, as far as locks are concerned."""
    taken = locks.take(attempt_id, list(uuids))
    try:
        return subprocess.Popen(["sleep", "1000"], pass_fds=(*taken.supervisor, *taken.job))
    finally:
        taken.close()


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def as_nobody(act: Callable[[], bool]) -> bool:
    """Whether `act` is true for another user, in a process of its own."""
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os._exit(0 if act() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def can_take(folder: Path, uuid: str) -> bool:
    locks = GPULocks(folder)
    try:
        locks.take("probe", [uuid]).close()
    except GPUTaken:
        return False
    locks.let_go("probe")
    return True


def test_of_two_servers_one_gets_the_card_and_the_other_sees_it_used_elsewhere(
    folder: Path,
) -> None:
    one, other = GPULocks(folder), GPULocks(folder)
    job = start(one, "a1", "GPU-0")

    assert elsewhere(one, "GPU-0", "GPU-1") == [False, False]
    assert elsewhere(other, "GPU-0", "GPU-1") == [True, False]
    with pytest.raises(GPUTaken, match="GPU-0 is in use by another agent"):
        other.take("b1", ["GPU-0"])
    end(job)
    assert elsewhere(other, "GPU-0") == [True]  # its memory may not be back yet
    assert not can_take(folder, "GPU-0")
    one.let_go("a1")
    assert elsewhere(other, "GPU-0") == [False]
    end(start(other, "b1", "GPU-0"))


def test_a_start_takes_all_of_its_cards_or_none(folder: Path) -> None:
    one, other = GPULocks(folder), GPULocks(folder)
    one.take("a1", ["GPU-1"]).close()

    with pytest.raises(GPUTaken):
        other.take("b1", ["GPU-2", "GPU-0", "GPU-1"])

    assert elsewhere(one, "GPU-0", "GPU-2") == [False, False]
    assert can_take(folder, "GPU-0")
    assert can_take(folder, "GPU-2")


def test_looking_never_makes_a_start_fail(folder: Path) -> None:
    starter, watchers = GPULocks(folder), [GPULocks(folder) for _ in range(3)]
    over = threading.Event()

    def look(locks: GPULocks) -> None:
        while not over.is_set():
            locks.look(cards("GPU-0"))

    threads = [threading.Thread(target=look, args=(one,)) for one in watchers]
    for thread in threads:
        thread.start()
    try:
        for number in range(1000):
            taken = starter.take(str(number), ["GPU-0"])  # raises where it is another's
            assert taken
            taken.close()
            starter.let_go(str(number))
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_the_card_is_the_jobs_while_its_agent_is_dead(folder: Path) -> None:
    dying = GPULocks(folder)
    job = start(dying, "a1", "GPU-0")
    dying.let_go("a1")  # what the kernel does for an agent that is killed

    assert elsewhere(GPULocks(folder), "GPU-0") == [True]
    assert not can_take(folder, "GPU-0")
    end(job)
    assert can_take(folder, "GPU-0")


def test_a_job_that_unlocks_its_card_has_it_all_the_same(folder: Path) -> None:
    """As long as its supervisor lives, whose opening it has not, also while the agent is dead."""
    dying = GPULocks(folder)
    taken = dying.take("a1", ["GPU-0"])
    supervisor = subprocess.Popen(["sleep", "1000"], pass_fds=taken.supervisor)
    dying.let_go("a1")

    for descriptor in taken.job:
        everything = gpulock._FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, everything)
    taken.close()

    assert elsewhere(GPULocks(folder), "GPU-0") == [True]
    assert not can_take(folder, "GPU-0")
    end(supervisor)
    assert can_take(folder, "GPU-0")


def test_an_agent_that_comes_back_keeps_the_card_beyond_the_end_of_the_job(folder: Path) -> None:
    dying, other = GPULocks(folder), GPULocks(folder)
    job = start(dying, "a1", "GPU-0")
    dying.let_go("a1")
    back = GPULocks(folder)

    back.join("a1", ["GPU-0"])
    end(job)

    assert elsewhere(back, "GPU-0") == [False]
    assert elsewhere(other, "GPU-0") == [True]
    assert not can_take(folder, "GPU-0")
    back.let_go("a1")
    assert can_take(folder, "GPU-0")


def test_an_agent_that_comes_back_while_another_tries_has_the_card_at_the_next_look(
    folder: Path,
) -> None:
    dying = GPULocks(folder)
    job = start(dying, "a1", "GPU-0")
    dying.let_go("a1")
    trying = GPULocks(folder)
    trying.join("b1", ["GPU-0"])  # between its first lock and its second
    back = GPULocks(folder)
    back.join("a1", ["GPU-0"])
    trying.let_go("b1")

    back.look([])
    end(job)

    assert not can_take(folder, "GPU-0")


def test_two_attempts_of_one_agent_hold_a_card_until_both_let_go(folder: Path) -> None:
    """A manager gave the first one's card back by hand, and its memory is not back yet."""
    locks = GPULocks(folder)
    locks.take("a1", ["GPU-0"]).close()
    locks.take("a2", ["GPU-0"]).close()

    locks.let_go("a1")
    assert not can_take(folder, "GPU-0")
    locks.let_go("a2")
    locks.let_go("a2")
    assert can_take(folder, "GPU-0")


def test_a_file_that_lies_around_locks_nothing(folder: Path) -> None:
    (folder / "lab-agent-GPU-0.lock").write_text("4242\n")
    (folder / "lab-agent-GPU-0.lock").chmod(0o666)

    assert elsewhere(GPULocks(folder), "GPU-0") == [False]
    assert can_take(folder, "GPU-0")


def test_a_card_stays_locked_when_a_cleaner_removes_its_file(folder: Path) -> None:
    locks = GPULocks(folder)
    locks.take("a1", ["GPU-0"]).close()
    (folder / "lab-agent-GPU-0.lock").unlink()

    assert elsewhere(locks, "GPU-0") == [False]  # at this look it locks the new file

    assert elsewhere(GPULocks(folder), "GPU-0") == [True]
    assert not can_take(folder, "GPU-0")
    locks.let_go("a1")
    assert can_take(folder, "GPU-0")


def _link(path: Path, canary: Path) -> None:
    path.symlink_to(canary)


def _dead_link(path: Path, canary: Path) -> None:
    path.symlink_to(canary.parent / "nothing")


def _pipe(path: Path, canary: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path, canary: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("lay", [_link, _dead_link, _pipe, _folder])
def test_what_is_no_file_is_not_followed_and_its_card_not_offered(
    folder: Path,
    tmp_path: Path,
    lay: Callable[[Path, Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    canary = tmp_path / "canary"
    canary.write_text("untouched")
    before = canary.stat()
    path = folder / "lab-agent-GPU-0.lock"
    lay(path, canary)

    assert elsewhere(GPULocks(folder), "GPU-0") == [True]
    assert f"{path} cannot be locked" in caplog.text
    assert "remove it" in caplog.text
    assert not can_take(folder, "GPU-0")
    assert canary.stat() == before
    assert not (tmp_path / "nothing").exists()


@as_root
def test_a_file_of_another_user_that_we_may_not_open_keeps_the_card_from_us(folder: Path) -> None:
    path = folder / "lab-agent-GPU-0.lock"
    path.touch(0o600)

    assert as_nobody(lambda: elsewhere(GPULocks(folder), "GPU-0") == [True])
    assert as_nobody(lambda: not can_take(folder, "GPU-0"))


@as_root
def test_another_user_takes_a_free_card_but_not_one_in_use_and_cannot_break_the_lock(
    folder: Path,
) -> None:
    path = folder / "lab-agent-GPU-0.lock"
    umask = os.umask(0o077)
    try:
        assert can_take(folder, "GPU-0")  # makes the file
    finally:
        os.umask(umask)
    assert as_nobody(lambda: can_take(folder, "GPU-0"))

    locks = GPULocks(folder)
    job = start(locks, "a1", "GPU-0")

    def cannot_remove() -> bool:
        try:
            path.unlink()
        except PermissionError:
            return True
        return False

    assert as_nobody(cannot_remove)
    assert as_nobody(lambda: elsewhere(GPULocks(folder), "GPU-0") == [True])
    assert as_nobody(lambda: not can_take(folder, "GPU-0"))
    end(job)
    locks.let_go("a1")


def test_a_lock_that_cannot_be_made_is_said_and_nothing_is_held(folder: Path) -> None:
    locks = GPULocks(folder / "missing")

    with pytest.raises(StartFailed, match="keeps other lab servers off the GPU, cannot be made"):
        locks.take("a1", ["GPU-0"])

    assert elsewhere(locks, "GPU-0") == [False]


def test_a_lock_that_cannot_be_shared_leaves_nothing_open(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = GPULocks(folder)
    assert can_take(folder, "GPU-0")  # what is loaded on the way is open from here on
    before = set(os.listdir("/proc/self/fd"))
    real, calls = fcntl.fcntl, iter(range(10))

    def refused_the_last_time(descriptor: int, command: int, lock: bytes) -> bytes:
        if next(calls) == 3:  # AGENT, JOB, JOB for readers too; then JOB of the second opening
            raise OSError(errno.ENOLCK, "No locks available")
        return real(descriptor, command, lock)

    monkeypatch.setattr(fcntl, "fcntl", refused_the_last_time)
    with pytest.raises(StartFailed, match="cannot be opened again: No locks available"):
        locks.take("a1", ["GPU-0"])
    monkeypatch.undo()

    assert set(os.listdir("/proc/self/fd")) == before
    assert can_take(folder, "GPU-0")


def test_the_folder_is_one_that_all_users_share(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o755)
    link = tmp_path / "link"
    link.symlink_to(folder)
    if os.getuid() == 0:
        monkeypatch.setattr(gpulock, "FOLDERS", (tmp_path / "none", mine, link, folder))
        assert gpulock.lock_folder(None) == folder
    monkeypatch.setattr(gpulock, "FOLDERS", (mine, link))
    assert gpulock.lock_folder(mine) == mine
    with pytest.raises(ConfigError, match="--lock-dir, the same for all agents"):
        gpulock.lock_folder(None)
    with pytest.raises(ConfigError, match="not a folder that can be written"):
        gpulock.lock_folder(tmp_path / "none")
    monkeypatch.setattr("agent.host.on_network", lambda path: True)
    with pytest.raises(ConfigError, match="network file system"):
        gpulock.lock_folder(mine)


def test_a_folder_that_systemd_made_for_one_service_alone_is_none(tmp_path: Path) -> None:
    inside = tmp_path / "mountinfo"
    private = "/var/tmp/systemd-private-0a1b-lab.service-Xy12/tmp"
    inside.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"310 22 8:1 {private} /var/tmp rw,relatime shared:170 - ext4 /dev/sda1 rw\n"
    )

    assert gpulock._is_private(Path("/var/tmp"), inside)
    assert not gpulock._is_private(Path("/run/lock"), inside)
    assert not gpulock._is_private(Path("/var/tmp"))
