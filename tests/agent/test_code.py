"""Code that is laid down for an attempt: whole or not at all, nowhere else, and gone after it."""

import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from agent import shim, users, wire
from agent.code import manifest
from agent.code.cache import CodeCache
from agent.code.folders import CodeFolder
from agent.code.git import Git, GivenUp
from agent.code.laying import CodeLaying
from agent.code.manifest import File, Frame, Joined, Manifest, frames
from tests.agent.conftest import AgentProcess, eventually
from tests.agent.server import FakeServer, framed, make_order

#: Says what it finds, then waits until the test lets it go.
LOOK = "cat train.py; readlink latest; test -x run.sh && echo may run; pwd -P"
FILES = {
    "train.py": b"lr = 0.1\n",
    "run.sh": b"#!/bin/sh\n",
    "net/a.py": b"",
    "net/b.py": b"lr = 0.1\n",
}
LINKS = {"latest": "net/a.py"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def document_of(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    held = {
        path: File(sha256(content), len(content), executable=path.endswith(".sh"))
        for path, content in files.items()
    }
    return Manifest(held, links or {}).dump()


def order_code(
    server: FakeServer, document: bytes, command: list[str], **more: Any
) -> dict[str, Any]:
    """An order that runs in a snapshot of that manifest."""
    code = {"kind": "snapshot", "sha256": sha256(document), **more.pop("code", {})}
    server.code.update({sha256(content): content for content in FILES.values()})
    with server.turn:
        order = server.order(command=command, source=code, **more)
        server.manifests[order["id"]] = document
    return order


def log_of(agent: AgentProcess, order: dict[str, Any]) -> str:
    return (agent.run_dir() / f"{order['run_name']}.log").read_text()


def folder_of(agent: AgentProcess, order: dict[str, Any]) -> Path:
    return agent.run_dir() / ".code" / f"{order['experiment_uid']}-1"


def why_failed(server: FakeServer, order: dict[str, Any]) -> str:
    return str(server.wait_event(order["id"], "start_failed")["message"])


def asked_for_files(server: FakeServer) -> list[str]:
    return [
        one
        for _method, path, body in server.requests
        if path.endswith("/code/files")
        for one in body["sha256"]
    ]


def test_a_job_runs_in_its_code_which_is_gone_when_it_is_settled(agent, server):
    document = document_of(FILES, LINKS)
    order = order_code(server, document, ["sh", "-c", LOOK])
    agent.start()

    assert server.wait_event(order["id"], "exited")["exit_code"] == 0
    folder = folder_of(agent, order)
    eventually(lambda: not folder.exists())
    assert log_of(agent, order).splitlines() == ["lr = 0.1", "net/a.py", "may run", str(folder)]


def test_what_the_host_has_is_not_fetched_again(agent, server):
    first = order_code(server, document_of(FILES), ["true"])
    agent.start()
    server.wait_event(first["id"], "exited")
    fetched = asked_for_files(server)
    new = {**FILES, "new.py": b"new\n"}
    server.code[sha256(b"new\n")] = b"new\n"
    second = order_code(server, document_of(new), ["cat", "new.py"])

    server.wait_event(second["id"], "exited")

    assert sorted(fetched) == sorted({sha256(content) for content in FILES.values()})
    assert asked_for_files(server)[len(fetched) :] == [sha256(b"new\n")]


def test_it_runs_in_the_folder_that_was_said_with_its_links(agent, server, tmp_path):
    data = tmp_path / "images"
    data.mkdir()
    (data / "1.png").touch()
    code = {"folder": "net", "links": {"net/data": str(data), "deep/er/x": "/nowhere"}}
    command = ["sh", "-c", "ls data; ls; readlink ../deep/er/x"]
    order = order_code(server, document_of(FILES), command, code=code)
    agent.start()

    assert server.wait_event(order["id"], "exited")["exit_code"] == 0
    assert log_of(agent, order).split() == ["1.png", "a.py", "b.py", "data", "/nowhere"]


@pytest.mark.parametrize(
    "links", [{"train.py": "/x"}, {"net": "/x"}, {"latest/x": "/x"}, {"../x": "/x"}]
)
def test_a_link_that_would_hide_code_or_leave_it_is_refused(agent, server, links):
    order = order_code(server, document_of(FILES, LINKS), ["true"], code={"links": links})
    agent.start()

    assert "links: " in why_failed(server, order)
    eventually(lambda: not folder_of(agent, order).exists())
    assert not (agent.run_dir() / ".code" / "x").exists()


def hostile(path: str, **links: str) -> bytes:
    held = Manifest({path: File(sha256(FILES["train.py"]), 9)}, dict(links))
    return held.dump()


@pytest.mark.parametrize(
    "document",
    [hostile("../evil"), hostile("/tmp/evil"), hostile("a/evil", a="/tmp"), b"{}"],
    ids=["up", "root", "through a link", "none"],
)
def test_a_hostile_manifest_is_laid_nowhere(agent, server, document, tmp_path):
    order = order_code(server, document, ["true"])
    agent.start()

    assert "none that may be laid down" in why_failed(server, order)
    assert not [*agent.work.rglob("evil"), *tmp_path.glob("evil")]
    assert not os.path.exists("/tmp/evil")


def test_a_kind_that_this_agent_does_not_know_is_said(agent, server):
    order = server.order(source={"kind": "docker", "image": "x"})
    agent.start()

    assert "'docker'" in why_failed(server, order)


def test_what_arrives_otherwise_than_announced_is_asked_for_until_it_is_right(agent, server):
    document = document_of(FILES)
    order = order_code(server, document, ["cat", "train.py"])
    good = dict(server.code)
    server.code[sha256(FILES["train.py"])] = b"something else\n"
    agent.start()
    server.wait(lambda: len(asked_for_files(server)) > len(good))
    assert not server.types(order["id"])

    server.code.update(good)

    assert server.wait_event(order["id"], "exited")["exit_code"] == 0
    assert log_of(agent, order) == "lr = 0.1\n"


def test_an_agent_killed_while_it_lays_code_lays_it_whole_the_next_time(agent, server):
    document = document_of(FILES, LINKS)
    order = order_code(server, document, ["sh", "-c", LOOK])
    files = f"/api/agent/attempts/{order['id']}/code/files"
    server.refuse[files] = (503, {})
    agent.start()
    server.wait(lambda: server.asked(files))
    agent.kill()
    folder = folder_of(agent, order)
    (folder / "left.py").write_text("half of it")  # as a kill in the midst leaves it

    del server.refuse[files]
    agent.start(code=None)

    assert server.wait_event(order["id"], "exited")["exit_code"] == 0
    assert "may run" in log_of(agent, order)
    assert "left" not in log_of(agent, order)


def test_a_cancel_while_code_is_fetched_ends_the_attempt(agent, server):
    order = order_code(server, document_of(FILES), ["true"])
    files = f"/api/agent/attempts/{order['id']}/code/files"
    server.refuse[files] = (503, {})
    agent.start()
    server.wait(lambda: server.asked(files))

    server.stop(order["id"])

    assert server.wait_event(order["id"], "exited")["cause"] == "stopped"
    eventually(lambda: not folder_of(agent, order).exists())


def test_a_folder_that_the_job_closed_to_itself_goes_all_the_same(agent, server):
    command = ["sh", "-c", "mkdir a; touch a/x; chmod 0 a; chmod 500 net; chmod 500 ."]
    order = order_code(server, document_of(FILES), command)
    agent.start()

    assert server.wait_event(order["id"], "exited")["exit_code"] == 0
    eventually(lambda: not folder_of(agent, order).exists())


def test_an_output_that_is_kept_on_the_host_outlives_the_folder(agent, server):
    command = ["sh", "-c", "mkdir -p out; echo 123456789 > out/big.pt; echo 1 > out/small.pt"]
    sync = {"checkpoints": "all", "max_file_bytes": 5}
    order = order_code(server, document_of(FILES), command, outputs=["out/**"], sync=sync)
    agent.start()

    assert server.wait_event(order["id"], "exited")["exit_code"] == 0
    eventually(lambda: not folder_of(agent, order).exists())
    run = agent.run_dir() / order["run_name"]
    assert (run / "out/big.pt").read_text() == "123456789\n"
    assert (run / "out/small.pt").read_text() == "1\n"  # this server says that it was deleted


# --- git -----------------------------------------------------------------------------------------


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=k", "-c", "user.email=k@k", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    made = tmp_path / "repository"
    made.mkdir()
    git(made, "init", "-q", "-b", "main")
    (made / "train.py").write_text("first\n")
    git(made, "add", ".")
    git(made, "commit", "-qm", "first")
    return made


def of_commit(url: object, commit: str) -> dict[str, Any]:
    return {"kind": "git", "url": str(url), "commit": commit}


def test_a_commit_is_fetched_once_and_checked_out_for_each_attempt(agent, server, repository):
    first = git(repository, "rev-parse", "HEAD")
    command = ["sh", "-c", "cat train.py; git rev-parse HEAD"]
    one = server.order(command=command, source=of_commit(repository, first))
    agent.start()
    server.wait_event(one["id"], "exited")
    (repository / "train.py").write_text("second\n")
    git(repository, "commit", "-qam", "second")
    second = git(repository, "rev-parse", "HEAD")
    orders = [
        server.order(command=command, source=of_commit(repository, commit))
        for commit in (second[:10], first)
    ]
    for order in orders:
        assert server.wait_event(order["id"], "exited")["exit_code"] == 0

    said = [log_of(agent, order).split() for order in (one, *orders)]
    assert said == [["first", first], ["second", second], ["first", first]]
    eventually(lambda: not [*(agent.run_dir() / ".code").glob("*-1")])
    assert len([*(agent.run_dir() / ".code").glob(".git-*[0-9a-f]")]) == 1


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (None, "has no commit"),
        ("/nowhere/at/all.git", "failed on this host"),
        ("ext::sh -c 'touch evil'", "failed on this host"),
    ],
)
def test_a_commit_that_cannot_be_had_is_said(agent, server, repository, url, words):
    order = server.order(source=of_commit(url or repository, "abcdef1" + "0" * 33))
    agent.start()

    assert words in why_failed(server, order)
    assert not [*agent.work.rglob("evil")]


