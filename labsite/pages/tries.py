"""The tries of a run: where each was, for how long, and why it ended."""

from dataclasses import dataclass
from datetime import datetime

from django.utils.translation import gettext as _

from experiments.endings import counted_tries, endings_of
from experiments.models import Job
from labsite.pages.queue import gpu_words
from labsite.pages.states import Badge, attempt_badge


@dataclass(frozen=True)
class Try:
    attempt: object
    badge: Badge
    where: str
    sentence: str


def tries_of(job: Job, indices: dict[str, int], now: datetime) -> list[Try]:
    """The newest first, from `job.tries`."""
    sentences = endings_of(job, job.tries)
    return [
        Try(
            attempt=one,
            badge=attempt_badge(one, job, now),
            where=", ".join(filter(None, [one.device.host_id, gpu_words(one, indices)])),
            sentence=sentences[one.pk],
        )
        for one in job.tries
    ]


def try_words(job: Job) -> str:
    """Which try it is in, once there was more than one: "try 2 of 3" where earlier ones were of
    the kind that `max_attempts` bounds; a rebooted host, say, costs none."""
    newest = job.tries[0] if job.tries else None
    if newest is None or newest.number == 1:
        return ""
    before = len(counted_tries(one for one in job.tries if one is not newest))
    if before == newest.number - 1:
        return _("try %(n)d of %(most)d") % {"n": before + 1, "most": job.max_attempts}
    return _("try %(n)d") % {"n": newest.number}
