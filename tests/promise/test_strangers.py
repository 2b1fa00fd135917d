"""Somebody else speaks in the name of the server or of the agent: no process is stopped."""

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from tests.faults.processes import wait_for
from tests.faults.stack import Agent, Lab, Stack, sha256_of
from tests.promise.witness import UNTIL_TOLD_SECONDS, Witness

STRANGE_SECONDS = 12.0
RESTART_SECONDS = 40.0  # twice a start, on a busy machine
GPU = {"gpus": 1}
LARGE_BYTES = 12_000_000
SLOW_BYTES_PER_SECOND = 500_000.0
ALARM_SECONDS = 90.0  # an agent whose token is refused asks again each minute


def test_a_second_agent_with_a_copied_token_is_refused_and_kills_nothing(stack: Stack):
    lab = stack.lab().start()
    first = stack.agent(lab, "gpu1").start()
    witness = Witness.start(lab, first, UNTIL_TOLD_SECONDS)
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
    witness = Witness.start(lab, first, UNTIL_TOLD_SECONDS)
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
    witness = Witness.start(lab, agent, UNTIL_TOLD_SECONDS)

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
    """It knows the agent and its token, and has never heard of the jobs. One ends meanwhile: its
    end and its files are for the right database, and get there."""
    lab = stack.lab().start()
    agent = stack.agent(lab, "gpu1", None, "--simulate-gpus", "2").start()
    lab.stop()
    shutil.copytree(lab.data_dir, lab.folder / "backup")
    lab.start()
    agent.wait_healthy()
    witness = Witness.start(lab, agent, UNTIL_TOLD_SECONDS, resources=GPU)
    short = Witness.start(lab, agent, STRANGE_SECONDS, "short", resources=GPU)

    swap(lab)
    agent.wait_healthy()
    assert lab.get("/api/jobs/")["count"] == 0
    wait_for(lambda: not short.process.alive, "the short one ends", STRANGE_SECONDS + 5)
    time.sleep(STRANGE_SECONDS)
    assert witness.goes_on()
    assert list(lab.data_dir.glob("logs/**/run_*")) == []
    swap(lab)
    agent.wait_healthy()

    witness.ends_well()
    short.ends_well()


def test_a_server_that_was_restored_for_good_hears_again_what_it_has_forgotten(stack: Stack):
    """The backup was made while the job ran; the job ended, and all was told, before it was put
    back. No GPU hour is run twice, and what had arrived arrives once more."""
    lab = stack.lab().start()
    agent = stack.agent(lab, "gpu1").start()
    witness = Witness.start(lab, agent, STRANGE_SECONDS)
    lab.stop()
    shutil.copytree(lab.data_dir, lab.folder / "backup")
    lab.start()
    agent.wait_healthy()
    lab.wait_state(witness.uid, "succeeded")
    wait_for(lambda: under_way(agent) == 0, "the agent has told all", 30)

    swap(lab)

    job = lab.wait_state(witness.uid, "succeeded", RESTART_SECONDS)
    assert [attempt["pid"] for attempt in job["attempts"]] == [witness.process.pid]
    witness.ends_well_anyhow()


def test_files_that_came_after_the_backup_of_a_run_that_had_ended_come_again(stack: Stack):
    """Nobody would ask for them: the attempt had ended by then, and the agent has settled it."""
    lab = stack.lab().start()
    proxy = stack.proxy(lab)
    agent = stack.agent(lab, "gpu1", proxy.url).start()
    write = f"head -c {LARGE_BYTES} /dev/urandom > $LAB_RUN_DIR/$LAB_RUN_NAME.bin"
    proxy.bytes_per_second = SLOW_BYTES_PER_SECOND
    uid = lab.submit(["sh", "-c", write])
    run_name = lab.wait_state(uid, "succeeded")["run_name"]
    lab.stop()
    shutil.copytree(lab.data_dir, lab.folder / "backup")
    lab.start()
    there = lab.run_dir() / f"{run_name}.bin"
    assert not there.exists()
    proxy.heal()
    wait_for(there.exists, "it comes", 60)
    wait_for(lambda: under_way(agent) == 0, "the agent has told all", 30)

    swap(lab)

    wait_for(lambda: under_way(agent) == 1, "it is offered again", RESTART_SECONDS)
    wait_for(lambda: under_way(agent) == 0, "the agent has told all", 60)
    assert sha256_of(lab.run_dir(), run_name) == sha256_of(agent.run_dir(), run_name)
    assert lab.job(uid)["state"] == "succeeded"


def test_a_backup_that_is_another_server_by_name_stops_and_starts_nothing(stack: Stack):
    """As after a restore that was done right: the restored server has a new identity."""
    lab = stack.lab().start()
    agent = stack.agent(lab, "gpu1", None, "--simulate-gpus", "2").start()
    witness = Witness.start(lab, agent, UNTIL_TOLD_SECONDS, resources=GPU)
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


def under_way(agent: Agent) -> int:
    """Attempts of which the agent still has something to tell."""
    [journal] = agent.state_dir.glob("*/journal.sqlite3")
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT count(*) FROM under_way").fetchone()[0])


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
