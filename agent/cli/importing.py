"""`lab import FOLDER`: runs that a lab has already, as runs here.

First it is shown what would be made; then each run is made and its files are sent. The same
command once more makes nothing twice: it goes on where it was cut, and with what grew since.
"""

import argparse
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from agent import wire
from agent.cli import eventfiles, findruns, words
from agent.cli.context import Lab, Verb
from agent.cli.errors import CliError, Exit, ServerRefused
from agent.cli.findruns import LocalRun
from agent.cli.marks import marks_of
from agent.cli.show import Column
from agent.cli.statcache import StatCache, user_caches
from agent.cli.uploading import Sent, Uploader

AT_ONCE = 1000  # foreseen in one request
SHOWN = 40
NEW, THERE, DELETED, REFUSED = "new", "there", "deleted", "refused"
#: What a lab's agent writes first into a run's metadata.
_UID = re.compile(rb"^experiment_uid: '?([0-9]{8}_[0-9a-f]{4,16})'?$", re.MULTILINE)
MAX_HEAD_BYTES = 4096
#: Of times, in seconds since 1970; the later one is in 2242.
EARLIEST, LATEST = 86_400 * 400, 2**33
EPILOG = """\
examples:
  lab import logs/                      logs/digits/run_001.csv, .yaml, .pt and all the others
  lab import lightning_logs --project digits --tag before-2026
  lab import . --dry-run --skip '*.ckpt'
"""


@dataclass
class Plan:
    """A run, what it would become, and what became of it."""

    run: LocalRun
    project: str  # empty: none is named
    marks: list[str] = field(default_factory=list)
    times: tuple[datetime, datetime] | None = None  # None: it cannot be read
    ran_as: str = ""  # the identifier of a run that ran at a lab server, perhaps this one
    status: str = NEW
    run_name: str = ""  # here
    uid: str | None = None
    why: str = ""  # it is refused, or its config is none
    sent: Sent = field(default_factory=Sent)

    @property
    def becomes(self) -> str:
        return f"{self.project or '?'}/{self.run_name or '?'}"

    @property
    def told_as(self) -> str:
        """Its name here; of one that is refused, which has none, that which it has there."""
        return str(self.run.place) if self.status == REFUSED else self.becomes

    def refuse(self, why: str) -> None:
        self.status, self.uid, self.why = REFUSED, None, why

    @property
    def is_wished(self) -> bool:
        return self.status in (NEW, THERE)

    def facts(self) -> dict[str, Any]:
        return {
            "folder": str(self.run.place),
            "name": self.run.name,
            "project": self.project,
            "run_name": self.run_name or None,
            "uid": self.uid,
            "status": self.status,
            "why": self.why,
            "files": len(self.run.files),
            "size_bytes": self.run.size,
            "config": self.run.config.tail if self.run.config else None,
            "sent_files": self.sent.count,
            "sent_bytes": self.sent.size,
            "there_files": self.sent.there,
            "refused_files": [{"name": name, "why": why} for name, why in self.sent.refused],
            "left_out": [{"name": name, "reason": why} for name, why in self.run.left_out],
        }


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="with runs at any depth: logs/, runs/, …")
    add("--project", metavar="P", help="into this one (else the nearest folder that is named so)")
    add("--tag", action="append", default=[], metavar="TEXT", dest="tags", help="repeatable")
    add("--skip", action="append", default=[], metavar="GLOB",
        help="files that are not sent: '*.pt', 'checkpoints/*'; repeatable")  # fmt: skip
    add("--again", action="store_true", help="also what was imported and deleted here")
    add("--dry-run", action="store_true", help="show what would be made, and make nothing")
    add("-y", "--yes", action="store_true", help="do not ask")


def import_(lab: Lab) -> int:
    options = lab.options
    top = options.folder.expanduser()
    plans = list(_plans(findruns.find(top), options))
    if not plans:
        raise CliError(
            f"No runs were found in {top}: looked for run_001.csv and the like; folders with "
            "TensorBoard's event files, Lightning's metrics.csv or hparams.yaml, or a "
            "trainer_state.json",
            Exit.NOT_FOUND,
        )
    _foresee(lab, plans)
    if options.dry_run:
        return _answer(lab, plans, lambda: _show(lab, plans, top))
    if not lab.out.as_json:
        _show(lab, plans, top)
    wished = _wished(plans)
    _ask(lab, [plan for plan in wished if plan.status == NEW])
    _import(lab, wished, top)
    worst = Exit.FAILED if any(p.sent.refused or p.status == REFUSED for p in plans) else Exit.OK
    _answer(lab, plans, lambda: _show_done(lab, plans))
    return worst


