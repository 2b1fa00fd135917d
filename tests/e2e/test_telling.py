"""A run ends at a real server, and whoever wished it is told: once, and soon."""

import json
import time
from pathlib import Path

from tests.faults.processes import wait_for
from tests.faults.stack import Stack
from tests.labsite.listener import listening

TOLD_SECONDS = 40.0  # it waits for the run's last lines, and the machine is busy


def test_the_end_of_a_run_arrives_once_and_its_address_lies_in_no_file(tmp_path: Path) -> None:
    with Stack(tmp_path) as stack, listening() as slack:
        lab = stack.lab().start()
        stack.agent(lab, "gpu1", None, "--sync-interval", "0.1").start()
        wish = {"kind": "slack", "address": slack.url, "wants": ["failed"]}
        made = lab.post("/api/channels/", **wish)
        lab.post(f"/api/channels/{made['id']}/test/")
        wait_for(lambda: slack.got, "the test message", TOLD_SECONDS)
        uid = lab.submit(["sh", "-c", "echo 'No space left on device' >&2; exit 3"])
        lab.wait_state(uid, "failed")

        wait_for(lambda: len(slack.got) > 1, "the message", TOLD_SECONDS)
        time.sleep(3)  # for a second one, which must not come

        [_test, told] = [json.loads(body)["text"] for body in slack.bodies]
        assert "`truth/run_001` failed after" in told
        assert "The disk of the GPU server was full." in told  # the last line of its log is there
        assert f"{lab.url}/runs/{uid}/" in told
        assert lab.get(f"/api/channels/{made['id']}/")["trouble"] == ""
    secret = slack.url.rpartition("/")[2].encode()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if secret in path.read_bytes()] == []
