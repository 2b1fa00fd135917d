"""The moments of a job's life at which something is killed, and when it has got over that.

A moment is hit by a gate where it is short (tests.faults.gates), and by looking where it is long.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.ground import Ground, Subject
from tests.faults.processes import wait_for

REACH_SECONDS = 60.0
LONG_SECONDS = 120.0  # for one that is cancelled anyway

Reach = Callable[["Phase", Ground, Subject, float, str], None]
MovedOn = Callable[[Subject, int], bool]


def goes_on_to_run(subject: Subject, stored_bytes: int) -> bool:
    attempts = subject.attempts()
    return subject.state == "running" or any(one["ended_at"] for one in attempts)


def sends_more(subject: Subject, stored_bytes: int) -> bool:
    return subject.has_ended or subject.stored_bytes() > stored_bytes


def has_ended(subject: Subject, stored_bytes: int) -> bool:
    return subject.has_ended or len(subject.attempts()) > 1


def has_given_back(subject: Subject, stored_bytes: int) -> bool:
    return subject.has_ended and not subject.claims()


def has_arrived(subject: Subject, stored_bytes: int) -> bool:
    return subject.has_ended and subject.files_are_complete()


def idle(phase: "Phase", ground: Ground, subject: Subject, seconds: float, policy: str) -> None:
    """Nothing but the bystander; the subject is submitted after the kill."""


def held(phase: "Phase", ground: Ground, subject: Subject, seconds: float, policy: str) -> None:
    ground.gates.arm(phase.name, subject.project)
    subject.submit(seconds, policy)
    _wait_reached(phase, ground)


def running(phase: "Phase", ground: Ground, subject: Subject, seconds: float, policy: str) -> None:
    subject.submit(seconds, policy)
    subject.wait_running()
    wait_for(subject.stored_bytes, "its first rows are stored", REACH_SECONDS)


def draining(
    phase: "Phase", ground: Ground, subject: Subject, seconds: float, policy: str
) -> None:
    running(phase, ground, subject, seconds, policy)
    ground.insist("/api/devices/gpu1/drain/")


def cancelled(
    phase: "Phase", ground: Ground, subject: Subject, seconds: float, policy: str
) -> None:
    running(phase, ground, subject, LONG_SECONDS, policy)
    ground.gates.arm(phase.name, subject.project)
    ground.insist(f"/api/jobs/{subject.uid}/cancel/")
    _wait_reached(phase, ground)


def resumed(phase: "Phase", ground: Ground, subject: Subject, seconds: float, policy: str) -> None:
    subject.submit(2.0, policy)
    wait_for(lambda: subject.state == "succeeded", "the first run ends", REACH_SECONDS)
    wait_for(subject.has_resume_point, "its checkpoint is whole", REACH_SECONDS)
    ground.gates.arm(phase.name, subject.project)
    subject.resume()
    _wait_reached(phase, ground)


def _wait_reached(phase: "Phase", ground: Ground) -> None:
    wait_for(lambda: ground.gates.is_reached(phase.name), f"{phase.name} is met", REACH_SECONDS)


@dataclass(frozen=True)
class Phase:
    """`lives`: which of the subject's own processes live then. `moved_on`: whether its job got
    over it, given how many bytes of its metrics were stored when it happened."""

    name: str
    reach: Reach
    moved_on: MovedOn
    lives: tuple[str, ...] = ()
    #: How long the job runs: so that it lives on for a while, or that its end soon comes.
    seconds: float = 4.0


BOTH = ("job", "supervisor")
ALL = (
    Phase("idle", idle, goes_on_to_run),
    Phase("poll sent", held, goes_on_to_run),
    Phase("assigned", held, goes_on_to_run),
    Phase("accepted", held, goes_on_to_run),
    Phase("resume laid in", resumed, goes_on_to_run),
    Phase("starting", held, goes_on_to_run),
    Phase("born", held, goes_on_to_run, BOTH),
    Phase("running", running, sends_more, BOTH),
    Phase("delta in flight", held, sends_more, BOTH),
    Phase("after write", held, sends_more, BOTH),
    Phase("after commit", held, sends_more, BOTH),
    Phase("draining", draining, sends_more, BOTH),
    Phase("cancel asked", cancelled, has_ended, BOTH),
    Phase("ending", held, has_ended, ("supervisor",), 1.0),
    Phase("exit not reported", held, has_ended, (), 1.0),
    Phase("exit reported", held, has_ended, (), 1.0),
    Phase("released not reported", held, has_given_back, (), 1.0),
    Phase("finishing", held, has_arrived, (), 1.0),
)
#: Those in which the server has yet to hear that somebody took the job on.
UNACCEPTED = ("poll sent", "assigned", "accepted")