def _wished(plans: Sequence[Plan]) -> list[Plan]:
    """
    Raises:
        CliError: none of them may be made.
    """
    wished = [plan for plan in plans if plan.is_wished]
    refused = next((plan for plan in plans if plan.status == REFUSED), None)
    if refused and not wished:
        raise CliError(refused.why, Exit.REFUSED)
    return wished


# --- what is meant --------------------------------------------------------------------------


def _leave_out(run: LocalRun, skip: Sequence[str]) -> None:
    def is_skipped(tail: str) -> bool:
        name = f"{run.name}{tail}"
        shown = (tail.lstrip("/"), name, name.rpartition("/")[2])
        return any(fnmatchcase(one, glob) for one in shown for glob in skip)

    run.left_out += [(f.tail, findruns.SKIPPED) for f in run.files if is_skipped(f.tail)]
    run.files = [file for file in run.files if not is_skipped(file.tail)]


def _plans(runs: Sequence[LocalRun], options: argparse.Namespace) -> Iterator[Plan]:
    """In the order of their numbers, so that those are kept as they were; by its marks a run is
    known again whatever is skipped."""
    for run in sorted(runs, key=lambda run: (str(run.parent), len(run.name), run.name)):
        if not run.size:
            continue
        plan = _plan(run, options)
        if run.files:
            yield plan


def _plan(run: LocalRun, options: argparse.Namespace) -> Plan:
    """Of one that nobody can read, or whose project nobody knows, a refusal: others are read."""
    plan = Plan(run, options.project or findruns.project_of(run) or "")
    if not plan.project:
        plan.refuse(f"No folder above {run.place} names a project: say --project P")
    try:
        plan.marks, plan.ran_as = marks_of(run), _uid_in(run)
        _leave_out(run, options.skip)
        plan.times = _times(run) if run.files else None
    except OSError as exc:
        plan.refuse(f"{exc.filename} cannot be read: {exc.strerror}")
    return plan


def _uid_in(run: LocalRun) -> str:
    metadata = run.file(".yaml")
    if metadata is None:
        return ""
    with metadata.path.open("rb") as file:
        named = _UID.search(file.read(MAX_HEAD_BYTES))
    return named[1].decode() if named else ""


def _foresee(lab: Lab, plans: Sequence[Plan]) -> None:
    wished = [plan for plan in plans if plan.is_wished]
    for start in range(0, len(wished), AT_ONCE):
        some = wished[start : start + AT_ONCE]
        for plan, said in zip(some, _foreseen(lab, some), strict=True):
            plan.status, plan.run_name = said["status"], said["run_name"]
            plan.uid, plan.why = said["uid"] or None, said["words"]
            if plan.status == DELETED and lab.options.again:
                plan.status, plan.run_name = NEW, ""


def _foreseen(lab: Lab, plans: Sequence[Plan]) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = lab.api.json(
            "POST", "/api/imports/preview/", json={"runs": [_found(plan) for plan in plans]}
        )
    except ServerRefused as refused:
        if refused.status != 404:
            raise
        words_ = f"The server at {lab.known.url} is older than this command, and imports nothing"
        raise CliError(words_, Exit.REFUSED) from None
    return found


def _found(plan: Plan) -> dict[str, Any]:
    return {
        "project": plan.project,
        "run": _sendable(plan.run.name).strip() or "run",
        "marks": plan.marks,
        "uid": plan.ran_as,
    }


# --- what is shown --------------------------------------------------------------------------

TABLE = [
    Column("HERE"),
    Column("BECOMES"),
    Column("", is_state=True),
    Column("FILES", right=True, spare=2),
    Column("SIZE", right=True, spare=1),
    Column("ENDED", spare=3),
    Column("CONFIG", spare=4),
    Column("BECAUSE", spare=5),
]


def _show(lab: Lab, plans: Sequence[Plan], top: Path) -> None:
    shown = plans[:SHOWN] if lab.out.is_terminal else plans
    lab.out.table(TABLE, [_row(plan, top) for plan in shown])
    if len(shown) < len(plans):
        lab.out.line(f"… and {len(plans) - len(shown)} more")
    left_out = sum(len(plan.run.left_out) for plan in plans)
    if left_out:
        lab.out.note(f"{_files(left_out)} left out: links, --skip, names that cannot be sent. "
                     "--json names them.")  # fmt: skip


def _row(plan: Plan, top: Path) -> list[str]:
    run = plan.run
    return [
        os.path.relpath(run.place, top),
        plan.becomes,
        plan.status,
        str(len(run.files)),
        words.size(run.size),
        plan.times[1].astimezone().strftime("%Y-%m-%d") if plan.times else "",
        run.config.base if run.config else "",
        plan.why,
    ]


