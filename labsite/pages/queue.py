"""Queue: what runs and what waits, in order, each with its reason."""

import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.db.models import Count, Min, Prefetch, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from agent import wire
from devices.models import GPU
from experiments import reasons
from experiments.contact import contact_with
from experiments.dispatch import held_gpus
from experiments.line import turn
from experiments.metrics import whole
from experiments.models import Attempt, Borrow, Job
from experiments.states import JobState, Priority
from labsite.clock import clock_words, database_now
from labsite.pages import labuse
from labsite.pages.access import Sight, asked, may_change
from labsite.pages.frame import waiting_count
from labsite.pages.states import Badge, job_badge
from labsite.templatetags.lab import metric
from people.roles import may_manage

#: More rows than this are not read by anybody; the head still counts all.
SHOWN = 200


#: Of a job, what no row of a list shows, and what is large.
HEAVY = (
    "config", "summary", "keys", "environment", "notes", "resume_point", "command", "outputs",
    "ignore", "sync", "tags", "avoids",
)  # fmt: skip


@dataclass(frozen=True)
class Wish:
    """Whose, and of which project; empty: all."""

    mine: bool = False
    user: str = ""
    project: str = ""

    @property
    def query(self) -> str:
        given = {
            "whose": "mine" if self.mine else "", "user": self.user, "project": self.project
        }  # fmt: skip
        return urlencode({name: value for name, value in given.items() if value})

    def fits(self, line: "Line", reader: Any) -> bool:
        job = line.job
        name = job.user.username if job.user else ""
        project = "" if line.hidden else job.project.name
        return (
            (not self.mine or job.user_id == reader.pk)
            and (not self.user or name == self.user)
            and (not self.project or project == self.project)
        )


@dataclass
class Line:
    """One job, as a row of the queue or of the list of runs."""

    job: Job
    badge: Badge
    attempt: Attempt | None
    gpus: str  # "GPU 0, 1"
    may_change: bool
    note: str = ""  # beside its state: since when nothing is heard of it, what is yet to be told
    place: int = 0
    hidden: bool = False  # of a private project: only whose it is, is told
    waiting: int = 1  # how many runs the row stands for: those of one sweep stand in one
    running: int = 0  # of its sweep, where it stands for several

    @property
    def is_group(self) -> bool:
        return self.waiting > 1

    @property
    def last_place(self) -> int:
        return self.place + self.waiting - 1

    @property
    def is_waiting(self) -> bool:
        return self.job.state == JobState.QUEUED

    @property
    def figure(self) -> str:
        """What it came to: the best of what is better when higher, else its last loss."""
        return best_words(self.job)

    @property
    def wants(self) -> str:
        job = self.job
        return reasons.wants(
            {
                "gpus": job.gpus,
                "gpu_type": job.gpu_type,
                "gpu_memory_bytes": job.gpu_memory_bytes,
                "labels": job.labels,
            }
        )


@login_required
@require_safe
def queue(request: HttpRequest) -> HttpResponse:
    user, now = request.user, database_now()
    wish = Wish(
        request.GET.get("whose") == "mine", asked(request, "user"), asked(request, "project")
    )
    everybody = Job.objects.present().select_related("project", "user", "sweep")
    everybody = everybody.defer(*HEAVY, "sweep__config")
    waiting = _waiting(everybody, user, now)
    in_turn = turn(held_gpus(), now)
    waiting.sort(key=lambda line: in_turn(line.job))
    running = lines(everybody.live().order_by("id"), user, now)
    place = 1
    for line in waiting:
        line.place, place = place, place + line.waiting
    context = {
        "counts": _counts(running + waiting),
        "choices": _choices(running + waiting),
        "waiting": [line for line in waiting if wish.fits(line, user)],
        "running": sorted(
            (line for line in running if wish.fits(line, user)),
            key=lambda line: line.job.user_id != user.pk,
        ),
        "wish": wish,
        "mine": wish.mine,
        "query": wish.query,
        "back": reverse("queue") + (f"?{wish.query}" if wish.query else ""),
        "priorities": priorities(user),
        "shares": labuse.users_of_week(user, now),
        "borrows": Borrow.objects.open().select_related("user", "device"),
        "more": max(0, waiting_count() - sum(line.waiting for line in waiting)),
    }
    if "part" in request.GET:
        return render(request, "parts/queue.html", context)
    return render(request, "pages/queue.html", context)


