"""What a person does at the command line, beside an agent that works or in its place."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.faults.processes import wait_for
from tests.faults.stack import PROJECT, Agent, Lab, Stack, apart, older_generations, sha256_of
from tests.promise.witness import UNTIL_TOLD_SECONDS, Witness

ROW = b"7777777,by hand\n"
NOT_ARRIVED, NOT_RUNNING, HELD_UP = 1, 3, 4


def lab_agent(agent: Agent, lab: Lab, *words: str) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "agent", *words, "--state-dir", str(agent.state_dir)]
    home = {"HOME": str(agent.folder)}
    return subprocess.run(
        command, **apart(subprocess.PIPE, lab.data_dir, home), timeout=120, check=False
    )


def behind(agent: Agent, lab: Lab) -> int:
    status = json.loads(lab_agent(agent, lab, "status", "--json").stdout)
    return int(status["behind_bytes"])


def curl(agent: Agent, *line: str) -> dict[str, Any]:
    """A documented line, with the token found as `enroll --write-netrc` has put it there."""
    done = subprocess.run(
        ["curl", "-sS", *line],
        env={"PATH": os.environ["PATH"], "HOME": str(agent.folder), "NO_PROXY": "*"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    return dict(json.loads(done.stdout))


def test_files_that_a_person_uploads_beside_a_live_agent_heal_and_are_kept(
    stack: Stack, tmp_path: Path
):
    lab = stack.lab().start()
    agent = stack.agent(lab, "gpu1").start()
    witness = Witness.start(lab, agent, UNTIL_TOLD_SECONDS)
    name = f"{lab.job(witness.uid)['run_name']}.csv"
    here, there = agent.run_dir() / name, lab.run_dir() / name
    netrc = ("enroll", "--server", lab.url, "--host-id", "gpu1", "--write-netrc")
    assert lab_agent(agent, lab, *netrc).returncode == 0
    row, copied, edited = (tmp_path / one for one in ("row", "copied.csv", "edited.csv"))
    row.write_bytes(ROW)
    copied.write_bytes(here.read_bytes())  # curl says a length first, and a live file outgrows it

    def upload(kind: str, what: str) -> dict[str, Any]:
        address = f"{lab.url}/api/sync/{kind}/{witness.uid}/{name}"
        return curl(agent, "-X", "POST", address, "-F", what)

    assert upload("full", f"file=@{copied}")["success"]  # as the founding document has it
    assert witness.goes_on()
    assert upload("delta", f"delta=@{row}")["data"]["bytes_synced"] == len(ROW)
    wait_for(lambda: ROW not in there.read_bytes(), "the agent's own file is back", 20)
    edited.write_bytes(here.read_bytes() + ROW * 2)
    assert upload("full", f"file=@{edited}")["success"]
    wait_for(lambda: ROW not in there.read_bytes(), "the agent's own file is back", 20)

    witness.ends_well_anyhow()
    kept = [path.read_bytes() for path in older_generations(lab.run_dir(), Path(name).stem)]
    assert any(content.endswith(ROW) and ROW * 2 not in content for content in kept)
    assert edited.read_bytes() in kept
    _heals_after_the_end(agent, lab, witness, row)


def _heals_after_the_end(agent: Agent, lab: Lab, witness: Witness, row: Path) -> None:
    """What a person does to a run that is over, its agent does not look at within the hour: who
    pushes need not wait, whether an agent runs or not."""
    run_name = lab.job(witness.uid)["run_name"]
    here, there = agent.run_dir(), lab.run_dir()
    expected = sha256_of(here, run_name)

    def spoil() -> None:
        for kind, field, name in (("delta", "delta", "csv"), ("full", "file", "yaml")):
            address = f"{lab.url}/api/sync/{kind}/{witness.uid}/{run_name}.{name}"
            curl(agent, "-X", "POST", address, "-F", f"{field}=@{row}")
        assert sha256_of(there, run_name) != expected
        status = lab.get(f"/api/sync/status/{witness.uid}")["data"]["sync_status"]
        assert status != "synced"

    spoil()
    with_agent = lab_agent(agent, lab, "push", run_name)
    assert (with_agent.returncode, sha256_of(there, run_name)) == (0, expected)

    agent.kill()
    spoil()
    without = lab_agent(agent, lab, "push", run_name)
    assert (without.returncode, sha256_of(there, run_name)) == (0, expected)
    assert lab_agent(agent, lab, "push", run_name).stdout == b"All of it has arrived.\n"


def test_push_brings_over_what_an_agent_that_was_cut_off_and_then_killed_has_left(stack: Stack):
    lab = stack.lab().start()
    proxy = stack.proxy(lab)
    agent = stack.agent(lab, "gpu1", proxy.url).start()
    witness = Witness.start(lab, agent, UNTIL_TOLD_SECONDS)
    name = f"{lab.job(witness.uid)['run_name']}.csv"

    proxy.cut()
    before = behind(agent, lab)
    wait_for(lambda: behind(agent, lab) > before, "more is behind", 20)
    wait_for(
        lambda: lab_agent(agent, lab, "status").returncode == HELD_UP, "the agent says so", 20
    )
    cut_off = lab_agent(agent, lab, "status")
    in_vain = lab_agent(agent, lab, "push", name.removesuffix(".csv"), "--timeout", "2")
    agent.kill()
    proxy.heal()
    written = (agent.run_dir() / name).read_bytes()
    alone = lab_agent(agent, lab, "status")
    pushed = lab_agent(agent, lab, "push", f"{PROJECT}/{name.removesuffix('.csv')}")

    assert (cut_off.returncode, in_vain.returncode) == (HELD_UP, NOT_ARRIVED)
    assert b"cut" in cut_off.stdout
    assert alone.returncode == NOT_RUNNING
    assert pushed.returncode == 0, pushed.stdout
    assert (lab.run_dir() / name).read_bytes().startswith(written)
    assert witness.goes_on()
    agent.start()
    assert lab_agent(agent, lab, "push").returncode == 0
    witness.ends_well()
