"""Over HTTP: chunks, compressed bodies, and several files in one request."""

import gzip
import io
import json
import os
import subprocess
import tracemalloc
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent import wire
from sync.models import SyncFile, Upload
from tests.sync.conftest import TOKEN, Run, sha256
from tests.sync.test_http import BEARER, OCTETS, post, x

pytestmark = pytest.mark.django_db
WHOLE = b"0123456789"
ROWS = b"epoch,loss\n" + b"".join(b"%d,0.5\n" % row for row in range(5000))


# --- chunks --------------------------------------------------------------------------------------


def upload(whole: bytes = WHOLE, offset: int = 0, **more: object) -> dict[str, str]:
    said = {"x_upload_length": len(whole), "x_upload_offset": offset, **more}
    return x(x_upload_id="u1", x_file_sha256=sha256(whole), x_sync_generation=1, **said)


def test_chunks_are_202_until_the_last_which_is_200(client, run: Run):
    url = f"full/{run.uid}/run_001.pt"
    first = post(client, url, WHOLE[:4], **upload())
    asked = client.get(f"/api/sync/{url}?upload_id=u1", **BEARER)
    gap = post(client, url, WHOLE[6:], **upload(offset=6))
    last = post(client, url, WHOLE[4:], **upload(offset=4))

    assert (first.status_code, first["Upload-Offset"]) == (202, "4")
    assert first.json()["data"]["acked_bytes"] == 4
    assert (asked.status_code, asked["Upload-Offset"]) == (200, "4")
    assert (gap.status_code, gap["Upload-Offset"]) == (409, "4")
    assert gap.json()["expected_offset"] == 4
    assert (last.status_code, last.json()["data"]["complete"]) == (200, True)
    assert run.stored("run_001.pt") == WHOLE


def test_an_upload_that_nobody_began_is_not_found(client, run: Run):
    answer = client.get(f"/api/sync/full/{run.uid}/run_001.pt?upload_id=u1", **BEARER)

    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (x(x_upload_id="u1"), 400),
        (x(x_upload_id="a/b", x_upload_length=10, x_upload_offset=0), 400),
        (upload(x_upload_length=-1), 400),
        (upload(x_upload_length=2**63), 400),
        (upload(x_upload_length=2**63 - 1), 413),
        (upload(x_upload_length=3), 400),
        (upload(x_upload_offset=11), 400),
        (upload(x_upload_offset="x"), 400),
        (upload(x_chunk_sha256="0" * 64), 422),
        (upload(content_encoding="br"), 415),
    ],
)
def test_a_chunk_with_a_bad_header_is_refused(client, run: Run, headers, status):
    answer = post(client, f"full/{run.uid}/run_001.pt", WHOLE[:4], **headers)

    assert answer.status_code == status
    assert not Upload.objects.exclude(size=0).exists()


def test_a_chunk_above_its_limit_is_told_the_limit(client, run: Run):
    whole = bytes(wire.MAX_UPLOAD_CHUNK_BYTES + 1)

    answer = post(client, f"full/{run.uid}/run_001.pt", whole, **upload(whole))

    assert (answer.status_code, answer.json()["limit"]) == (413, wire.MAX_UPLOAD_CHUNK_BYTES)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    method=st.sampled_from(["GET", "POST"]),
    header=st.sampled_from(
        ["x_upload_id", "x_upload_length", "x_upload_offset", "x_file_sha256", "x_raw_length",
         "content_encoding", "x_sync_generation"]
    ),
    value=st.one_of(
        st.integers(-1, 2**70).map(str), st.text(max_size=9), st.sampled_from(["gzip", "\0"])
    ),
    body=st.binary(max_size=20),
)  # fmt: skip
def test_no_chunk_is_a_server_error(client, run: Run, method, header, value, body):
    client.raise_request_exception = False
    url = f"/api/sync/full/{run.uid}/run_001.pt?upload_id={value.encode().hex()}"

    answer = client.generic(method, url, body, OCTETS, **BEARER, **upload() | x(**{header: value}))

    assert answer.status_code < 500 or answer.status_code in (503, 507)


# --- gzip ----------------------------------------------------------------------------------------


def zipped(data: bytes, length: int | None = None) -> dict[str, str]:
    return x(content_encoding="gzip", x_raw_length=len(data) if length is None else length)


