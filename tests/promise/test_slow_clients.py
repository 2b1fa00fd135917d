"""Clients that hardly speak and clients that hardly listen, at a real `runlab`."""

import json
import os
import socket
import statistics
import time
from contextlib import ExitStack, closing, suppress

import requests

from tests.faults.processes import wait_for
from tests.faults.stack import Agent, Lab, Stack, sha256_of
from tests.promise.witness import UNTIL_TOLD_SECONDS, Witness

CLIENTS = 200
SIEGE_SECONDS = 20.0
BODY_BYTES = 1_000_000
LARGE_BYTES = 8 * 1024**2
ANSWER_SECONDS = 1.0  # of any page; while nobody is slow it is a few hundredths


def test_slow_bodies_and_slow_readers_hold_up_neither_site_nor_heartbeats(stack: Stack):
    lab = stack.lab().start()
    agent = stack.agent(lab, "gpu1").start()
    token = token_of(agent)
    done = lab.submit(["true"])
    lab.wait_state(done, "succeeded")
    put(lab, token, f"/api/sync/full/{done}/run_001.bin", os.urandom(LARGE_BYTES))
    large = f"/api/sync/file/{done}/run_001.bin"
    witness = Witness.start(lab, agent, UNTIL_TOLD_SECONDS)

    with ExitStack() as siege:
        bodies = [siege.enter_context(closing(slow_body(lab, token, witness.uid, n)))
                  for n in range(CLIENTS)]  # fmt: skip
        for _ in range(CLIENTS):
            siege.enter_context(closing(slow_reader(lab, token, large)))
        seconds, states = [], []
        end = time.monotonic() + SIEGE_SECONDS
        while time.monotonic() < end:
            began = time.monotonic()
            states.append(lab.device("gpu1")["state"])
            seconds.append(time.monotonic() - began)
            for body in bodies:
                with suppress(OSError):  # 408 by now
                    body.send(b"x")
            time.sleep(0.5)
        started_at = time.monotonic()
        waiting = lab.submit(["true"])
        assert time.monotonic() - started_at < ANSWER_SECONDS

    assert set(states) == {"healthy"}
    assert statistics.median(seconds) < ANSWER_SECONDS
    assert max(seconds) < 5 * ANSWER_SECONDS
    assert not [name for name in sha256_of(lab.run_dir(), "run_002") if "half" in name]
    witness.ends_well()
    lab.wait_state(waiting, "succeeded")


def test_a_body_cut_short_is_never_stored(stack: Stack):
    lab = stack.lab().start()
    agent = stack.agent(lab, "gpu1").start()
    token = token_of(agent)
    witness = Witness.start(lab, agent, 8)

    for number in range(20):
        for kind in ("delta", "full"):
            path = f"/api/sync/{kind}/{witness.uid}/run_001.half{number}"
            with closing(send_part(lab, token, path, b"y" * 5000)):
                pass
    time.sleep(1)

    witness.ends_well()
    assert not list(lab.data_dir.glob("**/*.half*"))
    wait_for(lambda: not list((lab.data_dir / "spool").iterdir()), "nothing is spooled", 20)


def token_of(agent: Agent) -> str:
    [path] = agent.state_dir.glob("*/token.json")
    return str(json.loads(path.read_text())["token"])


def put(lab: Lab, token: str, path: str, content: bytes) -> None:
    answer = requests.post(
        lab.url + path, data=content, timeout=60,
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream"},
    )  # fmt: skip
    assert answer.ok, answer.text


def send_part(lab: Lab, token: str, path: str, part: bytes) -> socket.socket:
    """A request that promises BODY_BYTES and brings `part` of them."""
    connection = connected(lab)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {BODY_BYTES}\r\n\r\n"
    )
    connection.sendall(head.encode() + part)
    return connection


def slow_body(lab: Lab, token: str, uid: str, number: int) -> socket.socket:
    path = f"/api/sync/delta/{uid}/run_002.half{number}"
    return send_part(lab, token, path, b"y" * 1000)


def slow_reader(lab: Lab, token: str, path: str) -> socket.socket:
    """Asks for the large file and reads nothing of it."""
    connection = connected(lab)
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n"
    connection.sendall(head.encode())
    return connection


def connected(lab: Lab) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", lab.port))
    return connection
