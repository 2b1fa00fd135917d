"""Sets of jobs, and how one is queued."""

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from experiments import discreet, reasons
from experiments.errors import LostRace, NotSubmitted
from experiments.models.attempt import Attempt
from experiments.models.cell import Cell
from experiments.models.event import change, record
from experiments.models.project import Project
from experiments.models.secret import check_all_kept
from experiments.models.snapshot import Snapshot, no_snapshot
from experiments.states import ENDED, LIVE, EventKind, JobState, Priority
from labsite import wake
from labsite.clock import database_now, lab_date
from people.errors import NotAllowed
from people.roles import may_manage

MAX_DIGITS = 9  # of a run's number


class JobQuerySet(models.QuerySet):
    def queued(self) -> "JobQuerySet":
        return self.filter(state=JobState.QUEUED, deleted_at=None)

    def in_line(self) -> "JobQuerySet":
        """By priority, then what a manager has laid before the others, then each submitter's in
        the order in which they are to start."""
        placed = models.F("placed").asc(nulls_last=True)
        return self.order_by("-priority", placed, "rank", "pk")

    def real(self) -> "JobQuerySet":
        """Without those of a demo, which nothing is ever given out of."""
        return self.filter(project__is_demo=False)

    def live(self) -> "JobQuerySet":
        return self.filter(state__in=LIVE)

    def present(self) -> "JobQuerySet":
        return self.filter(deleted_at=None)

    def visible_to(self, user: Any) -> "JobQuerySet":
        """What this user may see: the runs of projects that they see, and their own."""
        if user is None or user.pk is None:
            return self.none()
        if may_manage(user):
            return self
        return self.filter(Q(user=user) | ~Q(project__in=Project.hidden_from(user)))

    def named(self, ref: str) -> "JobQuerySet":
        """Those that people may mean by `20261130_1a2b`, the beginning of one, `digits/run_003`
        or `run_003`; none for anything else."""
        project, _slash, run = ref.rpartition("/")
        number = run.removeprefix("run_")
        if number != run and number.isascii() and number.isdigit() and len(number) <= MAX_DIGITS:
            jobs = self.filter(run_number=int(number))
            return jobs.filter(project__name=project) if project else jobs
        is_uid = run == ref and run[:1].isdigit()
        return self.filter(uid__startswith=run) if is_uid else self.none()

    def with_device(self) -> "JobQuerySet":
        """Each with `host_id`, where its newest try was given to; None: it had none."""
        tries = Attempt.objects.filter(job=models.OuterRef("pk"))
        newest = tries.order_by("-number").values("device__host_id")
        return self.annotate(host_id=models.Subquery(newest[:1]))

    def listed(self) -> "JobQuerySet":
        """What lists show where nobody asks for archived projects."""
        return self.present().filter(project__archived_at=None)

    def ended(self) -> "JobQuerySet":
        return self.filter(state__in=ENDED)

    def unended(self) -> "JobQuerySet":
        return self.exclude(state__in=ENDED)

    def leave_tombstones(self, jobs: Sequence[Any], now: datetime, *, by: Any = None) -> None:
        """What Job.leave_tombstone() does, to `jobs`, which are all that are here and have ended:
        by one UPDATE, since heartbeats wait for whoever writes to SQLite. Inside change().

        Raises:
            LostRace: they are not all any more.
        """
        if self.present().ended().update(deleted_at=now) != len(jobs):
            raise LostRace(_("Some of these runs were deleted meanwhile; look again."))
        for job in jobs:
            record(job, EventKind.DELETED, by=by)

    def needed(self) -> set[str]:
        """The uids of jobs from whose files one that waits or runs is to go on."""
        points = self.unended().exclude(resume_point={}).values_list("resume_point", flat=True)
        return {uid for point in points for uid in named_in(point)}


def rank_of(moment: datetime) -> int:
    """The place in line of what is queued at that moment: whole microseconds since 1970."""
    return int(moment.timestamp() * 1e6)


#: What a job that is run again has as it had it; see _fields_of().
AGAIN = (
    "name", "swept", "config", "keys", "command", "environment", "python", "working_directory",
    "gpus", "gpu_memory_bytes", "gpu_type", "labels", "priority", "time_limit_seconds",
    "stop_grace_seconds", "max_attempts", "on_device_lost", "tags", "outputs", "ignore", "sync",
    "source", "snapshot_id", "links",
    "secrets", "requires",
)  # fmt: skip


def check_may_call(priority: int, by: Any) -> None:
    """`by` None: the server itself.

    Raises:
        NotAllowed: it takes a manager.
    """
    if priority == Priority.URGENT and by is not None and not may_manage(by):
        raise NotAllowed(_("Only a manager may call a run urgent."))


def priority_again(job: Any, by: Any) -> Priority:
    """Of a job that is run again: what a manager had called urgent was that one."""
    most = Priority.URGENT if by is None or may_manage(by) else Priority.HIGH
    return Priority(min(job.priority, most))


def named_in(resume_point: dict[str, Any]) -> set[str]:
    """The uids of the jobs whose files it names."""
    files = (resume_point.get("resume") or {}).get("files", [])
    return {file["experiment_uid"] for file in files}


