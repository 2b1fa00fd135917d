"""Snapshots of code on the server: taken in whole, read by those who may, let go of in time."""

import io
import json
import os
import tarfile
from datetime import timedelta

import pytest
from django.db.models import F

from agent.code import manifest
from agent.code.manifest import File, Manifest
from experiments import leases, submission
from experiments.errors import NotSubmitted
from experiments.models import Blob, Job, Snapshot
from experiments.models.snapshot import KEEP
from experiments.yamltree import ConfigInvalid
from labsite.clock import database_now
from sync import room
from sync.code import blobs, taking, tidy
from sync.code.relief import LATELY, unused_bytes
from sync.code.tidy import ORPHANED
from tests import make
from tests.sync.code import RAW, Sender, framed, manifest_of, sha256
from tests.sync.conftest import TOKEN

pytestmark = pytest.mark.django_db

FILES = {"train.py": b"print(1)\n", "net/model.py": b"x = 2\n", "copy.py": b"print(1)\n"}
AGENT = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(autouse=True)
def _own_code(settings, tmp_path):
    settings.LAB_CODE_DIR = tmp_path / "code"


@pytest.fixture
def kim(client) -> Sender:
    return Sender(client, make.user("kim"))


@pytest.fixture
def lee(client) -> Sender:
    return Sender(client, make.user("lee"))


def stored() -> set[str]:
    """All that lies on the disk, whatever it is called."""
    places = blobs.path_of("0" * 64).parents[1].glob("??/*")
    return {path.name for path in places}


# --- taking in -----------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_missing_is_said_sent_once_and_never_asked_for_again(kim, packed):
    document = manifest_of(FILES, commit="c" * 40, branch="main", dirty=True).dump()

    first = kim.announce(document, packed=packed)
    sent = kim.send(FILES["train.py"], FILES["net/model.py"], packed=packed)
    second = kim.announce(document, packed=packed)
    changed = kim.announce(manifest_of({**FILES, "new.py": b"y\n"}).dump())

    assert (first.status_code, len(first.json()["missing"])) == (202, 2)
    assert sent.json() == {"files": 2}
    assert (second.status_code, second.json()["missing"]) == (201, [])
    assert second.json()["sha256"] == sha256(document)
    assert changed.json()["missing"] == [sha256(b"y\n")]
    kept = Snapshot.objects.get()
    assert (kept.commit, kept.branch, kept.dirty) == ("c" * 40, "main", True)
    assert (kept.file_count, kept.size_bytes) == (3, 24)


def test_knowing_the_hash_of_anothers_file_neither_tells_of_it_nor_gives_it(kim, lee):
    mine = kim.keep({"secret.py": b"key = 1\n"})
    document = manifest_of({"mine.py": b"key = 1\n"}).dump()

    asked = lee.announce(document)
    taken = lee.submit(mine)

    assert asked.json()["missing"] == [sha256(b"key = 1\n")]
    assert Snapshot.objects.count() == 1
    assert taken.status_code == 400
    assert "lab submit" in taken.json()["detail"]
    assert not Job.objects.exists()


