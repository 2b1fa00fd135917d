"""The door of small deltas over real sockets, with the pool behind it."""

import json
import threading
import time
import zlib
from base64 import b64encode
from contextlib import closing

import pytest
from django.db import OperationalError
from django.test import Client

from experiments.models import Attempt
from labsite import body, deltas
from labsite.deltas import MAX_BYTES, Deltas
from labsite.pool import Pool
from sync import append, ownership
from sync.models import SyncFile
from tests import make
from tests.labsite.serving import ask, connect, read_answer, request, served
from tests.sync.conftest import TOKEN, sha256

pytestmark = pytest.mark.django_db(transaction=True)

HEAD = b"epoch,loss\n"
OCTETS = "application/octet-stream"


class Door:
    """An ASGI application that is only this door and the pool."""

    def __init__(self) -> None:
        self.pool = Pool(threads=2)
        self.deltas = Deltas(self.pool)
        self.is_started = False

    async def __call__(self, scope, receive, send):
        if not self.is_started:
            self.is_started = True
            self.deltas.start()
        door = self.deltas if self.deltas.is_for(scope) else self.pool
        await door(scope, receive, send)


@pytest.fixture
def site(transactional_db, settings, tmp_path):
    settings.LAB_LOGS_DIR = tmp_path / "logs"
    settings.ALLOWED_HOSTS = ["*"]
    door = Door()
    with served(door) as address:
        yield address
    door.deltas.close()
    door.pool.close()


@pytest.fixture
def attempt(transactional_db) -> Attempt:
    device = make.device(gpus=1, token=TOKEN, host_id="gpu-01")
    return make.attempt(make.job(), device, started=True)


@pytest.fixture
def batches(monkeypatch) -> list[int]:
    """How many each batch answered by itself, of how many."""
    seen = []

    def spied(asked, each):
        taken = real(asked, each)
        seen.append((sum(one is not None for one in taken), len(taken)))
        return taken

    real = deltas.go_on
    monkeypatch.setattr(deltas, "go_on", spied)
    return seen


def begin(attempt: Attempt, *names: str) -> None:
    for name in names:
        target = ownership.target(attempt.device, attempt.job.uid, name, attempt.number)
        append.append(target, append.Delta(HEAD, generation=1, offset=0))


def head(data: bytes, offset: int, **headers: object) -> dict[str, object]:
    said = {
        "authorization": f"Bearer {TOKEN}",
        "content_type": OCTETS,
        "x_sync_attempt": 1,
        "x_sync_generation": 1,
        "x_sync_offset": offset,
        "x_chunk_sha256": sha256(data),
        **headers,
    }
    return {name: value for name, value in said.items() if value is not None}


def path_of(attempt: Attempt, name: str) -> str:
    return f"/api/sync/delta/{attempt.job.uid}/{name}"


def send(site, attempt, data: bytes, offset: int, name: str = "run_001.log", **headers):
    answer = ask(site, "POST", path_of(attempt, name), data, **head(data, offset, **headers))
    return answer[0], json.loads(answer[2])


def test_what_goes_on_is_answered_here_once_it_is_stored(site, attempt, batches):
    begin(attempt, "run_001.log")

    status, answer = send(site, attempt, b"1,0.5\n", 11)

    assert (status, answer["data"]["acked_bytes"]) == (200, 17)
    assert SyncFile.objects.get().size == 17
    assert batches == [(1, 1)]


ROWS = b"1,0.5\n" * 99
PACKED = zlib.compress(ROWS, wbits=31)
GZIP = {"content_encoding": "gzip", "x_raw_length": len(ROWS), "x_chunk_sha256": sha256(ROWS)}
NETRC = {"authorization": "Basic " + b64encode(f"device:{TOKEN}".encode()).decode()}
REQUESTS = {
    "it goes on": (b"1,0.5\n", 11, {}),
    "it goes on, compressed": (PACKED, 11, GZIP),
    "it goes on, by the token of a ~/.netrc": (b"x", 11, NETRC),
    "sent again": (HEAD, 0, {}),
    "an overlap": (b"loss\n1,0.5\n", 6, {}),
    "other bytes": (b"LOSS\n1,0.5\n", 6, {}),
    "a gap": (b"x", 12, {}),
    "a newer version": (b"x", 0, {"x_sync_generation": 2}),
    "an older version": (b"x", 11, {"x_sync_generation": 0}),
    "a confirmation": (b"x", 11, {"x_file_sha256": sha256(HEAD + b"x")}),
    "without an offset": (b"x", 11, {"x_sync_offset": None}),
    "an offset that is none": (b"x", 11, {"x_sync_offset": "-1"}),
    "a damaged chunk": (b"x", 11, {"x_chunk_sha256": sha256(b"y")}),
    "a stranger": (b"x", 11, {"authorization": "Bearer labd_nobody"}),
    "nobody": (b"x", 11, {"authorization": None}),
    "another try's": (b"x", 11, {"x_sync_attempt": 2}),
    "compressed by something else": (b"x", 11, {"content_encoding": "br"}),
    "large": (b"x" * (MAX_BYTES + 1), 11, {}),
}


