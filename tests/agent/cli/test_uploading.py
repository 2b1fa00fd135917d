"""Files of an imported run on their way: what is there already, cut, refused, or written anew."""

import hashlib
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from agent import wire
from agent.cli import uploading
from agent.cli.api import Api
from agent.cli.errors import CliError, Exit
from agent.cli.findruns import find
from agent.cli.statcache import StatCache
from agent.cli.uploading import CHANGED_WORDS, Sent, Uploader
from tests.agent.cli.web import Answer, problem, reply, serving

ROWS = b"epoch,loss\n0,2.5\n"
STATUS = "/api/sync/status/20261130_1a2b"


class Store:
    """Keeps what it is sent; gives the answers that are set for a file first, in their order."""

    def __init__(self, **stored: dict[str, Any]) -> None:
        self.stored = {name.replace("_dot_", "."): one for name, one in stored.items()}
        self.files: dict[str, bytes] = {}
        self.generations: dict[str, str | None] = {}
        self.offsets: dict[str, int] = {}
        self.given_up: set[str] = set()  # uploads
        self.answers: dict[str, list[Answer]] = {}

    def __call__(self, request) -> Answer:
        path = unquote(urlsplit(request.path).path)
        if path == STATUS:
            return reply({"data": {"files": self.stored}})
        name = path.removeprefix("/api/sync/import/20261130_1a2b/")
        asked = parse_qs(urlsplit(request.path).query).get("upload_id", [""])[0]
        if request.headers.get("X-Upload-Id", asked) in self.given_up:
            return problem(410, "upload_expired", "It was thrown away; take another id.")
        if request.method == "GET":
            return self._offset(name)
        if self.answers.get(name):
            return self.answers[name].pop(0)
        offset = int(request.headers.get("X-Upload-Offset") or 0)
        self.files[name] = self.files.get(name, b"")[:offset] + request.body
        self.generations[name] = request.headers.get("X-Sync-Generation")
        return reply({"data": {}})

    def _offset(self, name: str) -> Answer:
        if name not in self.offsets:
            return problem(404, "not_found", "No such upload is on its way.")
        return reply({"data": {"expected_offset": self.offsets[name]}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "run_001.csv").write_bytes(ROWS)
    return tmp_path / "digits"


def send(store: Store, folder: Path) -> tuple[Sent, list[int]]:
    told: list[int] = []
    [run] = find(folder)
    hashes = StatCache(folder, folder.parent / "caches")
    with serving(store) as (url, _seen), Api(url, "labp_0123456789") as api:
        uploader = Uploader(api, hashes, sleep=lambda seconds: None)
        return uploader.send(run, "20261130_1a2b", "run_012", told.append), told


def stored(data: bytes, *, mtime: int = 0, generation: int = 4) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    return {
        "size": len(data), "sha256": digest, "complete": True, "mtime": mtime,
        "generation": generation,
    }  # fmt: skip


def test_files_go_under_the_name_that_the_run_has_there(folder):
    store = Store()

    sent, told = send(store, folder)

    assert store.files == {"run_012.csv": ROWS}
    assert (sent.count, sent.size, sum(told)) == (1, len(ROWS), len(ROWS))


def test_what_is_there_byte_for_byte_is_not_sent(folder):
    store = Store(run_012_dot_csv=stored(ROWS))

    sent, told = send(store, folder)

    assert (store.files, sent.there, sum(told)) == ({}, 1, len(ROWS))


def test_what_is_there_in_part_is_sent(folder):
    store = Store(run_012_dot_csv=stored(ROWS) | {"complete": False})

    assert send(store, folder)[0].count == 1


def test_an_older_copy_does_not_take_the_place_of_what_is_there(folder):
    later = int((folder / "run_001.csv").stat().st_mtime) + 10
    store = Store(run_012_dot_csv=stored(ROWS + b"1,1.25\n", mtime=later))

    sent, _told = send(store, folder)

    assert (store.files, sent.there) == ({}, 1)


def test_a_table_that_grew_goes_on_in_its_version_and_one_written_anew_begins_the_next(folder):
    grown, anew = (
        Store(run_012_dot_csv=stored(before)) for before in (b"epoch,loss\n", b"step,loss\n")
    )

    send(grown, folder)
    send(anew, folder)

    assert (grown.generations, anew.generations) == ({"run_012.csv": "4"}, {"run_012.csv": "5"})


def test_a_line_that_is_cut_is_tried_again(folder):
    store = Store()
    busy = problem(423, "file_busy", "Another request writes this file.", retryable=True)
    store.answers["run_012.csv"] = [busy, (200, {"Content-Length": "99"}, b"")]

    assert send(store, folder)[0].count == 1


def test_a_line_that_stays_cut_says_that_the_same_command_goes_on(folder):
    store = Store()
    store.answers["run_012.csv"] = [problem(503, "busy", "Later.", retryable=True)] * 99

    with pytest.raises(CliError, match="Later") as caught:
        send(store, folder)

    assert caught.value.exit_code == Exit.UNREACHABLE
    assert len(store.answers["run_012.csv"]) == 99 - uploading.TRIES


def test_a_large_file_goes_in_pieces_and_on_where_it_was_cut(folder, monkeypatch):
    monkeypatch.setattr(wire, "MAX_WHOLE_FILE_BYTES", 100)
    monkeypatch.setattr(wire, "MAX_UPLOAD_CHUNK_BYTES", 64)
    data = os.urandom(300)
    (folder / "run_001.pt").write_bytes(data)
    store = Store()
    store.files["run_012.pt"], store.offsets["run_012.pt"] = data[:128], 128

    sent, told = send(store, folder)

    assert store.files["run_012.pt"] == data
    assert (sent.size, sum(told)) == (300 + len(ROWS), 300 + len(ROWS))
    assert 64 in told  # in pieces


def test_an_upload_that_the_server_gave_up_meanwhile_is_begun_anew(folder, monkeypatch):
    monkeypatch.setattr(wire, "MAX_WHOLE_FILE_BYTES", 100)
    (folder / "run_001.pt").write_bytes(data := os.urandom(300))
    store = Store()
    store.given_up.add(f"import-{hashlib.sha256(data).hexdigest()[:40]}")

    sent, _told = send(store, folder)

    assert (sent.refused, store.files["run_012.pt"]) == ([], data)


def test_a_server_without_room_ends_it_at_once_and_says_what_to_do(folder):
    store = Store()
    store.answers["run_012.csv"] = [
        problem(507, "quota_full", "Ask a manager for more.", retryable=True)
    ] * 2

    with pytest.raises(CliError, match="Ask a manager for more"):
        send(store, folder)

    assert len(store.answers["run_012.csv"]) == 1


@pytest.mark.parametrize(
    ("status", "code"), [(400, "no"), (410, "no"), (413, "no"), (409, "name_taken")]
)
def test_a_file_that_is_refused_is_told_and_the_others_are_sent(folder, status, code):
    (folder / "run_001.yaml").write_bytes(b"lr: 0.1\n")
    store = Store()
    store.answers["run_012.csv"] = [problem(status, code, "Not this one.")]

    sent, _told = send(store, folder)

    assert (sent.refused, list(store.files)) == ([(".csv", "Not this one.")], ["run_012.yaml"])


def test_what_somebody_sent_later_meanwhile_counts_as_there(folder):
    store = Store()
    store.answers["run_012.csv"] = [problem(409, "stale_generation", "A newer one is here.")]

    assert send(store, folder)[0].there == 1


def test_a_file_that_becomes_shorter_is_not_sent_as_it_was(folder, monkeypatch):
    store, real = Store(), StatCache.sha256_of

    def cut_after(cache, path, result):
        digest = real(cache, path, result)
        os.truncate(path, 3)
        return digest

    monkeypatch.setattr(StatCache, "sha256_of", cut_after)

    sent, _told = send(store, folder)

    assert sent.refused == [(".csv", CHANGED_WORDS)]
    assert store.files == {}


def test_of_a_table_that_goes_on_growing_what_there_was_is_sent(folder, monkeypatch):
    store, real = Store(), StatCache.sha256_of
    digests: list[str] = []

    def grown_before(cache, path, result):
        with open(path, "ab") as file:
            file.write(b"1,1.25\n")
        digests.append(real(cache, path, result))
        return digests[-1]

    monkeypatch.setattr(StatCache, "sha256_of", grown_before)
    send(store, folder)

    assert store.files == {"run_012.csv": ROWS}
    assert digests == [hashlib.sha256(ROWS).hexdigest()]


@pytest.mark.parametrize("code", ["checksum_differs", "offset_mismatch"])
def test_a_file_that_is_written_anew_meanwhile_keeps_none_of_the_others(folder, code):
    (folder / "run_001.yaml").write_bytes(b"lr: 0.1\n")
    store = Store()
    differs = problem(422, code, "The body's SHA-256 is another.", retryable=True)
    store.answers["run_012.csv"] = [differs] * uploading.TRIES

    sent, _told = send(store, folder)

    assert sent.refused == [(".csv", CHANGED_WORDS)]
    assert list(store.files) == ["run_012.yaml"]