BAD = {
    "up": {"files": {"../x": ["0" * 64, 1, 0]}},
    "root": {"files": {"/etc/x": ["0" * 64, 1, 0]}},
    "dot": {"files": {"a/./b": ["0" * 64, 1, 0]}},
    "double slash": {"files": {"a//b": ["0" * 64, 1, 0]}},
    "empty": {"files": {"": ["0" * 64, 1, 0]}},
    "long": {"files": {"a" * 256: ["0" * 64, 1, 0]}},
    "beneath a file": {"files": {"a": ["0" * 64, 1, 0], "a/b": ["0" * 64, 1, 0]}},
    "beneath a link": {"files": {"a/b": ["0" * 64, 1, 0]}, "links": {"a": "/etc"}},
    "link beneath a link": {"links": {"a": "/etc", "a/b/c": "x"}},
    "file and link": {"files": {"a": ["0" * 64, 1, 0]}, "links": {"a": "/etc"}},
    "two sizes": {"files": {"a": ["0" * 64, 1, 0], "b": ["0" * 64, 2, 0]}},
    "too large": {"files": {"a": ["0" * 64, 2**40, 0]}},
    "too large together": {"files": {c: [c * 64, 2**25, 0] for c in "abc"}},
    "negative": {"files": {"a": ["0" * 64, -1, 0]}},
    "true": {"files": {"a": ["0" * 64, 1, True]}},
    "no hash": {"files": {"a": ["../../x", 1, 0]}},
    "no list": {"files": ["a"]},
    "no target": {"links": {"a": ""}},
    "another version": {"version": 2},
    "more": {"extra": 1},
}


@pytest.mark.parametrize("what", BAD)
def test_a_manifest_that_is_wrong_or_hostile_is_refused(kim, what):
    document = {**json.loads(Manifest({}).dump()), **BAD[what]}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))

    assert kim.announce(text.encode()).status_code == 400
    assert not Snapshot.objects.exists()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"files":{},"files":{}}'])
def test_what_is_no_manifest_is_refused(kim, body):
    assert kim.announce(body).status_code == 400


def test_a_manifest_says_how_long_a_file_is_as_it_was_sent(kim):
    kim.send(b"ten bytes.")

    said = Manifest({"a": File(sha256(b"ten bytes."), 11)})

    assert kim.announce(said.dump()).json()["missing"] == [sha256(b"ten bytes.")]
    assert not Snapshot.objects.exists()


def test_a_manifest_has_one_form_only(kim):
    document = manifest_of(FILES).dump()

    assert kim.announce(document.replace(b":", b": ", 1)).status_code == 400


