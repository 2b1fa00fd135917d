"""Freeing space in a project: what would go, exactly; and then that, if it is still so.

Nothing goes of a run that waits or runs, nor of one from whose files such a run is to go on; and
only What.ALL takes files of which the server is not sure to have all.
"""

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from experiments.models import Attempt, Job, Project
from experiments.models.event import change
from experiments.states import JobState
from people.audit import facts_of, note, recorded
from sync import trash
from sync.errors import PlanChanged
from sync.models import SyncFile, Trash, What

CHECKPOINT = re.compile(r"(?i)\.(pt|pth|ckpt|safetensors)$")
BEST = re.compile(r"(?i)(?<![a-z])best(?![a-z])")
MEANWHILE = gettext_lazy("What would be deleted has changed meanwhile; look at it again.")
#: What may be asked for; a single run is deleted on its own page.
RULES = [What.CHECKPOINTS, What.GIVEN_UP, What.FAILED, What.RUNS, What.ALL]


@dataclass(frozen=True)
class Rule:
    what: What
    older_than_days: int = 0  # since the run's end


@dataclass(frozen=True)
class Plan:
    """What a rule would take. `jobs` go as a whole, with all their files."""

    rule: Rule
    files: list[SyncFile] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    #: Runs that are left alone, since the server is not sure to have all of their files.
    unsure: int = 0

    @property
    def runs(self) -> int:
        return len({job.pk for job in self.jobs} | {row.job_id for row in self.files})

    @property
    def size(self) -> int:
        return sum(row.size + row.aside_bytes for row in self.files)

    @property
    def digest(self) -> str:
        """Of what would go: another one, another plan."""
        files = [(row.pk, row.generation, row.size) for row in self.files]
        told = repr((self.rule, sorted(files), sorted(job.pk for job in self.jobs)))
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @property
    def is_empty(self) -> bool:
        return not self.files and not self.jobs

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "what": self.rule.what.value,
            "older_than_days": self.rule.older_than_days,
            "runs": self.runs,
            "deleted_runs": [job.run_name for job in self.jobs],
            "files": len(self.files),
            "size_bytes": self.size,
            "unsure_runs": self.unsure,
            "confirm": self.digest,
        }


def plan(project: Project, rule: Rule, now: datetime) -> Plan:
    """What the rule would take now; takes nothing."""
    jobs = _jobs(project, rule, now)
    rows = defaultdict(list)
    # Not `job__in=jobs`: of a large project these are more than one statement takes.
    present = SyncFile.objects.present().filter(job__project=project)
    for row in present.order_by("pk").defer("last_answer"):  # JSON takes most of the time
        rows[row.job_id].append(row)
    if rule.what == What.CHECKPOINTS:
        return Plan(rule, [row for job in jobs for row in _spare(job, rows[job.pk])])
    if rule.what == What.GIVEN_UP:
        every = (row for job in jobs for row in rows[job.pk])
        return Plan(rule, [row for row in every if row.shelf and row.complete])
    sure = jobs if rule.what == What.ALL else _arrived(project, jobs, rows)
    files = [row for job in sure for row in rows[job.pk]]
    return Plan(rule, files, sure, unsure=len(jobs) - len(sure))


def _jobs(project: Project, rule: Rule, now: datetime) -> list[Job]:
    jobs = _ended(project)
    if rule.older_than_days:
        jobs = jobs.filter(finished_at__lt=now - timedelta(days=rule.older_than_days))
    if rule.what == What.FAILED:
        jobs = jobs.filter(state=JobState.FAILED)
    needed = Job.objects.needed()
    return [job for job in jobs.order_by("pk") if job.uid not in needed]


def _ended(project: Project) -> QuerySet[Job]:
    return Job.objects.present().ended().filter(project=project).defer("config")


def _spare(job: Job, rows: list[SyncFile]) -> list[SyncFile]:
    """Its checkpoints but the newest, the best, and the one that it is resumed from."""
    found = [row for row in rows if not row.shelf and CHECKPOINT.search(row.name)]
    kept = {f"{job.run_name}.pt"} | {row.name for row in found if BEST.search(row.name)}
    kept |= {file["file_name"] for file in (job.resume_point.get("resume") or {}).get("files", [])}
    if found:
        kept.add(max(found, key=_age).name)
    return [row for row in found if row.complete and row.name not in kept]


def _age(row: SyncFile) -> tuple[int, int, datetime]:
    return row.attempt, row.source_mtime or 0, row.synced_at


def _arrived(project: Project, jobs: list[Job], rows: dict[int, list[SyncFile]]) -> list[Job]:
    """Those of which every file that the agent told of is here, confirmed to the last byte; or
    was, and is deleted. And it has not more to tell of."""
    told = (
        Attempt.objects.filter(job__project=project)
        .select_related("device")
        .only("job", "ended_at", "files_advertised", "files_to_come", "device__revoked_at")
    )
    newest = {attempt.job_id: attempt for attempt in told.order_by("number")}
    known = defaultdict(set)
    results = SyncFile.objects.filter(job__project=project, shelf=0, displaced=0)
    for job_id, name in results.values_list("job", "name"):
        known[job_id].add(name)
    return [
        job
        for job in jobs
        if all(row.complete for row in rows[job.pk])
        and _has_told_all(newest.get(job.pk), known[job.pk])
    ]


def _has_told_all(attempt: Attempt | None, known: set[str]) -> bool:
    """Whether no file is to come beside those that are known. Nobody tells of an imported run."""
    if attempt is None:
        return True
    return not attempt.awaits_files and attempt.awaited_files.keys() <= known


EVERYTHING = Rule(What.ALL)


def delete_project(project: Project, now: datetime, *, by: Any = None) -> None:
    """All its runs into the trash, and itself into the archive, where its name stays taken.

    Raises:
        ProjectArchived: a run of it waits or runs; it has to end first.
    """
    with recorded(by, project, "delete"):
        project.archive(now)
    found = plan(project, EVERYTHING, now)
    if not found.is_empty:
        free(project, EVERYTHING, found.digest, now, by=by)


def free(project: Project, rule: Rule, confirm: str, now: datetime, *, by: Any = None) -> Trash:
    """Delete what the plan of that digest showed, into the trash.

    Raises:
        PlanChanged: it would be something else by now, which its facts tell; or nothing. Or it
            changed while it was marked, and what was marked comes back.
    """
    found = plan(project, rule, now)  # outside: it may take seconds, and SQLite has one writer
    if found.is_empty:
        raise PlanChanged(_("There is nothing to delete by this rule."), **found.facts)
    if found.digest != confirm:
        raise PlanChanged(str(MEANWHILE), **found.facts)
    with change():
        made = trash.put_away(
            project, rule.what, found.files, found.jobs, now, by=by,
            older_than_days=rule.older_than_days,
        )  # fmt: skip
        shown = {"file_count": len(found.files), "size": found.size}
        note(by, made, "delete", after=facts_of(made) | shown)
    trash.gather(made)
    return made
