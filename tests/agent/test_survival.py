"""Agents, supervisors and hosts that are killed: jobs go on, and their ends are told."""

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from agent import shim, wire
from agent.journal import Journal
from agent.store import Store
from tests.agent.conftest import ROOT, AgentProcess, eventually
from tests.agent.jobs import FOREVER, pids, started, supervisor_and_command
from tests.agent.server import FakeServer, make_order


def test_a_killed_agent_finds_its_job_again_and_hears_of_its_end(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=["sh", "-c", "while [ ! -e go ]; do sleep 0.05; done; exit 4"])
    agent.start()
    pid = started(server, order)
    agent.kill()

    agent.start()
    instances = {beat["instance_id"] for beat in server.asked("/api/devices/heartbeat")}
    server.wait(
        lambda: {b["instance_id"] for b in server.asked("/api/devices/heartbeat")} > instances
    )
    (agent.folder / "go").touch()

    exited = server.wait_event(order["id"], "exited")
    assert exited["exit_code"] == 4
    reports = [one for poll in server.asked("/api/agent/poll") for one in poll["attempts"]]
    assert {one["pid"] for one in reports} - {None} == {pid}
    assert server.types(order["id"])[:2] == ["started", "exited"]


def test_a_job_that_ended_while_no_agent_lived_is_reported(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=["sh", "-c", "while [ ! -e go ]; do sleep 0.05; done; exit 4"])
    agent.start()
    pid = started(server, order)
    agent.kill()
    (agent.folder / "go").touch()
    eventually(lambda: not Path(f"/proc/{pid}").exists())

    agent.start()

    assert server.wait_event(order["id"], "exited")["exit_code"] == 4


def test_the_next_agent_names_the_one_before_it(agent: AgentProcess, server: FakeServer) -> None:
    agent.start()
    server.wait(lambda: len(server.asked("/api/devices/heartbeat")) > 2)
    first = server.asked("/api/devices/heartbeat")[0]
    agent.kill()

    agent.start()
    server.wait(lambda: server.asked("/api/devices/heartbeat")[-1]["seq"] == 1)

    second = server.asked("/api/devices/heartbeat")[-1]
    assert second["previous_instance_id"] == first["instance_id"]
    assert second["instance_id"] != first["instance_id"]


def test_a_killed_supervisor_is_noticed_and_its_job_stopped(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=FOREVER)
    agent.start()
    started(server, order)

    os.kill(supervisor_and_command(order["id"])[0], signal.SIGKILL)

    exited = server.wait_event(order["id"], "exited")
    assert (exited["exit_code"], exited["cause"]) == (None, "supervisor_lost")
    assert pids(order["id"]) == []


def test_a_job_that_went_down_with_its_host_is_reported_as_that(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=FOREVER)
    agent.start()
    started(server, order)
    agent.kill()
    for pid in supervisor_and_command(order["id"]):
        os.kill(pid, signal.SIGKILL)
    [journal] = agent.state.glob("*/journal.sqlite3")
    with closing(sqlite3.connect(journal)) as db, db:
        db.execute("UPDATE attempts SET boot_id = 'the boot before'")

    agent.start()

    exited = server.wait_event(order["id"], "exited")
    assert (exited["exit_code"], exited["cause"]) == (None, "host_rebooted")


def test_an_agent_killed_before_the_supervisor_was_born_starts_the_job_once(
    agent: AgentProcess, server: FakeServer
) -> None:
    agent.start()
    server.wait(lambda: server.asked("/api/agent/poll"))
    agent.kill()
    order = make_order(command=["sh", "-c", "echo once"])
    [journal] = agent.state.glob("*/journal.sqlite3")
    with closing(Store(journal)) as store:
        Journal(store).accept(wire.decode(wire.AttemptOrder, order))
        Journal(store).starting(order["id"], shim.boot_id(), {}, {})
    (journal.parent / "attempts" / order["id"]).mkdir()
    server.order(**order)

    agent.start()

    server.wait_event(order["id"], "released")
    assert (agent.run_dir() / f"{order['run_name']}.log").read_text() == "once\n"


def test_a_job_whose_lease_is_not_renewed_is_stopped_by_its_supervisor_alone(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=FOREVER, on_device_lost="requeue")
    agent.start()
    pid = started(server, order)
    [folder] = agent.state.glob("*/attempts/*")
    renewed = (folder / "fence").read_text()
    server.wait(lambda: len(server.asked("/api/agent/poll")) > 4)
    agent.kill()
    assert shim.now() - float(renewed) < 20

    (folder / "fence").write_text(repr(shim.now() - wire.FENCE_SECONDS))

    eventually(lambda: not Path(f"/proc/{pid}").exists())
    agent.start()
    assert server.wait_event(order["id"], "exited")["cause"] == "fenced"


def test_what_was_accepted_once_and_is_in_no_journal_is_never_started_again(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=["sh", "-c", "touch ran"])
    server.accepted.add(order["id"])
    agent.start()

    exited = server.wait_event(order["id"], "exited")

    assert exited["cause"] == "supervisor_lost"
    assert not (agent.folder / "ran").exists()


WAITS = ["sh", "-c", "echo up; while [ ! -e go ]; do sleep 0.05; done; exit 4"]


