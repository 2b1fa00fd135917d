"""A device of its own for a measurement, with one run whose files it may send."""

import hashlib
import secrets
from dataclasses import dataclass

from agent import wire
from agent.transport import Transport
from bench.server import Server, wait_for


@dataclass(frozen=True)
class Sender:
    url: str
    token: str
    experiment_uid: str
    project: str
    run_name: str
    number: int

    def transport(self) -> Transport:
        return Transport(self.url, self.token)

    def headers(self, generation: int = 1, **more: object) -> dict[str, str]:
        said = {
            "X-Sync-Attempt": str(self.number),
            "X-Sync-Generation": str(generation),
            "X-File-Mtime": "0",
        }
        return said | {name.replace("_", "-"): str(value) for name, value in more.items()}


def begin(server: Server) -> Sender:
    """Enroll a device, queue a job that only this measurement will run, and take it."""
    [sender] = begin_runs(server, 1)
    return sender


def begin_runs(server: Server, count: int) -> list[Sender]:
    """So many runs of one device."""
    token = f"labd_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)[:43]}"
    code = server.post("/api/enrollment-codes/")["code"]
    digest = hashlib.sha256(token.encode()).hexdigest()
    Transport(server.url, None).enroll(wire.Enroll(code, "bench", "machine", "0", digest))
    transport = Transport(server.url, token)
    transport.heartbeat(wire.Heartbeat("life", "boot", 1, "0", 60.0))
    transport.poll(wire.Poll("life", 1))
    server.patch("/api/devices/bench/", cpu_slots=count)
    for _ in range(count):
        server.post("/api/jobs/", project="bench", command=["true"], resources={"gpus": 0})
    polls = iter(range(2, 10_000))
    orders: dict[str, wire.AttemptOrder] = {}

    def take() -> bool:
        accepted = [wire.AttemptReport(id, wire.AttemptState.ACCEPTED) for id in orders]
        reply = transport.poll(wire.Poll("life", next(polls), attempts=accepted))
        orders.update({order.id: order for order in reply.attempts})
        return len(orders) == count == len(accepted)

    wait_for(take, "the jobs' orders")
    return [
        Sender(server.url, token, one.experiment_uid, one.project, one.run_name, one.number)
        for one in orders.values()
    ]
