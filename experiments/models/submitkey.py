"""By which a submit that is sent again is known, as the answer to the first was lost."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from django.conf import settings
from django.db import models
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from experiments.errors import KeyReused, NotSubmitted
from experiments.models.event import change
from experiments.models.job import Job
from experiments.models.sweep import Sweep
from labsite.clock import database_now

#: Whoever asks again does so within minutes; a script that was restarted, on the next day.
KEEP = timedelta(days=7)
_KEY = re.compile(r"[\x21-\x7e]{1,128}")

Made = TypeVar("Made", Job, Sweep)


class SubmitKey(models.Model):
    """What a person has queued under a key of theirs. The row exists = it is queued."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    key = models.CharField(max_length=128)
    asked_sha256 = models.CharField(max_length=64)  # of what was asked for
    job = models.ForeignKey(Job, models.CASCADE, null=True, related_name="+")
    sweep = models.ForeignKey(Sweep, models.CASCADE, null=True, related_name="+")
    at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "key"], name="submit_key_of_user"),
        ]
        verbose_name = _("submit key")
        verbose_name_plural = _("submit keys")

    def __str__(self) -> str:
        return self.key


@dataclass(frozen=True)
class Asked:
    """A request to queue something, which may arrive more than once."""

    user: Any
    key: str
    sha256: str

    @classmethod
    def of(cls, user: Any, key: str | None, *said: Any) -> "Asked | None":
        """Of a request that says all this, as JSON's own types; None: it has no key.

        Raises:
            NotSubmitted: the key cannot be one.
        """
        if key is None:
            return None
        if not _KEY.fullmatch(key):
            words = gettext("An Idempotency-Key has 1 to 128 letters, digits or signs, no spaces.")
            raise NotSubmitted(words, field="Idempotency-Key")
        try:
            text = json.dumps(said, sort_keys=True, default=str)
        except RecursionError:
            raise NotSubmitted(gettext("This request is nested too deeply.")) from None
        return cls(user, key, hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest())

    def before(self) -> Job | Sweep | None:
        """What it has made already.

        Raises:
            KeyReused: the key stands for another request.
        """
        return self._made(self._rows().filter(key=self.key).first())

    def once(self, make: Callable[[], Made]) -> Made:
        """What it has made already, else what `make` queues now: of two that race, one does.

        Raises:
            KeyReused: as before().
        """
        now = database_now()
        with change():
            self._rows().filter(at__lt=now - KEEP).delete()
            first = {"asked_sha256": self.sha256, "at": now}
            row, is_new = SubmitKey.objects.get_or_create(
                user=self.user, key=self.key, defaults=first
            )
            if not is_new:
                return self._made(row)  # type: ignore[return-value]
            made = make()
            which = "job" if isinstance(made, Job) else "sweep"
            SubmitKey.objects.filter(pk=row.pk).update(**{which: made})
        return made

    def _rows(self) -> "models.QuerySet[SubmitKey]":
        return SubmitKey.objects.filter(user=self.user)

    def _made(self, row: SubmitKey | None) -> Job | Sweep | None:
        if row is None:
            return None
        if row.asked_sha256 != self.sha256:
            words = gettext(
                "This Idempotency-Key stands for another request: take a new one for each."
            )
            raise KeyReused(words)
        return row.job or row.sweep


def once(asked: Asked | None, make: Callable[[], Made]) -> Made:
    """As asked.once(); a request without a key is done each time."""
    return make() if asked is None else asked.once(make)
