"""`lab import` of a tree in which something is odd: the rest of it comes in all the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.cli import __main__ as command
from agent.cli import importing
from agent.cli.errors import Exit
from agent.cli.findruns import find
from agent.cli.statcache import StatCache
from tests.agent.cli.web import Answer, Request, reply, serving

ROWS = b"epoch,loss\n0,2.5\n"


def answered(request: Request) -> Answer:
    """By a server that takes whatever it is asked for."""
    if request.path == "/api/imports/preview/":
        new = {"status": "new", "run_name": "run_001", "uid": "", "words": ""}
        return reply([new for _ in json.loads(request.body)["runs"]])
    if request.path == "/api/imports/":
        uid = "20261130_1a2b"
        made = {"status": "new", "uid": uid, "run_name": "run_001", "config_problem": ""}
        return reply(made, 201)
    return reply({"data": {"files": {}}})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "logs" / "digits").mkdir(parents=True)
    (tmp_path / "logs" / "digits" / "run_001.csv").write_bytes(ROWS)
    return tmp_path / "logs"


def imported(folder: Path, monkeypatch, capsys) -> tuple[int, dict[str, dict[str, Any]]]:
    """What the command returned, and by their folders what it says of the runs."""
    with serving(answered) as (url, _seen):
        monkeypatch.setenv("LAB_SERVER", url)
        monkeypatch.setenv("LAB_TOKEN", "labp_0123456789")
        code = command.main(["import", str(folder), "--json"])
    runs = json.loads(capsys.readouterr().out)["runs"]
    return code, {str(Path(run["folder"]).relative_to(folder)): run for run in runs}


def test_a_folder_that_cannot_name_a_project_keeps_none_of_the_others(folder, monkeypatch, capsys):
    (folder / "숫자").mkdir()
    (folder / "숫자" / "run_001.csv").write_bytes(ROWS)

    code, runs = imported(folder, monkeypatch, capsys)

    assert code == Exit.FAILED
    assert runs["digits/run_001"]["sent_files"] == 1
    assert runs["숫자/run_001"]["status"] == "refused"
    assert "say --project P" in runs["숫자/run_001"]["why"]


def test_a_run_that_cannot_be_read_keeps_none_of_the_others(folder, monkeypatch, capsys):
    (folder / "digits" / "run_002.csv").write_bytes(ROWS)
    real = Path.open

    def closed(path: Path, *how: Any, **more: Any) -> Any:
        if path.name == "run_002.csv":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *how, **more)

    monkeypatch.setattr(Path, "open", closed)
    code, runs = imported(folder, monkeypatch, capsys)

    assert (code, runs["digits/run_001"]["sent_files"]) == (Exit.FAILED, 1)
    assert "cannot be read: Permission denied" in runs["digits/run_002"]["why"]


def test_a_file_that_cannot_be_read_is_told_and_the_others_are_sent(folder, monkeypatch, capsys):
    (folder / "digits" / "run_001.pt").write_bytes(b"weights")
    real = StatCache.sha256_of

    def closed(cache: StatCache, path: str, found: Any) -> str:
        if path.endswith(".pt"):
            raise PermissionError(13, "Permission denied", path)
        return real(cache, path, found)

    monkeypatch.setattr(StatCache, "sha256_of", closed)
    code, runs = imported(folder, monkeypatch, capsys)

    told = [{"name": ".pt", "why": "cannot be read: Permission denied"}]
    assert (code, runs["digits/run_001"]["sent_files"]) == (Exit.FAILED, 1)
    assert runs["digits/run_001"]["refused_files"] == told


def test_a_name_that_is_blank_is_none_that_the_server_could_refuse(tmp_path):
    (tmp_path / "digits" / " ").mkdir(parents=True)
    (tmp_path / "digits" / " " / "metrics.csv").write_bytes(ROWS)

    [run] = find(tmp_path)

    assert importing._found(importing.Plan(run, "digits"))["run"] == "run"
