"""`lab-agent status` and `push`: real agents, and a server that takes files or does not."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent import config, presence, status, wire
from agent.files import behind
from agent.files.behind import FileBehind, size_words
from agent.files.filejournal import FileJournal
from agent.journal import Journal
from agent.presence import Record
from agent.state import State
from agent.store import Store, StoreReader
from tests.agent.conftest import ROOT, AgentProcess, closed, eventually
from tests.agent.jobs import started
from tests.agent.server import FakeServer, make_order

RUNNING, NOT_ARRIVED, CANNOT, NOT_RUNNING, HELD_UP, INTERRUPTED = 0, 1, 2, 3, 4, 130
BUSY = (503, {"code": "busy"})
TOO_LARGE = (413, {"code": "too_large", "detail": "At most 3 bytes are taken."})
SCRIPT = 'printf "epoch,loss\\n1,0.5\\n" > "$LAB_METRICS_CSV"; exec sleep 1000'
WRITES = ["sh", "-c", SCRIPT]
LEAVES = """
mkdir runs "$LAB_RUN_DIR/$LAB_RUN_NAME"
echo y > runs/y
echo x > "$LAB_RUN_DIR/$LAB_RUN_NAME/x.big"
echo w > "$LAB_CHECKPOINT"
"""

Done = subprocess.CompletedProcess[str]


@pytest.fixture(autouse=True)
def _nothing_runs_on(agent: AgentProcess) -> Iterator[None]:
    yield
    for _, record in presence.records(agent.state):
        if record.alive:
            os.kill(record.pid, signal.SIGKILL)


@pytest.fixture
def order(agent: AgentProcess, server: FakeServer) -> dict[str, Any]:
    """Of a job that runs, whose files the server does not take."""
    server.refuse = {"/api/sync/": BUSY}
    agent.start()
    order = server.order(command=WRITES)
    started(server, order)
    eventually(lambda: f"{order['run_name']}.csv" in files(agent))
    eventually(lambda: the_csv(agent, order).behind_bytes == 17)
    return order


def asked(agent: AgentProcess, *words: str) -> Done:
    command = [sys.executable, "-m", "agent", *words, "--state-dir", str(agent.state)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, env=environ, cwd=agent.folder, capture_output=True, text=True, timeout=60
    )


def files(agent: AgentProcess) -> dict[str, FileBehind]:
    """What is behind, by name; as `status` finds it."""
    found = [behind.runs_behind(*one) or [] for one in presence.records(agent.state)]
    return {file.name: file for runs in found for run in runs for file in run.files}


def record(agent: AgentProcess) -> Record:
    [(_, found)] = presence.records(agent.state)
    return found


def the_csv(agent: AgentProcess, order: dict[str, Any]) -> FileBehind:
    return files(agent)[f"{order['run_name']}.csv"]


def csv(agent: AgentProcess, order: dict[str, Any]) -> Path:
    return agent.run_dir() / f"{order['run_name']}.csv"


def test_what_is_behind_is_told_with_its_reason_and_since_when(
    agent: AgentProcess, server: FakeServer, order: dict[str, Any]
) -> None:
    eventually(lambda: the_csv(agent, order).state == "waiting")

    plain, documented = asked(agent, "status"), asked(agent, "--status")
    told = json.loads(asked(agent, "status", "--json").stdout)

    [one] = told["agents"]
    [run] = one["runs"]
    [file] = [file for file in run["files"] if file["name"] == f"{order['run_name']}.csv"]
    assert (one["running"], run["run"]) == (True, order["run_name"])
    assert (file["size_bytes"], file["acked_bytes"]) == (17, 0)
    assert "answers 503" in file["why"]
    assert file["since"].startswith("20")
    assert told["behind_bytes"] == one["behind_bytes"] == run["behind_bytes"] > 17
    for shown in (plain, documented):
        assert shown.returncode == HELD_UP
        assert f"digits/{order['run_name']} ({order['experiment_uid']}, try 1" in shown.stdout
        assert f"{order['run_name']}.csv: 17 bytes of 17 bytes, since 20" in shown.stdout


def test_a_server_that_is_away_is_the_reason_of_all_and_since_its_last_answer(
    agent: AgentProcess, server: FakeServer, order: dict[str, Any]
) -> None:
    server.refuse = {"/api/": BUSY}
    eventually(lambda: record(agent).trouble)

    file = the_csv(agent, order)

    assert "answers 503" in file.why
    assert file.since == record(agent).answered_at


def test_nothing_is_behind_once_the_server_has_it(
    agent: AgentProcess, server: FakeServer, order: dict[str, Any]
) -> None:
    server.refuse = {}

    eventually(lambda: not files(agent))
    shown = asked(agent, "status")

    assert shown.returncode == RUNNING
    assert "nothing: all that was written here has arrived" in shown.stdout


def test_without_an_agent_it_is_told_all_the_same_and_how_to_send_it(
    agent: AgentProcess, order: dict[str, Any]
) -> None:
    agent.kill()
    with csv(agent, order).open("a") as file:
        file.write("2,0.4\n")

    shown = asked(agent, "status")

    assert shown.returncode == NOT_RUNNING
    assert "nobody sends it: lab-agent push" in shown.stdout
    assert f"{order['run_name']}.csv: 23 bytes of 23 bytes" in shown.stdout
    assert the_csv(agent, order).why == behind.NOBODY_SENDS


def test_what_cannot_be_read_is_not_said_to_have_arrived(
    agent: AgentProcess, order: dict[str, Any]
) -> None:
    agent.kill()
    [(folder, _)] = presence.records(agent.state)
    for path in folder.glob("files.sqlite3*"):  # with its write-ahead log
        path.write_bytes(b"no database, whatever it was before")

    shown, pushed = asked(agent, "status"), asked(agent, "push")

    assert "behind     not known" in shown.stdout
    assert pushed.returncode == CANNOT
    assert "cannot be read" in pushed.stderr


def test_push_has_an_agent_send_at_once_what_it_would_try_in_an_hour(
    agent: AgentProcess, server: FakeServer, order: dict[str, Any]
) -> None:
    server.refuse = {"/api/sync/": TOO_LARGE}
    eventually(lambda: the_csv(agent, order).state == "refused", 60)
    server.refuse = {}

    done = asked(agent, "push", order["run_name"])

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("All of it has arrived.\n")
    assert not files(agent)


def test_push_sends_by_itself_where_no_agent_runs(
    agent: AgentProcess, server: FakeServer, order: dict[str, Any]
) -> None:
    agent.kill()
    beats, server.refuse = len(server.asked("/api/devices/heartbeat")), {}

    done = asked(agent, "push")

    assert done.returncode == 0
    assert len(server.asked("/api/devices/heartbeat")) == beats  # it is no agent
    assert not files(agent)
    [folder] = [folder for folder, _ in presence.records(agent.state)]
    with State(folder).locked():  # and leaves the place to one
        pass


def test_push_without_an_agent_tells_that_all_of_an_ended_run_has_arrived(
    agent: AgentProcess, server: FakeServer
) -> None:
    """Its polls would; and the host may be wiped next."""
    server.refuse = {"/api/sync/": BUSY}
    agent.start()
    running = server.order(command=WRITES)
    ended = server.order(command=["sh", "-c", "echo done"])
    started(server, running)
    server.wait_event(ended["id"], "exited")
    eventually(lambda: f"{ended['run_name']}.log" in files(agent))
    agent.kill()

    in_vain = asked(agent, "push", "--timeout", "1")
    assert in_vain.returncode == NOT_ARRIVED
    assert "arrived" not in server.types(ended["id"])
    server.refuse = {}
    done = asked(agent, "push")

    assert done.returncode == 0
    assert "arrived" in server.types(ended["id"])
    assert "arrived" not in server.types(running["id"])


def test_what_a_job_wishes_is_told_of_and_pushed_as_the_agent_would(
    agent: AgentProcess, server: FakeServer
) -> None:
    """Its outputs are; a checkpoint that it keeps here, and what it ignores, are not."""
    server.refuse = {"/api/sync/": BUSY}
    agent.start()
    order = server.order(
        command=["sh", "-c", LEAVES],
        outputs=["runs/**"],
        ignore=["*.big"],
        sync={"checkpoints": "none", "max_file_bytes": None},
    )
    server.wait_event(order["id"], "exited")
    run = order["run_name"]
    mine = {f"{run}.log", f"{run}.yaml", f"{run}/runs/y"}
    eventually(lambda: files(agent).keys() == mine)
    agent.kill()
    assert files(agent).keys() == mine
    server.refuse = {}

    done = asked(agent, "push")

    assert done.returncode == 0
    [(folder, _)] = presence.records(agent.state)
    with closing(StoreReader(folder / "files.sqlite3")) as journal:
        assert FileJournal(journal).of(order["id"]).keys() == mine


def test_of_a_torn_checkpoint_it_is_said_that_it_is_still_being_written(
    tmp_path: Path,
) -> None:
    attempt = wire.decode(wire.AttemptOrder, make_order())
    journal = Journal(Store(tmp_path / "journal.sqlite3"))
    FileJournal(Store(tmp_path / "files.sqlite3"))
    journal.accept(attempt)
    journal.own(str(tmp_path), attempt)
    (tmp_path / f"{attempt.run_name}.pt").write_bytes(b"PK\3\4weights")
    me = presence.of_this_process("http://lab", "gpu1", tmp_path)

    found = behind.runs_behind(tmp_path, me)

    assert found is not None
    assert "still being written" in "\n".join(status.lines_of(found))


def test_a_folder_that_cannot_be_looked_at_is_told_and_needs_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = wire.decode(wire.AttemptOrder, make_order())
    journal = Journal(Store(tmp_path / "journal.sqlite3"))
    FileJournal(Store(tmp_path / "files.sqlite3"))
    journal.accept(attempt)
    journal.own(str(tmp_path), attempt)
    (tmp_path / attempt.run_name).mkdir()
    monkeypatch.setattr(os, "scandir", closed(attempt.run_name))
    me = presence.of_this_process("http://lab", "gpu1", tmp_path)

    found = behind.runs_behind(tmp_path, me)

    assert found is not None
    assert [file.is_held_up for run in found for file in run.files] == [True]
    name = f"{attempt.run_name}/"
    assert f"  {name}: it cannot be looked at: Permission denied" in status.lines_of(found)


def test_push_says_what_has_not_arrived_in_time(
    agent: AgentProcess, order: dict[str, Any]
) -> None:
    eventually(lambda: the_csv(agent, order).state == "waiting")
    with_agent = asked(agent, "push", "--timeout", "0.5")
    agent.kill()
    without = asked(agent, "push", "--timeout", "3")

    for done in (with_agent, without):
        assert done.returncode == NOT_ARRIVED
        assert f"{order['run_name']}.csv: 17 bytes of 17 bytes" in done.stdout
        assert "answers 503" in done.stdout


@pytest.mark.parametrize("runs_on", [True, False])
def test_push_says_that_the_server_could_not_be_asked_what_it_has(
    agent: AgentProcess, server: FakeServer, order: dict[str, Any], runs_on: bool
) -> None:
    server.refuse = {}
    eventually(lambda: not files(agent))
    if not runs_on:
        agent.kill()
    server.refuse = {"/api/": BUSY}

    done = asked(agent, "push", "--timeout", "1.5")

    assert done.returncode == NOT_ARRIVED
    assert "Whether the server still has the rest could not be asked: " in done.stdout
    assert "answers 503" in done.stdout
    assert "All of it" not in done.stdout


def test_push_waits_for_a_server_that_cannot_be_asked_and_asks_it_then(
    agent: AgentProcess, server: FakeServer, order: dict[str, Any]
) -> None:
    server.refuse = {}
    eventually(lambda: not files(agent))
    server.refuse = {"/api/sync/status/": BUSY}
    command = [sys.executable, "-m", "agent", "push", "--state-dir", str(agent.state)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    pushing = subprocess.Popen(
        command, env=environ, cwd=agent.folder, stdout=subprocess.PIPE, text=True
    )
    assert pushing.stdout is not None
    assert pushing.stdout.readline() == "to be sent: 0 bytes\n"
    assert "cannot be asked" in pushing.stdout.readline()

    server.refuse = {}

    assert pushing.stdout.read() == "All of it has arrived.\n"
    assert pushing.wait(20) == 0
    pushing.stdout.close()


def test_push_may_be_interrupted(
    agent: AgentProcess, server: FakeServer, order: dict[str, Any]
) -> None:
    agent.kill()
    command = [sys.executable, "-m", "agent", "push", "--state-dir", str(agent.state)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    pushing = subprocess.Popen(
        command, env=environ, cwd=agent.folder, stdout=subprocess.PIPE, text=True
    )
    assert pushing.stdout is not None
    assert pushing.stdout.readline().startswith("to be sent: ")

    pushing.send_signal(signal.SIGINT)

    assert pushing.wait(20) == INTERRUPTED
    pushing.stdout.close()
    server.refuse = {}
    assert asked(agent, "push").returncode == 0


def test_a_run_that_was_never_here_and_an_action_that_takes_none_are_told(
    agent: AgentProcess, order: dict[str, Any]
) -> None:
    unknown = asked(agent, "push", "run_999")
    wrong = asked(agent, "status", "run_001")

    assert (unknown.returncode, wrong.returncode) == (CANNOT, CANNOT)
    assert "No run 'run_999' was here" in unknown.stderr
    assert "status takes no run: run_001" in wrong.stderr


def test_runs_may_stand_before_and_after_options(tmp_path: Path) -> None:
    words = ["push", "run_001", "--server", "http://lab", "digits/run_002", "--timeout", "5"]

    chosen = config.parse([*words, "--state-dir", str(tmp_path)])

    assert (chosen.action, chosen.runs) == ("push", ("run_001", "digits/run_002"))
    assert chosen.timeout_seconds == 5.0


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon"])
def test_a_time_that_is_none_is_refused(seconds: str) -> None:
    with pytest.raises(SystemExit):
        config.parse(["push", "--timeout", seconds])


def test_where_no_agent_ever_ran_there_is_nothing_to_send(agent: AgentProcess) -> None:
    done = asked(agent, "push")

    assert done.returncode == CANNOT
    assert "No agent has run here" in done.stderr


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (2_100_000, "2.1 MB"),
        (3_000_000_000_000, "3000.0 GB"),
    ],
)
def test_sizes_are_told_for_people(size: int, words: str) -> None:
    assert size_words(size) == words
