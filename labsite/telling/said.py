"""What is said of a run that ended, of a sweep that is done, of the lab, and to try it out.

All in the language that is active; a channel's is its maker's.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from experiments.endings import endings_of, failure
from experiments.models import Attempt, Channel, Job, JobEvent, Sweep
from experiments.states import JobState
from labsite.pages import runfiles
from labsite.pages.failures import failure_of
from labsite.pages.ranking import scores_of
from labsite.pages.states import state_badge
from labsite.telling.phrases import Ours, Phrase, Text
from labsite.templatetags.lab import duration, number, pairs

#: Of so many runs that ended together each is named in one message of all of them.
MOST_NAMED = 20


@dataclass(frozen=True)
class Said:
    """A message, in no form yet.

    Attributes:
        id: the same for the same message, however often it is sent.
        path: where it is looked at, from the site's address on.
        facts: what programs read of it.
    """

    id: str
    kind: str
    title: Phrase
    path: str
    lines: Sequence[Phrase] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def id_of(channel: Channel, *what: object) -> str:
    return str(uuid.uuid5(channel.uid, "/".join(map(str, what))))


def of_test(channel: Channel) -> Said:
    title = Phrase(_("This is a test message of the lab server: what is sent here arrives."))
    return Said(id_of(channel, "test", channel.test_asked_at), "test", title, reverse("account"))


# --- a run --------------------------------------------------------------------------------------


def of_run(channel: Channel, event: JobEvent, canceller: str) -> Said:
    """
    Args:
        event: that it ended, with its job and that one's project and user.
        canceller: who cancelled it; empty: nobody did, or the server does not know.
    """
    job = event.job
    job.tries = list(job.attempts.select_related("device").order_by("-number"))
    newest = job.tries[0] if job.tries else None
    lines = [*_named(job), *_how(event, newest), *_where(newest), *_metric(job)]
    return Said(
        id=id_of(channel, "event", event.pk),
        kind="run",
        title=_title(event, canceller),
        path=reverse("run", args=[job.uid]),
        lines=lines,
        facts=_facts(event, newest, canceller),
    )


def _title(event: JobEvent, canceller: str) -> Phrase:
    job = event.job
    values = {"run": str(job), "time": Ours(duration(_seconds(job))), "user": canceller}
    if event.to_state == JobState.CANCELLED:
        words = _("%(run)s was cancelled by %(user)s") if canceller else _("%(run)s was cancelled")
    elif event.to_state == JobState.SUCCEEDED:
        words = _("%(run)s succeeded after %(time)s")
    else:
        words = _("%(run)s failed after %(time)s") if values["time"] else _("%(run)s failed")
    return Phrase(words, values)


def _seconds(job: Job) -> float | None:
    """How long its last try ran."""
    if job.started_at is None or job.finished_at is None:
        return None
    return (job.finished_at - job.started_at).total_seconds()


def _named(job: Job) -> list[Phrase]:
    known = [(_("Name: %(text)s"), job.name), (_("Project: %(text)s"), job.project.title)]
    found = [Phrase(words, {"text": text}) for words, text in known if text]
    if job.swept:
        found.append(Phrase("%(text)s", {"text": pairs(job.swept)}))
    return found


def _how(event: JobEvent, newest: Attempt | None) -> list[Phrase]:
    """Why it failed, as its page opens: the end in words, the error, what to do."""
    job = event.job
    if event.to_state != JobState.FAILED:
        return []
    why = failure(job, endings_of(job, job.tries).get(newest.pk, "") if newest else "")
    with runfiles.opened(job, "log") as part:
        found = failure_of(job, part)
    said = [Phrase("%(text)s", {"text": Text(why)})] if why else []
    if found.traceback:
        said.append(Phrase("%(error)s", {"error": found.traceback.exception}))
    return said + [Phrase("%(text)s", {"text": Text(one)}) for one in found.advice]


def _where(newest: Attempt | None) -> list[Phrase]:
    if newest is None:
        return []
    return [Phrase(_("GPU server: %(device)s"), {"device": newest.device.host_id})]


def _metric(job: Job) -> list[Phrase]:
    best = _best({job.pk: job.summary}, job)
    if best is None:
        return []
    values = {"metric": best["metric"], "value": Ours(number(best["value"]))}
    return [Phrase(_("Best %(metric)s: %(value)s"), values)]


def _best(summaries: Mapping[int, Mapping[str, Any]], job: Job) -> dict[str, Any] | None:
    """Of the metric that one asks for first; None: there is none, or nobody knows what is better.

    Args:
        job: one of them.
    """
    scores = scores_of(summaries, project=job.project)
    if scores.winner is None or not job.project.better(scores.metric):
        return None
    value = scores.best[scores.winner]
    return {"metric": scores.metric, "value": value, "job": scores.winner}


def _facts(event: JobEvent, newest: Attempt | None, canceller: str) -> dict[str, Any]:
    job = event.job
    best = _best({job.pk: job.summary}, job)
    return {
        "uid": job.uid,
        "project": job.project.name,
        "run": job.run_name,
        "name": job.name,
        "user": job.user.get_username() if job.user else None,
        "state": event.to_state,
        "outcome": newest.outcome if newest else None,
        "exit_code": newest.exit_code if newest else None,
        "device": newest.device.host_id if newest else None,
        "cancelled_by": canceller or None,
        "submitted_at": job.submitted_at.isoformat(),
        "started_at": job.started_at.isoformat() if job.started_at else None,
        "finished_at": job.finished_at.isoformat() if job.finished_at else None,
        "duration_seconds": _seconds(job),
        "best": {"metric": best["metric"], "value": best["value"]} if best else None,
    }


# --- a sweep, and several -----------------------------------------------------------------------


def of_sweep(channel: Channel, event: JobEvent, sweep: Sweep) -> Said:
    """`event`: the end of the last of its runs."""
    runs = list(sweep.newest_runs().select_related("project").only("summary", "swept", "project"))
    counts = sweep.counts()
    values = {"sweep": sweep.name or str(sweep), "project": event.job.project.name}
    told = ", ".join(state_badge(state).counted(n).word for state, n in counts.items())
    title = _("%(sweep)s in %(project)s is done: %(counts)s")
    best = _best({run.pk: run.summary for run in runs}, event.job)
    return Said(
        id=id_of(channel, "event", event.pk),
        kind="sweep",
        title=Phrase(title, {**values, "counts": Ours(told)}),
        path=reverse("sweep", args=[sweep.pk]),
        lines=_best_run(best, runs),
        facts={
            "sweep": sweep.pk,
            "name": sweep.name,
            "project": event.job.project.name,
            "user": sweep.user.get_username() if sweep.user else None,
            "counts": counts,
            "best": {"metric": best["metric"], "value": best["value"]} if best else None,
        },
    )


def _best_run(best: Mapping[str, Any] | None, runs: Sequence[Job]) -> list[Phrase]:
    if best is None:
        return []
    swept = next(pairs(run.swept) for run in runs if run.pk == best["job"])
    values = {"metric": best["metric"], "value": Ours(number(best["value"])), "swept": swept}
    return [Phrase(_("Best %(metric)s: %(value)s with %(swept)s"), values)]


def of_several(channel: Channel, all_of_them: Sequence[Said]) -> Said:
    """One message of many that came together, for who reads and does not count."""
    first, last = all_of_them[0], all_of_them[-1]
    words = ngettext("%(n)s run ended", "%(n)s runs ended", len(all_of_them))
    lines = [one.title for one in all_of_them[:MOST_NAMED]]
    if len(all_of_them) > MOST_NAMED:
        left = Ours(len(all_of_them) - MOST_NAMED)
        lines.append(Phrase(_("and %(n)s more"), {"n": left}))
    title = Phrase(words, {"n": Ours(len(all_of_them))})
    return Said(id_of(channel, first.id, last.id), "several", title, reverse("runs"), lines)