def test_both_doors_answer_alike(site, attempt, settings):
    uid = attempt.job.uid
    for number, (what, (data, offset, headers)) in enumerate(REQUESTS.items()):
        said = head(data, offset, **headers)
        here, there = f"run_001.{number}.a.log", f"run_001.{number}.b.log"
        begin(attempt, here, there)

        by_door = send(site, attempt, data, offset, here, **headers)
        named = {key.replace("_", "-"): str(value) for key, value in said.items()}
        by_view = Client().post(
            f"/api/sync/delta/{uid}/{there}", data, content_type=OCTETS, headers=named
        )

        told = json.loads(by_view.content.replace(there.encode(), here.encode()))
        assert by_door == (by_view.status_code, told), what
        of_door, of_view = (content(attempt, name) for name in (here, there))
        assert of_door == of_view, what


def content(attempt: Attempt, name: str) -> tuple[object, ...]:
    row = SyncFile.objects.get(name=name)
    path = ownership.target(attempt.device, attempt.job.uid, name, 1).place.path
    return row.size, row.generation, row.complete, path.read_bytes()


def test_what_waits_meanwhile_is_done_together(site, attempt, monkeypatch, batches):
    names = [f"run_001.{number}.log" for number in range(4)]
    begin(attempt, *names)
    gate, real = threading.Event(), deltas.go_on

    def held(asked, each):
        assert gate.wait(10)
        return real(asked, each)

    monkeypatch.setattr(deltas, "go_on", held)
    waiting = []
    for name in names:
        waiting.append(connection := connect(site))
        connection.sendall(request("POST", path_of(attempt, name), b"x", **head(b"x", 11)))
        time.sleep(0.05)  # the first one is taken by itself
    gate.set()

    for connection in waiting:
        with closing(connection):
            assert read_answer(connection)[0] == 200
    assert batches[0] == (1, 1)
    assert sum(taken for taken, _of in batches) == 4
    assert len(batches) < 4


def test_where_all_together_fails_each_is_done_by_itself(site, attempt, monkeypatch):
    begin(attempt, "run_001.log")

    def fail(asked, each):
        raise OperationalError("the connection is gone")

    monkeypatch.setattr(deltas, "go_on", fail)

    assert send(site, attempt, b"x", 11)[0] == 200
    assert SyncFile.objects.get().size == 12


def test_a_body_that_trickles_is_given_up(site, attempt, monkeypatch):
    monkeypatch.setattr(body, "SLOW_WINDOW_SECONDS", 0.1)
    with closing(connect(site)) as connection:
        headers = head(b"", 11) | {"content_length": 8}
        connection.sendall(request("POST", path_of(attempt, "run_001.log"), b"a", **headers))

        assert read_answer(connection)[0] == 408


def test_it_is_for_small_deltas_that_say_where_they_begin():
    usual = {"content-length": "8", "content-type": OCTETS, "x-sync-offset": "0"}

    def is_for(method="POST", path="/api/sync/delta/u/run_001.log", **headers) -> bool:
        named = usual | {key.replace("_", "-"): value for key, value in headers.items()}
        given = [(key.encode(), value.encode("latin-1")) for key, value in named.items() if value]
        return Deltas.is_for({"method": method, "path": path, "headers": given})

    assert is_for()
    assert not is_for(method="GET")
    assert not is_for(path="/api/sync/full/u/run_001.log")
    assert not is_for(content_length="0")
    assert not is_for(content_length=None)
    assert not is_for(content_length="²")
    assert not is_for(content_length=str(MAX_BYTES + 1))
    assert not is_for(content_type="multipart/form-data; boundary=x")
    assert not is_for(x_sync_offset=None)
    assert not is_for(x_file_sha256="0" * 64)


def test_whoever_goes_away_meanwhile_is_missed_by_nobody(site, attempt):
    begin(attempt, "run_001.log")
    with closing(connect(site)) as connection:
        connection.sendall(request("POST", path_of(attempt, "run_001.log"), b"half",
                                   **head(b"half", 11), content_length=8))  # fmt: skip

    assert send(site, attempt, b"whole", 11)[0] == 200
