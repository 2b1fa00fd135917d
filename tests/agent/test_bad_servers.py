"""Servers that are down, foreign, refusing or confused; the jobs do not notice."""

import time

from tests.agent.conftest import AgentProcess, eventually
from tests.agent.jobs import FOREVER, pids, started
from tests.agent.server import SERVER_ID, FakeServer


def test_another_servers_answers_stop_and_start_nothing_until_a_person_confirms(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=FOREVER)
    agent.start()
    pid = started(server, order)
    agent.kill()
    server.server_id = "server-2"
    server.give_up(order["id"])

    agent.start()
    eventually(lambda: "another identity" in agent.said())
    assert pid in pids(order["id"])
    agent.kill()
    agent.start("--accept-new-server")

    server.wait_event(order["id"], "exited")
    assert pids(order["id"]) == []


def test_another_server_is_not_told_how_an_attempt_ended(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=["sleep", "3"])
    agent.start()
    started(server, order)
    server.server_id = "server-2"

    eventually(lambda: "ended with exit code 0" in agent.said())
    time.sleep(1)
    assert server.types(order["id"]) == ["started"]
    server.server_id = SERVER_ID

    server.wait_event(order["id"], "exited")


def test_a_revoked_token_keeps_the_agent_and_its_jobs_alive(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order(command=FOREVER)
    agent.start()
    pid = started(server, order)

    server.refuse = {"/api/": (401, {"code": "unauthorized", "detail": "revoked"})}
    with server.turn:
        server.turn.notify_all()
    eventually(lambda: "does not accept this agent's token" in agent.said())

    assert agent.process is not None
    assert agent.process.poll() is None
    assert pid in pids(order["id"])


def test_a_duplicate_touches_no_process_and_asks_again(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order()
    server.refuse = {"/api/agent/poll": (409, {"code": "duplicate_agent", "detail": "two of you"})}
    agent.start()
    eventually(lambda: "two of you" in agent.said())
    assert server.events == []

    server.refuse = {}

    server.wait_event(order["id"], "exited")


def test_an_end_that_the_server_cannot_take_now_is_told_until_it_can(
    agent: AgentProcess, server: FakeServer
) -> None:
    order = server.order()
    server.refuse = {"/api/agent/attempts/": (503, {"code": "busy"})}
    agent.start()
    server.wait(lambda: len(server.asked(f"/api/agent/attempts/{order['id']}/events")) > 1)

    server.refuse = {}

    server.wait_event(order["id"], "released", 20)
    assert server.types(order["id"]) == ["started", "exited", "released"]


def test_a_server_that_comes_back_is_spoken_to_at_once(
    agent: AgentProcess, server: FakeServer
) -> None:
    agent.start()
    server.wait(lambda: server.asked("/api/agent/poll"))
    server.refuse = {"/api/": (503, {})}
    order = server.order()
    eventually(lambda: "heartbeat failed" in agent.said() and "poll failed" in agent.said())

    server.refuse = {}
    back_at = time.monotonic()
    started(server, order)

    assert time.monotonic() - back_at < 2
