"""That something of the server is alive, and since when without a gap."""

from datetime import datetime, timedelta

from django.db import models
from django.db.models import Q, Value
from django.db.models.functions import Greatest

#: A longer silence than this between two beats is a gap.
GAP = timedelta(seconds=5)
FRESH = timedelta(seconds=3)  # a beat of the lane older than this: the server is blind


class Pulse(models.Model):
    """One row for each thing that beats: the lane (as agents meet it), and dispatch."""

    #: Dispatch is run once a minute at least, whoever started it.
    LONG_GAP = timedelta(seconds=150)

    LANE = "lane"
    DISPATCH = "dispatch"

    name = models.CharField(max_length=16, primary_key=True)
    at = models.DateTimeField()
    unbroken_since = models.DateTimeField()
    #: The newest gap above LONG_GAP: not heard of between the two.
    silent_since = models.DateTimeField(null=True)
    silent_until = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(unbroken_since__lte=models.F("at")), name="pulse")
        ]

    def __str__(self) -> str:
        return f"{self.name} at {self.at}"

    @classmethod
    def beat(cls, name: str, now: datetime) -> None:
        """Note that it was alive at `now`. Never goes back, whoever comes late; but a stamp so far
        in the future is of a clock that was set back since, and tells nothing."""
        unbroken = cls.objects.filter(name=name, at__gte=now - GAP, at__lte=now + cls.LONG_GAP)
        if unbroken.update(at=Greatest("at", Value(now))):
            return
        long_silent = cls.objects.filter(name=name, at__lt=now - cls.LONG_GAP)
        long_silent.update(silent_since=models.F("at"), silent_until=now)
        cls.objects.update_or_create(name=name, defaults={"at": now, "unbroken_since": now})

    @classmethod
    def sees_since(cls, now: datetime) -> datetime:
        """Since when the lane has answered agents without a gap; `now`, if it does not."""
        lane = cls.last(cls.LANE)
        if lane is None or abs(now - lane.at) > FRESH:  # of the future: the clock was set back
            return now
        return lane.unbroken_since

    @classmethod
    def last(cls, name: str) -> "Pulse | None":
        return cls.objects.filter(name=name).first()