def test_git_that_is_given_up_takes_its_locks_away_itself(tmp_path):
    fake = tmp_path / "git"
    fake.write_text(f"#!/bin/sh\ntrap 'touch {tmp_path}/told; exit 1' TERM\nsleep 60 & wait\n")
    fake.chmod(0o755)
    order = wire.decode(wire.AttemptOrder, make_order(source=of_commit("/x.git", "abcdef1")))
    folder = CodeFolder(order, tmp_path, tmp_path, nullcontext)
    folder.begin()
    began = iter([False])  # at the first look git may not have come to its trap
    git = Git(users.own(), lambda: next(began, True), {"PATH": f"{tmp_path}:{os.defpath}"})

    with pytest.raises(GivenUp):
        git.lay(order.source, folder)

    assert (tmp_path / "told").exists()


# --- the host's cache ----------------------------------------------------------------------------


def frame_of(content: bytes) -> Frame:
    return next(frames(Joined([framed(content)]).read))


def copied(cache: CodeCache, content: bytes, to: Path) -> bool:
    return cache.copy(sha256(content), lambda: open(to, "wb"))


def test_the_cache_lets_go_of_what_was_used_least_lately(tmp_path):
    cache = CodeCache(tmp_path / "cache", most_bytes=25)
    contents = [bytes([65 + number]) * 10 for number in range(3)]
    for number, content in enumerate(contents):
        frame = frame_of(content)
        cache.add(frame)
        path = next(tmp_path.rglob(frame.sha256))
        os.utime(path, (number, number))
    assert copied(cache, contents[0], tmp_path / "x")

    cache.trim()

    assert [cache.has(sha256(content)) for content in contents] == [True, False, True]


