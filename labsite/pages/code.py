"""The code of a run: what it is, in what it differs from its commit, which files it holds."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from agent.code.manifest import Manifest
from devices.models import Device
from experiments.config import JobSpec
from experiments.models import Attempt, Job, Snapshot
from sync.code import giving

COMMIT_CHARACTERS = 10
NAME_CHARACTERS = 12  # of a snapshot, as people meet it
#: So many lines of a difference are shown, and so many files; the archive has all.
MAX_LINES = 3000
SHOWN_FILES = 300
#: What git says before a file's lines, and a page says better.
_UNSAID = re.compile(r"(index|---|\+\+\+|old mode|similarity index) ")


@dataclass(frozen=True)
class Code:
    """Which code it runs, as far as that is known."""

    commit: str  # its first characters; empty: none is known
    branch: str
    is_changed: bool  # there is something in it that is in no commit
    origin: str  # where it comes from, in words
    name: str = ""  # of the snapshot
    url: str = ""  # of the repository


def code_of(job: Job, attempt: Attempt | None) -> Code | None:
    """None: nothing is known of it."""
    if job.snapshot is not None:
        return _of_snapshot(job.snapshot)
    if job.source:
        return _of_source(job.source)
    if attempt is None:
        return None
    return _of_host(attempt.device, job.working_directory, attempt.source or {})


def foreseen(spec: JobSpec, device: Device) -> Code | None:
    """Of a run that would go to this GPU server, as its code lies there now."""
    if spec.source is None:
        return _of_host(device, spec.working_directory or "", device.source or {})
    if spec.source["kind"] != "snapshot":
        return _of_source(spec.source)
    taken = Snapshot.objects.filter(sha256=spec.source["sha256"]).first()
    return _of_snapshot(taken) if taken else None


def _of_host(device: Device, wished: str, told: dict[str, Any]) -> Code:
    """`told`: as agent.wire.Source, of its --source; what a run does elsewhere it does not say."""
    folder = folder_on(device, wished)
    told = told if _is_in(folder, device.source_directory) else {}
    words = {"folder": folder or "–", "device": device.host_id}
    return Code(
        commit=told.get("commit", "")[:COMMIT_CHARACTERS],
        branch=told.get("branch", ""),
        is_changed=told.get("dirty", False),
        origin=_("it runs what lies in %(folder)s on %(device)s") % words,
    )


def _is_in(folder: str, source: str) -> bool:
    return bool(source) and f"{folder}/".startswith(f"{source.rstrip('/')}/")


def _of_snapshot(taken: Snapshot) -> Code:
    return Code(
        commit=taken.commit[:COMMIT_CHARACTERS],
        branch=taken.branch,
        is_changed=taken.dirty and bool(taken.commit),
        origin=_("sent with the run"),
        name=taken.sha256[:NAME_CHARACTERS],
        url=taken.remote,
    )


def _of_source(source: dict[str, Any]) -> Code | None:
    if source["kind"] != "git":
        return Code("", "", is_changed=False, origin=_("sent with the run, and not kept any more"))
    commit = source["commit"][:COMMIT_CHARACTERS]
    origin = _("fetched by the GPU server")
    return Code(commit, "", is_changed=False, origin=origin, url=source["url"])


def folder_on(device: Device, wished: str) -> str:
    """Where a command runs on a GPU server when its code is what lies there."""
    wished = wished or device.working_directory
    if wished.startswith(("/", "~")):
        return wished
    return "/".join(filter(None, [device.source_directory, wished]))


# --- what a snapshot holds ---------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    path: str
    size: int | None  # in bytes; None: it is a link
    target: str = ""


@dataclass(frozen=True)
class Contents:
    diff: SafeString  # empty: it is its commit, or has none
    is_cut: bool  # there is more of the difference
    rows: list[Row]  # the largest first
    others: int  # files that are not shown
    count: int
    size: int


def contents_of(job: Job) -> Contents | None:
    """None: it runs in no snapshot, or its bytes are not there any more."""
    held = giving.manifest_of(job.snapshot) if job.snapshot else None
    if held is None:
        return None
    rows = _rows(held)
    lines = held.diff.splitlines()
    marked = list(_marked(lines[:MAX_LINES]))
    return Contents(
        diff=format_html_join("", "{}", ((one,) for one in marked)),
        is_cut=len(lines) > MAX_LINES,
        rows=rows[:SHOWN_FILES],
        others=len(rows[SHOWN_FILES:]),
        count=len(rows),
        size=held.size_bytes,
    )


def _rows(held: Manifest) -> list[Row]:
    files = [Row(path, file.size) for path, file in held.files.items()]
    files.sort(key=lambda row: (-(row.size or 0), row.path))
    return files + [Row(path, None, target) for path, target in sorted(held.links.items())]


def _marked(lines: list[str]) -> Iterator[SafeString]:
    """A difference as git writes it, each line escaped."""
    in_hunk = False
    for line in lines:
        if line.startswith("diff --git "):
            in_hunk = False
            path = line.rpartition(" b/")[2]
            yield format_html('<strong class="l">{}</strong>', path)
        elif line.startswith("@@"):
            in_hunk = True
            yield format_html('<span class="l c">{}</span>', line)
        elif in_hunk and line[:1] in ("+", "-"):
            yield _changed(line)
        elif in_hunk or not _UNSAID.match(line):
            css = "l" if in_hunk else "l c"
            yield format_html('<span class="{}">{}</span>', css, line[1:] if in_hunk else line)


def _changed(line: str) -> SafeString:
    """The sign is read out too, as it stands in the text."""
    tag, sign = ("ins", "+") if line[0] == "+" else ("del", "−")
    return format_html('<{0} class="l" data-op="{1}">{2}</{0}>', tag, sign, line[1:])
