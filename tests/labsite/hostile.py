"""A small lab whose every stored text is somebody else's choice; and what pages are made of."""

import json
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import cycle, islice
from typing import Any

from django.contrib.auth import get_user_model

from devices.models import GPU, Device, GPUEvent
from experiments import imports, sweeps
from experiments.models import (
    Attempt,
    Cell,
    Column,
    Imported,
    Job,
    JobEvent,
    Project,
    SavedView,
    Sweep,
    UnixAccount,
)
from experiments.states import Outcome
from labsite.clock import database_now
from people.models import ApiToken, AuditEntry, Invite
from people.roles import Role
from sync import storage
from sync.models import SyncFile
from sync.storage import Place
from tests import make
from tests.labsite.payloads import PAYLOADS

#: So many rows of each kind; a page of a table of runs shows all of them.
ROWS = 48
#: What says that a link leads out of here, and where it may lead.
ELSEWHERE, WEB = "noopener noreferrer nofollow", re.compile(r"https?://[\w.-]")


class Texts:
    """The next text, and the next; each as long as it may be."""

    def __init__(self, first: int = 0, disarm: Callable[[str], str] = str) -> None:
        self._texts = islice(cycle(PAYLOADS), first, None)
        self._disarm = disarm

    def one(self, limit: int = 200) -> str:
        return self._disarm(next(self._texts))[:limit]

    def many(self, count: int = 3) -> list[str]:
        return [self.one() for _ in range(count)]

    def facts(self, *names: str) -> dict[str, str]:
        return {name: self.one() for name in names} or {self.one(60): self.one()}


def disarmed(text: str) -> str:
    """Of letters only, and another one for each."""
    return f"harmless{PAYLOADS.index(text):03d}"


def lab(boss: Any) -> None:
    """Its rows. Their texts are written later, by write()."""
    now = database_now()
    people = [make.user(f"user{n}") for n in range(ROWS)]
    device = make.device(gpus=4)
    for n in range(ROWS):
        project = make.project(f"project{n}", created_by=people[n])
        job = make.job(project="digits", by=people[n], gpus=9, config="lr: 1\n")
        SavedView.save_as(f"view {n}", by=boss, project=None) if n < 9 else None
        AuditEntry.objects.create(
            at=now, by=boss, door="page", verb="change", kind=Project._meta.label_lower,
            key=str(project.pk), name="", before={}, after={},
        )  # fmt: skip
    _tries(device, people[0], now)
    found = imports.Found("brought", "run_001", ["0" * 64])
    facts = imports.Facts("x", "/x", now, now, file_count=2, size_bytes=2)
    imports.take_in(found, facts, by=people[0])
    sweep = {"project": "swept", "command": ["x"], "resources": {"gpus": 9}}
    sweeps.submit("lr: 1\n", {**sweep, "sweep": {"grid": {"lr": [1, 2]}}}, by=people[0])
    ApiToken.make(boss, "x", now)
    Invite.make(Role.VIEWER, now, by=boss)
    UnixAccount.objects.create(user=people[1], name="x")
    device.gpus.get(index=3).quarantine("x", now, by=boss)
    JobEvent.objects.create(job=job, kind="edited", at=now, by=boss, data={})


def _tries(device: Device, owner: Any, now: Any) -> None:
    for outcome in (None, Outcome.FAILED):
        job = make.job(project="tried", by=owner, config="lr: 1\n")
        attempt = make.attempt(job, device, started=True)
        if outcome:
            attempt.end(outcome, now, exit_code=1)
        Attempt.objects.filter(pk=attempt.pk).update(unix_user="x", message="x")
        for name in (f"{job.run_name}.log", *(f"{job.run_name}/{n}.txt" for n in range(12))):
            storage.write_at(Place.of(job, name), 0, b"x\n")
            SyncFile.objects.create(
                job=job, name=name, attempt=1, generation=1, size=2, synced_at=now
            )


def write(texts: Texts) -> None:
    """Lay the next text into each place, past all that would refuse it at a door."""
    _write(
        get_user_model(),
        lambda n: {"last_name": texts.one(150), "username": f"{texts.one(140)}{n}"},
    )
    _write(Project, lambda n: {"title": texts.one(128), "description": texts.one()})
    _write(Job, lambda n: _of_job(texts))
    _write(Sweep, lambda n: {"name": texts.one(), "config": _config(texts)})
    _write(Imported, lambda n: {"host": texts.one(), "folder": texts.one(), "name": texts.one()})
    _write(SavedView, lambda n: {"name": f"{n}{texts.one(70)}", "query": texts.one()})
    _write(
        AuditEntry,
        lambda n: {
            "name": texts.one(),
            "by_name": texts.one(150),
            "before": texts.facts(),
            "after": texts.facts(),
        },
    )
    _write(ApiToken, lambda n: {"name": texts.one(64)})
    _write(Invite, lambda n: {"note": texts.one(128)})
    _write(UnixAccount, lambda n: {"name": texts.one(64)})
    _write(JobEvent, lambda n: {"data": texts.facts()})
    _write(
        GPU,
        lambda n: {
            "name": texts.one(),
            "processes": [
                {"pid": 7, "user": texts.one(), "memory_bytes": 2**30, "attempt_id": None}
            ],
        },
    )
    GPU.objects.exclude(fault="").update(fault_facts={"text": texts.one()})
    _write(GPUEvent, lambda n: {"facts": {"text": texts.one()}})
    _write(Device, lambda n: _of_device(texts))
    _write(
        Attempt,
        lambda n: {
            "message": texts.one(),
            "unix_user": texts.one(),
            "files_left_out": [{"name": texts.one(), "size_bytes": 1, "reason": "name"}],
        },
    )
    _cells(texts)
    _files(texts)


