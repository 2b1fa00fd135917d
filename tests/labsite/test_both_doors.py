"""An agent's request is answered alike by the lane and by the DRF view of the same address."""

import json

import pytest
from django.test import Client

from agent import wire
from experiments.models import Attempt
from labsite.lane import Lane
from tests import make
from tests.labsite.test_lane import HEARTBEAT, POLL, Door, answer_to, send, served, token_of

pytestmark = pytest.mark.django_db(transaction=True)
HOST = "gpu1"


@pytest.fixture
def lane(transactional_db):
    door = Door()
    with served(door) as address:
        yield address
        door.lane.stop_holding()
    door.lane.close()


def by_lane(lane, path: str, body: bytes, token: bool) -> tuple[int, str, dict]:
    status, headers, answer = answer_to(send(lane, path, body, HOST if token else ""))
    return status, headers["content-type"], answer


def by_view(path: str, body: bytes, token: bool) -> tuple[int, str, dict]:
    headers = {"HTTP_AUTHORIZATION": f"Bearer {token_of(HOST)}"} if token else {}
    response = Client(raise_request_exception=False).post(
        path, body, content_type="application/json", **headers
    )
    return response.status_code, response["Content-Type"], response.json()


def beat(**fields) -> dict:
    return {
        "instance_id": "one", "boot_id": "boot-1", "seq": 5, "agent_version": "1",
        "interval_seconds": 1.0, **fields,
    }  # fmt: skip


def poll(**fields) -> dict:
    return {"instance_id": "one", "poll_seq": 5, **fields}


ALIVE = {"id": "0" * 8 + "-0000-4000-8000-" + "0" * 12, "state": "running"}
REQUESTS = {
    "a heartbeat": (HEARTBEAT, beat()),
    "a heartbeat with a card": (HEARTBEAT, beat(gpus=[{"uuid": "G", "index": 0, "name": "X"}])),
    "an old heartbeat": (HEARTBEAT, beat(seq=0)),
    "another living agent": (HEARTBEAT, beat(instance_id="two")),
    "a heartbeat of another version": (HEARTBEAT, beat(protocol=2)),
    "a heartbeat without seq": (HEARTBEAT, {k: v for k, v in beat().items() if k != "seq"}),
    "a heartbeat beyond a limit": (HEARTBEAT, beat(cpu_percent=101)),
    "a poll": (POLL, poll()),
    "a poll that names a stranger": (POLL, poll(attempts=[ALIVE])),
    "a poll of another instance": (POLL, poll(instance_id="two")),
    "a poll of another version": (POLL, poll(protocol=0)),
    "a poll of another version and form": (POLL, {"protocol": 2}),
    "a poll of a wrong form": (POLL, poll(attempts={})),
    "not an object": (POLL, [1]),
    "not a number": (HEARTBEAT, b'{"seq": NaN}'),
    "not JSON": (POLL, b"{"),
    "not UTF-8": (POLL, b'{"instance_id": "\xff"}'),
    "very deep": (POLL, b"[" * 100_000),
}


@pytest.mark.parametrize("token", [True, False], ids=["enrolled", "stranger"])
@pytest.mark.parametrize("what", REQUESTS)
def test_both_doors_answer_alike(lane, what, token):
    path, said = REQUESTS[what]
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    device = make.device(host_id=HOST, token=token_of(HOST), instance_id="one", gpus=1)
    make.attempt(make.job(), device, accepted=False)
    before = dict(type(device).objects.values().get())

    by_view_ = by_view(path, body, token)
    type(device).objects.update(**{k: v for k, v in before.items() if k != "id"})
    Attempt.objects.update(accepted_at=None)
    by_lane_ = by_lane(lane, path, body, token)

    assert timeless(by_lane_) == timeless(by_view_)


def timeless(answer: tuple[int, str, dict]) -> tuple[int, str, dict]:
    status, content_type, body = answer
    body.pop("server_time", None)
    return status, content_type.partition(";")[0], body


def test_the_lane_is_for_exactly_these_addresses():
    for path, method, mine in [
        (HEARTBEAT, "POST", True),
        (POLL, "POST", True),
        (HEARTBEAT, "GET", False),
        ("/api/devices/", "POST", False),
    ]:
        assert Lane.is_for({"method": method, "path": path}) is mine
    assert wire.PROTOCOL == 1  # a new one brings new cases above
