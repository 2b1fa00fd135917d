"""How a try ended, in a sentence that also says what happens next or what to do."""

import signal

from django.utils.translation import gettext as _

from experiments.models import Attempt, Job
from experiments.states import JobState, Outcome


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


def ending(attempt: Attempt, job: Job) -> str:
    """Why a try ended; empty while it is open."""
    sentences = {
        Outcome.FAILED: exit_words(attempt.exit_code),
        Outcome.SUCCEEDED: "",
        Outcome.TIMED_OUT: _("It reached its time limit and was stopped."),
        Outcome.PREEMPTED: _("It was stopped to be run again; it is not counted as a failure."),
        Outcome.START_FAILED: _("It could not be started on this GPU server."),
        Outcome.HOST_REBOOTED: _("The host was rebooted. Nothing was wrong with the run."),
        Outcome.SUPERVISOR_LOST: _("What watched over it on the host was killed."),
        Outcome.LOST: _("It was given up while the host could not be reached."),
        Outcome.NOT_ACCEPTED: _("The host did not take it in time; nothing was started."),
        Outcome.CANCELLED: _("It was cancelled."),
    }
    if attempt.is_open or not attempt.outcome:
        return ""
    said = [sentences.get(Outcome(attempt.outcome), ""), attempt.message, _unconfirmed(attempt)]
    return " ".join(sentence for sentence in said if sentence)


def _unconfirmed(attempt: Attempt) -> str:
    if not attempt.unconfirmed:
        return ""
    return _("Its process may have lived on; it is stopped when the host is back.")


def failure(job: Job, attempt: Attempt | None) -> str:
    """The sentence a failed run opens with."""
    if job.state != JobState.FAILED or attempt is None:
        return ""
    return ending(attempt, job) or _("It failed.")