def write_jobs(texts: Texts) -> None:
    """What a table of runs shows, alone."""
    _write(Job, lambda n: _of_job(texts))


def _write(model: Any, fields: Callable[[int], dict[str, Any]]) -> None:
    for n, row in enumerate(model._base_manager.order_by("pk")):
        model._base_manager.filter(pk=row.pk).update(**fields(n))


def _of_job(texts: Texts) -> dict[str, Any]:
    metrics = dict.fromkeys(texts.many(2), 0.5)
    return {
        "name": texts.one(), "notes": texts.one(), "tags": texts.many(2), "command": texts.many(2),
        "environment": texts.facts(), "labels": texts.facts(), "gpu_type": texts.one(),
        "python": texts.one(), "working_directory": texts.one(), "outputs": texts.many(1),
        "ignore": texts.many(1), "config": _config(texts), "keys": texts.facts(),
        "summary": {"columns": list(metrics), "last": metrics, "min": metrics, "max": metrics},
    }  # fmt: skip


def _config(texts: Texts) -> bytes:
    """With a mistake in any case."""
    lines = (f"{json.dumps(texts.one())}: {texts.one()}\n" for _ in range(3))
    return ("]: [\n" + "".join(lines)).encode()


def _of_device(texts: Texts) -> dict[str, Any]:
    return {
        "host_id": texts.one(128), "labels": texts.facts(), "environment": texts.facts(),
        "python": texts.one(), "working_directory": texts.one(), "unix_user": texts.one(),
        "versions": texts.facts("agent", "driver", "cuda", "torch", "python", "os"),
        "source": texts.facts("commit", "branch", "source_hash"), "source_directory": texts.one(),
    }  # fmt: skip


def _cells(texts: Texts) -> None:
    """Of each run one config key and one metric, in columns of their own. The metrics are losses,
    so that a table shows as many of them whatever else they are called."""
    Column.objects.all().delete()
    for job in Job.objects.order_by("pk"):
        key = Column(
            project_id=job.project_id, kind="key", name=f"{job.pk}{texts.one()}", varies=True
        )
        metric = Column(
            project_id=job.project_id, kind="metric", name=f"loss{job.pk}{texts.one()}"
        )
        Column.objects.bulk_create([key, metric])
        text = texts.one()
        Cell.objects.create(job=job, column=key, text=text, folded=text.casefold())
        Cell.objects.create(job=job, column=metric, number=1, low=1, high=1)


def _files(texts: Texts) -> None:
    """Logs that end in a traceback, previews, and their names."""
    for row in SyncFile.objects.order_by("pk"):
        lines = [
            "see https://lab.test/ there",
            *texts.many(60),
            "Traceback (most recent call last):",
            f'  File "{texts.one()}", line 1, in f',
        ]
        data = "\n".join([*lines, f"    {texts.one()}", f"ValueError: {texts.one()}", ""]).encode()
        place = Place.of(row.job, row.name)
        place.path.write_bytes(data)
        SyncFile.objects.filter(pk=row.pk).update(size=len(data))


# --- what a page is made of ---------------------------------------------------------------------


class Made(HTMLParser):
    """The elements of a page with the names of their attributes, counted; and where it leads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.addresses: set[str] = set()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag, tuple(sorted(name for name, _value in attrs))] += 1
        given = dict(attrs)
        if tag != "a" or given.get("rel") != ELSEWHERE:
            self.addresses |= {given[name] or "" for name in LEADING & given.keys()}
        elif not WEB.match(given["href"] or ""):  # a log's link
            self.addresses.add(f"{given['href']} in a log")

    @property
    def astray(self) -> set[str]:
        """Addresses that are not this site's own."""
        return {one for one in self.addresses if not _is_ours(one)}


LEADING = {
    "href",
    "src",
    "action",
    "formaction",
    "data-src",
    "data-log",
    "data-curve",
    "data-history",
}


def _is_ours(address: str) -> bool:
    is_path = address[:1] in "/?#" and not address.startswith(("//", "/\\"))
    return not address or is_path or address.startswith("http://testserver/")
