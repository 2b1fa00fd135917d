"""How many more runs of a sweep may start, at one instant."""

from collections import Counter
from dataclasses import dataclass

from django.db.models import Exists, OuterRef

from experiments.models import Job, Sweep


@dataclass
class Room:
    """A sweep with a bound, as dispatch sees it. `take()` keeps count within a pass."""

    running: int
    most: int

    @property
    def is_full(self) -> bool:
        return self.running >= self.most

    def take(self) -> None:
        self.running += 1


def read_rooms() -> dict[int, Room]:
    """Of each sweep that has a bound and a waiting run, by its id."""
    bounded = Sweep.objects.exclude(max_running=None)
    waiting = bounded.filter(Exists(Job.objects.queued().filter(sweep=OuterRef("pk"))))
    most = dict(waiting.values_list("pk", "max_running"))
    if not most:
        return {}
    live = Counter(Job.objects.live().filter(sweep__in=most).values_list("sweep_id", flat=True))
    return {pk: Room(live[pk], bound) for pk, bound in most.items()}
