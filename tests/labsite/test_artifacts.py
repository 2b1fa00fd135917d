"""What a run left behind, as pages show and send it."""

import io
import zipfile

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from labsite.clock import database_now
from labsite.pages.filetree import level
from labsite.pages.pictures import pictures_of
from labsite.pages.previews import preview
from labsite.pages.runfiles import File
from labsite.pages.states import Badge
from sync import storage
from sync.models import SyncFile
from sync.storage import Place
from tests import make
from tests.sync.test_checkpoints import STATE, archived, pickled

pytestmark = pytest.mark.django_db
SYNCED, BEHIND = Badge("synced", "", ""), Badge("behind", "", "")
SCRIPT = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.fixture(autouse=True)
def _own_logs(settings, tmp_path):
    settings.LAB_LOGS_DIR = tmp_path


@pytest.fixture
def client():
    client = Client()
    client.force_login(make.user())
    return client


@pytest.fixture
def job():
    made = make.attempt(started=True).job
    for name, data in {
        "run_001.csv": b"epoch,loss\n1,0.5\n",
        "run_001.log": b"hello\n",
        "run_001/best.pt": archived(pickled(STATE)),
        "run_001/a.svg": SCRIPT,
        "run_001/page.html": b"<script>alert(1)</script>",
        "run_001/s/step_2.png": b"\x89PNG",
        "run_001/s/step_10.png": b"\x89PNG",
    }.items():
        put(made, name, data)
    return made


def put(job, name: str, data: bytes) -> SyncFile:
    storage.write_at(Place.of(job, name), 0, data)
    return SyncFile.objects.create(
        job=job, name=name, size=len(data), attempt=1, generation=1, synced_at=database_now()
    )


def file(name: str, badge: Badge = SYNCED, size: int = 10) -> File:
    return File(name, size, database_now(), badge, key=1)


# --- served --------------------------------------------------------------------------------------


def test_an_image_is_served_apart_from_the_site(client, job):
    response = client.get(reverse("run-raw", args=[job.uid, "run_001/a.svg"]))

    assert b"".join(response.streaming_content) == SCRIPT
    assert response["Content-Type"] == "image/svg+xml"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in response["Content-Security-Policy"]
    assert "default-src 'none'" in response["Content-Security-Policy"]


def test_an_image_that_is_known_is_not_sent_again(client, job):
    url = reverse("run-raw", args=[job.uid, "run_001/a.svg"])
    first = client.get(url)
    assert b"".join(first.streaming_content) == SCRIPT
    known = {"If-None-Match": first["ETag"]}

    assert client.get(url, headers=known).status_code == 304
    SyncFile.objects.update(generation=2)
    assert b"".join(client.get(url, headers=known).streaming_content) == SCRIPT


@pytest.mark.parametrize(
    "name", ["run_001/page.html", "run_001/best.pt", "run_001.csv", "run_001/none.png"]
)
def test_what_is_no_image_is_not_served_as_one(client, job, name):
    assert client.get(reverse("run-raw", args=[job.uid, name])).status_code == 404


@pytest.mark.parametrize("view", ["run-raw", "run-look"])
@pytest.mark.parametrize(
    "name", ["../run_002/a.png", "a\x00.png", "run_001/../../x.png", "x" * 900]
)
def test_no_name_leads_anywhere_else(client, job, view, name):
    assert client.get(reverse(view, args=[job.uid, name])).status_code == 404


@pytest.mark.parametrize("view", ["run-raw", "run-look", "run-archive"])
def test_nobody_gets_a_file_without_signing_in(job, view):
    args = [job.uid] if view == "run-archive" else [job.uid, "run_001/a.svg"]

    assert Client().get(reverse(view, args=args)).status_code == 302


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("", 7),
        ("run_001/s", 2),
        ("run_001/s/", 2),
        ("run_001/none", 0),
        ("../..", 0),
    ],
)
def test_an_archive_holds_every_byte(client, job, folder, names):
    response = client.get(reverse("run-archive", args=[job.uid]), {"folder": folder})
    whole = zipfile.ZipFile(io.BytesIO(b"".join(response.streaming_content)))

    assert whole.testzip() is None
    assert len(whole.namelist()) == names
    if not folder:
        assert whole.read("digits-run_001/run_001/a.svg") == SCRIPT
        assert {info.compress_type for info in whole.infolist()} == {zipfile.ZIP_STORED}


def test_an_archive_leaves_out_what_is_gone_and_what_was_not_acknowledged(client, job):
    Place.of(job, "run_001/a.svg").path.unlink()
    with open(Place.of(job, "run_001.log").path, "ab") as log:
        log.write(b"not acknowledged")

    response = client.get(reverse("run-archive", args=[job.uid]))
    whole = zipfile.ZipFile(io.BytesIO(b"".join(response.streaming_content)))

    assert "digits-run_001/run_001/a.svg" not in whole.namelist()
    assert whole.read("digits-run_001/run_001.log") == b"hello\n"