def test_a_job_outlives_the_agents_own_notes_of_it(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=WAITS)
    agent.start()
    pid = started(server, order)
    metadata = agent.run_dir() / f"{order['run_name']}.yaml"
    eventually(metadata.exists)
    agent.kill()
    shutil.rmtree(agent.state)
    server.events.clear()

    agent.start()

    assert server.wait_event(order["id"], "started")["pid"] == pid
    (agent.folder / "go").touch()
    exited = server.wait_event(order["id"], "exited")
    assert (exited["exit_code"], exited["cause"]) == (4, None)
    server.wait_event(order["id"], "released")
    assert "directory" in metadata.read_text()  # what was known of its start is kept


def test_a_job_is_found_from_another_state_folder(
    agent: AgentProcess, server: FakeServer, tmp_path: Path
) -> None:
    order = server.order(command=WAITS)
    agent.start()
    pid = started(server, order)
    agent.kill()
    server.events.clear()

    agent.start("--state-dir", str(tmp_path / "another"))

    assert server.wait_event(order["id"], "started")["pid"] == pid
    (agent.folder / "go").touch()
    assert server.wait_event(order["id"], "exited")["exit_code"] == 4


@pytest.mark.parametrize("take", [shutil.move, shutil.copytree])
def test_a_job_goes_on_in_a_state_folder_that_was_moved_or_copied(
    agent: AgentProcess, server: FakeServer, tmp_path: Path, take: Callable[[str, str], object]
) -> None:
    order = server.order(command=WAITS)
    agent.start()
    started(server, order)
    agent.kill()
    another = tmp_path / "another"
    take(str(agent.state), str(another))

    agent.start("--state-dir", str(another))
    folders = (agent.state, another)
    eventually(lambda: any(p.is_symlink() for f in folders for p in f.glob("*/attempts/*")))
    (agent.folder / "go").touch()

    exited = server.wait_event(order["id"], "exited")
    assert (exited["exit_code"], exited["cause"]) == (4, None)


def test_an_upgrade_in_place_touches_no_job(
    agent: AgentProcess, server: FakeServer, tmp_path: Path
) -> None:
    """The files that its supervisor was started from are gone, and others lie there."""
    agent.code = tmp_path / "code"
    shutil.copytree(ROOT / "agent", agent.code / "agent")
    order = server.order(command=WAITS)
    agent.start()
    pid = started(server, order)
    supervisor, _command = supervisor_and_command(order["id"])
    agent.kill()
    shutil.rmtree(agent.code)

    shutil.copytree(ROOT / "agent", agent.code / "agent")
    shim_file = agent.code / "agent" / "shim.py"
    shim_file.write_text(f"{shim_file.read_text()}\nNEW = True\n")
    agent.start()
    server.wait(lambda: server.asked("/api/devices/heartbeat")[-1]["previous_instance_id"])
    assert supervisor_and_command(order["id"]) == [supervisor, pid]
    (agent.folder / "go").touch()

    exited = server.wait_event(order["id"], "exited")
    assert (exited["exit_code"], exited["cause"]) == (4, None)


def test_a_server_that_has_forgotten_an_end_is_told_again(
    agent: AgentProcess, server: FakeServer
) -> None:
    """As after a restore of a backup that was made while the job ran."""
    order = server.order(command=["sh", "-c", "exit 4"])
    agent.start()
    exited = server.wait_event(order["id"], "exited")
    server.wait_event(order["id"], "released")
    server.wait(lambda: server.asked("/api/agent/poll")[-1]["attempts"] == [])
    server.events.clear()

    server.forget_end(order)

    assert server.wait_event(order["id"], "exited") == exited
    server.wait_event(order["id"], "released")
    assert (agent.run_dir() / f"{order['run_name']}.log").exists()


def test_an_agent_that_stops_in_order_says_goodbye_and_leaves_its_jobs_alone(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=FOREVER)
    agent.start()
    pid = started(server, order)

    began = time.monotonic()
    code = agent.stop()

    assert code == 0
    assert time.monotonic() - began < 5
    assert server.asked("/api/devices/goodbye")
    assert pid in pids(order["id"])


def test_lost_answers_change_nothing(agent: AgentProcess, server: FakeServer) -> None:
    server.lose = {
        "/api/devices/enroll": 1,
        "/api/devices/heartbeat": 2,
        "/api/agent/poll": 3,
        "/api/agent/attempts/": 3,
    }
    order = server.order(command=["sh", "-c", "echo once"])
    agent.start()
    # The enrollment's answer was lost: the same code and digest again, as a unit would do.
    assert agent.process is not None
    assert agent.process.wait(10) == 2
    agent.start()

    server.wait_event(order["id"], "released", 30)

    log = (agent.run_dir() / f"{order['run_name']}.log").read_text()
    assert log == "once\n"
    digests = {body["token_sha256"] for body in server.asked("/api/devices/enroll")}
    assert len(digests) == 1
    ids = {(event["type"], event["event_id"]) for _, event in server.events}
    assert len(ids) == 3


def test_files_of_another_owner_are_put_aside(agent: AgentProcess, server: FakeServer) -> None:
    name = "run_777"
    first = server.order(run_name=name, command=["sh", "-c", "echo first > $LAB_METRICS_CSV"])
    agent.start()
    server.wait_event(first["id"], "exited")

    second = server.order(run_name=name, command=["sh", "-c", "echo second"])
    server.wait_event(second["id"], "exited")

    aside = agent.run_dir() / ".old" / f"{first['experiment_uid']}-{first['id']}"
    assert (aside / f"{name}.csv").read_text() == "first\n"
    assert not (agent.run_dir() / f"{name}.csv").exists()
    assert (agent.run_dir() / f"{name}.log").read_text() == "second\n"
