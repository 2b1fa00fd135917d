"""Somebody else speaks in the name of the server or of the agent: no process is stopped."""

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from tests.faults.processes import wait_for
from tests.faults.stack import Agent, Lab, Stack
from tests.promise.witness import Witness

STRANGE_SECONDS = 12.0
RESTART_SECONDS = 40.0  # twice a start, on a busy machine
GPU = {"gpus": 1}
ALARM_SECONDS = 90.0  # an agent whose token is refused asks again each minute


def test_a_second_agent_with_a_copied_token_is_refused_and_kills_nothing(stack: Stack):
    lab = stack.lab().start()
    first = stack.agent(lab, "gpu1").start()
    witness = Witness.start(lab, first, 25)
    second = stack.agent(lab, "gpu1", None, folder="copy")
    copy_token(first, second)

    second.launch()
    wait_for(lambda: refused(second), "the second one is refused", 20)
    time.sleep(5)

    assert lab.device("gpu1")["state"] == "healthy"
    assert witness.goes_on()
    witness.ends_well()
    later = Witness.start(lab, first, 2, "later")
    later.ends_well()
    assert "started as process" not in second.said()


def test_an_agent_whose_whole_state_was_copied_takes_over_without_killing(stack: Stack):
    lab = stack.lab().start()
    first = stack.agent(lab, "gpu1").start()
    witness = Witness.start(lab, first, 25)
    second = stack.agent(lab, "gpu1", None, folder="copy")
    shutil.copytree(first.state_dir, second.state_dir)

    second.launch()
    wait_for(lambda: refused(first) or refused(second), "one of them is refused", 20)
    time.sleep(5)

    assert witness.goes_on()
    witness.ends_well_anyhow()  # both send its files


def test_a_fresh_database_under_the_same_address_stops_nothing(stack: Stack):
    lab = stack.lab().start()
    agent = stack.agent(lab, "gpu1").start()
    witness = Witness.start(lab, agent, STRANGE_SECONDS + RESTART_SECONDS)

    lab.kill_all()
    lab.data_dir.rename(lab.folder / "right")
    stranger = stack.lab_at(lab.port, "stranger").start()
    wait_for(lambda: "does not accept this agent's token" in agent.said(), "it is refused", 30)
    time.sleep(STRANGE_SECONDS)
    assert witness.goes_on()
    stranger.kill_all()
    (lab.folder / "right").rename(lab.data_dir)
    lab.start()
    agent.wait_healthy(ALARM_SECONDS)

    witness.ends_well(ALARM_SECONDS)


def test_an_older_backup_of_the_database_stops_nothing(stack: Stack):
    """It knows the agent and its token, and has never heard of the job."""
    lab = stack.lab().start()
    agent = stack.agent(lab, "gpu1").start()
    lab.stop()
    shutil.copytree(lab.data_dir, lab.folder / "backup")
    lab.start()
    agent.wait_healthy()
    witness = Witness.start(lab, agent, STRANGE_SECONDS + RESTART_SECONDS)

    swap(lab)
    agent.wait_healthy()
    assert lab.get("/api/jobs/")["count"] == 0
    time.sleep(STRANGE_SECONDS)
    assert witness.goes_on()
    swap(lab)
    agent.wait_healthy()

    witness.ends_well()


def test_a_backup_that_is_another_server_by_name_stops_and_starts_nothing(stack: Stack):
    """As after a restore that was done right: the restored server has a new identity."""
    lab = stack.lab().start()
    agent = stack.agent(lab, "gpu1", None, "--simulate-gpus", "2").start()
    witness = Witness.start(lab, agent, STRANGE_SECONDS + RESTART_SECONDS, resources=GPU)
    short = Witness.start(lab, agent, STRANGE_SECONDS, "short", resources=GPU)
    lab.kill_all()
    shutil.copytree(lab.data_dir, lab.folder / "backup")
    forget_identity(lab.folder / "backup")

    swap(lab, kill=False)
    wait_for(lambda: "has another identity" in agent.said(), "it is not obeyed", 30)
    lab.post(f"/api/jobs/{witness.uid}/cancel/")
    wait_for(lambda: "ended with exit code 0" in agent.said(), "the short one ends", 30)
    time.sleep(3)
    assert witness.goes_on()
    assert lab.job(short.uid)["state"] == "running"  # not this server's to know
    swap(lab)
    agent.wait_healthy()

    witness.ends_well(ALARM_SECONDS)
    short.ends_well()


def refused(agent: Agent) -> bool:
    return "Another agent for gpu1 is alive" in agent.said()


def copy_token(source: Agent, target: Agent) -> None:
    for path in source.state_dir.glob("*/token.json"):
        folder = target.state_dir / path.parent.name
        folder.mkdir(parents=True, mode=0o700)
        shutil.copy(path, folder / path.name)


def swap(lab: Lab, *, kill: bool = True) -> None:
    """Put the backup under the server's address, and what was there into the backup's place."""
    if kill:
        lab.kill_all()
    spare = lab.folder / "spare"
    lab.data_dir.rename(spare)
    (lab.folder / "backup").rename(lab.data_dir)
    spare.rename(lab.folder / "backup")
    lab.start()


def forget_identity(data_dir: Path) -> None:
    with closing(sqlite3.connect(data_dir / "db.sqlite3")) as database, database:
        database.execute("DELETE FROM devices_serveridentity")
