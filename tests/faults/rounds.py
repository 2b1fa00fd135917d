"""One kill: reach the moment, strike, see that all goes on, and judge what is left."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import requests

from tests.faults import judge, phases
from tests.faults.ground import Ground, Subject
from tests.faults.processes import LOOK_SECONDS, wait_for
from tests.faults.victims import Kill, Victim

PHASES = {phase.name: phase for phase in phases.ALL}
RECOVERS_SECONDS = 60.0
#: An agent whose token was refused asks again after a minute.
STRANGER_RECOVERS_SECONDS = 150.0
#: A device that did not take a job in time is avoided for two minutes.
ENDS_SECONDS = 240.0
ARRIVES_SECONDS = 60.0
BYSTANDER_WRITES_SECONDS = 10.0


@dataclass
class Result:
    kill: Kill
    faults: list[str] = field(default_factory=list)
    #: From the kill until the part answers, and until the job has got over it; downtime left out.
    answers_seconds: float | None = None
    moves_on_seconds: float | None = None
    took_seconds: float = 0.0

    @property
    def recovery_seconds(self) -> float | None:
        if self.answers_seconds is None or self.moves_on_seconds is None:
            return None
        return max(self.answers_seconds, self.moves_on_seconds)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "recovery_seconds": self.recovery_seconds}


def play(kill: Kill, ground: Ground) -> Result:
    """One round. Whatever is wrong stands in the result; after a fault the ground is spoilt."""
    result, began = Result(kill), time.monotonic()
    try:
        _Round(kill, ground, result).run()
    except (AssertionError, requests.RequestException) as exc:
        result.faults.append(f"{type(exc).__name__}: {str(exc)[:2000]}")
    result.took_seconds = time.monotonic() - began
    return result


class _Round:
    def __init__(self, kill: Kill, ground: Ground, result: Result) -> None:
        self._kill, self._ground, self._result = kill, ground, result
        self._phase = PHASES[kill.phase]
        self._subject = Subject(ground, f"k{kill.number:05d}")

    def run(self) -> None:
        kill, phase, subject, ground = self._kill, self._phase, self._subject, self._ground
        bystander = ground.bystander
        witness, written = bystander.process(), bystander.rows_written()
        assert witness is not None, "the bystander lives"
        phase.reach(phase, ground, subject, self._seconds(), kill.policy)
        process = subject.process() if "job" in phase.lives else None
        stored_bytes = subject.stored_bytes() if subject.uid else 0
        victim = Victim(kill, ground, subject, phase.lives)

        victim.strike()
        struck_at = time.monotonic()
        ground.gates.open(phase.name)
        victim.come_back()
        self._watch(victim, struck_at, stored_bytes)

        self._finish()
        faults = self._result.faults
        faults += judge.life(subject, self._expected(victim))
        faults += judge.own_words(subject) + judge.cards(ground)
        faults += judge.files(subject) + judge.too_late(subject)
        if process is not None and not (victim.hits_subject and kill.victim == "job"):
            faults += judge.untouched(subject, process)
        if victim.hits_bystander:
            self._replace(bystander)
        else:
            self._let_write(bystander, written)
            faults += judge.bystander(bystander, witness, written)

    def _seconds(self) -> float:
        """So long that it lives on through half of all outages, and ends within the others."""
        lives_on = self._phase.seconds > 2 and self._kill.member % 2
        return self._phase.seconds + (self._kill.downtime_seconds if lives_on else 0)

    def _watch(self, victim: Victim, struck_at: float, stored_bytes: int) -> None:
        """Note when the part answered, and when the job had got over it."""
        patience = STRANGER_RECOVERS_SECONDS if self._kill.stranger else RECOVERS_SECONDS
        deadline = time.monotonic() + patience
        self._result.answers_seconds = self._when(victim.answers, struck_at, deadline)
        if self._phase.name == "idle":
            self._subject.submit(self._phase.seconds, self._kill.policy)

        def moved_on() -> bool:
            if victim.hits_subject:
                return bool(self._subject.attempts()[0]["ended_at"])
            return self._phase.moved_on(self._subject, stored_bytes)

        self._result.moves_on_seconds = self._when(moved_on, struck_at, deadline)

    def _when(self, look: Callable[[], bool], struck_at: float, deadline: float) -> float:
        """Seconds from the kill until `look` is true, without the downtime."""
        while True:
            try:
                if look():
                    return time.monotonic() - struck_at - self._kill.downtime_seconds
            except requests.RequestException:
                pass  # the site is what was killed
            assert time.monotonic() < deadline, f"{self._phase.name} was not got over in time"
            time.sleep(LOOK_SECONDS)

    def _finish(self) -> None:
        """The job comes to its end, its card is free, and its files have arrived."""
        subject = self._subject
        if self._phase.name == "draining":
            self._check_drained()
        wait_for(lambda: subject.has_ended, f"{subject.project} ends", ENDS_SECONDS)
        wait_for(lambda: not subject.claims(), "its card is free", ARRIVES_SECONDS)
        wait_for(subject.is_settled, f"{subject.project} is settled", ARRIVES_SECONDS)
        self._result.faults += judge.said_to_be_synced(subject, or_nothing=True)

    def _check_drained(self) -> None:
        """Whatever was killed, no new job comes to a GPU server that takes none."""
        later = Subject(self._ground, f"{self._subject.project}-later").submit(0.5)
        first = self._subject
        wait_for(lambda: first.attempts()[0]["ended_at"], "the running one ends", ENDS_SECONDS)
        job = self._ground.lab.job(later.uid)
        if job["state"] != "queued" or not job["waiting_reason"]:
            self._result.faults.append(f"I14 while draining a new job was {job['state']}")
        self._ground.insist("/api/devices/gpu1/resume/")
        wait_for(lambda: later.state == "succeeded", "the later one ends", ENDS_SECONDS)

    def _expected(self, victim: Victim) -> judge.Expected:
        """An agent may have been away for so long that its job was offered anew, or may have been
        refused by a stranger and so keep away; the server's own absence is no reason to."""
        kill = self._kill
        away = kill.victim == "agent" and kill.downtime_seconds > judge.NOT_ACCEPTED_SECONDS
        return judge.expected(
            kill.victim,
            kill.phase,
            own=victim.hits_subject,
            may_lapse=(away or kill.stranger) and kill.phase in phases.UNACCEPTED,
        )

    def _replace(self, bystander: Subject) -> None:
        """The bystander was the victim: it has failed, or goes on in a second attempt."""
        if self._kill.victim == "supervisor":
            wait_for(lambda: len(bystander.attempts()) == 2, "it is begun again", ENDS_SECONDS)
            self._ground.insist(f"/api/jobs/{bystander.uid}/cancel/")
        wait_for(lambda: bystander.has_ended, "it is over", ENDS_SECONDS)
        wanted = {
            "job": judge.Expected("failed", (["failed"],)),
            "supervisor": judge.Expected("cancelled", (["supervisor_lost", "cancelled"],)),
        }
        self._result.faults += judge.life(bystander, wanted[self._kill.victim])
        self._result.faults += judge.own_words(bystander)
        wait_for(lambda: not bystander.claims(), "its card is free", ARRIVES_SECONDS)
        self._ground.new_bystander()

    @staticmethod
    def _let_write(bystander: Subject, written: int) -> None:
        end = time.monotonic() + BYSTANDER_WRITES_SECONDS
        while bystander.rows_written() <= written and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
