"""No input is answered with a 5xx (but 503 and 507): each field of each endpoint gets nonsense."""

import json

import pytest
from rest_framework.test import APIClient

from agent import wire
from devices.models import EnrollmentCode, digest
from labsite.clock import database_now
from tests import make

pytestmark = pytest.mark.django_db

TOKEN = "labd_hostile"
DEEP = json.loads("[" * 200 + "]" * 200)
NONSENSE = [
    None,
    True,
    -1,
    2**31,
    2**63,
    10**400,
    1e308,
    "",
    "\0",
    "\ud800",
    "x" * 5000,
    "..",
    "2026-13-45",
    [],
    ["\0"],
    {},
    {"a": "\0"},
    {"\ud800": {"b": "\ud800"}},
    DEEP,
    float("nan"),
    float("inf"),
]
BEAT = {
    "instance_id": "instance-hostile",
    "boot_id": "boot-1",
    "seq": 10,
    "agent_version": "1",
    "interval_seconds": 1,
    "disk_free_bytes": 1,
    "source": {"commit": "c", "branch": "b", "dirty": False, "source_hash": "h"},
    "run_as": "agent",
    "gpus": [{"uuid": "GPU-1", "index": 0, "name": "A100", "xid_errors": [1], "ecc_errors": 1}],
}


def job_fields():
    return {
        "project": "digits",
        "name": "n",
        "config": "lr: 1",
        "config_path": "a.yaml",
        "command": ["true"],
        "environment": {"A": "1"},
        "python": "p",
        "working_directory": "w",
        "resources": {"gpus": 1, "gpu_memory": "1GiB", "gpu_type": "x", "labels": {"a": "b"}},
        "priority": "high",
        "time_limit": "1h",
        "stop_grace": "1s",
        "max_attempts": 3,
        "on_device_lost": "wait",
        "tags": ["a"],
        "outputs": ["runs/**"],
        "ignore": ["*.tmp"],
        "sync": {"checkpoints": "last", "max_file": "1GB"},
    }


#: What people send: (method, path, a body that is understood).
BY_PEOPLE = [
    ("post", "/api/jobs/", job_fields()),
    ("patch", "/api/jobs/{uid}/", {"name": "n", "tags": ["a"], "notes": "x"}),
    ("post", "/api/jobs/{uid}/priority/", {"priority": "high"}),
    ("post", "/api/jobs/{uid}/give_up/", {"requeue": True}),
    (
        "post",
        "/api/projects/",
        {"name": "p", "description": "d", "command": ["a"], "environment": {"A": "b"}},
    ),
    (
        "patch",
        "/api/projects/digits/",
        {"name": "p", "description": "d", "command": ["a"], "environment": {"A": "b"}},
    ),
    (
        "patch",
        "/api/devices/hostile/",
        {
            "draining": True,
            "max_jobs": 1,
            "cpu_slots": 1,
            "labels": {"a": "b"},
            "environment": {"A": "b"},
            "python": "p",
            "working_directory": "w",
        },
    ),
    (
        "post",
        "/api/imports/",
        {
            "project": "digits",
            "run": "run_003",
            "marks": ["0" * 64],
            "uid": "20260101_0000",
            "host": "h",
            "folder": "/logs",
            "started_at": "2024-03-01T10:00:00Z",
            "finished_at": "2024-03-01T12:00:00Z",
            "file_count": 1,
            "size_bytes": 1,
            "name": "n",
            "tags": ["a"],
            "config": "lr: 1",
            "again": False,
        },
    ),
    (
        "post",
        "/api/imports/preview/",
        {"runs": [{"project": "digits", "run": "run_003", "marks": ["0" * 64]}]},
    ),
    ("post", "/api/unix-accounts/", {"user": "hostile", "name": "kim"}),
    (
        "post",
        "/api/channels/",
        {
            "kind": "webhook",
            "address": "https://hooks.example/x",
            "key": "0123456789abcdef",
            "wants": ["failed"],
            "project": "digits",
            "of_lab": False,
        },
    ),
    ("post", "/api/enrollment-codes/", {"uses": 1, "minutes": 10, "device": "hostile"}),
]
#: What agents send.
BY_AGENTS = [
    (
        "post",
        "/api/devices/enroll",
        {
            "enroll_code": "x",
            "host_id": "h",
            "machine_id": "m",
            "agent_version": "1",
            "token_sha256": "0" * 64,
            "protocol": wire.PROTOCOL,
        },
    ),
    ("post", "/api/devices/token", {"token_sha256": "0" * 64}),
    ("post", "/api/devices/goodbye", {"instance_id": "i"}),
    ("post", "/api/devices/heartbeat", BEAT),
    (
        "post",
        "/api/agent/poll",
        {
            "instance_id": "instance-hostile",
            "poll_seq": 1,
            "wait_seconds": 0,
            "known_revision": "x",
            "attempts": [{"id": "a", "state": "running", "pid": 1, "files": {}}],
        },
    ),
    (
        "post",
        "/api/agent/attempts/{attempt}/events",
        {
            "event_id": "01234567-0123-0123-0123-0123456789ab",
            "type": "exited",
            "pid": 1,
            "started_at": "2026-01-01T00:00:00Z",
            "exit_code": 0,
            "cause": "stopped",
            "message": "m",
            "gpu_uuids": ["GPU-1"],
        },
    ),
    ("post", "/api/sync/checkpoint/{uid}", {"epoch": 5, "step": 1000, "best": {"a": 0.92}}),
]
CASES = [("people", *case) for case in BY_PEOPLE] + [("agent", *case) for case in BY_AGENTS]


