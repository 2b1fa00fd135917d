"""What pages say of the code that runs run: sent with them, fetched, or whatever lies there."""

import re

import pytest
from django.test import Client

from experiments import submission
from labsite.pages.versions import usual_of, versions_of
from sync.code import blobs, giving
from tests import make
from tests.labsite.reading import read
from tests.sync.code import Sender

pytestmark = pytest.mark.django_db

DIFF = """\
diff --git a/train.py b/train.py
index 1..2 100644
--- a/train.py
+++ b/train.py
@@ -1,2 +1,2 @@
 same
-lr = 0.1
+lr = "<script>alert(1)</script>"
"""


@pytest.fixture(autouse=True)
def _own_code(settings, tmp_path):
    settings.LAB_CODE_DIR = tmp_path / "code"


@pytest.fixture
def kim():
    return make.user("kim")


@pytest.fixture
def pages(kim) -> Client:
    made = Client()
    made.force_login(kim)
    return made


def queued(client, kim, **facts):
    """A run with code that kim sent."""
    name = Sender(client, kim).keep({"train.py": b"x = 1\n", "a b/<i>.py": b""}, **facts)
    wish = {"project": "digits", "command": ["true"]}
    return submission.submit("", {**wish, "source": {"kind": "snapshot", "sha256": name}}, by=kim)


def test_a_run_shows_the_code_that_was_sent_with_it(client, pages, kim):
    job = queued(
        client, kim, commit="c0ffee" + "0" * 34, branch="main", dirty=True, diff=DIFF,
        remote="https://git.example.org/x",
    )  # fmt: skip

    page = pages.get(f"/runs/{job.uid}/").content.decode()

    shown = read(page)
    assert "c0ffee0000 on main, with changes in no commit" in shown
    assert f"/api/code/runs/{job.uid}.tar" in page
    assert '<del class="l" data-op="−">lr = 0.1</del>' in page
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "a b/&lt;i&gt;.py" in page
    assert "index 1..2" not in page


def test_code_that_is_all_in_its_commit_says_so(client, pages, kim):
    job = queued(client, kim, commit="c0ffee" + "0" * 34)

    page = pages.get(f"/runs/{job.uid}/").content.decode()

    assert "All of it is in its commit." in read(page)


def test_a_run_of_the_pages_says_what_lies_where(pages, kim):
    source = {"commit": "c0ffee" + "0" * 34, "branch": "main", "dirty": True, "source_hash": "1"}
    device = make.device(gpus=1, source_directory="/home/lab/code", source=source)
    near = make.attempt(make.job(by=kim, working_directory="digits"), device, started=True)
    near.end("failed", near.started_at, exit_code=1)
    near.release()
    far = make.attempt(make.job(by=kim, working_directory="/data/else"), device)

    in_source = read(pages.get(f"/runs/{near.job.uid}/").content.decode())
    elsewhere = read(pages.get(f"/runs/{far.job.uid}/").content.decode())

    where = f"it runs what lies in /home/lab/code/digits on {device.host_id}"
    assert "c0ffee0000 on main, with changes in no commit" in in_source
    assert where in in_source
    assert f"it runs what lies in /data/else on {device.host_id}" in elsewhere
    assert "c0ffee" not in elsewhere


def test_a_commit_that_the_gpu_server_fetches_is_named(pages, kim):
    git = {"kind": "git", "url": "https://git.example.org/x", "commit": "c0ffee1"}
    job = make.job(by=kim, source=git)

    shown = read(pages.get(f"/runs/{job.uid}/").content.decode())

    assert "c0ffee1 fetched by the GPU server https://git.example.org/x" in " ".join(shown.split())


def test_a_rerun_by_the_form_runs_the_same_code(client, pages, kim):
    make.device(gpus=1)
    job = queued(client, kim, commit="c0ffee" + "0" * 34)

    look = pages.post(
        "/execute/check/", {"parent": job.uid, "project": "digits", "command": "true"}
    )
    made = pages.post("/execute/", {"parent": job.uid, "project": "digits", "command": "true"})

    assert "in the code that is sent" in look.json()["preview"]
    assert "c0ffee0000" in look.json()["preview"]
    assert made.status_code == 302
    assert job.project.jobs.latest("pk").snapshot == job.snapshot


def test_two_gpu_servers_of_one_commit_differ_where_one_was_changed(pages):
    commit = {"commit": "c" * 40, "branch": "main"}
    clean = {**commit, "dirty": False, "source_hash": "aaaa1"}
    alike = [make.device(source=clean) for _ in range(2)]
    changed = make.device(source={**commit, "dirty": True, "source_hash": "bbbb2"})
    usual = usual_of([*alike, changed])

    [code] = [one for one in versions_of(changed, usual) if one.name == "commit"]

    assert (code.value, code.usual) == ("cccccccccc+bbbb", "cccccccccc")
    assert "its code is cccccccccc+bbbb" in read(pages.get("/devices/").content.decode())


def test_runs_beside_each_other_tell_in_which_files_their_code_differs(client, pages, kim):
    sender = Sender(client, kim)
    codes = [{"train.py": b"1", "net.py": b"x"}, {"train.py": b"2", "net.py": b"x", "new.py": b""}]
    wish = {"project": "digits", "command": ["true"]}
    jobs = [
        submission.submit(
            "", {**wish, "source": {"kind": "snapshot", "sha256": sender.keep(files)}}, by=kim
        )
        for files in codes
    ]
    jobs.append(make.job(by=kim))
    runs = ",".join(job.uid for job in jobs)

    page = pages.get("/compare/", {"runs": runs}).content.decode()
    alike = pages.get("/compare/", {"runs": f"{jobs[0].uid},{jobs[2].uid}"}).content.decode()

    rows = re.findall(r'<th class="stick mono" scope="row">(.*?)</th>(.*?)</tr>', page)
    cells = {name: re.findall(r"<td[^>]*>(.*?)</td>", row) for name, row in rows}
    assert cells == {"new.py": ["–", "A", ""], "train.py": ["A", "B", ""]}
    assert "the same letter" not in alike


def test_a_comparison_that_is_looked_at_again_reads_no_code_again(client, pages, kim, monkeypatch):
    """It asks each few seconds; and what is gone meanwhile is told of as not known."""
    sender = Sender(client, kim)
    codes = [sender.keep({"train.py": content}) for content in (b"one", b"two")]
    jobs = [make.job(by=kim, source={"kind": "snapshot", "sha256": sha256}) for sha256 in codes]
    at = {"runs": ",".join(job.uid for job in jobs), "part": "tables"}
    load, asked = giving.manifest.load, []
    monkeypatch.setattr(giving.manifest, "load", lambda held: asked.append(1) or load(held))

    first, second = (pages.get("/compare/", at).content for _ in range(2))
    reads = len(asked)
    blobs.path_of(codes[0]).unlink()
    third = pages.get("/compare/", at).content

    assert b"train.py" in first
    assert (first, reads) == (second, 2)
    assert b"train.py" not in third
