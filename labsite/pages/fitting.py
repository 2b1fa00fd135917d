"""Which GPU servers suit a run that is being written, why the others do not, and its place in
the queue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import BooleanField, Count, ExpressionWrapper, Q
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from devices.models import Device, DeviceState
from experiments.config import JobSpec
from experiments.dispatch import held_gpus
from experiments.grid import Grid
from experiments.line import passed_over_since
from experiments.models import Job, Project, UnixAccount
from experiments.models.job import run_name
from experiments.places import Place
from experiments.states import Priority
from labsite.clock import database_now
from labsite.pages.code import folder_on
from labsite.pages.states import Badge

_ORDER = {"healthy": 0, "waiting": 1}


@dataclass(frozen=True)
class Fit:
    """One GPU server, seen from the run that is being written."""

    device: Device
    badge: Badge
    words: str
    folder: str
    python: str
    user: str


def _within(source: dict[str, Any], wished: str) -> str:
    """Of code that is laid down for each try."""
    folder = "/".join(filter(None, [source.get("folder", ""), wished]))
    return _("%(folder)s in the code that is sent") % {"folder": folder or "."}


def fits_of(spec: JobSpec, places: Sequence[Place], user) -> list[Fit]:
    """Every GPU server, those that fit now first."""
    job = _job(spec, user)
    now = database_now()
    account = UnixAccount.objects.filter(user=user).first()
    unix_name = account.name if account else ""
    fits = [_fit(spec, unix_name, place, *_how(job, place, now)) for place in places]
    return sorted(fits, key=lambda fit: _ORDER.get(fit.badge.state, 2))


def ahead_of(spec: JobSpec, user) -> int:
    """How many waiting runs come before one that is queued now: those of a higher priority, and
    of the same those of people who hold no more GPUs, and those passed over for too long."""
    level = Priority[spec.priority.upper()]
    holds, since = held_gpus(), passed_over_since(database_now())
    waiting = Job.objects.queued().filter(held=False, priority__gte=level).order_by()
    is_old = ExpressionWrapper(Q(submitted_at__lte=since), BooleanField())
    groups = waiting.values("priority", "user_id", "gpus", old=is_old).annotate(n=Count("pk"))
    return sum(
        group["n"]
        for group in groups
        if group["priority"] > level
        or (held := holds[group["user_id"]]) <= holds[user.pk]
        or (group["old"] and group["gpus"] > held)
    )


def next_runs(spec: JobSpec, count: int, user: Any) -> tuple[str, str]:
    """How the first and the last run would be called, if nobody else is faster."""
    project = Project.objects.visible_to(user).filter(name=spec.project).first()
    last = project.last_run if project else 0
    return run_name(last + 1), run_name(last + count)


def product_of(grid: Grid) -> str:
    """`2 × 3`; empty: one thing is varied."""
    factors = [len(grid.rows)] if grid.rows != ({},) else []
    factors += [len(values) for values in grid.axes.values()]
    return " × ".join(map(str, factors)) if len(factors) > 1 else ""


def turn_of(spec: JobSpec, fits: list[Fit], count: int, user: Any) -> dict[str, str]:
    """When it is its turn: one line to be read first, and one beneath."""
    ahead = ahead_of(spec, user)
    runs = ngettext("%(n)d run", "%(n)d runs", count) % {"n": count}
    if count > 1:
        place = {"runs": runs, "first": ahead + 1, "last": ahead + count}
        head = _("%(runs)s, places %(first)d to %(last)d in the queue") % place
    else:
        head = _("Place %(n)d in the queue") % {"n": ahead + 1}
    return {"head": head, "more": _when(fits, ahead)}


def _when(fits: list[Fit], ahead: int) -> str:
    states = {fit.badge.state for fit in fits}
    if "healthy" in states:
        return _("It starts at once.") if not ahead else _("A GPU server that fits is free now.")
    if "waiting" in states:
        return _("It starts when a GPU that fits is free.")
    if "stale" in states:
        return _(
            "What fits cannot be reached now, takes no new runs or lacks something; it waits."
        )
    return _("No GPU server of this lab fits; it waits until one is added.")


def _job(spec: JobSpec, user) -> Job:
    return Job(
        user=user,
        gpus=spec.gpus,
        gpu_memory_bytes=spec.gpu_memory_bytes,
        gpu_type=spec.gpu_type or "",
        labels=spec.labels,
        requires=spec.requires,
        python=spec.python or "",
    )


def _how(job: Job, place: Place, now) -> tuple[Badge, str]:
    if never := _why_never(job, place):
        return Badge("free", "close", _("never")), never
    not_now = Badge("stale", "s-stale", _("not now"))
    if lacking := place.lacking(job):
        return not_now, _("it lacks %(names)s") % {"names": ", ".join(lacking)}
    if not place.accepts:
        return not_now, _why_closed(place, now)
    if place.fits(job, now):
        return Badge("healthy", "s-healthy", _("now")), _free_words(len(place.free_for(job)), job)
    return Badge("waiting", "s-waiting", _("later")), _later_words(job, place)


def _why_never(job: Job, place: Place) -> str:
    """What it has not; empty: it would do if it were idle."""
    labels = place.device.labels
    missing = [f"{k}={v}" for k, v in job.labels.items() if str(labels.get(k)) != str(v)]
    if missing:
        return _("it has no label %(labels)s") % {"labels": ", ".join(missing)}
    if not place.could_ever(job):
        return _why_too_small(job, place)
    if not place.admits(job):
        return _("your account has no Unix name to run as there; a manager sets it")
    return ""


def _why_too_small(job: Job, place: Place) -> str:
    if not job.gpus:
        return _("it takes no runs without a GPU")
    if not place.gpus:
        return _("it has no GPU")
    typed = [gpu for gpu in place.gpus if job.gpu_type.lower() in gpu.name.lower()]
    if not typed:
        return _("it has no %(type)s") % {"type": job.gpu_type}
    if not (able := place.able(job)):
        most = max(gpu.memory_total_bytes or 0 for gpu in typed) / 2**30
        return _("its GPUs have at most %(gib).0f GiB") % {"gib": most}
    words = ngettext("only %(n)d of its GPUs would do", "only %(n)d of its GPUs would do", able)
    return words % {"n": able}


def _why_closed(place: Place, now) -> str:
    if place.device.state(now) != DeviceState.HEALTHY:
        return _("it is not connected")
    if place.device.draining:
        return _("it takes no new runs")
    if place.is_stopping:
        return _("a process of a run that was given up is being stopped there")
    return _("it does not ask for runs at the moment")


def _later_words(job: Job, place: Place) -> str:
    if place.jobs_free < 1:
        return _("it runs as many as it may; when one of them ends")
    if place.elsewhere:
        return _("GPUs are used by another lab server")
    if place.outside_users:
        users = ", ".join(place.outside_users)
        return _("GPUs are used outside the queue by %(users)s") % {"users": users}
    if place.outside:
        return _("GPUs are used outside the queue")
    free = len(place.free_for(job))
    if free and job.gpus > free:
        return _("%(free)d of %(n)d GPUs free; when a run there ends") % {
            "free": free, "n": job.gpus,
        }  # fmt: skip
    return _("when a run there ends")


def _free_words(free: int, job: Job) -> str:
    if not job.gpus:
        return _("a place without a GPU is free")
    return ngettext("%(n)d GPU free", "%(n)d GPUs free", free) % {"n": free}


def _fit(spec: JobSpec, unix_name: str, place: Place, badge: Badge, words: str) -> Fit:
    device = place.device
    wished = spec.working_directory or ""
    folder = _within(spec.source, wished) if spec.source else folder_on(device, wished)
    python = spec.python or device.python or _("the agent's own")
    user = device.unix_user if place.admitted is None else unix_name
    return Fit(device, badge, words, folder, python, user)