class JobManager(models.Manager.from_queryset(JobQuerySet)):
    def submit(
        self, spec, *, project: str, by=None, name: str = "", parent=None, resume: bool = False
    ) -> Any:
        """Queue a job: its run's number, its row and its first event in one transaction.

        Args:
            spec: experiments.config.JobSpec, with the project's defaults laid beneath it.
            project: the project's name; made when there is none of that name.
            by: the user.
            parent: the job that this one reruns or resumes.
            resume: begin with the parent's newest checkpoint and metrics.

        Raises:
            NotSubmitted: the project's name cannot be one, the parent has no checkpoint, or a
                secret is named that is kept nowhere.
            ProjectArchived: it takes no new runs.
            NotAllowed: `by` looks only, or does not work in that project.
        """
        with change():
            into = Project.named(project, by=by)
            into.check_submit(by)
            if by is not None:
                check_all_kept(self.model(project=into, user=by, secrets=spec.secrets))
            number = into.next_run()
            now = database_now()
            job = self.create(
                uid=self._new_uid(),
                project=into,
                run_number=number,
                user=by,
                name=name or spec.name or "",
                parent=parent,
                submitted_at=now,
                rank=rank_of(now),
                **_sweep_of(parent, by, spec),
                waiting=reasons.NOT_SEEN_YET,
                resume_point=parent.handed_on(number) if resume else {},
                snapshot=_snapshot_of(spec),
                **_fields_of(spec),
            )
            Cell.objects.note_keys(job)
            record(job, EventKind.SUBMITTED, by=by, to_state=JobState.QUEUED)
        wake.ask_dispatch()
        return job

    def lay_in(self, *, project: Project, by=None, **fields: Any) -> Any:
        """A run that has ended elsewhere; its first event is the caller's. Inside change()."""
        now = database_now()
        made = self.create(
            uid=self._new_uid(), project=project, user=by, state=JobState.SUCCEEDED,
            submitted_at=now, imported_at=now, command=[], gpus=0, **fields,
        )  # fmt: skip
        Cell.objects.note_keys(made)
        return made

    def submit_all(self, points, *, project: Project, by=None, sweep) -> None:
        """Queue the runs of a sweep. Only inside change().

        Args:
            points: experiments.sweeps.Point of each.
        """
        made = [
            {
                "name": point.spec.name or "",
                "swept": discreet.masked(point.values),
                **_fields_of(point.spec),
            }
            for point in points
        ]
        snapshot = _snapshot_of(points[0].spec) if points else None  # the same for all of them
        self._queue_all(made, project=project, by=by, sweep=sweep, snapshot=snapshot)

    def submit_again(self, jobs, *, project: Project, by=None) -> None:
        """Queue each of these once more, as it was asked for, in its sweep. Inside change()."""
        made = [
            {
                "parent": job,
                "sweep": job.sweep,
                **{name: getattr(job, name) for name in AGAIN},
                "priority": priority_again(job, by),
            }
            for job in jobs
        ]
        self._queue_all(made, project=project, by=by)

    def _queue_all(self, fields: list[dict[str, Any]], *, project: Project, **common: Any) -> None:
        numbers = project.next_runs(len(fields))
        now, uids = database_now(), self._new_uids(len(fields))
        by = common.pop("by")
        jobs = [
            self.model(
                uid=uid, project=project, run_number=number, user=by, submitted_at=now,
                rank=rank_of(now), waiting=reasons.NOT_SEEN_YET, **common, **each,
            )
            for uid, number, each in zip(uids, numbers, fields, strict=True)
        ]  # fmt: skip
        made = self.bulk_create(jobs, batch_size=200)
        Cell.objects.note_all(made)
        for job in made:
            record(job, EventKind.SUBMITTED, by=by, to_state=JobState.QUEUED)

    def _new_uid(self) -> str:
        return self._new_uids(1)[0]

    def _new_uids(self, count: int) -> list[str]:
        """`YYYYMMDD_` (the lab's day) and 4 hex digits, more when those are taken."""
        day = f"{lab_date(timezone.now()):%Y%m%d}"
        found: set[str] = set()
        for digits in (4, 4, 4, 6, 8, 16):
            wanted = range(count - len(found))
            new = {f"{day}_{secrets.token_hex(digits // 2)}" for _ in wanted}
            found |= new - set(self.filter(uid__in=new).values_list("uid", flat=True))
            if len(found) == count:
                return list(found)
        raise LostRace(_("No free identifier was found; submit once more."))


def _sweep_of(parent, by, spec) -> dict[str, Any]:
    """Of a job that its submitter reruns unchanged, the sweep of the one before."""
    is_same = parent is not None and by is not None and parent.user_id == by.pk
    if not is_same or not parent.sweep_id or bytes(parent.config) != spec.config:
        return {}
    return {"sweep_id": parent.sweep_id, "swept": parent.swept}


def _snapshot_of(spec) -> Snapshot | None:
    """The snapshot that a spec names; submission.read() has asked whether one may.

    Raises:
        NotSubmitted: it is not on the server any more.
    """
    if not spec.source or spec.source["kind"] != "snapshot":
        return None
    found = Snapshot.objects.filter(sha256=spec.source["sha256"]).first()
    if found is None:
        raise NotSubmitted(no_snapshot(), field="source")
    return found


def _fields_of(spec) -> dict[str, Any]:
    return {
        "config": spec.config,
        "keys": discreet.masked(spec.keys),
        "command": list(spec.command),
        "environment": dict(spec.environment),
        "python": spec.python or "",
        "working_directory": spec.working_directory or "",
        "gpus": spec.gpus,
        "gpu_memory_bytes": spec.gpu_memory_bytes,
        "gpu_type": spec.gpu_type or "",
        "labels": dict(spec.labels),
        "priority": Priority[spec.priority.upper()],
        "time_limit_seconds": spec.time_limit_seconds,
        "stop_grace_seconds": spec.stop_grace_seconds,
        "max_attempts": spec.max_attempts,
        "on_device_lost": spec.on_device_lost,
        "tags": list(spec.tags),
        "outputs": list(spec.outputs),
        "ignore": list(spec.ignore),
        "sync": dict(spec.sync),
        "source": spec.source,
        "links": dict(spec.links),
        "secrets": list(spec.secrets),
        "requires": dict(spec.requires),
    }
