"""Folders and files of runs."""

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent import wire, workspace
from agent.environment import Places
from agent.errors import ConfigError, ServerUnreachable, StartFailed
from agent.files import resume
from agent.journal import Journal
from agent.store import Store
from agent.transport import Transport
from agent.wire import AttemptOrder
from agent.workspace import Workspace
from tests.agent.server import FakeServer, make_order

CONFIG = b"lr: 0.1\nname: \xec\x8b\xa4\xed\x97\x98\n"


def order(**fields: Any) -> AttemptOrder:
    return wire.decode(AttemptOrder, make_order(**fields))


def with_config(**fields: Any) -> AttemptOrder:
    return order(config_sha256=hashlib.sha256(CONFIG).hexdigest(), **fields)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(Store(tmp_path / "journal.sqlite3"))


@pytest.fixture
def place(tmp_path: Path, journal: Journal) -> Workspace:
    return Workspace(tmp_path / "logs_lab", journal)


def nobody(attempt_id: str, folder: Path) -> None:
    pytest.fail(f"{attempt_id} was moved to {folder}")


def test_the_config_lies_beside_the_run_byte_for_byte(place: Workspace) -> None:
    one = with_config(project="digits", experiment_uid="20260101_a1b2")

    places = place.prepare(one, CONFIG, nobody)

    assert places.config == place.root / "digits" / "20260101_a1b2_config.yaml"
    assert places.config.read_bytes() == CONFIG


def test_a_config_other_than_the_one_ordered_is_refused(place: Workspace) -> None:
    with pytest.raises(StartFailed, match="not the one ordered"):
        place.prepare(with_config(), CONFIG + b"x", nobody)


@pytest.mark.parametrize("field", ["project", "run_name", "experiment_uid"])
def test_no_name_leads_out_of_the_workspace(place: Workspace, field: str) -> None:
    with pytest.raises(StartFailed, match="may not name"):
        place.prepare(order(**{field: "a..b"}), None, nobody)


def test_a_project_folder_that_is_a_link_is_refused(place: Workspace, tmp_path: Path) -> None:
    place.root.mkdir()
    (place.root / "digits").symlink_to(tmp_path)

    with pytest.raises(StartFailed, match="is a link"):
        place.prepare(order(project="digits"), None, nobody)


def test_the_files_of_a_running_job_are_not_put_aside(place: Workspace, journal: Journal) -> None:
    running, again = order(run_name="run_001"), order(run_name="run_001")
    journal.accept(running)
    metrics = place.prepare(running, None, nobody).metrics
    metrics.write_text("epoch\n")
    journal.running(running.id, 1, "2026-01-01T00:00:00+00:00")

    with pytest.raises(StartFailed, match="is being written here by"):
        place.prepare(again, None, nobody)

    assert metrics.read_text() == "epoch\n"


def test_only_files_of_that_very_name_are_put_aside(place: Workspace) -> None:
    run_dir = place.root / "digits"
    run_dir.mkdir(parents=True)
    theirs = ["run_001.csv", "run_001.tar.gz"]
    others = ["run_0010.csv", "run_002.csv", "xrun_001.csv"]
    for name in theirs + others:
        (run_dir / name).write_text(name)
    (run_dir / "run_001").mkdir()

    place.prepare(order(project="digits", run_name="run_001"), None, nobody)

    assert sorted(p.name for p in run_dir.iterdir()) == sorted([".old", *others])
    aside = run_dir / ".old" / "unknown"
    assert sorted(p.name for p in aside.iterdir()) == sorted([*theirs, "run_001"])


def test_a_start_that_is_repeated_keeps_its_files(place: Workspace, journal: Journal) -> None:
    one = order(run_name="run_001")
    journal.accept(one)
    places = place.prepare(one, None, nobody)
    places.metrics.write_text("epoch\n")

    place.prepare(one, None, nobody)

    assert places.metrics.read_text() == "epoch\n"


