"""Names, links and bodies made to harm: the documented status, nothing written outside of the
run's own folder, and no memory that grows with what is sent."""

import gzip
import http.client
import itertools
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from django.conf import settings

from agent import wire
from experiments.models import Project
from labsite import body
from labsite.pool import Pool
from sync import storage
from sync.errors import WrongName
from sync.models import SyncFile
from tests import make
from tests.labsite.serving import served
from tests.sync.conftest import TOKEN, Run
from tests.sync.test_http import OCTETS, post
from tests.sync.test_large import Memory

pytestmark = pytest.mark.django_db

NAMES = 2000
RUN = "run_001"
#: What has done harm somewhere, to be put together into names.
PIECES = [
    "..", ".", "...", "/", "//", "\\", "\\\\", ":", "~", "$HOME", "%2e%2e", "%2f", "%00",
    "..%2f", "..%5c", "%c0%ae", "..;", "etc/passwd", "C:", "C:\\", "\\\\host\\share",
    "file://", "con", "nul", "aux.csv", "lpt1", "CLOCK$", "\0", "\n", "\r\n", "\t", "\x1b[2J",
    "\x7f", " ", "  ", "'", '"', "`id`", "$(id)", "; rm -rf", "| cat", "&&", "<script>",
    "{{7*7}}", "${jndi:ldap://x}", "*", "?", "[a-z]", "-rf", "--help", "@file", "#", "\u202e",
    "\u200b", "\ufeff", "\u2024\u2024", "ｒｕｎ", "\uff0e\uff0e\uff0f", "é", "e\u0301", "한글",
    "ß", "İ", "😀", "\ud7ff", "a" * 64, "a" * 128, "a" * 256, "a" * 1000, ".g1", ".g99",
    ".part", ".tmp", ".locks", ".uploads", ".attempts", ".old", ".sync_state.json", "run_001",
    "run_002", "run_0010", "run_001.csv", "run_001.csv.g1", "RUN_001", "logs", "0", "-1", "_",
    "%s%n", "\u0000", "a/b", "a//b", "a/./b", "a/../b", "/abs",
]  # fmt: skip
WHOLE_NAMES = ["", "/", "..", "../..", f"../{RUN}.csv", f"{RUN}/../../x", f"{RUN}.csv/../../x"]


def names() -> list[str]:
    """The same at each run: pieces alone, behind and before the run's name, and mixed."""
    found = [*WHOLE_NAMES, *PIECES]
    found += [RUN + end + piece for piece in PIECES for end in (".", "/", "", "/a/", "/../")]
    found += [piece + RUN + ".csv" for piece in PIECES]
    chance = random.Random(1)
    distinct = dict.fromkeys(found)
    while len(distinct) < NAMES:
        start = chance.choice(["", f"{RUN}.", f"{RUN}/", f"{RUN}/a/"])
        distinct[start + "".join(chance.choices(PIECES, k=chance.randint(1, 4)))] = None
    return list(distinct)


def may_be(name: str) -> bool:
    """What the wire says of it."""
    return wire.is_file_of(RUN, name)


