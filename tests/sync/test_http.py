"""The sync endpoints over HTTP: the documented lines by real curl, and what bad requests get."""

import errno
import json
import os
import subprocess
from datetime import timedelta

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.files.uploadhandler import TemporaryFileUploadHandler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent import wire
from devices.models import Device
from experiments.models import Attempt, Job
from experiments.states import Outcome
from labsite.clock import database_now
from sync import status, summary
from sync.models import SyncFile
from sync.status import SyncState
from tests import make
from tests.sync.conftest import TOKEN, sha256

pytestmark = pytest.mark.django_db
BEARER = {"HTTP_AUTHORIZATION": f"Bearer {TOKEN}"}
OCTETS = "application/octet-stream"


def post(client, path: str, data: bytes = b"", content_type: str = OCTETS, **headers):
    return client.post(f"/api/sync/{path}", data, content_type=content_type, **BEARER, **headers)


def x(**headers) -> dict[str, str]:
    """HTTP headers as Django's test client wants them."""
    return {f"HTTP_{name.upper()}": str(value) for name, value in headers.items()}


# --- the documented lines ------------------------------------------------------------------------


@pytest.fixture
def curl(live_server, tmp_path):
    """Run a documented curl line, with the token found in ~/.netrc; its answer as JSON."""
    home = tmp_path / "home"
    home.mkdir()
    netrc = home / ".netrc"
    netrc.write_text(f"machine localhost login device password {TOKEN}\n")
    netrc.chmod(0o600)
    (home / ".curlrc").write_text("netrc-optional\n")

    def run_line(*line: str, at: str = "") -> dict:
        done = subprocess.run(
            ["curl", "-sS", *line, f"{live_server.url}/api/sync/{at}"],
            env={**os.environ, "HOME": str(home), "NO_PROXY": "*"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return json.loads(done.stdout)

    return run_line


@pytest.mark.django_db(transaction=True)
def test_the_documented_lines_answer_key_by_key(curl, run, tmp_path):
    (tmp_path / "run_001.csv").write_bytes(b"epoch,loss\n1,0.5\n")
    (tmp_path / "rest").write_bytes(b"2,0.25\n")
    uid = run.uid

    full = curl("-X", "POST", "-F", "file=@run_001.csv", at=f"full/{uid}/run_001.csv")
    delta = curl("-X", "POST", "-F", "delta=@rest", at=f"delta/{uid}/run_001.csv")
    status = curl(at=f"status/{uid}")
    point = {"epoch": 5, "step": 1000, "best_accuracy": 0.92}
    checkpoint = curl(
        "-X", "POST", "-H", "Content-Type: application/json", "-d", json.dumps(point),
        at=f"checkpoint/{uid}",
    )  # fmt: skip

    assert full["success"] is True
    assert delta["success"] is True
    assert delta["data"]["message"] == "Delta synced successfully"
    assert delta["data"]["bytes_synced"] == 7
    data = status["data"]
    assert data["experiment_uid"] == uid
    assert data["sync_status"] in ("synced", "syncing")
    assert data["last_sync_at"].endswith("Z")
    assert {"mtime", "size", "synced_at"} <= set(data["files"]["run_001.csv"])
    assert data["files"]["run_001.csv"]["size"] == 24
    assert data["server_origin"] == "remote-gpu-01"
    assert checkpoint["success"] is True
    assert run.stored() == b"epoch,loss\n1,0.5\n2,0.25\n"
    assert Job.objects.get().resume_point["point"] == point


# --- what a bad request gets ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        (x(x_sync_offset="x"), 400, "bad_request"),
        (x(x_sync_offset=-1), 400, "bad_request"),
        (x(x_sync_offset=2**63), 400, "bad_request"),
        (x(x_sync_generation="1e3"), 400, "bad_request"),
        (x(x_sync_attempt=2), 404, "not_found"),
        (x(x_chunk_sha256="zz"), 400, "bad_request"),
        (x(x_chunk_sha256="0" * 64), 422, "checksum_differs"),
        (x(content_encoding="br"), 415, "unsupported_encoding"),
        (x(x_sync_offset=5, x_sync_generation=1), 409, "offset_mismatch"),
    ],
)
def test_a_bad_header_is_named_and_nothing_is_kept(client, run, headers, status, code):
    answer = post(client, f"delta/{run.uid}/run_001.csv", b"abc", **headers)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["success"] is False
    assert not SyncFile.objects.exclude(size=0).exists()


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data; boundary=x", b"not a form", 400),
        ("multipart/form-data", b"", 400),
        ("text/plain", b"x", 415),
    ],
)
def test_a_body_of_another_kind_is_refused(client, run, content_type, body, status):
    for kind in ("delta", "full"):
        answer = post(client, f"{kind}/{run.uid}/run_001.csv", body or b"x", content_type)

        assert answer.status_code == status