CUT = framed(b"whole", b"x" * 1000)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (CUT[:-1], 422),
        (CUT[:60], 422),
        (CUT[:-1] + b"y", 422),
        (framed(b"a") * 2, 413),
        (manifest.HEAD.pack(bytes(32), 2**40) + b"x", 422),
    ],
    ids=["cut", "cut in a head", "damaged", "twice", "too large"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_files_that_do_not_arrive_as_they_were_sent_leave_nothing(kim, body, status, packed):
    answer = kim.post("/api/code/files", body, packed=packed)

    assert answer.status_code == status
    assert stored() == set()
    assert not Blob.objects.exists()


def test_a_compressed_body_is_unpacked_no_further_than_to_its_limit(kim, monkeypatch):
    monkeypatch.setattr(taking, "MAX_FRAMES_BYTES", 10_000)

    assert kim.send(bytes(100_000), packed=True).status_code == 413
    assert kim.post("/api/code/files", b"no gzip").status_code == 422
    assert stored() == set()


def test_without_room_nothing_is_kept(kim, settings):
    settings.LAB_DISK_RESERVE_BYTES = room.free_bytes() * 2
    full = kim.send(b"x")
    settings.LAB_DISK_RESERVE_BYTES = 0
    settings.LAB_UNUSED_CODE_BYTES = 1000
    kim.send(b"y" * 900)
    too_much = kim.send(b"z" * 900)

    assert (full.status_code, full.json()["code"]) == (507, "disk_full")
    assert full.json()["detail"].startswith("The server's disk has no room for the code")
    assert (too_much.status_code, too_much.json()["code"]) == (507, "quota_full")
    assert stored() == {sha256(b"y" * 900)}


def test_a_viewer_sends_nothing(client):
    assert Sender(client, make.viewer()).send(b"x").status_code == 403


# --- jobs ----------------------------------------------------------------------------------------


def test_a_job_keeps_its_code_through_reruns_and_sweeps(kim):
    name = kim.keep(FILES)
    given = {"project": "digits", "command": ["true"]}
    given["source"] = {"kind": "snapshot", "sha256": name, "folder": "net"}
    job = submission.submit("lr: 1\n", {**given, "links": {"data": "/data"}}, by=kim.user)

    again = submission.rerun(job, by=kim.user)

    assert again.snapshot == job.snapshot == Snapshot.objects.get()
    assert (again.source, again.links) == (given["source"], {"data": "/data"})
    shown = kim.get(f"/api/jobs/{again.uid}/").json()
    assert (shown["source"], shown["code"]["sha256"]) == (given["source"], name)


def test_somebody_elses_run_that_one_sees_may_be_run_again_with_its_code(kim, lee):
    name = kim.keep(FILES)
    job = submission.submit("", wish(name), by=kim.user)

    again = submission.rerun(job, by=lee.user)

    assert again.snapshot_id == job.snapshot_id


def wish(name: str, **more) -> dict:
    source = {"kind": "snapshot", "sha256": name}
    return {"project": "digits", "command": ["true"], "source": source, **more}


def test_the_order_names_the_code_and_leaves_the_gpu_servers_folder_out(kim):
    name = kim.keep(FILES)
    device = make.device(gpus=1, working_directory="~/old/code")
    job = submission.submit("", wish(name, links={"data": "/data"}), by=kim.user)
    attempt = make.attempt(job, device)
    attempt.job.refresh_from_db()

    order = leases.order(attempt, device)

    assert order.working_directory is None
    assert order.source is not None
    assert (order.source.sha256, order.source.file_count) == (name, 3)
    assert order.source.links == {"data": "/data"}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"working_directory": "/data/code"}, "--code host"),
        ({"working_directory": "~/code"}, "--code host"),
        ({"working_directory": "../up"}, "--code host"),
        ({"source": {"kind": "svn"}}, "snapshot, git"),
        ({"source": {"sha256": "0" * 64}}, "kind: git"),
        ({"source": {"kind": "git", "url": "https://h/x"}}, "git needs commit"),
        ({"source": {"kind": "git", "url": "ext::sh -c id", "commit": "a" * 40}}, "address"),
        ({"source": {"kind": "git", "url": "--upload-pack=x", "commit": "a" * 40}}, "address"),
        ({"source": {"kind": "git", "url": "https://k:pw@h/x", "commit": "a" * 40}}, "password"),
        ({"source": {"kind": "git", "url": "https://h/x", "commit": "main"}}, "no commit"),
        ({"source": {"kind": "snapshot", "sha256": "../x"}}, "64 hexadecimal"),
        ({"source": {"kind": "snapshot", "sha256": "0" * 64, "folder": "../x"}}, "within"),
        ({"links": {"../data": "/data"}}, "path within the code"),
    ],
)
def test_what_is_wrong_about_the_code_is_said(said, words):
    with pytest.raises(ConfigInvalid) as caught:
        submission.submit("", {**wish("0" * 64), **said})

    assert words in str(caught.value) + str(caught.value.facts)


def test_links_without_code_to_lay_them_into_are_refused():
    given = {"project": "digits", "command": ["true"], "links": {"data": "/data"}}

    with pytest.raises(ConfigInvalid, match="lab submit"):
        submission.submit("", given)


def test_code_that_is_not_there_is_refused(kim):
    with pytest.raises(NotSubmitted, match="lab submit"):
        submission.submit("", wish("0" * 64), by=kim.user)


# --- giving out ----------------------------------------------------------------------------------


def test_an_archive_has_the_files_links_and_modes(kim):
    held = Manifest(
        {"run.sh": File(sha256(b"#!"), 2, executable=True), "a": File(sha256(b""), 0)},
        {"data": "/data"},
    )
    kim.send(b"#!", b"")
    kim.announce(held.dump())
    job = submission.submit("", wish(sha256(held.dump())), by=kim.user)

    answer = kim.get(f"/api/code/runs/{job.uid}.tar")

    with tarfile.open(fileobj=io.BytesIO(b"".join(answer.streaming_content))) as tar:
        found = {one.name.partition("/")[2]: one for one in tar.getmembers()}
        assert tar.extractfile(found["run.sh"]).read() == b"#!"
    assert found["run.sh"].mode == 0o755
    assert (found["data"].issym(), found["data"].linkname) == (True, "/data")
    assert found["a"].size == 0


