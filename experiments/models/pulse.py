"""That something of the server is alive, and since when without a gap."""

from datetime import datetime, timedelta

from django.db import models
from django.db.models import Q, Value
from django.db.models.functions import Greatest

#: A longer silence than this between two beats is a gap.
GAP = timedelta(seconds=5)


class Pulse(models.Model):
    """One row for each thing that beats: the lane (as agents meet it), and dispatch."""

    LANE = "lane"
    DISPATCH = "dispatch"

    name = models.CharField(max_length=16, primary_key=True)
    at = models.DateTimeField()
    unbroken_since = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(unbroken_since__lte=models.F("at")), name="pulse")
        ]

    def __str__(self) -> str:
        return f"{self.name} at {self.at}"

    @classmethod
    def beat(cls, name: str, now: datetime) -> None:
        """Note that it was alive at `now`. Never goes back, whoever comes late."""
        unbroken = cls.objects.filter(name=name, at__gte=now - GAP)
        if unbroken.update(at=Greatest("at", Value(now))):
            return
        cls.objects.update_or_create(name=name, defaults={"at": now, "unbroken_since": now})

    @classmethod
    def last(cls, name: str) -> "Pulse | None":
        return cls.objects.filter(name=name).first()