def _waiting(everybody: QuerySet[Job], user: Any, now: datetime) -> list[Line]:
    """A line each; runs of one sweep that wait alike are one, which shows the first of them."""
    waiting = everybody.queued()
    is_one_of_many = Q(sweep__isnull=False, placed=None)
    alone = lines(waiting.exclude(is_one_of_many).in_line(), user, now)
    alike = waiting.filter(is_one_of_many).order_by()
    alike = alike.values("sweep_id", "held", "priority", "user_id")
    counted = alike.annotate(n=Count("pk"), first=Min("pk")).order_by("-priority", "first")
    groups = list(counted[:SHOWN])
    count = {group["first"]: group["n"] for group in groups}
    grouped = lines(everybody.filter(pk__in=count), user, now)
    live = Counter(
        everybody.live().filter(sweep__in=[group["sweep_id"] for group in groups])
        .order_by().values_list("sweep_id", flat=True)
    )  # fmt: skip
    for line in grouped:
        line.waiting, line.running = count[line.job.pk], live[line.job.sweep_id]
    return alone + grouped


def _choices(shown: list[Line]) -> dict[str, list[str]]:
    """Who and what is in the queue, to choose from."""
    users = {line.job.user.username for line in shown if line.job.user}
    projects = {line.job.project.name for line in shown if not line.hidden}
    return {"users": sorted(users), "projects": sorted(projects)}


@login_required
@require_safe
def count(request: HttpRequest) -> HttpResponse:
    return render(request, "parts/queue_count.html", {"count": waiting_count()})


def lines(jobs: QuerySet[Job], user: Any, now: datetime, at_most: int = SHOWN) -> list[Line]:
    """Rows with all that a row shows, in a number of queries that does not grow with them."""
    newest = Attempt.objects.select_related("device").order_by("number")
    newest = newest.defer("files_advertised", "files_left_out", "resume", "device__source")
    found = list(jobs.prefetch_related(Prefetch("attempts", newest, to_attr="tries"))[:at_most])
    indices = gpu_indices(job.tries[-1] for job in found if job.tries)
    sight = Sight(user)
    return [_line(job, indices, user, sight, now) for job in found]


def _line(job: Job, indices: dict[str, int], user: Any, sight: Sight, now: datetime) -> Line:
    attempt = job.tries[-1] if job.tries else None
    return Line(
        job=job,
        badge=job_badge(job, attempt, now),
        attempt=attempt,
        gpus=gpu_words(attempt, indices),
        may_change=may_change(user, job),
        note=_note(job, attempt, now),
        hidden=not sight.sees(job),
    )


#: What people look at first, where a project does not say.
_TELLING = re.compile(r"(?i)acc|map|miou|f1|auc|reward/mean|bleu")


def best_words(job: Job) -> str:
    """ "test/accuracy 0.9481": of a run's figures the most telling one; empty: none is."""
    summary, project = job.summary, job.project
    main = whole(summary)[project.main_metric_goal].get(project.main_metric)
    if main is not None:
        return f"{project.main_metric} {metric(main)}"
    best = summary.get("max", {})
    name = next((name for name in reversed(list(best)) if _TELLING.search(name)), None)
    if name is not None:
        return f"{name} {metric(best[name])}"
    last = summary.get("last", {})
    name = next((name for name in last if "loss" in name.lower()), None)
    return f"{name} {metric(last[name])}" if name else ""


def _note(job: Job, attempt: Attempt | None, now: datetime) -> str:
    contact = contact_with(attempt, now)
    if contact is not None and contact.is_lost:
        return _("since %(when)s") % {"when": clock_words(contact.since)}
    if attempt is not None and job.has_ended and attempt.unconfirmed and not attempt.found:
        return _("not yet confirmed by %(device)s") % {"device": attempt.device}
    return ""


def gpu_indices(attempts: Any) -> dict[str, int]:
    """The numbers, as people know them, of all cards that the attempts were given."""
    uuids = {uuid for attempt in attempts for uuid in attempt.gpu_uuids}
    return dict(GPU.objects.filter(uuid__in=uuids).values_list("uuid", "index"))


def gpu_words(attempt: Attempt | None, indices: dict[str, int]) -> str:
    if attempt is None:
        return ""
    numbers = sorted(indices[uuid] for uuid in attempt.gpu_uuids if uuid in indices)
    if not numbers:
        return _("CPU only") if not attempt.gpu_uuids else ""
    words = "GPU " + ", ".join(map(str, numbers))
    if any(uuid.startswith(wire.SIMULATED) for uuid in attempt.gpu_uuids):
        words += " " + _("(simulated)")
    return words


def priorities(user: Any) -> list[tuple[str, str]]:
    """What `user` may choose, highest first."""
    levels = [p for p in reversed(Priority) if p != Priority.URGENT or may_manage(user)]
    return [(level.name.lower(), str(level.label)) for level in levels]


def _counts(shown: list[Line]) -> list[Badge]:
    counted: Counter[Badge] = Counter()
    for line in shown:
        counted[Badge(line.badge.state, line.badge.icon, line.badge.word)] += line.waiting
    return [badge.counted(number) for badge, number in counted.items()]
