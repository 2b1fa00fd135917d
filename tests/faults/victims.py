"""Who is killed, how it comes back, and when it answers again."""

import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.faults import processes
from tests.faults.ground import Ground, Subject
from tests.faults.processes import Born

ALL = ("web", "qcluster", "agent", "supervisor", "job")
STRANGER_AFTER_SECONDS = 15.0  # shorter outages have no time for another server to come up
STRANGER_SECONDS = 5.0


@dataclass(frozen=True)
class Kill:
    """`member`: which process of the cluster. `stranger`: an empty database answers in the
    server's stead while it is away."""

    number: int
    victim: str
    phase: str
    downtime_seconds: float
    policy: str
    member: int
    stranger: bool


class Victim:
    """One of the five, on its way down and up again. `hits_subject`: it is the subject's own."""

    def __init__(
        self, kill: Kill, ground: Ground, subject: Subject, lives: tuple[str, ...]
    ) -> None:
        self._kill = kill
        self._ground = ground
        self.hits_subject = kill.victim in lives
        self.hits_bystander = kill.victim in ("job", "supervisor") and not self.hits_subject
        self._job = subject if self.hits_subject else ground.bystander
        self._attempt_number = len(self._job.attempts())
        self._instance = self._device()["instance_id"]
        self._back_at = 0.0  # wall clock

    def strike(self) -> None:
        """kill -9."""
        ground, name = self._ground, self._kill.victim
        if name == "web" and self._kill.downtime_seconds:
            ground.lab.kill_all()
        elif name == "web":
            processes.kill([Born.of(ground.lab.program("web"))])
        elif name == "qcluster":
            processes.kill([self._member()])
        elif name == "agent":
            ground.agent.kill()
        else:
            self._strike_job(name)
        self._back_at = time.time()

    def come_back(self) -> None:
        """After its downtime, unless somebody else sees to that."""
        if self._kill.victim == "agent":
            time.sleep(self._kill.downtime_seconds)
            self._back_at = time.time()
            self._ground.agent.launch()
        elif self._kill.victim == "web" and self._kill.downtime_seconds:
            self._be_away(time.monotonic() + self._kill.downtime_seconds)
            self._back_at = time.time()
            self._ground.lab.start()

    def answers(self) -> bool:
        """Whether it does what it is there for, again."""
        if self._kill.victim == "web":
            return self._ground.lab.ask("GET", "/api/jobs/").ok
        if self._kill.victim == "qcluster":
            return self._pulse() > self._back_at
        if self._kill.victim == "agent":
            return self._device()["instance_id"] != self._instance
        attempts = self._job.attempts()
        return bool(attempts and attempts[self._attempt_number - 1]["ended_at"])

    # --- who it is ---

    def _member(self) -> Born:
        first = Born.of(self._ground.lab.program("dispatch"))
        found = sorted(processes.tree(first.pid), key=lambda born: (born.created_at, born.pid))
        return found[self._kill.member % len(found)]

    def _strike_job(self, name: str) -> None:
        born = self._job.process() if name == "job" else self._job.supervisor()
        assert born is not None, f"no {name} of {self._job.project} lives"
        processes.kill([born])

    def _be_away(self, until: float) -> None:
        if self._kill.stranger:
            stranger = self._ground.stranger().start()
            time.sleep(STRANGER_SECONDS)
            stranger.kill_all()
        time.sleep(max(0.0, until - time.monotonic()))

    # --- rows ---

    def _device(self) -> dict[str, object]:
        rows = self._ground.ask("SELECT instance_id FROM devices_device")
        return rows[0] if rows else {"instance_id": getattr(self, "_instance", None)}

    def _pulse(self) -> float:
        rows = self._ground.ask("SELECT at FROM experiments_pulse WHERE name = 'dispatch'")
        if not rows:
            return 0.0
        at = datetime.fromisoformat(rows[0]["at"]).replace(tzinfo=UTC)
        return at.timestamp()


def draw(
    seed: int, number: int, cells: list[tuple[str, str]], downtimes: dict[float, int]
) -> Kill:
    """The kill of this number, always the same: `downtimes` are seconds, with their weights."""
    chance = random.Random(f"{seed}/{number}")
    victim, phase = cells[number % len(cells)]
    comes_back_by_itself = victim in ("qcluster", "supervisor", "job")
    [downtime] = chance.choices(list(downtimes), list(downtimes.values()))
    downtime = 0.0 if comes_back_by_itself else downtime
    # Policy `requeue` may stop a job after 105 s of silence, which is not what is tried here.
    policy = chance.choice(["wait", "requeue"]) if downtime < 60 else "wait"
    stranger = victim == "web" and downtime > STRANGER_AFTER_SECONDS and chance.random() < 0.5
    return Kill(number, victim, phase, downtime, policy, chance.randrange(5), stranger)
