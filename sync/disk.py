"""How long the server's disk will last, from how it was used lately.

The slope is Theil and Sen's: the median of the slopes between all pairs of samples, which a
file that was copied here by hand, or a spring cleaning, does not move.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations
from statistics import median

from django.conf import settings

from sync.models import DiskSample

EVERY = timedelta(
    minutes=55
)  # tidy, which takes them, is run once an hour and whenever it is asked
KEPT = timedelta(days=90)
#: Looked at to look ahead: long enough for a week's rhythm, short enough for this month's.
WINDOW = timedelta(days=14)
#: No forecast below these.
LEAST_SAMPLES = 24
LEAST_SPAN = timedelta(days=1)
#: More samples than this are thinned: the pairs grow with their square.
LOOKED_AT = 100
WARN_DAYS = 14
DAY_SECONDS = 86400


@dataclass(frozen=True)
class Forecast:
    """`growth_bytes_per_day` is None while there is not enough data; `days_left` is None then,
    and where the disk does not fill up."""

    free_bytes: int
    total_bytes: int
    growth_bytes_per_day: float | None = None
    days_left: float | None = None

    @property
    def is_close(self) -> bool:
        """Whether a person should do something about it."""
        return self.days_left is not None and self.days_left < WARN_DAYS

    @property
    def used_percent(self) -> int:
        return round(100 * (self.total_bytes - self.free_bytes) / self.total_bytes)


def sample(now: datetime) -> None:
    """Note how full it is, about once an hour, and forget what is old."""
    if DiskSample.objects.filter(at__gt=now - EVERY).exists():
        return
    free, total = free_and_total()
    DiskSample.objects.get_or_create(at=now, defaults={"free_bytes": free, "total_bytes": total})
    DiskSample.objects.filter(at__lt=now - KEPT).delete()


def forecast(now: datetime) -> Forecast:
    free, total = free_and_total()
    # A disk that was exchanged for a larger one tells nothing of how this one fills up.
    same = DiskSample.objects.filter(at__gt=now - WINDOW, total_bytes=total)
    return predicted(list(same.values_list("at", "free_bytes")), free, total)


def predicted(
    samples: Sequence[tuple[datetime, int]], free_bytes: int, total_bytes: int
) -> Forecast:
    """
    Args:
        samples: when, and how many bytes were free; by time.
    """
    known = len(samples) >= LEAST_SAMPLES and samples[-1][0] - samples[0][0] >= LEAST_SPAN
    if not known:
        return Forecast(free_bytes, total_bytes)
    growth = -slope(samples) * DAY_SECONDS
    left = max(0, free_bytes - settings.LAB_DISK_RESERVE_BYTES)
    return Forecast(free_bytes, total_bytes, growth, left / growth if growth > 0 else None)


def slope(samples: Sequence[tuple[datetime, int]]) -> float:
    """Bytes a second, of more than one sample."""
    step = -(-len(samples) // LOOKED_AT)
    pairs = combinations(samples[::step], 2)
    return median(
        (b - a) / (later - earlier).total_seconds() for (earlier, a), (later, b) in pairs
    )


def free_and_total() -> tuple[int, int]:
    """In bytes, of the disk of the logs folder, for a process without privileges."""
    settings.LAB_LOGS_DIR.mkdir(parents=True, exist_ok=True)
    usage = shutil.disk_usage(settings.LAB_LOGS_DIR)
    return usage.free, usage.total