def _ask(lab: Lab, new: Sequence[Plan]) -> None:
    """On a terminal; a script has thought of it."""
    asks = sys.stdin.isatty() and lab.out.talks and not lab.out.as_json
    if not new or lab.options.yes or not asks:
        return
    size = words.size(sum(plan.run.size for plan in new))
    sys.stderr.write(f"Import {len(new)} run{'s' if len(new) != 1 else ''} ({size})? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CliError("Nothing was imported", Exit.USAGE)


def _show_done(lab: Lab, plans: Sequence[Plan]) -> None:
    for plan in plans:
        for name, why in plan.sent.refused:
            lab.out.note(f"{plan.becomes}{name}: {why}")
        if plan.why:
            lab.out.note(f"{plan.told_as}: {plan.why}")
    count = {status: sum(plan.status == status for plan in plans) for status in (NEW, THERE)}
    sent = _files(sum(plan.sent.count for plan in plans))
    size = words.size(sum(plan.sent.size for plan in plans))
    lab.out.line(f"{count[NEW]} imported, {count[THERE]} were there already; {sent} ({size}) sent")


def _files(count: int) -> str:
    return f"{count} file{'s' if count != 1 else ''}"


def _answer(lab: Lab, plans: Sequence[Plan], show: Callable[[], None]) -> int:
    return lab.answer({"runs": [plan.facts() for plan in plans]}, show)


# --- doing it -------------------------------------------------------------------------------


def _import(lab: Lab, wished: Sequence[Plan], top: Path) -> None:
    hashes = StatCache(Path(os.path.abspath(top)), user_caches("imports"))
    uploader = Uploader(lab.api, hashes)
    total = sum(plan.run.size for plan in wished)
    try:
        with lab.progress.bytes("Importing", total) as advance:
            for plan in wished:
                _take(lab, plan)
                if plan.is_wished and plan.uid is not None:
                    plan.sent = uploader.send(plan.run, plan.uid, plan.run_name, advance)
    finally:
        hashes.keep()


def _take(lab: Lab, plan: Plan) -> None:
    """Have it made, or found again."""
    try:
        said = lab.api.json("POST", "/api/imports/", json=_wish(lab, plan))
    except ServerRefused as refused:
        if refused.status >= 500 or refused.status == 401:
            raise
        plan.refuse(str(refused))
        return
    plan.status, plan.uid = said["status"], said["uid"]
    plan.run_name = said["run_name"] or plan.run_name
    if said["config_problem"] and plan.run.config:
        plan.why = f"{plan.run.config.base} is kept as a file only: {said['config_problem']}"


def _wish(lab: Lab, plan: Plan) -> dict[str, Any]:
    run = plan.run
    began, ended = plan.times or _times(run)
    return {
        **_found(plan),
        "host": socket.gethostname() or "unknown",
        "folder": _sendable(str(run.place)),
        "started_at": began.isoformat(),
        "finished_at": ended.isoformat(),
        "file_count": len(run.files),
        "size_bytes": run.size,
        "name": findruns.title_of(run),
        "tags": lab.options.tags,
        "config": _config(run),
        "again": lab.options.again,
    }


def _sendable(text: str) -> str:
    return text.encode(errors="replace").decode()


def _config(run: LocalRun) -> str:
    """Its text; what is no text, or too long for a config, is sent as a file alone."""
    file = run.config
    if file is None or file.size > wire.MAX_CONFIG_BYTES:
        return ""
    try:
        text = file.path.read_bytes().decode()
    except UnicodeDecodeError:
        return ""
    except OSError as exc:
        raise CliError(f"{file.path} cannot be read: {exc.strerror}") from None
    return "" if "\0" in text else text


def _times(run: LocalRun) -> tuple[datetime, datetime]:
    """When it began and when it wrote last: what event files tell, else the files' own times."""
    written = [file.result.st_mtime for file in run.files]
    events = [file for file in run.files if wire.is_event_file(file.base)]
    began = [at for file in events if (at := eventfiles.began(file.base))]
    ended = [at for file in events if (at := eventfiles.last_time(file.path))]
    first, last = min(began or written), max(ended or written)
    return _moment(min(first, last)), _moment(last)


def _moment(seconds: float) -> datetime:
    """What is ahead of all clocks, as a damaged file tells, the server takes for now."""
    return datetime.fromtimestamp(min(max(seconds, EARLIEST), LATEST), timezone.utc)


VERBS = [Verb("import", "bring in runs that you have already", _arguments, import_, EPILOG)]
