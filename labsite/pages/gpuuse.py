"""How a run's newest try uses its GPUs, from its start to its end or to now."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.auth.decorators import login_required
from django.db.models import Avg, Max, QuerySet
from django.http import HttpRequest, JsonResponse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from devices.models import GPU, GPUSample, Span, minute_of
from experiments.models import Attempt, Job
from experiments.sampling import KEPT
from labsite.clock import database_now
from labsite.pages.access import visible_run
from labsite.pages.devicehistory import MEASURES, by_place, of_cards

#: Points of a curve; a longer run is told of in longer spans, several of them together.
MOST_POINTS = 600
#: Of a card's measures the first: use and memory.
SHOWN = MEASURES[:2]


@dataclass(frozen=True)
class Stretch:
    """A try's time, in whole minutes, and of which rows it is told."""

    first: int
    last: int
    span: Span

    @property
    def step(self) -> int:
        """Minutes from one point to the next: a whole number of spans."""
        spans = (self.last - self.first) // self.span + 1
        return self.span * -(-spans // MOST_POINTS)


@login_required
@require_safe
def curves(request: HttpRequest, uid: str) -> JsonResponse:
    """What static/js/history.js draws, as that of a GPU server's page."""
    job, now = visible_run(request, uid), database_now()
    cards, stretch = _cards_of(job), _stretch(_newest(job), now)
    answer: dict[str, Any] = {"at": [], "charts": []}
    if cards and stretch:
        step = stretch.step
        begin = stretch.first - stretch.first % step
        places = {at: n for n, at in enumerate(range(begin, stretch.last + 1, step))}
        names = [measure.name for measure in SHOWN]
        found = by_place(_samples(cards, stretch), "gpu_id", names, places, step)
        answer = {"at": [60 * at for at in places], "charts": of_cards(cards, found, SHOWN)}
    return JsonResponse(answer, headers={"Cache-Control": "no-store"})


def words_of(job: Job, now: datetime) -> str:
    """ "mean use 94 %, at most 21.3 GiB"; empty: nothing was noted, or it has no GPU."""
    cards, stretch = _cards_of(job), _stretch(_newest(job), now)
    if not cards or not stretch:
        return ""
    told = _samples(cards, stretch).order_by().aggregate(
        use=Avg("utilization_percent_mean"), memory=Max("memory_mib_max")
    )  # fmt: skip
    if told["use"] is None:
        return ""
    words = _("mean use %(percent)d %%") % {"percent": round(told["use"])}
    if told["memory"] is None:
        return words
    gib = f"{told['memory'] / 1024:.1f}"
    return _("%(use)s, VRAM at most %(gib)s GiB") % {"use": words, "gib": gib}


def _newest(job: Job) -> Attempt | None:
    return job.tries[0] if job.tries else None


def _cards_of(job: Job) -> list[GPU]:
    attempt = _newest(job)
    uuids = attempt.gpu_uuids if attempt else []
    return list(GPU.objects.filter(uuid__in=uuids).order_by("index")) if uuids else []


def _stretch(attempt: Attempt | None, now: datetime) -> Stretch | None:
    """None: it has not begun. Of a time whose minutes are no longer kept, longer spans tell."""
    if attempt is None or attempt.started_at is None:
        return None
    begin = attempt.started_at
    span = next((one for one in Span if begin > now - KEPT[one]), Span.HOUR)
    first = minute_of(begin)
    return Stretch(first - first % span, minute_of(attempt.ended_at or now), span)


def _samples(cards: Sequence[GPU], stretch: Stretch) -> QuerySet[GPUSample]:
    return GPUSample.objects.filter(
        gpu__in=[card.pk for card in cards], span=stretch.span, minute__gte=stretch.first,
        minute__lte=stretch.last,
    )  # fmt: skip