def test_a_compressed_delta_is_stored_as_it_was(client, run: Run):
    said = zipped(ROWS) | x(x_chunk_sha256=sha256(ROWS), x_sync_offset=0, x_sync_generation=1)

    answer = post(client, f"delta/{run.uid}/run_001.csv", gzip.compress(ROWS), **said)

    assert answer.json()["data"]["acked_bytes"] == answer.json()["data"]["bytes_synced"]
    assert run.stored() == ROWS


def test_a_compressed_chunk_is_stored_as_it_was(client, run: Run):
    said = upload(ROWS) | zipped(ROWS)

    answer = post(client, f"full/{run.uid}/run_001.pt", gzip.compress(ROWS), **said)

    assert answer.status_code == 200
    assert run.stored("run_001.pt") == ROWS


BOMB = gzip.compress(bytes(64 * 1024**2))
GOOD = gzip.compress(ROWS)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (GOOD, x(content_encoding="gzip"), 400),  # how long it was is to be said
        (GOOD, zipped(ROWS, -1), 400),
        (GOOD, zipped(ROWS, wire.MAX_CHUNK_BYTES + 1), 413),
        (BOMB, zipped(b"", 64 * 1024**2), 413),
        (BOMB, zipped(b"", wire.MAX_CHUNK_BYTES), 422),
        (gzip.compress(bytes(1024**2)), zipped(b"", 1024**2), 413),  # above 200:1
        (GOOD[:-9], zipped(ROWS), 422),
        (GOOD + GOOD, zipped(ROWS), 422),
        (GOOD, zipped(ROWS, len(ROWS) - 1), 422),
        (GOOD, zipped(ROWS, len(ROWS) + 1), 422),
        (b"no gzip", zipped(ROWS, 7), 422),
        (zlib.compress(ROWS), zipped(ROWS), 422),
        (b"", zipped(ROWS), 413),
    ],
)
def test_what_is_no_gzip_or_too_much_of_it_is_refused(client, run: Run, body, headers, status):
    answer = post(client, f"delta/{run.uid}/run_001.csv", body, **headers)

    assert answer.status_code == status
    assert not SyncFile.objects.exists()


