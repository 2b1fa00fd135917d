"""A server that is killed between a message and its note: the message comes again, as the same."""

import json
import threading

from tests.faults.processes import wait_for
from tests.faults.stack import Stack
from tests.labsite.listener import listening

TOLD_SECONDS = 90.0  # what the killed one had for itself is nobody's for LEASE


def test_what_was_under_way_when_the_server_was_killed_comes_again_with_its_id(stack: Stack):
    with listening() as program:
        lab = stack.lab().start()
        stack.agent(lab, "gpu1").start()
        wish = {"kind": "webhook", "address": program.url, "wants": ["succeeded"]}
        lab.post("/api/channels/", key="0123456789abcdef", **wish)
        killed = threading.Event()

        def kill() -> None:
            program.on_got = None
            lab.kill_all()
            killed.set()

        program.on_got = kill
        lab.wait_state(lab.submit(["true"]), "succeeded")
        assert killed.wait(TOLD_SECONDS)
        lab.start()

        wait_for(lambda: len(program.got) > 1, "it comes again", TOLD_SECONDS)
        first, second = (json.loads(body) for body in program.bodies)
        assert first["id"] == second["id"]
        assert first["run"] == second["run"]
