"""What artifacts may be called: as scripts call their files, and nothing that misleads."""

import os
from pathlib import Path
from urllib.parse import quote

import pytest
from django.conf import settings as site
from django.urls import reverse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent import wire
from sync.models import SyncFile
from sync.multipart import parts
from sync.storage import Place
from tests.sync.conftest import Run

pytestmark = pytest.mark.django_db

BEARER = {"HTTP_AUTHORIZATION": "Bearer labd_abcdefgh_" + "s" * 43}
OCTETS = "application/octet-stream"
NAMES = [
    "epoch=5-step=10.ckpt",
    "model-best (1).pt",
    "a b+c,d@e[0]{1}.png",
    "실험 결과/그림 1.png",
    "é/ü.csv",
    "100%25.txt",
    "what?#&;'\"<b>.json",
    ".hydra/config.yaml",
    "가" * 77,
    "가" * 70 + ".csv",
    "\U0001f600.png",
]
HOSTILE = [
    "..",
    "../run_002.csv",
    "a/../../../x",
    "a\\b",
    "a\nb",
    "a\x00b",
    "-rf",
    " a",
    "a ",
    ".a.0123456789ab.part",
    "a.csv.g3",
    "\u202egnp.exe",
    "e\u0301",
    "x" * 234,
    "/".join(["y" * 100] * 6),
]


def post(client, run, name: str, body: bytes = b"content"):
    path = f"/api/sync/full/{run.uid}/{quote(name)}"
    return client.post(path, body, OCTETS, **BEARER)


def everything() -> set[Path]:
    return {path for path in Path(site.LAB_LOGS_DIR).rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_an_artifact_comes_back_by_its_name(client, run, name):
    stored = post(client, run, f"run_001/{name}")
    again = post(client, run, f"run_001/{name}", b"another")  # laid aside where it grows
    address = reverse("sync-file", args=[run.uid, f"run_001/{name}"])  # as pages link it
    read = client.get(address, **BEARER)

    assert (stored.status_code, again.status_code, read.status_code) == (200, 200, 200)
    assert b"".join(read) == b"another"
    assert read["Content-Disposition"].startswith("attachment; filename")
    assert "\n" not in read["Content-Disposition"]
    assert Place.of(run.attempt.job, f"run_001/{name}").path.read_bytes() == b"another"


def test_a_growing_artifact_with_a_long_name_keeps_its_generations(client, run):
    name = "run_001/" + "가" * 76 + ".csv"
    path = f"/api/sync/delta/{run.uid}/{quote(name)}"
    newest = 2**62

    for generation in (newest - 1, newest):
        headers = {"HTTP_X_SYNC_GENERATION": str(generation), "HTTP_X_SYNC_OFFSET": "0"}
        assert client.post(path, b"a\n", OCTETS, **BEARER, **headers).status_code == 200

    assert SyncFile.objects.get(name=name).generation == newest
    assert len(everything()) == 2 + len(locks())


def locks() -> list[Path]:
    return list((Path(site.LAB_LOGS_DIR) / ".locks").iterdir())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_misleads_is_refused_and_nothing_is_written(client, run, name):
    answer = post(client, run, f"run_001/{name}")

    assert answer.status_code in (400, 404)
    assert not SyncFile.objects.exists()
    assert everything() == set()


@pytest.mark.parametrize("name", ["run_001.실험", "run_001.a b", "run_001.epoch=5.pt"])
def test_a_runs_own_files_keep_their_strict_alphabet(client, run, name):
    answer = post(client, run, name)

    assert (answer.status_code, answer.json()["code"]) == (400, "wrong_name")


def test_a_name_that_ends_like_an_earlier_version_and_is_none_is_in_nobodys_way(run: Run):
    """“²” is a digit to Python, and no number."""
    run.full(b"x", name="run_001/a.csv.g²")
    run.delta(b"1,2\n", name="run_001/a.csv", generation=1, offset=0)

    run.delta(b"3,4\n", name="run_001/a.csv", generation=2, offset=0)

    assert run.stored("run_001/a.csv") == b"3,4\n"
    assert run.stored("run_001/a.csv.g²") == b"x"


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    name=st.text(
        st.one_of(
            st.characters(codec="utf-8"), st.sampled_from("./\\%-= g3\u1100\u1161\u202e\x00\n")
        ),
        max_size=30,
    )
)
def test_whatever_it_is_called_it_is_stored_beneath_its_run_or_refused(client, run, name):
    root = os.path.realpath(Path(site.LAB_LOGS_DIR) / run.attempt.job.project.name / "run_001")
    before = everything()

    answer = post(client, run, f"run_001/{name}", name.encode())

    written = {path for path in everything() - before if ".locks" not in path.parts}
    if answer.status_code == 200:
        assert wire.is_file_of("run_001", f"run_001/{name}")
        assert all(os.path.realpath(path).startswith(root + os.sep) for path in written)
    else:
        assert answer.status_code in (400, 404)
        assert written == set()


@pytest.mark.parametrize("name", ["실험 결과.png", "a b+c.txt", "é.csv"])
def test_a_part_of_a_batch_names_it_as_it_is(name):
    head = f'Content-Disposition: form-data; name="file"; filename="run_001/{name}"'
    body = f"--b\r\n{head}\r\n\r\nx\r\n--b--\r\n".encode()

    [part] = parts("multipart/form-data; boundary=b", body)

    assert part.name == f"run_001/{name}"


@pytest.mark.parametrize("name", ['say "hi".txt', "a;b.txt"])
def test_a_part_of_a_batch_names_the_rest_by_rfc_2231(name):
    head = f"Content-Disposition: form-data; name=file; filename*=utf-8''run_001/{quote(name)}"
    body = f"--b\r\n{head}\r\n\r\nx\r\n--b--\r\n".encode()

    [part] = parts("multipart/form-data; boundary=b", body)

    assert part.name == f"run_001/{name}"
