"""How a try ended, in a sentence that also says what happens next or what to do."""

import signal
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _

from agent.wire import ExitCause
from experiments.models import Attempt, Found, Job, JobEvent
from experiments.states import COUNTED, EventKind, JobState, OnDeviceLost, Outcome
from labsite.clock import clock_words


def exit_words(code: int | None) -> str:
    """An exit code in words; negative: killed by that signal. Shells add 128 to a signal."""
    if code is None:
        return ""
    if code < 0 or 128 < code <= 128 + 64:
        return _signal_words(-code if code < 0 else code - 128)
    known = {
        0: _("It ended normally (exit code 0)."),
        1: _("The script stopped with an error (exit code 1)."),
        2: _("The command did not understand its arguments, or a file was missing (exit code 2)."),
        126: _("The command is there but may not be executed (exit code 126)."),
        127: _("The command was not found on the GPU server (exit code 127)."),
    }
    return known.get(code) or _("The script ended with exit code %(code)d.") % {"code": code}


def _signal_words(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = str(number)
    known = {
        signal.SIGKILL: _(
            "It was killed (SIGKILL): often the machine ran out of memory, or somebody killed it."
        ),
        signal.SIGSEGV: _("It crashed (SIGSEGV): a native library failed, not your Python code."),
        signal.SIGABRT: _("It aborted itself (SIGABRT): CUDA and native libraries do this."),
        signal.SIGBUS: _("It crashed (SIGBUS): often /dev/shm is full; use fewer data workers."),
        signal.SIGTERM: _("It was asked to stop (SIGTERM)."),
        signal.SIGINT: _("It was interrupted (SIGINT)."),
    }
    return known.get(number) or _("It was ended by the signal %(name)s.") % {"name": name}


def endings_of(job: Job, tries: Collection[Attempt]) -> dict[Any, str]:
    """Of each of a job's tries, by its key: why it ended. `tries` are all of them."""
    counted, givers = counted_tries(tries), _givers(job, tries)
    return {
        one.pk: ending(one, job, counted=counted.get(one.pk, 0), by=givers.get(one.pk, ""))
        for one in tries
    }


def _givers(job: Job, tries: Iterable[Attempt]) -> dict[Any, str]:
    """Who gave which of them up, where a person did."""
    if not any(one.outcome == Outcome.LOST for one in tries):
        return {}
    ends = JobEvent.objects.filter(job=job, kind=EventKind.ENDED, by__isnull=False)
    return dict(ends.values_list("attempt_id", "by__username"))


def ending(attempt: Attempt, job: Job, *, counted: int = 0, by: str = "") -> str:
    """Why a try ended; empty while it is open.

    Args:
        counted: how many tries `max_attempts` bounds, this one included; 0: it costs none.
        by: who gave it up; empty: the server did by itself.
    """
    sentences = {
        Outcome.FAILED: exit_words(attempt.exit_code),
        Outcome.SUCCEEDED: "",
        Outcome.TIMED_OUT: _("It reached its time limit and was stopped."),
        Outcome.PREEMPTED: _("It was stopped to be run again; it is not counted as a failure."),
        Outcome.START_FAILED: _("It could not be started on this GPU server."),
        Outcome.HOST_REBOOTED: _("The host was rebooted. Nothing was wrong with the run."),
        Outcome.SUPERVISOR_LOST: _("What watched over it on the host was killed."),
        Outcome.LOST: _lost(attempt, by),
        Outcome.NOT_ACCEPTED: _("The host did not take it in time; nothing was started."),
        Outcome.GPU_TAKEN: _(
            "Its GPU was in use by another lab server on that host. Nothing was started, and it "
            "counts as no try."
        ),
        Outcome.LACKING: _(
            "This GPU server has not all that the run requires. Nothing was started, and it "
            "counts as no try."
        ),
        Outcome.CANCELLED: _("It was cancelled."),
    }
    if attempt.is_open or not attempt.outcome:
        return ""
    said = [
        sentences.get(Outcome(attempt.outcome), ""),
        attempt.message,
        _counted(counted, job),
        _unconfirmed(attempt),
    ]
    return " ".join(sentence for sentence in said if sentence)


def _lost(attempt: Attempt, by: str) -> str:
    if not attempt.unconfirmed:
        return _(
            "It stopped itself there, as was wished for the case that this server cannot be "
            "reached; it costs no try."
        )
    if by:
        return _("%(user)s gave it up while the host could not be reached.") % {"user": by}
    if attempt.on_device_lost == OnDeviceLost.REQUEUE:
        return _(
            "The host could not be reached, so it was queued again, as was wished for this case; "
            "it costs no try."
        )
    return _("It was given up, since the host could not be reached for too long.")


def counted_tries(attempts: Iterable[Attempt]) -> dict[Any, int]:
    """Of each try that `max_attempts` bounds: the how-manieth of them it was."""
    bounded = sorted(
        (one for one in attempts if one.outcome in COUNTED), key=lambda one: one.number
    )
    return {one.pk: place for place, one in enumerate(bounded, start=1)}


def _counted(counted: int, job: Job) -> str:
    if not counted:
        return ""
    facts = {"n": counted, "most": job.max_attempts}
    if counted < job.max_attempts:
        return _("That was try %(n)d of %(most)d.") % facts
    return _("That was try %(n)d of %(most)d, so it is not tried again.") % facts


def _unconfirmed(attempt: Attempt) -> str:
    if not attempt.unconfirmed:
        return ""
    if not attempt.found:
        return _("Its process may have lived on; it is stopped when the host is back.")
    return found_words(attempt)


def found_words(attempt: Attempt) -> str:
    """What was found of it on the host, when that could be reached again."""
    found = attempt.found
    when = {"when": clock_words(datetime.fromisoformat(found["at"]))}
    if found["what"] == Found.RUNNING:
        return _("The host came back %(when)s: it was still running, and is being stopped.") % when
    if found["what"] == Found.GONE:
        return _("The host came back %(when)s: nothing was left of it.") % when
    if found["was_running"] and found.get("cause") == ExitCause.STOPPED.value:
        return _("The host came back: it was still running, and was stopped %(when)s.") % when
    told = {**when, "ended": _ended_at(found), "how": _how_it_ended(found)}
    return _("The host came back %(when)s: it had ended at %(ended)s. %(how)s") % told


def _ended_at(found: dict[str, Any]) -> str:
    told = parse_datetime(found.get("ended_at") or "")
    return clock_words(told) if told else "–"


def _how_it_ended(found: dict[str, Any]) -> str:
    by_cause = {
        ExitCause.TIMED_OUT.value: _("It had reached its time limit."),
        ExitCause.FENCED.value: _("It had stopped itself, as was wished for this case."),
        ExitCause.HOST_REBOOTED.value: _("The host was rebooted."),
        ExitCause.SUPERVISOR_LOST.value: _("What watched over it on the host was killed."),
    }
    known = by_cause.get(found.get("cause") or "") or found.get("message")
    return known or exit_words(found.get("exit_code")) or _("How it ended is not known.")


def failure(job: Job, ending: str) -> str:
    """The sentences a failed run opens with: those of its last try, if there are any."""
    return ending or _("It failed.") if job.state == JobState.FAILED else ""