def test_the_owner_of_files_put_aside_is_told_and_the_journal_knows(
    place: Workspace, journal: Journal
) -> None:
    first, second = order(run_name="run_001"), order(run_name="run_001")
    leave_behind(place, journal, first)
    moved = []

    place.prepare(second, None, lambda *what: moved.append(what))

    [(attempt_id, folder)] = moved
    assert attempt_id == first.id
    assert (folder / "run_001.csv").read_text() == "first\n"
    found = journal.find(first.id)
    assert found is not None
    assert found.run_dir == str(folder)


def test_an_owner_without_files_does_not_look_at_its_successors(
    place: Workspace, journal: Journal
) -> None:
    first, second = order(run_name="run_001"), order(run_name="run_001")
    places = leave_behind(place, journal, first)
    places.metrics.unlink()
    moved = []

    place.prepare(second, None, lambda *what: moved.append(what))

    [(attempt_id, folder)] = moved
    assert attempt_id == first.id
    assert folder != places.run_dir
    found = journal.find(first.id)
    assert found is not None
    assert found.run_dir == str(folder)


def test_the_name_of_an_attempt_that_has_yet_to_start_is_not_taken(
    place: Workspace, journal: Journal
) -> None:
    waiting = order(run_name="run_001")
    journal.accept(waiting)
    place.prepare(waiting, None, nobody)

    with pytest.raises(StartFailed, match="is being written here by"):
        place.prepare(order(run_name="run_001"), None, nobody)