def test_code_of_a_private_run_is_nobody_elses(kim, lee):
    make.project("digits", private=True, created_by=kim.user)
    job = submission.submit("", wish(kim.keep(FILES)), by=kim.user)

    assert kim.get(f"/api/code/runs/{job.uid}.tar").status_code == 200
    assert lee.get(f"/api/code/runs/{job.uid}.tar").status_code == 404
    assert lee.submit(job.snapshot.sha256, project="other").status_code == 400


def test_an_agent_gets_the_code_of_its_own_attempts_and_no_other_file(kim, client):
    kim.keep({"other.py": b"other\n"})
    name = kim.keep(FILES)
    device = make.device(gpus=2, token=TOKEN)
    mine = make.attempt(submission.submit("", wish(name), by=kim.user), device)
    others = make.attempt(submission.submit("", wish(name), by=kim.user))

    def ask(attempt, *wanted: bytes):
        path = f"/api/agent/attempts/{attempt.pk}/code/files"
        body = {"sha256": [sha256(one) for one in wanted]}
        return client.post(path, body, "application/json", headers=AGENT)

    document = client.get(f"/api/agent/attempts/{mine.pk}/code", headers=AGENT)
    files = ask(mine, FILES["train.py"])

    assert sha256(document.content) == name
    assert b"".join(files.streaming_content) == framed(FILES["train.py"])
    assert ask(mine, b"other\n").status_code == 404
    assert ask(others, FILES["train.py"]).status_code == 404
    path = f"/api/agent/attempts/{others.pk}/code"
    assert client.get(path, headers=AGENT).status_code == 404


# --- letting go ----------------------------------------------------------------------------------


def tidied(at, rounds: int = tidy.ROUNDS) -> None:
    """As an hourly task does it, until all names were looked through."""
    for hour in range(rounds):
        assert tidy.tidy(at + timedelta(hours=hour), float("inf"))


def old_files() -> None:
    long_ago = (database_now() - 2 * ORPHANED).timestamp()
    for path in blobs.path_of("0" * 64).parents[1].glob("??/*"):
        os.utime(path, (long_ago, long_ago))


def test_what_no_job_names_goes_after_a_week_and_what_one_names_stays(kim):
    kept = kim.keep({"a": b"both", "b": b"kept"})
    gone = kim.keep({"a": b"both", "c": b"gone"})
    submission.submit("", wish(kept), by=kim.user)
    old_files()
    now = database_now()

    tidied(now)
    before = stored()
    tidied(now + KEEP + timedelta(hours=1))
    tidied(now + 2 * KEEP + timedelta(hours=2))

    assert before == {kept, gone, *map(sha256, (b"both", b"kept", b"gone"))}
    assert stored() == {kept, *map(sha256, (b"both", b"kept"))}
    assert Snapshot.objects.get().sha256 == kept
    assert kim.announce(manifest_of({"c": b"gone"}).dump()).json()["missing"] == [sha256(b"gone")]


def aged(hours: float) -> None:
    """All that was sent until now was sent so long ago."""
    ago = timedelta(hours=hours)
    Snapshot.objects.update(used_at=F("used_at") - ago)
    Blob.objects.filter(named=0).update(idle_since=F("idle_since") - ago)


