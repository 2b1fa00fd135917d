"""Queue: what runs and what waits, in order, each with its reason."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.auth.decorators import login_required
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from devices.models import GPU
from experiments import reasons
from experiments.dispatch import held_gpus
from experiments.models import Attempt, Job
from experiments.states import Priority
from labsite.clock import database_now
from labsite.pages.access import may_change
from labsite.pages.frame import waiting_count
from labsite.pages.states import Badge, job_badge

#: More rows than this are not read by anybody; the head still counts all.
SHOWN = 200


@dataclass
class Line:
    """One job, as a row of the queue or of the list of runs."""

    job: Job
    badge: Badge
    attempt: Attempt | None
    gpus: str  # "GPU 0, 1"
    may_change: bool
    place: int = 0

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
    mine = request.GET.get("whose") == "mine"
    now = database_now()
    everybody = Job.objects.present().select_related("project", "user")
    waiting = lines(everybody.queued().order_by("-priority", "id"), request.user, now)
    waiting.sort(key=_turn(held_gpus()))
    running = lines(everybody.live().order_by("id"), request.user, now)
    for place, line in enumerate(waiting, start=1):
        line.place = place
    context = {
        "counts": _counts(running + waiting),
        "waiting": [line for line in waiting if not mine or line.job.user == request.user],
        "running": sorted(
            (line for line in running if not mine or line.job.user == request.user),
            key=lambda line: line.job.user_id != request.user.pk,
        ),
        "mine": mine,
        "priorities": priorities(request.user),
        "more": max(0, waiting_count() - SHOWN),
    }
    if "part" in request.GET:
        return render(request, "parts/queue.html", context)
    return render(request, "pages/queue.html", context)


def _turn(holds: Counter) -> Callable[[Line], tuple[Any, ...]]:
    """The order in which dispatch looks at them, as long as none of them gets a GPU."""
    return lambda line: (
        line.job.held,
        -line.job.priority,
        holds[line.job.user_id],
        line.job.pk,
    )


@login_required
@require_safe
def count(request: HttpRequest) -> HttpResponse:
    return render(request, "parts/queue_count.html", {"count": waiting_count()})


def lines(jobs: QuerySet[Job], user: Any, now: datetime, at_most: int = SHOWN) -> list[Line]:
    """Rows with all that a row shows, in a number of queries that does not grow with them."""
    newest = Attempt.objects.select_related("device").order_by("number")
    found = list(jobs.prefetch_related(Prefetch("attempts", newest, to_attr="tries"))[:at_most])
    indices = gpu_indices(job.tries[-1] for job in found if job.tries)
    return [_line(job, indices, user, now) for job in found]


def _line(job: Job, indices: dict[str, int], user: Any, now: datetime) -> Line:
    attempt = job.tries[-1] if job.tries else None
    return Line(
        job=job,
        badge=job_badge(job, attempt, now),
        attempt=attempt,
        gpus=gpu_words(attempt, indices),
        may_change=may_change(user, job),
    )


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
    return "GPU " + ", ".join(map(str, numbers))


def priorities(user: Any) -> list[tuple[str, str]]:
    """What `user` may choose, highest first."""
    levels = [p for p in reversed(Priority) if p != Priority.URGENT or user.is_staff]
    return [(level.name.lower(), str(level.label)) for level in levels]


def _counts(shown: list[Line]) -> list[Badge]:
    counted = Counter(Badge(line.badge.state, line.badge.icon, line.badge.word) for line in shown)
    return [badge.counted(number) for badge, number in counted.items()]