def test_a_body_that_is_too_long_unpacked_is_told_the_limit(client, run: Run):
    rows = os.urandom(wire.MAX_CHUNK_BYTES // 2 + 1).hex().encode()

    answer = post(client, f"delta/{run.uid}/run_001.csv", gzip.compress(rows, 1), **zipped(rows))

    assert (answer.status_code, answer.json()["limit"]) == (413, wire.MAX_CHUNK_BYTES)


def test_a_bomb_takes_no_memory(client, run: Run):
    tracemalloc.start()
    post(client, f"delta/{run.uid}/run_001.csv", BOMB, **zipped(b"", wire.MAX_CHUNK_BYTES))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 3 * wire.MAX_CHUNK_BYTES


@pytest.mark.parametrize("kind", ["full", "delta"])
def test_a_form_or_a_small_whole_file_is_not_compressed(client, run: Run, kind):
    url = f"{kind}/{run.uid}/run_001.csv"
    form = {"delta": io.BytesIO(GOOD), "file": io.BytesIO(GOOD)}

    assert client.post(f"/api/sync/{url}", form, **BEARER, **zipped(ROWS)).status_code == 415
    if kind == "full":
        assert post(client, url, GOOD, **zipped(ROWS)).status_code == 415


# --- several at once -----------------------------------------------------------------------------


def part(kind: str, name: str, data: bytes, **headers: object) -> bytes:
    lines = [f'Content-Disposition: form-data; name="{kind}"; filename="{name}"']
    lines += [f"{key.replace('_', '-')}: {value}" for key, value in headers.items()]
    return b"--edge\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + data + b"\r\n"


def batch(client, run: Run, *parts: bytes, end: bytes = b"--edge--\r\n"):
    body = b"".join(parts) + end
    return post(client, f"batch/{run.uid}", body, "multipart/form-data; boundary=edge")


def test_each_part_is_done_or_refused_for_itself_and_in_its_order(client, run: Run):
    answer = batch(
        client,
        run,
        part("delta", "run_001.csv", b"a\n", X_Sync_Offset=0, X_Sync_Generation=1),
        part("delta", "run_001.csv", b"1\n", X_Sync_Offset=2, X_Sync_Generation=1),
        part("delta", "run_001.log", b"late", X_Sync_Offset=7, X_Sync_Generation=1),
        part("file", "run_001/images/1.png", b"png\r\n--edg", X_File_SHA256=sha256(b"x")),
        part("file", "run_001/images/2.png", b"png\r\n--edg"),
        part("file", "../../etc/passwd", b"x"),
        part("other", "run_001.yaml", b"x"),
        part("delta", "run_001.jsonl", GOOD, Content_Encoding="gzip", X_Raw_Length=len(ROWS)),
        part("file", "run_001.pt", b"x", X_Upload_Id="u1", X_Upload_Length="x"),
    )

    told = answer.json()["data"]["parts"]
    assert answer.status_code == 200
    assert [one["status"] for one in told] == [200, 200, 409, 422, 200, 400, 400, 200, 400]
    assert (told[2]["code"], told[2]["expected_offset"]) == ("offset_mismatch", 0)
    assert told[1]["data"]["acked_bytes"] == 4
    assert [one["name"] for one in told[:3]] == ["run_001.csv", "run_001.csv", "run_001.log"]
    assert (run.stored(), run.stored("run_001.jsonl")) == (b"a\n1\n", ROWS)
    assert run.stored("run_001/images/2.png") == b"png\r\n--edg"
    assert not SyncFile.objects.filter(name__in=["run_001/images/1.png", "run_001.yaml"]).exists()


@pytest.mark.django_db(transaction=True)
def test_a_batch_is_made_by_curl(live_server, run: Run, tmp_path):
    (tmp_path / "rows").write_bytes(b"a\n")
    line = f'delta=@rows;filename=run_001.csv;headers="X-Sync-Attempt: {run.attempt.number}"'
    done = subprocess.run(
        ["curl", "-sS", "-u", f"device:{TOKEN}", "-F", line,
         "-F", "file=@rows;filename=run_001/1.txt", f"{live_server.url}/api/sync/batch/{run.uid}"],
        cwd=tmp_path, env={**os.environ, "NO_PROXY": "*"}, capture_output=True, timeout=30,
        check=True,
    )  # fmt: skip

    told = json.loads(done.stdout)["data"]["parts"]
    assert [(one["name"], one["status"]) for one in told] == [
        ("run_001.csv", 200),
        ("run_001/1.txt", 200),
    ]
    assert run.stored() == b"a\n"


PART = part("delta", "run_001.csv", b"a\n")


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (PART, "multipart/form-data; boundary=edge", 400),  # cut short
        (PART + b"--edge--", "multipart/form-data", 400),
        (PART + b"--edge--", f"multipart/form-data; boundary={'e' * 71}", 400),
        (b"before\r\n" + PART + b"--edge--", "multipart/form-data; boundary=edge", 400),
        (b"--edge\r\n\r\nx\r\n--edge--", "multipart/form-data; boundary=edge", 400),
        (b"--edge\r\n" + b"X: y\r\n" * 2000 + b"\r\nx\r\n--edge--",
         "multipart/form-data; boundary=edge", 400),
        (PART * (wire.MAX_BATCH_PARTS + 1) + b"--edge--",
         "multipart/form-data; boundary=edge", 413),
        (b"x" * (wire.MAX_BATCH_BYTES + 1), "multipart/form-data; boundary=edge", 413),
        (b"{}", "application/json", 415),
        (b"", "multipart/form-data; boundary=edge", 400),
    ],
)  # fmt: skip
def test_what_is_no_batch_is_refused_whole(client, run: Run, body, content_type, status):
    assert post(client, f"batch/{run.uid}", body, content_type).status_code == status
    assert not SyncFile.objects.exists()


def test_an_empty_batch_does_nothing(client, run: Run):
    assert batch(client, run).json()["data"]["parts"] == []


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(head=st.text(max_size=60), body=st.binary(max_size=40), end=st.binary(max_size=9))
def test_no_batch_is_a_server_error(client, run: Run, head, body, end):
    client.raise_request_exception = False
    raw = b"--edge\r\n" + head.encode("utf-8", "surrogatepass") + b"\r\n\r\n" + body
    known = part("delta", head, body, X_Sync_Offset=head)

    for form in (raw + b"\r\n--edge--" + end, known + b"--edge--" + end):
        answer = post(client, f"batch/{run.uid}", form, "multipart/form-data; boundary=edge")
        assert answer.status_code < 500 or answer.status_code in (503, 507)
