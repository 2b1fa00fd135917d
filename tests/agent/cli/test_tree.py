"""Which files of a folder belong to its snapshot, and which are refused with a sentence."""

import argparse
import os
import subprocess
from pathlib import Path

import pytest

from agent.cli import code, git, tree
from agent.cli.errors import CliError
from agent.cli.progress import Silent
from agent.cli.statcache import SETTLED_NS, StatCache
from agent.code import manifest
from agent.code.manifest import Manifest


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A repository with one commit."""
    made = tmp_path / "code"
    made.mkdir()
    run(made, "init", "-q", "-b", "main")
    (made / "train.py").write_text("lr = 0.1\n")
    run(made, "add", ".")
    run(made, "commit", "-qm", "first")
    return made


def run(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=k", "-c", "user.email=k@k", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def taken(folder: Path) -> Manifest:
    return tree.take(folder).held


def refusal(folder: Path) -> str:
    with pytest.raises(CliError) as caught:
        tree.take(folder)
    return str(caught.value)


def test_a_clean_tree_is_its_commit(top):
    held = taken(top)

    assert held.files.keys() == {"train.py"}
    assert held.commit == run(top, "rev-parse", "HEAD")
    assert (held.branch, held.dirty, held.diff) == ("main", False, "")


def test_what_is_in_no_commit_is_sent_and_told_of(top):
    (top / "train.py").write_text("lr = 0.2\n")
    (top / "new.py").write_text("x = 1\ny = 2\n")

    held = taken(top)

    assert held.files.keys() == {"train.py", "new.py"}
    assert held.dirty
    assert "-lr = 0.1\n+lr = 0.2\n" in held.diff
    assert "+++ b/new.py\n@@ -0,0 +1,2 @@\n+x = 1\n+y = 2\n" in held.diff


def test_the_same_tree_has_the_same_name_in_another_folder(top, tmp_path):
    run(tmp_path, "clone", "-q", str(top), "other")
    run(tmp_path / "other", "remote", "remove", "origin")

    assert taken(top).dump() == taken(tmp_path / "other").dump()


def test_gitignore_leaves_out_and_labinclude_brings_back(top):
    (top / ".gitignore").write_text("build/\n*.so\n")
    (top / "build").mkdir()
    (top / "build" / "a.txt").touch()
    (top / "build" / "b.txt").touch()
    (top / "fast.so").touch()
    without = set(taken(top).files)
    (top / ".labinclude").write_text("# compiled\n*.so\nbuild/a.*\n")

    assert without == {"train.py", ".gitignore"}
    held = taken(top)
    assert set(held.files) - without == {".labinclude", "fast.so", "build/a.txt"}
    run(top, "add", ".")
    run(top, "commit", "-qm", "all but what is ignored")
    assert taken(top).dirty


def test_a_repository_that_git_will_not_read_is_said(top):
    (top / ".git" / "config").write_text("[core\n")

    assert "git does not read" in refusal(top)


@pytest.mark.parametrize("name", [".env", ".env.local", "keys/lab.pem", "id_rsa", "id_ed25519"])
def test_what_looks_like_a_secret_is_refused_unless_it_is_named(top, name):
    (top / name).parent.mkdir(exist_ok=True)
    (top / name).write_text("secret")

    assert name in refusal(top)
    assert ".labinclude" in refusal(top)

    (top / ".labinclude").write_text(f"{name}\n")
    assert name in taken(top).files


def test_a_secret_that_was_taken_out_of_git_is_not_in_the_difference(top):
    (top / ".env").write_text("TOKEN=abc\n")
    run(top, "add", ".env")
    run(top, "commit", "-qm", "a mistake")
    run(top, "rm", "-q", "--cached", ".env")
    (top / ".gitignore").write_text(".env\n")
    (top / "train.py").write_text("lr = 0.2\n")

    held = taken(top)

    assert held.files.keys() == {"train.py", ".gitignore"}
    assert "TOKEN" not in held.diff
    assert "diff --git a/.env b/.env\nnot shown" in held.diff
    assert "+lr = 0.2" in held.diff


def test_a_new_link_is_sent_as_one_and_what_it_leads_to_is_not_shown(top, tmp_path):
    (tmp_path / "notes").write_text("private\n")
    (top / "notes").symlink_to(tmp_path / "notes")

    held = taken(top)

    assert held.links == {"notes": str(tmp_path / "notes")}
    assert "private" not in held.diff
    assert "b/notes\nnew file" in held.diff


def test_what_git_cannot_compare_is_said(top):
    (top / ".gitattributes").write_text("*.py filter=lost\n")
    run(top, "config", "filter.lost.clean", "false")
    run(top, "config", "filter.lost.required", "true")
    (top / "train.py").write_text("lr = 0.2\n")

    assert "git does not compare" in refusal(top)


@pytest.mark.parametrize("name", ["id_mapping.json", "id_loss.py", ".env.example"])
def test_what_is_no_secret_is_not_taken_for_one(top, name):
    (top / name).touch()

    assert name in taken(top).files


def test_above_the_limit_the_ten_largest_are_named(top, monkeypatch):
    monkeypatch.setattr(manifest, "MAX_BYTES", 2**20)
    for number in range(12):
        (top / f"weights{number:02d}.bin").write_bytes(bytes(100_000 + number))

    words = refusal(top)

    assert "weights11.bin" in words
    assert "weights02.bin" in words
    assert "weights01.bin" not in words
    assert "--code host" in words


def test_a_name_that_is_not_utf_8_is_refused(top):
    with open(os.fsencode(top) + b"/\xff.py", "w"):
        pass

    assert "not UTF-8" in refusal(top)


def test_a_plain_folder_is_taken_without_the_usual_leavings(tmp_path):
    folder = tmp_path / "plain"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "__pycache__" / "x.pyc").touch()
    (folder / ".venv").mkdir()
    (folder / ".venv" / "python").touch()
    (folder / "train.py").touch()
    (folder / "data.bin").touch()
    (folder / ".gitignore").write_text("*.bin\n")

    held = taken(folder)

    assert held.files.keys() == {"train.py", ".gitignore"}
    assert (held.commit, held.dirty, held.diff) == ("", False, "")
    assert not (folder / ".git").exists()


def test_a_home_is_no_folder_of_code(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))

    assert "no folder of code" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://kim:token@host/lab/code.git", "https://host/lab/code.git"),
        ("https://token@host/x?y=secret", "https://host/x"),
        ("ssh://git@host:22/x", "ssh://git@host:22/x"),
        ("git@host:lab/code", "git@host:lab/code"),
        ("/srv/git/x.git", "/srv/git/x.git"),
    ],
)
def test_a_remote_is_told_without_its_credentials(url, shown):
    assert git.without_credentials(url) == shown


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(tmp_path):
    path = tmp_path / "a.py"
    path.write_bytes(b"one")
    long_ago = path.stat().st_mtime_ns - 2 * SETTLED_NS
    os.utime(path, ns=(long_ago, long_ago))

    def sha256(cache: StatCache) -> str:
        found = cache.sha256_of(str(path), path.stat())
        cache.keep()
        return found

    def cache(later_ns: int = 0) -> StatCache:
        made = StatCache(tmp_path, tmp_path / "caches")
        made._began_ns += later_ns
        return made

    first = sha256(cache(2 * SETTLED_NS))
    known = cache()._known
    path.write_bytes(b"two")
    os.utime(path, ns=(long_ago, long_ago))  # the same size and time, another ctime
    second = sha256(cache())

    assert known[str(path)][1] == first
    assert first != second == manifest.sha256_of(b"two")
    assert cache()._known == {}  # changed just now: not trusted the next time


# --- which code ----------------------------------------------------------------------------------


class NoServer:
    def request(self, *_: object, **__: object) -> None:
        raise AssertionError("the server is not needed for that")


def source_of(which: str, folder: Path) -> dict | None:
    arguments = argparse.Namespace(code=which)
    return code.source_of(arguments, folder, NoServer(), Silent())


def test_the_hosts_code_is_no_source(top):
    assert source_of("host", top) is None


def test_a_commit_of_this_repository_is_named_by_its_remote(top):
    commit = run(top, "rev-parse", "HEAD")
    run(top, "remote", "add", "origin", "https://kim:pw@git.example.org/lab/code")
    (top / "exp").mkdir()

    made = source_of(commit[:7], top / "exp")

    assert made == {
        "kind": "git",
        "url": "https://git.example.org/lab/code",
        "commit": commit,
        "folder": "exp",
    }


def test_a_commit_elsewhere_is_named_as_it_is():
    made = source_of("git:git@host:lab/code@0123abc", Path("/"))

    assert made == {"kind": "git", "url": "git@host:lab/code", "commit": "0123abc"}


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("git:https://host/x@main", "another commit tomorrow"),
        ("git:https://host/x", "git:URL@COMMIT"),
        ("nonsense", "no such commit"),
        ("HEAD", "no remote"),
    ],
)
def test_what_is_no_code_is_said(top, which, words):
    with pytest.raises(CliError, match=words):
        source_of(which, top)


def test_outside_a_repository_there_are_no_commits(tmp_path):
    with pytest.raises(CliError, match="no git repository"):
        source_of("0123abc", tmp_path)