@pytest.mark.parametrize("step", range(4))
def test_an_agent_killed_while_it_puts_files_aside_mixes_nobodys(
    place: Workspace, journal: Journal, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The next agent finds each file where the journal says, whichever step was the last."""
    first, second = order(run_name="run_001"), order(run_name="run_001")
    places = leave_behind(place, journal, first)
    places.log.write_text("log\n")
    steps = iter(range(5))
    for owner, name in ((Journal, "moved"), (Journal, "own"), (Path, "rename")):
        monkeypatch.setattr(owner, name, _dying_at(step, steps, getattr(owner, name)))
    with pytest.raises(_Killed):
        place.prepare(second, None, lambda *_: None)
    monkeypatch.undo()

    place.finish_moves()

    found = journal.find(first.id)
    assert found is not None
    assert found.run_dir is not None
    aside = Path(found.run_dir)
    assert aside != places.run_dir
    assert (aside / "run_001.csv").read_text() == "first\n"
    assert (aside / "run_001.log").read_text() == "log\n"
    place.prepare(second, None, nobody)
    assert not places.metrics.exists()
    assert journal.owner(str(places.run_dir), "run_001") == (second.experiment_uid, second.id)


class _Killed(Exception):
    pass


def _dying_at(step: int, steps: Iterator[int], call: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*arguments: Any) -> Any:
        if next(steps) == step:
            raise _Killed
        return call(*arguments)

    return counted


def leave_behind(place: Workspace, journal: Journal, one: AttemptOrder) -> Places:
    """An attempt that has ended, and whose metrics lie in the run's folder."""
    journal.accept(one)
    places = place.prepare(one, None, nobody)
    places.metrics.write_text("first\n")
    journal.exited(one.id, exit_code=0)
    return places


def test_metadata_replaces_a_link_instead_of_following_it(
    place: Workspace, tmp_path: Path
) -> None:
    one = with_config()
    places = place.prepare(one, CONFIG, nobody)
    target = tmp_path / "precious"
    target.write_text("precious")
    places.metadata.symlink_to(target)

    place.write_metadata(one, places, {"host": "gpu1", "exit_code": None})

    assert target.read_text() == "precious"
    written = yaml.safe_load(places.metadata.read_text())
    assert written["config"].encode() == CONFIG
    assert written["user"] == "kim"
    assert "lr: 0.1\n" in places.metadata.read_text()


def test_a_server_has_one_folder_and_the_port_only_when_another_server_has_that(
    tmp_path: Path,
) -> None:
    first = workspace.claim(tmp_path, "lab.kaist.ac.kr", 8000, "server-1", "gpu1")
    second = workspace.claim(tmp_path, "lab.kaist.ac.kr", 9000, "server-2", "gpu1")

    assert first.name == "logs_lab.kaist.ac.kr"
    assert second.name == "logs_lab.kaist.ac.kr_9000"
    assert workspace.claim(tmp_path, "lab.kaist.ac.kr", 8000, "server-1", "gpu1") == first
    with pytest.raises(ConfigError, match="--workdir"):
        workspace.claim(tmp_path, "lab.kaist.ac.kr", 8000, "server-1", "gpu2")


def on_machine(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("agent.host.machine_id", lambda: name)


def test_two_machines_that_share_a_home_have_a_folder_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(monkeypatch, "machine-1")
    first = workspace.claim(tmp_path, "lab", 8000, "server-1", "gpu1")
    on_machine(monkeypatch, "machine-2")
    second = workspace.claim(tmp_path, "lab", 8000, "server-1", "gpu2")

    assert (first.name, second.name) == ("logs_lab", "logs_lab_gpu2")
    shutil.rmtree(first)
    assert workspace.claim(tmp_path, "lab", 8000, "server-1", "gpu2") == second
    on_machine(monkeypatch, "machine-1")
    assert workspace.claim(tmp_path, "lab", 8000, "server-1", "gpu1") == first
    on_machine(monkeypatch, "machine-3")  # of the same name as the second
    with pytest.raises(ConfigError, match="workspace of the agent 'gpu2'"):
        workspace.claim(tmp_path, "lab", 8000, "server-1", "gpu2")


def test_two_agents_of_one_machine_are_told_to_take_a_workdir_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(monkeypatch, "machine-1")
    workspace.claim(tmp_path, "lab", 8000, "server-1", "gpu1")

    with pytest.raises(ConfigError, match="'gpu1': two agents write the same file names"):
        workspace.claim(tmp_path, "lab", 8000, "server-1", "gpu1b")


def test_two_servers_of_one_host_name_that_start_at_once_never_share_a_folder(
    tmp_path: Path,
) -> None:
    for number in range(50):
        workdir, both = tmp_path / str(number), threading.Barrier(2)
        found: list[Path] = []

        def claim(port: int, workdir: Path = workdir, both: threading.Barrier = both) -> None:
            both.wait()
            found.append(workspace.claim(workdir, "lab", port, f"server-{port}", "gpu1"))  # noqa: B023

        threads = [threading.Thread(target=claim, args=(port,)) for port in (8000, 9000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 2


def test_a_damaged_mark_is_named(tmp_path: Path) -> None:
    (tmp_path / "logs_lab").mkdir()
    (tmp_path / "logs_lab" / workspace.MARK).write_text('"gpu1"')

    with pytest.raises(ConfigError, match="is damaged: delete it"):
        workspace.claim(tmp_path, "lab", 8000, "server-1", "gpu1")


def test_a_workspace_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match="choose another --workdir"):
        workspace.claim(tmp_path / "file", "lab", 8000, "server-1", "gpu1")


def test_files_to_resume_from_are_fetched_and_checked(server: FakeServer, tmp_path: Path) -> None:
    content = b"weights" * 1000
    file = {
        "experiment_uid": "20251224_beef",
        "file_name": "run_009.pt",
        "lay_as": "run_001.pt",
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    one = order(
        run_name="run_001",
        resume={"files": [file], "checkpoint": "run_001.pt", "point": {"epoch": 3}},
    )
    transport = Transport(server.url, None)
    server.files["run_009.pt"] = content[:-1]
    with pytest.raises(ServerUnreachable, match="otherwise than announced"):
        resume.lay_in(transport, one, tmp_path)
    assert not (tmp_path / "run_001.pt").exists()
    server.files["run_009.pt"] = content

    resume.lay_in(transport, one, tmp_path)
    resume.lay_in(transport, one, tmp_path)

    assert (tmp_path / "run_001.pt").read_bytes() == content
    assert len(server.asked("/api/sync/file/20251224_beef/run_009.pt")) == 2
    transport.close()
