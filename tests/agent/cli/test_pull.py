"""Files that come in pieces, twice, damaged, or under another name."""

import hashlib

import pytest

from agent.cli import pull
from agent.cli.api import Api
from agent.cli.errors import CliError, Exit
from agent.cli.pull import Puller, Remote
from tests.agent.cli.web import serving

DATA = bytes(range(256)) * 1024
DIGEST = hashlib.sha256(DATA).hexdigest()
WHOLE = Remote("run_001.pt", len(DATA), DIGEST, "1.1")


class Store:
    """Answers ranges of DATA; cuts the first answers after so many bytes."""

    def __init__(self, *cuts: int, tag: str = '"1.1"', data: bytes = DATA) -> None:
        self.cuts, self.tag, self.data = list(cuts), tag, data

    def __call__(self, request):
        first, last = request.headers["Range"].removeprefix("bytes=").split("-")
        if request.headers["If-Range"] != self.tag:
            return 200, {"ETag": self.tag}, self.data
        part = self.data[int(first) : int(last) + 1]
        sent = part[: self.cuts.pop(0)] if self.cuts else part
        return 206, {"Content-Length": str(len(part))}, sent


def fetch(store: Store, folder, one: Remote = WHOLE):
    told: list[int] = []
    with serving(store) as (url, seen), Api(url, "labp_0123456789") as api:
        puller = Puller(api, "20261130_1a2b", folder, sleep=lambda seconds: None)
        puller.fetch(one, told.append)
    return seen, told


def test_a_file_comes_whole_and_is_known_then(tmp_path):
    _seen, told = fetch(Store(), tmp_path)

    assert (tmp_path / "run_001.pt").read_bytes() == DATA
    assert sum(told) == len(DATA)
    assert Puller(None, "u", tmp_path).has(WHOLE)
    assert [path.name for path in tmp_path.iterdir()] == ["run_001.pt"]


def test_a_download_that_is_cut_goes_on_where_it_was(tmp_path):
    seen, told = fetch(Store(100_000, 0, 70_000), tmp_path)

    assert (tmp_path / "run_001.pt").read_bytes() == DATA
    ranges = [one.headers["Range"].split("-")[0] for one in seen]
    assert ranges == ["bytes=0", "bytes=65536", "bytes=65536", "bytes=131072"]
    assert sum(told) == len(DATA)


def test_the_next_command_goes_on_with_what_an_earlier_one_left(tmp_path):
    with pytest.raises(CliError, match="where it was cut") as caught:
        fetch(Store(65536, *[0] * pull.TRIES), tmp_path)
    seen, _told = fetch(Store(), tmp_path)

    assert caught.value.exit_code == Exit.UNREACHABLE
    assert seen[0].headers["Range"].startswith("bytes=65536-")
    assert (tmp_path / "run_001.pt").read_bytes() == DATA


def test_what_is_not_what_the_server_has_is_not_kept(tmp_path):
    with pytest.raises(CliError, match="SHA-256 differs") as caught:
        fetch(Store(data=DATA[::-1]), tmp_path)

    assert caught.value.exit_code == Exit.FAILED
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_written_anew_meanwhile_is_not_mixed_with_the_old_one(tmp_path):
    with pytest.raises(CliError, match="was written anew meanwhile"):
        fetch(Store(tag='"2.1"'), tmp_path)

    assert not (tmp_path / "run_001.pt").exists()


def test_an_empty_file_is_made_without_asking(tmp_path):
    empty = Remote("run_001/a/b.txt", 0, hashlib.sha256(b"").hexdigest(), "1.1")

    seen, _told = fetch(Store(), tmp_path, empty)

    assert (tmp_path / "run_001/a/b.txt").read_bytes() == b""
    assert seen == []


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(CliError, match="cannot be written"):
        fetch(Store(), tmp_path / "file")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "run_001/../../x", "run_002.csv"])
def test_a_name_that_leads_elsewhere_is_refused(name):
    said = {"attempt": 1, "generation": 1, "sha256": None, "complete": False, "size": 1}
    run = {"project": "p", "run_name": "run_001"}

    with pytest.raises(CliError, match="cannot be one of a run"):
        pull._chosen(run, {name: said}, [])


@pytest.mark.parametrize("run", [("p", ".."), ("../p", "run_001"), ("/etc", "run_001")])
def test_a_run_whose_name_leads_elsewhere_is_refused(run):
    project, name = run

    with pytest.raises(CliError, match="which cannot be one"):
        pull._checked({"project": project, "run_name": name})


def test_only_what_is_asked_for_is_chosen():
    said = {"attempt": 1, "generation": 1, "sha256": None, "complete": False, "size": 1}
    names = ["run_001.csv", "run_001.pt", "run_001/a/plot.png", "run_001/b.txt"]
    run = {"project": "p", "run_name": "run_001"}

    def chosen(*only):
        return [one.name for one in pull._chosen(run, dict.fromkeys(names, said), list(only))]

    assert chosen("*.csv", "*.png") == ["run_001.csv", "run_001/a/plot.png"]
    assert chosen("run_001/*") == ["run_001/a/plot.png", "run_001/b.txt"]
    with pytest.raises(CliError, match=r"has no file \*.h5") as caught:
        chosen("*.h5")
    assert caught.value.exit_code == Exit.NOT_FOUND
