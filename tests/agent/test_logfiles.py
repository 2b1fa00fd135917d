"""Where an agent without a terminal writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent import host, logfiles, presence
from agent.errors import ConfigError
from tests.agent.conftest import ROOT

SPEAKER = """
import logging, os, sys
from pathlib import Path
from agent.logfiles import LogFiles

LogFiles(Path("agent.log"), Path("agent.err")).begin(logging.INFO, max_bytes=2000)
log = logging.getLogger("speaker")
for number in range(400):
    log.info("told %d", number)
    log.warning("wrong %d", number)
os.write(1, b"raw words\\n")
log.warning("the last warning")
raise SystemError("died here")
"""


def test_both_files_are_turned_over_and_a_death_is_in_the_newest(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SPEAKER],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert (done.stdout, done.stderr) == ("", "")
    for name in ("agent.log", "agent.err"):
        kept = sorted(path.name for path in tmp_path.glob(f"{name}*"))
        assert kept == [name, *(f"{name}.{n}" for n in range(1, logfiles.KEPT + 1))]
        assert all(path.stat().st_size <= 2500 for path in tmp_path.glob(f"{name}*"))
    wrong = (tmp_path / "agent.err").read_text()
    assert "INFO" not in wrong
    assert wrong.index("raw words") < wrong.index("the last warning") < wrong.index("died here")
    told = (tmp_path / "agent.log").read_text()
    assert "told 399" in told
    assert "wrong 399" in told


def running(folder: Path) -> Path:
    """The state of an agent that runs: this process."""
    folder.mkdir()
    mine = presence.of_this_process("http://lab", "gpu1", folder)
    presence.Presence(folder, mine).begin()
    return folder


def stopped(folder: Path) -> Path:
    content = json.loads((running(folder) / presence.FILE).read_text())
    (folder / presence.FILE).write_text(json.dumps({**content, "start_ticks": 1}))
    return folder


def test_a_name_is_its_agents_while_that_runs(tmp_path: Path) -> None:
    one, two, three = running(tmp_path / "one"), running(tmp_path / "two"), tmp_path / "three"

    assert logfiles.claim(tmp_path, one).log.name == "agent.log"
    assert logfiles.claim(tmp_path, two).log.name == "agent_two.log"
    assert logfiles.claim(tmp_path, one).err.name == "agent.err"
    assert logfiles.claim(tmp_path, three).err.name == "agent_three.err"


def test_the_short_name_goes_to_the_next_once_its_agent_has_ended(tmp_path: Path) -> None:
    one = stopped(tmp_path / "one")
    logfiles.claim(tmp_path, one)

    assert logfiles.claim(tmp_path, running(tmp_path / "two")).log.name == "agent.log"
    assert logfiles.claim(tmp_path, one).log.name == "agent_one.log"


def test_what_another_machine_writes_in_a_shared_folder_stays_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = stopped(tmp_path / "state")
    logfiles.claim(tmp_path, state)
    monkeypatch.setattr(host, "machine_id", lambda: "another")

    assert logfiles.claim(tmp_path, state).log.name == "agent_state.log"


def test_a_workdir_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")

    with pytest.raises(ConfigError, match="another --workdir"):
        logfiles.claim(tmp_path, tmp_path / "state")