def test_a_person_who_sends_much_that_no_run_uses_loses_the_oldest_of_it_at_once(
    kim, lee, settings
):
    settings.LAB_UNUSED_CODE_BYTES = 2500
    used = kim.keep({"a": b"u" * 900, "both": b"b"})
    submission.submit("", wish(used), by=kim.user)
    oldest = kim.keep({"a": b"o" * 900, "both": b"b"})
    theirs = lee.keep({"a": b"l" * 900})
    aged(LATELY / timedelta(hours=1) + 1)
    kim.send(b"never in a snapshot")
    newer = kim.keep({"a": b"n" * 900})

    newest = kim.keep({"a": b"m" * 900})

    assert set(Snapshot.objects.values_list("sha256", flat=True)) == {used, theirs, newer, newest}
    assert not {oldest, sha256(b"o" * 900)} & stored()
    assert {sha256(b"b"), sha256(b"u" * 900), sha256(b"l" * 900)} <= stored()
    assert unused_bytes(kim.user) <= 2500


def test_what_was_sent_within_the_hour_stays_and_more_is_refused(kim, client, settings):
    settings.LAB_UNUSED_CODE_BYTES = 2500
    kept = {kim.keep({"a": b"1" * 900}), kim.keep({"a": b"2" * 600})}

    refused = kim.send(b"3" * 1200)
    again = kim.announce(manifest_of({"a": b"1" * 900}).dump())  # nothing new

    assert (refused.status_code, refused.json()["code"]) == (507, "quota_full")
    assert "wait an hour" in refused.json()["detail"]
    assert again.status_code == 201
    assert set(Snapshot.objects.values_list("sha256", flat=True)) == kept
    client.force_login(kim.user)
    page = client.get("/account/").content.decode()
    assert "Code that you have sent and no run uses: 1.5" in page
    kim.submit(next(iter(kept)))
    assert unused_bytes(kim.user) < 1000  # what a run uses counts no more


def test_what_a_job_names_after_it_was_found_unused_is_not_let_go_of(kim):
    name = kim.keep(FILES)
    later = database_now() + KEEP + timedelta(hours=1)
    [found] = Snapshot.objects.unused(later, later)
    job = submission.submit("", wish(name), by=kim.user)

    assert not found.drop(manifest_of(FILES).sizes, later, later)

    job.refresh_from_db()
    assert job.snapshot == found


def test_a_deleted_run_holds_its_code_until_it_cannot_be_restored(kim, settings):
    settings.LAB_KEEP_TRASH_DAYS = 30
    job = submission.submit("", wish(kim.keep(FILES)), by=kim.user)
    job.cancel()
    now = database_now()
    job.delete_run(now)

    tidied(now + timedelta(days=29), 1)
    held = Snapshot.objects.exists()
    tidied(now + timedelta(days=31), 1)

    assert held
    assert not Snapshot.objects.exists()
    job.refresh_from_db()
    assert job.snapshot is None


def test_what_a_crash_left_without_a_row_goes_and_what_is_coming_in_stays(kim):
    with blobs.writing(), blobs.Incoming() as incoming:
        incoming.take("ab" * 32, [b"x"])
        incoming.put()
    old_files()
    tidied(database_now())
    after = stored()
    with blobs.writing(), blobs.Incoming() as incoming:
        incoming.take("ab" * 32, [b"x"])
        incoming.put()
        old_files()
        tidied(database_now())
        there = stored()

    assert after == set()
    assert there == {"ab" * 32}


def test_what_lies_damaged_on_the_disk_is_given_to_nobody(kim):
    name = kim.keep(FILES)
    job = submission.submit("", wish(name), by=kim.user)
    blobs.path_of(name).write_bytes(b"{}")

    assert kim.get(f"/api/code/runs/{job.uid}.tar").status_code == 404


def test_the_body_limit_lets_a_file_of_the_largest_size_in(settings):
    from labsite.pool import limit_of

    assert limit_of("/api/code/files") > manifest.MAX_BYTES + manifest.HEAD.size
    assert limit_of("/api/code/") >= manifest.MAX_DOCUMENT_BYTES
    assert RAW