@pytest.fixture
def canaries(tmp_path) -> Iterator[Path]:
    """All that lies beside the logs, and in them what is another's: as it was when it is over."""
    logs = settings.LAB_LOGS_DIR
    for path in ("beside/secret", "logs/other/run_001.csv", "logs/digits/run_002.csv", "secret"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    before = tree(tmp_path)
    yield logs
    after = tree(tmp_path)
    mine = tmp_path / "logs" / "digits" / RUN
    outside = {
        path for path in after.keys() - before.keys()
        if not str(path).startswith(str(mine)) and ".locks" not in path.parts
        and ".uploads" not in path.parts and path != mine.parent
    }  # fmt: skip
    assert not outside
    assert {path: after.get(path) for path in before} == before


def tree(root: Path) -> dict[Path, bytes | None]:
    return {
        path: path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in root.rglob("*")
    }


def test_two_thousand_names_reach_nothing_but_their_run(client, run: Run, canaries):
    statuses = {}
    for name in names():
        answer = post(client, f"full/{run.uid}/{quote(name)}", b"x")
        statuses[name] = answer.status_code

    # 409: an earlier one of them is a folder on its path, or lies beneath it.
    may = (200, 400, 404, 409)
    wrong = {name: status for name, status in statuses.items() if status not in may}
    assert len(statuses) == NAMES
    assert wrong == {}
    taken = {name for name, status in statuses.items() if status == 200}
    assert {name for name in taken if not may_be(name)} == set()
    assert taken
    assert set(SyncFile.objects.values_list("name", flat=True)) == taken


def test_the_same_names_are_refused_by_the_storage_itself(run: Run):
    """Whatever a web server made of an address before it came here."""
    for name in names():
        if may_be(name):
            storage.check_name(run.attempt.job, name)
        else:
            with pytest.raises(WrongName):
                storage.check_name(run.attempt.job, name)


def test_two_thousand_project_names_make_no_folder_elsewhere(client, run: Run, canaries):
    client.force_login(make.manager())
    for name in names():
        answer = client.post(
            "/api/jobs/",
            {"project": name, "command": ["true"]},
            content_type="application/json",
        )
        assert answer.status_code == (201 if wire.is_name(name.strip()) else 400)

    assert all(map(wire.is_name, Project.objects.values_list("name", flat=True)))


# --- links that are swapped ----------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_links_that_are_swapped_in_a_race_lead_nowhere(run: Run, canaries, tmp_path):
    """Somebody who may write in the logs turns folders and files into links and back."""
    over = threading.Event()
    secret, mine = tmp_path / "beside", canaries / "digits"
    swapper = threading.Thread(target=_swap, args=(mine, secret, over))
    swapper.start()
    refused = 0
    try:
        for number in range(150):
            name = (f"{RUN}.csv", f"{RUN}/secret", f"{RUN}/deep/secret")[number % 3]
            send = run.full if number % 2 else run.delta
            try:
                send(b"overwritten %d" % number, name=name)
            except (WrongName, storage.DiskFull, storage.FileBusy):
                refused += 1
    finally:
        over.set()
        swapper.join()

    assert refused < 150
    assert (secret / "secret").read_text() == "beside/secret"


def _swap(mine: Path, secret: Path, over: threading.Event) -> None:
    for link, target in itertools.cycle(
        [
            (mine / f"{RUN}.csv", secret / "secret"),
            (mine / RUN, secret),
            (mine / RUN / "deep", secret),
        ]
    ):
        if over.is_set():
            return
        aside = link.with_name(link.name + ".aside")
        with suppress(OSError):
            link.rename(aside)
        with suppress(OSError):
            link.symlink_to(target)
        time.sleep(0.001)
        if link.is_symlink():
            link.unlink(missing_ok=True)
        with suppress(OSError):
            aside.rename(link)


# --- bombs and sloths ----------------------------------------------------------------------------


def bombs() -> dict[str, tuple[str, dict[str, str], bytes, int]]:
    """What → (endpoint, headers, body, status)."""
    edge = "multipart/form-data; boundary=b"
    field = b'--b\r\nContent-Disposition: form-data; name="%d"\r\n\r\nx\r\n'
    part = b'--b\r\nContent-Disposition: form-data; name="delta"; filename="run_001.csv"\r\n'
    zipped = {"Content-Encoding": "gzip", "Content-Type": OCTETS}
    zeros = gzip.compress(bytes(256 * 1024**2), 1)
    return {
        "gzip beyond its ratio": (
            "delta", {**zipped, "X-Raw-Length": str(wire.MAX_CHUNK_BYTES)}, zeros, 422,
        ),
        "gzip that lies": ("delta", {**zipped, "X-Raw-Length": "1000"}, zeros, 422),
        "gzip in gzip": ("delta", {**zipped, "X-Raw-Length": "9"}, gzip.compress(zeros), 422),
        "50 000 fields": (
            "delta", {"Content-Type": edge}, b"".join(field % n for n in range(50_000)), 400,
        ),
        "a form of one endless header": (
            "delta", {"Content-Type": edge}, b"--b\r\nX: " + b"y" * 4_000_000, 400,
        ),
        "50 000 parts": (
            "batch", {"Content-Type": edge}, (part + b"\r\n\r\n") * 50_000 + b"--b--", 413,
        ),
        "a part with a header of a megabyte": (
            "batch", {"Content-Type": edge},
            part + b"X: " + b"y" * 1_000_000 + b"\r\n\r\nx\r\n--b--", 400,
        ),
        "a checkpoint nested 5 000 deep": (
            "checkpoint", {"Content-Type": "application/json"}, b'{"a":' * 2500 + b"}" * 2500, 400,
        ),
    }  # fmt: skip


MAX_GROWTH_BYTES = 64 * 1024**2


@pytest.mark.django_db(transaction=True)
def test_no_bomb_takes_memory_and_each_gets_its_status(run: Run, canaries):
    told = {}
    pool = Pool(threads=2)
    with served(pool) as (host, port):
        for what, (kind, headers, content, _) in bombs().items():
            name = "" if kind in ("batch", "checkpoint") else f"/{RUN}.csv"
            with Memory() as memory:
                told[what] = sent(
                    host, port, f"/api/sync/{kind}/{run.uid}{name}", headers, content
                )
            assert memory.growth_bytes < MAX_GROWTH_BYTES, what
    pool.close()

    assert told == {what: status for what, (*_, status) in bombs().items()}
    assert not SyncFile.objects.exclude(size=0).exists()


def sent(host: str, port: int, path: str, headers: dict[str, str], content: bytes) -> int:
    with closing(http.client.HTTPConnection(host, port, timeout=30)) as connection:
        connection.request("POST", path, content, {**headers, "Authorization": f"Bearer {TOKEN}"})
        return connection.getresponse().status


@pytest.mark.django_db(transaction=True)
def test_bodies_that_trickle_are_told_so_and_hold_nobody_up(run: Run, monkeypatch, canaries):
    monkeypatch.setattr(body, "SLOW_WINDOW_SECONDS", 0.5)
    pool = Pool(threads=1)
    with served(pool) as (host, port):
        slow = [_begun(host, port, f"/api/sync/full/{run.uid}/{RUN}.{n}") for n in range(50)]
        quick = sent(
            host, port, f"/api/sync/full/{run.uid}/{RUN}.pt", {"Content-Type": OCTETS}, b"w"
        )
        statuses = {_status(each) for each in slow}
    pool.close()

    assert quick == 200
    assert statuses == {408}
    assert [row.name for row in SyncFile.objects.all()] == [f"{RUN}.pt"]


def _begun(host: str, port: int, path: str) -> socket.socket:
    """A request of a megabyte, of which a few bytes come."""
    connection = socket.create_connection((host, port), timeout=20)
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {TOKEN}",
             f"Content-Type: {OCTETS}", "Content-Length: 1000000", "", "slow"]  # fmt: skip
    connection.sendall("\r\n".join(lines).encode())
    return connection


def _status(connection: socket.socket) -> int:
    with closing(connection):
        return int(connection.recv(4096).split()[1])