# --- looked at -----------------------------------------------------------------------------------


def test_a_checkpoint_is_told_on_its_page(client, job):
    page = client.get(reverse("run-look", args=[job.uid, "run_001/best.pt"])).content.decode()

    assert "model.conv.weight" in page
    assert "64 × 3 × 7 × 7" in page
    assert "3 tensors, 10.05\xa0k values" in page


def test_what_a_script_wrote_is_text_on_the_page(client, job):
    page = client.get(reverse("run-look", args=[job.uid, "run_001/page.html"])).content.decode()

    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page


@pytest.mark.parametrize("part", ["files", "pictures", "checkpoints"])
def test_a_part_of_the_page_is_what_the_page_has(client, job, part):
    whole = client.get(reverse("run", args=[job.uid])).content.decode()
    piece = client.get(reverse("run", args=[job.uid]), {"part": part}).content.decode()

    assert piece.strip().split("\n")[0][:60] in whole


def test_a_run_shows_a_folder_and_what_is_looked_for(client, job):
    url = reverse("run", args=[job.uid])

    inside = client.get(url, {"folder": "run_001/s", "part": "files"}).content.decode()
    found = client.get(url, {"find": "BEST", "part": "files"}).content.decode()

    assert "step_10.png" in inside
    assert "run_001.log" not in inside
    assert "run_001/best.pt" in found
    assert "step_10" not in found


def test_a_page_asks_the_database_no_more_for_more_files(client, job):
    def asked() -> int:
        with CaptureQueriesContext(connection) as queries:
            client.get(reverse("run", args=[job.uid]))
        return len(queries)

    asked()  # the session
    before = asked()
    for n in range(40):
        put(job, f"run_001/more/{n}.png", b"\x89PNG")
        put(job, f"run_001/more/{n}.pt", b"")

    assert asked() == before


@pytest.mark.parametrize(
    ("name", "data", "kind", "says"),
    [
        ("a.csv", b"a,b\n1,2\n", "table", ""),
        ("a.csv", b'a,"b\n1', "table", ""),
        ("a.tsv", b"a\tb\n" + b"1\t2\n" * 500, "table", "first 200 rows"),
        ("a.json", b'{"a": [1]}', "text", ""),
        ("a.json", b"[" * 100_000, "text", ""),
        ("a.yaml", b"a: 1\n", "text", ""),
        ("a.log", b"x\n" * 100_000, "text", "beginning"),
        ("a.txt", b"\xff\xfe\n", "text", ""),
        ("a.npy", b"\x93NUMPY\x00", "nothing", "no text"),
        ("a.pt", b"nothing", "nothing", "no checkpoint"),
        ("a.png", b"", "image", ""),
        ("a", b"", "text", ""),
    ],
)
def test_what_is_shown_of_a_file(name, data, kind, says):
    found = preview(name, io.BytesIO(data), len(data))

    assert found.kind == kind
    assert says in found.words if says else not found.words


def test_images_that_differ_by_a_number_are_one_row_of_steps():
    names = ["s/step_2.png", "s/step_10.png", "fold_1/e_3.jpg", "roc.svg", "x.txt"]

    found = pictures_of("run_001", [file(f"run_001/{name}") for name in names])

    assert [(row.name, [step for step, _ in row.images]) for row in found.rows] == [
        ("s/step_*.png", [2, 10]),
        ("fold_1/e_*.jpg", [3]),
        ("roc.svg", [0]),
    ]
    assert found.steps == [0, 2, 3, 10]


def test_of_many_steps_the_first_and_the_last_are_kept():
    found = pictures_of("r", [file(f"r/{n}.png") for n in range(5000)])

    steps = [step for step, _ in found.rows[0].images]
    assert (len(steps), steps[0], steps[-1]) == (200, 0, 4999)


def test_a_folder_counts_what_lies_beneath_and_shows_the_worst():
    files = [file("r.csv"), file("r/a/1.png"), file("r/a/b/2.png", BEHIND), file("r/c.txt")]

    top, inner = level(files, [], "", ""), level(files, [], "r", "")

    assert [(one.name, one.count, one.size, one.badge) for one in top.folders] == [
        ("r", 3, 30, BEHIND)
    ]
    assert [one.name for one in top.files] == ["r.csv"]
    assert [one.path for one in inner.folders] == ["r/a"]
    assert inner.above == [("r", "r")]


def test_of_a_large_folder_some_are_shown_and_the_others_counted():
    found = level([file(f"r/{n}.png") for n in range(1000)], [], "r", "")

    assert (len(found.files), found.others, found.count) == (300, 700, 1000)