def test_a_disk_that_is_full_while_a_form_is_read_is_507(client, run, monkeypatch):
    def full(*_args: object, **_more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TemporaryFileUploadHandler, "new_file", full)
    large = SimpleUploadedFile("run_001.pt", b"x" * 3_000_000)

    answer = client.post(f"/api/sync/full/{run.uid}/run_001.pt", {"file": large}, **BEARER)

    assert (answer.status_code, answer.json()["code"]) == (507, "disk_full")
    assert answer["Retry-After"] == "30"


@pytest.mark.parametrize("header", ["name", "filename"])
def test_a_part_of_a_batch_in_an_encoding_that_nobody_knows_is_refused(client, run, header):
    said = {"name": 'name="delta"', "filename": 'filename="run_001.csv"'}
    said[header] = f"{header}*=nobodys''run%5f001.csv"
    head = "Content-Disposition: form-data; " + "; ".join(said.values())

    answer = post(
        client, f"batch/{run.uid}", f"--x\r\n{head}\r\n\r\n1,2\r\n--x--\r\n".encode(),
        "multipart/form-data; boundary=x",
    )  # fmt: skip

    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


def test_a_form_without_the_field_names_it(client, run):
    answer = client.post(f"/api/sync/delta/{run.uid}/run_001.csv", {"other": "x"}, **BEARER)

    assert (answer.status_code, answer.json()["field"]) == (400, "delta")


def test_a_delta_above_its_limit_is_told_the_limit(client, run):
    answer = post(client, f"delta/{run.uid}/run_001.csv", b"x" * (wire.MAX_CHUNK_BYTES + 1))

    assert (answer.status_code, answer.json()["limit"]) == (413, wire.MAX_CHUNK_BYTES)


def test_a_run_of_another_device_is_not_found(client, run):
    other = make.attempt(make.job(project="other"))

    for path in (f"delta/{other.job.uid}/run_001.csv", f"full/{other.job.uid}/run_001.pt"):
        assert post(client, path, b"x").status_code == 404
    assert client.get(f"/api/sync/status/{other.job.uid}", **BEARER).status_code == 404
    assert client.get(f"/api/sync/file/{other.job.uid}/run_001.csv", **BEARER).status_code == 404


def test_a_deleted_run_is_410(client, run):
    run.attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
    run.attempt.job.delete_run(database_now())

    answer = post(client, f"delta/{run.uid}/run_001.csv", b"x")

    assert (answer.status_code, answer.json()["code"]) == (410, "deleted")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kind=st.sampled_from(["delta", "full"]),
    name=st.text(max_size=40),
    body=st.binary(max_size=50),
    content_type=st.sampled_from([OCTETS, "multipart/form-data; boundary=x", "text/csv"]),
    header=st.sampled_from(["x_sync_offset", "x_sync_generation", "x_sync_attempt"]),
    value=st.one_of(st.integers(-1, 2**70).map(str), st.text("0123456789abc.-+", max_size=9)),
)
def test_no_input_is_a_server_error(client, run, kind, name, body, content_type, header, value):
    client.raise_request_exception = False

    answer = post(client, f"{kind}/{run.uid}/{name}", body, content_type, **x(**{header: value}))

    assert answer.status_code < 500 or answer.status_code in (503, 507)


# --- checkpoints, status and files ---------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"[]", b"{", b'{"a": NaN}', b'{"a": 1e999}', b'{"a":{"b":{"c":{"d":{"e":1}}}}}', b"7"],
)
def test_a_checkpoint_is_a_flat_enough_object_of_finite_numbers(client, run, body):
    answer = post(client, f"checkpoint/{run.uid}", body, "application/json")

    assert answer.status_code == 400
    assert Job.objects.get().resume_point == {}


def test_a_large_checkpoint_is_refused(client, run):
    body = json.dumps({"a": "x" * wire.MAX_CHECKPOINT_BYTES}).encode()

    assert post(client, f"checkpoint/{run.uid}", body, "application/json").status_code == 413


def test_an_older_checkpoint_changes_nothing(client, run):
    def send(**point) -> bool:
        answer = post(
            client, f"checkpoint/{run.uid}", json.dumps(point).encode(), "application/json"
        )
        return answer.json()["data"]["applied"]

    assert [send(epoch=5, step=1), send(epoch=4, step=9), send(epoch=5, step=2)] == [
        True,
        False,
        True,
    ]
    assert Job.objects.get().resume_point["point"] == {"epoch": 5, "step": 2}