@pytest.fixture
def client():
    """Clients of a person and of an agent, and the names that paths hold."""
    device = make.device(
        gpus=1, token=TOKEN, host_id="hostile", instance_id="instance-hostile", max_jobs=5
    )
    attempt = make.attempt(on=device, started=True)
    EnrollmentCode.objects.create(code_sha256=digest("x"), expires_at=database_now())
    person, agent = (APIClient(raise_request_exception=False) for _ in range(2))
    person.force_login(make.manager())
    agent.credentials(HTTP_AUTHORIZATION=f"Bearer {TOKEN}")
    job = attempt.job
    names = {"uid": job.uid, "attempt": str(attempt.pk), "run": job.run_name}

    def send(who, method, path, body, content_type="application/json", headers=None):
        client = {"people": person, "agent": agent}[who]
        url = path.format(**names)
        return client.generic(
            method.upper(), url, body, content_type=content_type, headers=headers or {}
        )

    return send


def bodies(understood):
    """The body with each field in turn replaced by each nonsense, and nonsense instead of it."""
    for nonsense in NONSENSE:
        yield nonsense
        for field, value in understood.items():
            yield understood | {field: nonsense}
            if isinstance(value, dict):
                for inner in value:
                    yield understood | {field: value | {inner: nonsense}}
            if isinstance(value, list) and value and isinstance(value[0], dict):
                for inner in value[0]:
                    yield understood | {field: [value[0] | {inner: nonsense}]}


@pytest.mark.parametrize(
    ("who", "method", "path", "understood"), CASES, ids=[f"{c[1]} {c[2]}" for c in CASES]
)
def test_nonsense_is_refused_and_never_an_error_of_ours(client, who, method, path, understood):
    failed = []
    for body in bodies(understood):
        text = json.dumps(body)
        answer = client(who, method, path, text)
        if answer.status_code >= 500 and answer.status_code not in (503, 507):
            failed.append((answer.status_code, text[:300]))

    assert failed == []


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[1,", b'{"a":1}x', b"\0", b"[" * 100_000])
@pytest.mark.parametrize("case", CASES, ids=[f"{c[1]} {c[2]}" for c in CASES])
def test_what_is_not_json_is_a_400(client, case, body):
    who, method, path, _ = case

    assert client(who, method, path, body).status_code in (400, 401, 403, 413)


@pytest.mark.parametrize(
    "url",
    [
        "/api/jobs/?page=0",
        "/api/jobs/?page=99999999999999999999999",
        "/api/jobs/?page_size=-1",
        "/api/jobs/?project=%00",
        "/api/jobs/?user=%ff",
        "/api/jobs/?state=nonsense",
        "/api/jobs/?state=%00",
        "/api/jobs/?q=%00&ordering=key:%00",
        "/api/jobs/?q=" + "%22" * 99 + "<1&ordering=-",
        "/api/jobs/?q=x%00<1%20tag:%00%20submitted>9999999d&ordering=last:x",
        "/api/jobs/20260101_0000/",
        "/api/jobs/%00/",
        "/api/jobs/20260101_0000/events/",
        "/api/projects/%00/",
        "/api/projects/..%2f..%2fetc/",
        "/api/devices/%ff/",
        "/api/devices/?draining=%00",
        "/api/sync/status/%00",
        "/api/sync/status/nothing",
        "/api/sync/file/nothing/..%2f..%2fetc%2fpasswd",
        "/api/sync/full/nothing/..%2f..%2fetc%2fpasswd?upload_id=%00",
        "/api/sync/full/nothing/run_001.pt?upload_id=u1&upload_id=%ff",
        "/api/sync/batch/%00",
        "/api/agent/attempts/not-a-uuid/config",
        "/api/agent/attempts/00000000-0000-0000-0000-000000000000/config",
        "/api/schema/?format=%00",
    ],
)
@pytest.mark.parametrize("who", ["people", "agent"])
def test_a_strange_address_is_refused(client, who, url):
    assert client(who, "get", url, b"").status_code < 500


#: Where bytes of files are sent, and the headers that say what they are.
UPLOADS = [
    "/api/sync/delta/{uid}/{run}.csv",
    "/api/sync/full/{uid}/{run}.pt",
    "/api/sync/batch/{uid}",
]
HEADERS = [
    "X-Sync-Attempt",
    "X-Sync-Generation",
    "X-Sync-Offset",
    "X-Chunk-SHA256",
    "X-File-SHA256",
    "X-File-Mtime",
    "X-Upload-Id",
    "X-Upload-Length",
    "X-Upload-Offset",
    "X-Raw-Length",
    "Content-Encoding",
    "Idempotency-Key",
]
VALUES = [
    "",
    "-1",
    "0",
    "1e9",
    str(2**63),
    "9" * 400,
    "x" * 5000,
    "\0",
    "\xe9",
    "..",
    "gzip",
    "1,1",
]


@pytest.mark.parametrize("url", UPLOADS)
def test_no_header_of_an_upload_is_an_error_of_ours(client, url):
    whole = {"X-Upload-Id": "u", "X-Upload-Length": "1", "X-Upload-Offset": "0"}
    whole |= {"X-File-SHA256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
    kind = "multipart/form-data; boundary=edge" if "batch" in url else "application/octet-stream"
    failed = []
    for header in HEADERS:
        for value in VALUES:
            for more in ({}, whole):
                said = {**more, header: value}
                body = b"x"
                if "batch" in url:
                    head = "".join(f"{name}: {text}\r\n" for name, text in said.items())
                    part = 'Content-Disposition: form-data; name="file"; filename="run_001.pt"\r\n'
                    body = f"--edge\r\n{part}{head}\r\nx\r\n--edge--".encode()
                    said = {}
                answer = client("agent", "post", url, body, kind, said)
                if answer.status_code >= 500 and answer.status_code not in (503, 507):
                    failed.append((answer.status_code, header, value[:50]))

    assert failed == []
