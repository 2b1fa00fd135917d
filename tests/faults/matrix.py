"""The kill matrix: every part of the lab, killed at every moment of a job's life.

    python -m tests.faults.matrix --kills 2000 --seed 1

Several labs side by side, since most of a kill is waiting. Each kill is drawn from the seed and
its number, so that `--only NUMBER` repeats one. Results are added to `--out` as they come: Ctrl-C,
or `--minutes`, ends it with a report, and the same command goes on where it was. Ends with 0 only
if no invariant was violated.
"""

import argparse
import json
import queue
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.faults import phases, victims
from tests.faults.ground import Ground
from tests.faults.rounds import play
from tests.faults.victims import draw

CELLS = [(victim, phase.name) for phase in phases.ALL for victim in victims.ALL]
#: Seconds that a part is down until it is started again (where nobody else sees to that), and how
#: often: the long ones are rare, or one would wait for days.
DOWNTIMES = {0.0: 14, 20.0: 4, 60.0: 1, 180.0: 1}
SHORT_DOWNTIMES = {0.0: 3, 3.0: 1}
KILLS_A_GROUND = 60  # then a fresh one: a lab's life is not to hide what happens to young ones


class Matrix:
    """Plays kills on several grounds at once, and hands out results as they come."""

    def __init__(
        self,
        folder: Path,
        kills: Iterable[Any],
        stacks: int,
        end: float,
        play: Callable[[Any, Ground], Any] = play,
        by_proxy: bool = False,
    ) -> None:
        """
        Args:
            kills: what is played: kills, or another kind with a `play` of its own, whose result
                has `faults` and as_json().
            end: time.monotonic() after which none is begun.
            by_proxy: see Ground.
        """
        self._folder, self._end = folder, end
        self._play, self._by_proxy = play, by_proxy
        self._left: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for kill in kills:
            self._left.put(kill)
        self._results: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._guard, args=(number,), daemon=True)
            for number in range(stacks)
        ]

    def results(self) -> Iterator[dict[str, Any]]:
        for thread in self._threads:
            thread.start()
        working = len(self._threads)
        while working:
            result = self._results.get()
            if result is None:
                working -= 1
            else:
                yield result

    def stop(self) -> None:
        """Begin no further kill, and wait for those under way: their labs must be cleared away."""
        self._end = 0.0
        for thread in self._threads:
            thread.join()

    def _guard(self, number: int) -> None:
        try:
            generation = 0
            while self._has_more():
                generation += 1
                self._play_some(self._folder / f"ground{number}-{generation}")
        finally:
            self._results.put(None)

    def _has_more(self) -> bool:
        return not self._left.empty() and time.monotonic() < self._end

    def _play_some(self, folder: Path) -> None:
        with Ground(folder, by_proxy=self._by_proxy) as ground:
            for _ in range(KILLS_A_GROUND):
                if not self._has_more():
                    return
                try:
                    kill = self._left.get_nowait()
                except queue.Empty:
                    return
                result = self._play(kill, ground)
                self._results.put({**result.as_json(), "folder": str(folder)})
                if result.faults:
                    return  # what is broken would break the next ones


def report(results: list[dict[str, Any]]) -> str:
    """A line for each victim and phase, a line for each victim, and each violation."""
    cells = defaultdict(list)
    for result in results:
        cells[result["kill"]["victim"], result["kill"]["phase"]].append(result)
    lines = [f"{'victim':<11} {'phase':<22} {'kills':>5} {'faults':>6}   recovery p50 / p99 / max"]
    lines += [_line(*cell, cells[cell]) for cell in CELLS if cell in cells]
    for victim in victims.ALL:
        lines.append(_line(victim, "all", [r for r in results if r["kill"]["victim"] == victim]))
    lines.append(_line("all", "all", results))
    for result in results:
        for fault in result["faults"]:
            kill = result["kill"]
            lines.append(
                f"--only {kill['number']}: {kill['victim']}, {kill['phase']}, down for "
                f"{kill['downtime_seconds']:g} s, in {result['folder']}:\n    {fault}"
            )
    return "\n".join(lines)


def _line(victim: str, phase: str, results: list[dict[str, Any]]) -> str:
    faults = sum(bool(result["faults"]) for result in results)
    took = recoveries(results)
    seconds = " / ".join(f"{value:5.1f}" for value in spread(took)) if took else "-"
    return f"{victim:<11} {phase:<22} {len(results):>5} {faults:>6}   {seconds} s"


def recoveries(results: list[dict[str, Any]]) -> list[float]:
    """Seconds; without those whose agent had to wait for its token's minute to pass."""
    usual = [result for result in results if not result["kill"]["stranger"]]
    return [r["recovery_seconds"] for r in usual if r["recovery_seconds"] is not None]


def spread(seconds: list[float]) -> tuple[float, float, float]:
    """Median, p99 and the longest."""
    ordered = sorted(seconds)
    return statistics.median(ordered), ordered[int(0.99 * (len(ordered) - 1) + 0.999)], ordered[-1]


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Play what is left of it, and return the results of all."""
    numbers = [options.only] if options.only is not None else range(options.kills)
    downtimes = SHORT_DOWNTIMES if options.short else DOWNTIMES
    out = Path(options.out)
    results = [] if options.only is not None else _earlier(out, options.seed)
    done = {result["kill"]["number"] for result in results}
    kills = [draw(options.seed, n, CELLS, downtimes) for n in numbers if n not in done]
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    matrix = Matrix(folder, kills, options.stacks, time.monotonic() + options.minutes * 60)
    try:
        with open(out, "a") as file:
            for result in matrix.results():
                results.append(result)
                file.write(json.dumps({**result, "seed": options.seed}) + "\n")
                file.flush()
                print(_said(result, len(results)), flush=True)
    except KeyboardInterrupt:
        print("stopping: kills under way are played to their end", flush=True)
        matrix.stop()
    return results


def _earlier(out: Path, seed: int) -> list[dict[str, Any]]:
    lines = out.read_text().splitlines() if out.exists() else []
    return [result for result in map(json.loads, lines) if result["seed"] == seed]


def _said(result: dict[str, Any], count: int) -> str:
    kill, recovery = result["kill"], result["recovery_seconds"]
    seconds = "-" if recovery is None else f"{recovery:.1f} s"
    fault = f"  FAULT {result['faults'][0][:200]}" if result["faults"] else ""
    return f"{count:>5}  {kill['victim']:<11} {kill['phase']:<22} {seconds}{fault}"


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.matrix", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--kills", type=int, default=len(CELLS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="the kill of this number alone")
    parser.add_argument("--stacks", type=int, default=6, help="labs side by side")
    parser.add_argument("--minutes", type=float, default=180.0, help="begin no kill after these")
    parser.add_argument("--short", action="store_true", help="downtimes of seconds, not minutes")
    parser.add_argument(
        "--out", default="test-results/kills.jsonl", help="where results are added to"
    )
    return parser.parse_args(arguments)


def main() -> int:
    for signum in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore the first
        signal.signal(signum, signal.default_int_handler)
    results = run(parsed())
    print(report(results))
    return 1 if any(result["faults"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