def test_metrics_are_summed_up_as_they_come(client, run):
    url = f"delta/{run.uid}/run_001.csv"
    post(client, url, b"epoch, loss\n1,0.5\n2,")
    post(client, url, b"0.25\n3,nan\nbroken\n4")

    summary = Job.objects.get().summary
    assert summary["last"] == {"epoch": 3, "loss": 0.25}
    assert summary["min"]["loss"] == 0.25
    assert summary["rows"] == 3


def test_a_line_longer_than_any_csvs_does_not_hold_the_summary_up(client, run, monkeypatch):
    monkeypatch.setattr(summary, "BLOCK_BYTES", 64)
    text = b"epoch,loss\n1,0.5\n" + b"x" * 200 + b"\n2,0.25\n"

    post(client, f"delta/{run.uid}/run_001.csv", text, OCTETS)

    assert Job.objects.get().summary["last"] == {"epoch": 2, "loss": 0.25}


def test_metrics_of_other_files_are_summed_up_beside_those_of_the_runs_own(client, run):
    post(client, f"delta/{run.uid}/run_001/metrics.csv", b"step,loss,val/acc\n1,9,0.5\n2,9,0.4\n")
    post(client, f"delta/{run.uid}/run_001.csv", b"loss\n0.25\n")
    post(client, f"delta/{run.uid}/run_001/metrics.csv", b"3,9,\n4,9,0.3\n")
    post(client, f"delta/{run.uid}/run_001.csv", b"0.125\n")

    stored = Job.objects.get().summary
    assert stored["last"] == {"loss": 0.125}
    assert stored["others"]["columns"] == ["val/acc"]
    assert summary.whole(stored)["last"] == {"loss": 0.125, "val/acc": 0.3}
    assert summary.whole(stored)["max"] == {"loss": 0.25, "val/acc": 0.5}


def test_other_files_of_metrics_that_are_large_are_not_summed_up(client, run, monkeypatch):
    monkeypatch.setattr(summary, "OTHERS_BYTES", 20)
    url = f"delta/{run.uid}/run_001/metrics.csv"
    post(client, url, b"loss\n1\n")

    post(client, url, b"2\n" * 10)

    assert Job.objects.get().summary["others"]["last"] == {}


def test_the_status_says_how_much_is_behind(client, run):
    run.delta(b"abc", generation=1, offset=0)
    files = {"run_001.csv": {"generation": 1, "size_bytes": 10, "acked_bytes": 3}}
    run.attempt.advertise(files, database_now())

    data = client.get(f"/api/sync/status/{run.uid}", **BEARER).json()["data"]

    assert (data["sync_status"], data["behind_bytes"]) == ("syncing", 7)


def test_what_stays_on_the_gpu_server_is_told_and_is_not_behind(client, run):
    run.delta(b"abc", generation=1, offset=0)
    left_out = [{"name": "run_001/1.ckpt", "reason": "not_wished", "size_bytes": 20}]
    run.attempt.advertise({}, database_now(), left_out)

    data = client.get(f"/api/sync/status/{run.uid}", **BEARER).json()["data"]

    assert (data["sync_status"], data["behind_bytes"]) == ("synced", 0)
    assert data["left_out"] == left_out


def test_after_the_end_synced_means_hashed(client, run):
    run.delta(b"abc", generation=1, offset=0)
    files = {"run_001.csv": {"generation": 1, "size_bytes": 3, "acked_bytes": 3}}
    run.attempt.advertise(files, database_now())
    run.attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)

    def sync_status() -> str:
        return client.get(f"/api/sync/status/{run.uid}", **BEARER).json()["data"]["sync_status"]

    assert sync_status() == "syncing"
    run.delta(b"", generation=1, offset=3, file_sha256=sha256(b"abc"))
    assert sync_status() == "synced"


def test_after_the_end_synced_means_that_the_agent_has_nothing_more_to_tell_of(client, run):
    run.delta(b"abc", generation=1, offset=0)
    run.attempt.advertise({}, database_now(), to_come=True)

    def sync_status() -> str:
        return client.get(f"/api/sync/status/{run.uid}", **BEARER).json()["data"]["sync_status"]

    assert sync_status() == "synced"  # as far as it has come
    run.attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
    assert sync_status() == "syncing"
    long_ago = database_now() - timedelta(minutes=1)
    Attempt.objects.update(files_advertised_at=long_ago, ended_at=long_ago)
    SyncFile.objects.update(synced_at=long_ago)
    assert sync_status() == "outdated"
    run.attempt.note_arrived()
    assert sync_status() == "synced"


