"""What a host lacks, and what a run ran in: a real server and a real agent."""

import sys
from pathlib import Path

from tests.faults.processes import wait_for
from tests.faults.stack import Stack

VENV = Path(sys.prefix)


def test_a_job_waits_for_what_a_host_lacks_and_comes_when_it_is_there(tmp_path: Path) -> None:
    data = tmp_path / "imagenet"
    with Stack(tmp_path) as stack:
        lab = stack.lab().start()
        agent = stack.agent(lab, "gpu1").start()
        uid = lab.submit(
            ["python", "-c", "import django"],
            python=str(VENV),
            requires={"paths": [str(data)], "commands": ["sh"]},
        )

        def reason() -> bool:
            return lab.job(uid)["waiting_reason"].startswith(f"gpu1 lacks {data}.")

        wait_for(reason, "it says what it waits for", 30)
        wait_for(lambda: lab.device("gpu1")["lacks"], "heartbeats tell of it", 20)
        waited = lab.job(uid)
        lab.wait_state(lab.submit(["true"]), "succeeded")  # others run meanwhile
        agent.kill()
        data.mkdir()
        agent.start()
        job = lab.wait_state(uid, "succeeded", 60)

        assert [one["outcome"] for one in waited["attempts"]] == ["lacking"]
        assert f"{data} cannot be read here" in waited["attempts"][0]["ending"]
        assert lab.device("gpu1")["lacks"] == []
        last = job["attempts"][-1]
        assert last["environment"]["python"] == ".".join(map(str, sys.version_info[:3]))
        assert last["environment"]["unix_user"]
        assert any(line.startswith("django==") for line in last["packages"])
        metadata = (agent.run_dir() / f"{job['run_name']}.yaml").read_text()
        assert "- django==" in metadata
