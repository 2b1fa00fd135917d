"""What happened in the demo lab: which run ran where and when, as a lab's queue would have it.

Times are seconds from now; what is past is below 0. Nothing is written here.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from experiments.states import Outcome
from labsite.demo.cast import APPETITE, HOSTS, TAGS, WORKS, Work

HOUR = 3600.0
#: How much of its cards' time the lab uses.
LOAD = 1.0
#: A run waits at least so long for its start.
START_SECONDS = 4.0
OVERLAP_SECONDS = 12.0


@dataclass
class Host:
    index: int
    card: str
    gib: int
    cards: int
    watts: int
    #: When each of its cards is free again.
    free_at: list[float] = field(default_factory=list)

    def start(self, gpus: int) -> float:
        """When so many of its cards are free together."""
        return sorted(self.free_at)[gpus - 1]


@dataclass
class Try:
    begins: float
    ends: float | None  # None: it runs
    outcome: str = ""
    exit_code: int | None = None
    message: str = ""


@dataclass
class Run:
    """One job of the demo. `begins` None: it waits."""

    work: Work
    person: int
    gpus: int
    submitted: float
    keys: dict[str, Any]
    quality: float  # 0 to 1: how well it does in the end
    epochs: int
    name: str = ""
    tags: list[str] = field(default_factory=list)
    host: Host | None = None
    cards: list[int] = field(default_factory=list)
    tries: list[Try] = field(default_factory=list)
    failure: str = ""  # oom, traceback, killed, limit: how its log ends
    cancelled_at: float | None = None  # while it waited

    @property
    def begins(self) -> float | None:
        return self.tries[-1].begins if self.tries else None

    @property
    def ends(self) -> float | None:
        return self.tries[-1].ends if self.tries else self.cancelled_at

    @property
    def progress(self) -> float:
        """How much of its epochs it has done, 0 to 1."""
        last = self.tries[-1] if self.tries else None
        if last is None:
            return 0.0
        if last.outcome == Outcome.SUCCEEDED:
            return 1.0
        return 0.15 + 0.8 * ((self.submitted * 7919) % 1)


def hosts(count: int) -> list[Host]:
    made = []
    for index in range(count):
        card, gib, cards, watts = HOSTS[index % len(HOSTS)]
        made.append(Host(index, card, gib, cards, watts))
    return made


def special(hosts: list[Host]) -> dict[str, Host]:
    """Hosts that have something wrong with them, where the lab is large enough for that."""
    if len(hosts) < 6:
        return {}
    return {
        "gone": hosts[-1],
        "late": hosts[-2],
        "stopped": hosts[-3],
        "faulty": hosts[1],
        "outside": hosts[3],
        "full": hosts[2],
        "old": hosts[-4],
    }


def runs(count: int, hosts: list[Host], dice: random.Random) -> list[Run]:
    """All of them, in the order in which they were queued."""
    made = [_wished(dice) for _ in range(count)]
    lengths = [_seconds(dice, one) for one in made]
    cards = sum(host.cards for host in hosts)
    asked = sum(one.gpus * seconds for one, seconds in zip(made, lengths, strict=True))
    span = max(asked / (cards * LOAD), 2 * HOUR)
    for one, at in zip(made, sorted(dice.uniform(-span, 0) for _ in made), strict=True):
        one.submitted = at
    _lay_out(made, lengths, hosts, span, dice)
    return made


def _wished(dice: random.Random) -> Run:
    work = dice.choices(WORKS, [14, 10, 8, 11, 8, 3, 2, 8, 12, 5, 6, 2])[0]
    keys = {name: dice.choice(values) for name, values in work.vary.items()}
    keys["seed"] = dice.randrange(5)
    return Run(
        work=work,
        person=dice.choices(range(len(APPETITE)), APPETITE)[0],
        gpus=dice.choice(work.gpus),
        submitted=0.0,
        keys=keys,
        quality=_quality(keys, dice),
        epochs=dice.choice(work.epochs),
        name=dice.choice(["", "", "", "again", "smaller step", "longer", "no augment", "rerun"]),
        tags=dice.sample(TAGS, dice.choice([0, 0, 0, 1, 1, 2])),
    )


def _quality(keys: dict[str, Any], dice: random.Random) -> float:
    """The keys tell something, as they should, and the seed a little."""
    rest = sorted(str(value) for name, value in keys.items() if name != "seed")
    told = random.Random("/".join(rest)).uniform(0.25, 0.95)  # noqa: S311  no secret
    return min(1.0, max(0.0, told + dice.gauss(0, 0.03)))


def _seconds(dice: random.Random, run: Run) -> float:
    median = 0.5 * HOUR if run.epochs <= 30 else 2.4 * HOUR
    return min(40 * HOUR, max(240.0, dice.lognormvariate(0, 0.9) * median))


def _lay_out(
    made: list[Run], lengths: list[float], hosts: list[Host], span: float, dice: random.Random
) -> None:
    odd = special(hosts)
    for host in hosts:
        host.free_at = [-span] * host.cards
    for name in ("faulty", "outside"):
        if name in odd:
            odd[name].free_at[-1] = float("inf")
    for run, seconds in zip(made, lengths, strict=True):
        if dice.random() < 0.01:
            run.cancelled_at = min(-1.0, run.submitted + dice.uniform(20, 900))
        else:
            _place(run, seconds, hosts, dice)
    for run, seconds in zip(made, lengths, strict=True):
        if not run.tries and run.cancelled_at is None:
            _begin_lately(run, seconds, hosts, dice)
    made.sort(key=lambda run: run.submitted)


def _begin_lately(run: Run, seconds: float, hosts: list[Host], dice: random.Random) -> None:
    """Nothing waits for what is free."""
    able = [h for h in hosts if h.cards >= run.gpus and run.work.gpu_type in h.card]
    free = [h for h in able if h.start(run.gpus) < -120]
    if not free:
        return
    run.host = dice.choice(free)
    by_age = sorted(range(run.host.cards), key=run.host.free_at.__getitem__)
    run.cards = sorted(by_age[: run.gpus])
    begins = max(run.host.start(run.gpus), run.submitted, -0.8 * seconds) + START_SECONDS
    run.tries = [Try(min(begins, -2.0), None)]
    run.submitted = min(run.submitted, run.tries[0].begins - START_SECONDS)
    for card in run.cards:
        run.host.free_at[card] = OVERLAP_SECONDS


def _place(run: Run, seconds: float, hosts: list[Host], dice: random.Random) -> None:
    able = [h for h in hosts if h.cards >= run.gpus and run.work.gpu_type in h.card]
    able = able or [h for h in hosts if h.cards >= run.gpus]
    if not able:
        able, run.gpus = hosts, min(h.cards for h in hosts)
    soonest = min(max(h.start(run.gpus), run.submitted) for h in able)
    if soonest >= -1:
        return  # it waits
    host = dice.choice([h for h in able if h.start(run.gpus) <= soonest])
    run.host = host
    run.cards = sorted(sorted(range(host.cards), key=host.free_at.__getitem__)[: run.gpus])
    begins = soonest + START_SECONDS
    end = begins + seconds * _share_done(run, dice)
    run.tries = list(_tries(run, begins, end, dice))
    for card in run.cards:
        host.free_at[card] = end + OVERLAP_SECONDS


def _share_done(run: Run, dice: random.Random) -> float:
    """How it will end is known by now: what fails or is cancelled ends sooner."""
    fate = dice.random()
    for share, failure in ((0.05, "oom"), (0.14, "traceback"), (0.16, "killed"), (0.17, "limit")):
        if fate < share:
            run.failure = failure
            return {"oom": 0.04, "traceback": 0.4, "killed": 0.6, "limit": 1.0}[failure]
    if fate < 0.26:
        run.failure = "cancelled"
        return 0.3
    return 1.0


_ENDS: dict[str, tuple[str, int | None, str]] = {
    "": (Outcome.SUCCEEDED, 0, ""),
    "oom": (Outcome.FAILED, 1, ""),
    "traceback": (Outcome.FAILED, 1, ""),
    "killed": (Outcome.FAILED, 137, ""),
    "limit": (Outcome.TIMED_OUT, -15, ""),
    "cancelled": (Outcome.CANCELLED, -15, ""),
}
_FALSE_STARTS = [(Outcome.HOST_REBOOTED, None), (Outcome.PREEMPTED, -15)]


def _tries(run: Run, begins: float, end: float, dice: random.Random) -> Iterator[Try]:
    """As a rule one."""
    if end < 0 and dice.random() < 0.04:
        cut = begins + (end - begins) * dice.uniform(0.05, 0.4)
        outcome, code = dice.choice(_FALSE_STARTS)
        yield Try(begins, cut, outcome, code)
        begins = cut + 20.0
    if end >= 0:
        run.failure = ""
        yield Try(begins, None)
    else:
        yield Try(begins, max(end, begins + 5), *_ENDS[run.failure])
