"""Small curves drawn here, so that a page shows them without a script: paths of inline SVG."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from django.db.models import Avg, F

from devices.models import GPUSample, Span, minute_of
from labsite.pages.minutely import EachMinute

HOUR_MINUTES = 60
STEP_MINUTES = 3
HEIGHT = 20


@EachMinute
def of_last_hour(now: datetime) -> dict[int, str]:
    """By a card's key: the path of its utilisation, in a box of 60 × 20, 100 % at the top."""
    minute = minute_of(now)
    first = minute - HOUR_MINUTES
    rows = GPUSample.objects.filter(span=Span.MINUTE, minute__gt=first, minute__lte=minute)
    steps = rows.order_by().annotate(step=F("minute") - F("minute") % STEP_MINUTES)
    means = steps.values("gpu_id", "step").annotate(use=Avg("utilization_percent_mean"))
    points: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for gpu, step, use in means.order_by("gpu_id", "step").values_list("gpu_id", "step", "use"):
        if use is not None:
            points[gpu].append((max(0, step - first), HEIGHT * (1 - float(use) / 100)))
    return {gpu: path(some, gap=2 * STEP_MINUTES) for gpu, some in points.items()}


def path(points: Iterable[tuple[float, float]], gap: float) -> str:
    """A line through them; it is broken where two are further apart than `gap`."""
    parts: list[str] = []
    before: float | None = None
    for x, y in points:
        begins = before is None or x - before > gap
        parts.append(f"{'M' if begins else 'L'}{x:.4g} {y:.3g}")
        before = x
    return "".join(parts)


def area(points: Sequence[tuple[float, float]], bottom: float) -> str:
    """What lies between them and `bottom`."""
    if not points:
        return ""
    line = "".join(f"L{x:.4g} {y:.3g}" for x, y in points)
    return f"M{points[0][0]:.4g} {bottom:.4g}{line}L{points[-1][0]:.4g} {bottom:.4g}Z"
