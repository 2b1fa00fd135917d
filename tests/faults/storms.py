"""Storms over a job's files: a real server and a real agent, and between them a network, two
kernels and two clocks that misbehave while the job writes.

    python -m tests.faults.storms --storms 500 --seed 1

Each storm is drawn from the seed and its number, so that `--only NUMBER` repeats one. What is
killed at which moment of a job's life is tests.faults.matrix's; here it is the files that count:
numbered, checksummed rows (tests.faults.workload), each once and in order on the server, and in
the end the same bytes on both sides. Ends with 0 only if no invariant was violated.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.faults import judge, matrix, processes
from tests.faults.ground import Ground, Subject
from tests.faults.judge import Expected
from tests.faults.matrix import Matrix
from tests.faults.processes import Born, wait_for

ROWS_PER_SECOND = 40.0
WRITES_SECONDS = 8.0
SETTLES_SECONDS = 90.0  # a half-open line alone is believed in for twenty
FILES = "/api/sync/"
SLOW_BYTES_PER_SECOND = 64 * 1024
SMALL_REQUEST_BYTES = 900


@dataclass(frozen=True)
class Storm:
    number: int
    kinds: tuple[str, ...]  # one after the other
    seed: str


@dataclass
class Result:
    storm: Storm
    faults: list[str] = field(default_factory=list)
    healed_seconds: float | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def draw(seed: int, number: int) -> Storm:
    """Each kind in its turn, and with it, as chance will have it, others."""
    name = f"{seed}/{number}"
    chance = random.Random(name)
    kinds = list(KINDS)
    more = chance.sample(kinds, chance.choice((0, 0, 1, 2)))
    return Storm(number, (kinds[number % len(kinds)], *more), name)


def play(storm: Storm, ground: Ground) -> Result:
    """One job under one storm. After a fault the ground is spoilt."""
    result = Result(storm)
    try:
        _play(storm, ground, result)
    except (AssertionError, requests.RequestException) as exc:
        result.faults.append(f"{type(exc).__name__}: {str(exc)[:2000]}")
    finally:
        ground.proxy.heal()
    return result


def _play(storm: Storm, ground: Ground, result: Result) -> None:
    chance = random.Random(storm.seed)
    subject = Subject(ground, f"s{storm.number:05d}").submit(
        WRITES_SECONDS, rows_per_second=ROWS_PER_SECOND
    )
    subject.wait_running()
    process = subject.process()
    for kind in storm.kinds:
        KINDS[kind](ground, chance)
    ground.proxy.heal()
    began = time.monotonic()
    wait_for(lambda: subject.has_ended, f"{subject.project} ends", SETTLES_SECONDS)
    wait_for(subject.is_settled, f"{subject.project} is settled", SETTLES_SECONDS)
    result.healed_seconds = time.monotonic() - began
    result.faults += judge.life(subject, Expected("succeeded", (["succeeded"],)))
    result.faults += judge.files(subject) + judge.own_words(subject) + judge.too_late(subject)
    if process is not None:
        result.faults += judge.untouched(subject, process)
    result.faults += judge.said_to_be_synced(subject)


# --- the network ---------------------------------------------------------------------------------


def _cut(ground: Ground, chance: random.Random) -> None:
    ground.proxy.cut()
    time.sleep(chance.uniform(0.2, 3.0))
    ground.proxy.heal()


def _lose_answers(ground: Ground, chance: random.Random) -> None:
    ground.proxy.lose_answers(FILES, times=chance.randint(1, 5))
    time.sleep(3.0)


def _lose_requests(ground: Ground, chance: random.Random) -> None:
    ground.proxy.lose_requests(FILES, times=chance.randint(1, 5))
    time.sleep(3.0)


def _half_open(ground: Ground, chance: random.Random) -> None:
    ground.proxy.fall_silent()
    time.sleep(chance.uniform(0.5, 2.0))
    ground.proxy.heal()


def _latency(ground: Ground, chance: random.Random) -> None:
    ground.proxy.latency_seconds = chance.uniform(0.05, 0.5)
    time.sleep(4.0)


def _slow(ground: Ground, chance: random.Random) -> None:
    ground.proxy.bytes_per_second = SLOW_BYTES_PER_SECOND
    time.sleep(5.0)


def _reset_anywhere(ground: Ground, chance: random.Random) -> None:
    """At each thirtieth byte of small requests, from one of the first ten on."""
    for byte in range(chance.randint(1, 10), SMALL_REQUEST_BYTES, 30):
        ground.proxy.reset_after_bytes = byte
        time.sleep(0.1)


def _flip_bits(ground: Ground, chance: random.Random) -> None:
    ground.proxy.flip_bodies(FILES, times=chance.randint(1, 4))
    time.sleep(3.0)


# --- the processes -------------------------------------------------------------------------------


def _kill_web(ground: Ground, chance: random.Random) -> None:
    processes.kill([Born.of(ground.lab.program("web"))])
    time.sleep(chance.uniform(0.0, 2.0))


def _kill_web_at_a_gate(ground: Ground, chance: random.Random) -> None:
    """With bytes that are written and not committed, or committed and not answered."""
    gate = chance.choice(("delta in flight", "after write", "after commit"))
    ground.gates.arm(gate, ground.bystander.project)
    wait_for(lambda: ground.gates.is_reached(gate), gate, SETTLES_SECONDS)
    processes.kill([Born.of(ground.lab.program("web"))])
    ground.gates.open(gate)


def _kill_agent(ground: Ground, chance: random.Random) -> None:
    ground.agent.kill()
    time.sleep(chance.uniform(0.0, 2.0))
    ground.agent.launch()


def _power_fails(ground: Ground, chance: random.Random) -> None:
    ground.lab.kill_all()
    time.sleep(chance.uniform(0.0, 2.0))
    ground.lab.start()


def _stop_web(ground: Ground, chance: random.Random) -> None:
    with _stopped(ground.lab.program("web")):
        time.sleep(chance.uniform(0.5, 4.0))


def _stop_agent(ground: Ground, chance: random.Random) -> None:
    assert ground.agent.process is not None
    with _stopped(ground.agent.process.pid):
        time.sleep(chance.uniform(0.5, 4.0))


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # its supervisor lost patience, and began another one
            os.kill(pid, signal.SIGCONT)


# --- the clocks ----------------------------------------------------------------------------------


def _step_clock(program: str) -> Callable[[Ground, random.Random], None]:
    def step(ground: Ground, chance: random.Random) -> None:
        clock = ground.folder / f"clock.{program}"
        clock.write_text(f"{chance.choice((-1, 1)) * chance.uniform(60, 100_000):.0f}")
        time.sleep(3.0)
        clock.unlink()

    return step


KINDS: dict[str, Callable[[Ground, random.Random], None]] = {
    "cut": _cut,
    "lost answers": _lose_answers,
    "lost requests": _lose_requests,
    "half-open": _half_open,
    "latency": _latency,
    "64 KiB/s": _slow,
    "reset at any byte": _reset_anywhere,
    "flipped bits": _flip_bits,
    "kill -9 of the web process": _kill_web,
    "kill -9 at a gate": _kill_web_at_a_gate,
    "kill -9 of the agent": _kill_agent,
    "kill -9 of all of the server": _power_fails,
    "SIGSTOP of the web process": _stop_web,
    "SIGSTOP of the agent": _stop_agent,
    "clock of the server": _step_clock("runlab"),
    "clock of the agent": _step_clock("agent"),
}


# --- the report ----------------------------------------------------------------------------------


def report(results: list[dict[str, Any]]) -> str:
    lines = [f"{'storm':<30} {'times':>5} {'violations':>10}   healed p50 / p99 / max"]
    for kind in KINDS:
        lines.append(_line(kind, [r for r in results if kind in r["storm"]["kinds"]]))
    lines.append(_line("all jobs", results))
    for result in results:
        for fault in result["faults"]:
            storm = result["storm"]
            lines.append(f"--only {storm['number']}: {', '.join(storm['kinds'])}, in "
                         f"{result['folder']}:\n    {fault}")  # fmt: skip
    return "\n".join(lines)


def _line(kind: str, results: list[dict[str, Any]]) -> str:
    took = [r["healed_seconds"] for r in results if r["healed_seconds"] is not None]
    seconds = " / ".join(f"{value:5.1f}" for value in matrix.spread(took)) if took else "-"
    faults = sum(len(result["faults"]) for result in results)
    return f"{kind:<30} {len(results):>5} {faults:>10}   {seconds} s"


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    numbers = [options.only] if options.only is not None else range(options.storms)
    storms = [draw(options.seed, number) for number in numbers]
    end = time.monotonic() + options.minutes * 60
    folder = Path(tempfile.mkdtemp(prefix="storms-"))
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    results = []
    with open(out, "w") as file:
        for result in Matrix(folder, storms, options.stacks, end, play, by_proxy=True).results():
            results.append(result)
            file.write(json.dumps(result) + "\n")
            file.flush()
            print(f"{len(results):>5}  {', '.join(result['storm']['kinds'])}"
                  f"{'  FAULT ' + result['faults'][0][:200] if result['faults'] else ''}",
                  flush=True)  # fmt: skip
    return results


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.storms", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--storms", type=int, default=len(KINDS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="the storm of this number")
    parser.add_argument("--stacks", type=int, default=4, help="labs side by side")
    parser.add_argument("--minutes", type=float, default=180.0, help="begin none after these")
    parser.add_argument("--out", default="test-results/storms.jsonl", help="where results go")
    results = run(parser.parse_args())
    print(report(results))
    return 1 if any(result["faults"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