def test_of_a_run_that_has_ended_nothing_is_awaited_that_its_agent_says_will_never_come(
    client, run
):
    run.delta(b"abc", generation=1, offset=0, file_sha256=sha256(b"abc"))
    files = {"run_001/1.ckpt": {"generation": 1, "size_bytes": 10, "acked_bytes": 0}}
    run.attempt.advertise(files, database_now(), to_come=True)
    run.attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)

    def told() -> tuple[str, int]:
        data = client.get(f"/api/sync/status/{run.uid}", **BEARER).json()["data"]
        return data["sync_status"], data["behind_bytes"]

    assert told() == ("syncing", 10)
    run.attempt.note_arrived()
    assert told() == ("synced", 0)


def test_a_host_that_was_revoked_is_not_waited_for(client, run):
    run.delta(b"abc", generation=1, offset=0, file_sha256=sha256(b"abc"))
    run.attempt.advertise({}, database_now(), to_come=True)
    run.attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
    assert status.of(run.attempt.job, database_now()).state == SyncState.SYNCING

    Device.objects.update(revoked_at=database_now())

    job = Job.objects.get()
    assert status.of(job, database_now()).state == SyncState.SYNCED


@pytest.mark.parametrize(
    ("asked", "status", "content", "content_range"),
    [
        ("", 200, b"0123456789", None),
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=5-100", 206, b"56789", "bytes 5-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
def test_a_file_is_served_whole_or_in_part(client, run, asked, status, content, content_range):
    run.delta(b"0123456789", generation=1, offset=0)
    with open(run.target().place.path, "ab") as file:
        file.write(b"never acknowledged")
    headers = {"HTTP_RANGE": asked} if asked else {}

    answer = client.get(f"/api/sync/file/{run.uid}/run_001.csv", **BEARER, **headers)

    assert answer.status_code == status
    assert b"".join(answer) == content
    assert answer.get("Content-Range") == content_range


def test_a_name_that_no_database_takes_is_not_found(client, run):
    assert client.get(f"/api/sync/file/{run.uid}/run%00.csv", **BEARER).status_code == 404


def test_people_read_and_do_not_write(client, run):
    run.delta(b"abc", generation=1, offset=0)
    person = {"HTTP_AUTHORIZATION": f"Token {make.token(make.user())}"}

    assert client.get(f"/api/sync/status/{run.uid}", **person).status_code == 200
    read = client.get(f"/api/sync/file/{run.uid}/run_001.csv", **person)
    assert b"".join(read) == b"abc"
    write = client.post(
        f"/api/sync/delta/{run.uid}/run_001.csv", b"x", content_type=OCTETS, **person
    )
    assert write.status_code in (401, 403)


def test_nobody_reads_without_a_credential(client, run):
    run.delta(b"abc", generation=1, offset=0)

    assert client.get(f"/api/sync/status/{run.uid}").status_code in (401, 403, 404)
    assert client.get(f"/api/sync/file/{run.uid}/run_001.csv").status_code in (401, 403, 404)


@pytest.mark.parametrize(
    "text",
    [
        b"a,b\n" + b"x" * 200_000 + b",1\n",
        b'a,b\n"' + b"y\n" * 100_000,
        b'a,b\n"x""y,1\n',
        b"a\0b,c\n1,2\n",
        b"a" + b",b" * 10_000 + b"\n1" + b",2" * 10_000 + b"\n",
        b"\n\n,\n",
        bytes(range(256)),
    ],
)
def test_a_csv_that_is_none_is_stored_all_the_same(client, run, text):
    answer = post(client, f"delta/{run.uid}/run_001.csv", text)

    assert (answer.status_code, run.stored()) == (200, text)


def test_a_quote_that_is_never_closed_costs_one_line(client, run):
    post(client, f"delta/{run.uid}/run_001.csv", b'epoch,note\n1,"oops\n2,fine\n3,"a, b"\n')

    assert Job.objects.get().summary["last"] == {"epoch": 3.0}
    assert Job.objects.get().summary["rows"] == 3


def test_a_byte_order_mark_is_no_part_of_a_name(client, run):
    post(client, f"delta/{run.uid}/run_001.csv", b"\xef\xbb\xbfepoch,loss\r\n1,2\r\n")

    assert Job.objects.get().summary["last"] == {"epoch": 1.0, "loss": 2.0}