def test_what_lies_damaged_in_the_cache_is_not_used_again(tmp_path):
    cache = CodeCache(tmp_path / "cache")
    cache.add(frame_of(b"good"))
    next(tmp_path.rglob(sha256(b"good"))).write_bytes(b"evil")

    assert not copied(cache, b"good", tmp_path / "x")
    assert not cache.has(sha256(b"good"))


def test_a_frame_that_is_damaged_leaves_nothing_in_the_cache(tmp_path):
    cache = CodeCache(tmp_path / "cache")
    damaged = next(frames(Joined([framed(b"good")[:-1], b"!"]).read))

    with pytest.raises(manifest.Damaged):
        cache.add(damaged)

    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_attempts_folder_is_closed_to_others(agent, server):
    order = order_code(server, document_of(FILES), ["sh", "-c", "stat -c %a .; stat -c %a run.sh"])
    agent.start()

    server.wait_event(order["id"], "exited")
    assert log_of(agent, order).split() == ["700", "755"]
    assert stat.S_IMODE((agent.run_dir() / ".code").stat().st_mode) == 0o700


# --- made whole, once a boot --------------------------------------------------------------------


class Served:
    """What a transport gives, and how often the files were asked for."""

    def __init__(self, document: bytes) -> None:
        self._document = document
        self.asked = 0

    def code(self, attempt_id: str) -> bytes:
        return self._document

    @contextmanager
    def code_files(self, attempt_id: str, sha256s: list[str]) -> Iterator[Iterator[bytes]]:
        self.asked += 1
        contents = {sha256(content): content for content in FILES.values()}
        yield iter([framed(contents[one]) for one in sha256s])

    def close(self) -> None: ...


def test_code_that_is_complete_is_left_alone_until_the_host_was_booted_anew(tmp_path, monkeypatch):
    document = document_of(FILES)
    served = Served(document)
    source = {"kind": "snapshot", "sha256": sha256(document)}
    order = wire.decode(wire.AttemptOrder, make_order(source=source))
    (tmp_path / "attempts" / order.id).mkdir(parents=True)
    run_dir = tmp_path / "digits"
    run_dir.mkdir()

    def lay() -> Path:
        laying = CodeLaying(
            lambda: served,  # type: ignore[arg-type, return-value]
            CodeCache(tmp_path / "cache"),
            tmp_path / "attempts",
            lambda folder: nullcontext(),
            lambda path, user: None,
        )
        made = laying.lay(order, run_dir, users.own(), lambda: False)
        assert made is not None
        return made

    written = lay() / "by a supervisor that was just being born"
    written.touch()
    lay()
    is_left_alone = written.exists()
    monkeypatch.setattr(shim, "boot_id", lambda: "another boot")
    after = lay()

    assert is_left_alone
    assert sorted(path.name for path in after.rglob("*.py")) == ["a.py", "b.py", "train.py"]
    assert not written.exists()
    assert served.asked == 1  # the cache outlives a boot, and is checked
