"""The kill matrix's own parts: a judge that cannot find anything finds nothing."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.gpus import simulated
from tests.faults import gates, judge, memory, phases, victims
from tests.faults.gates import Gates
from tests.faults.matrix import CELLS, DOWNTIMES
from tests.faults.processes import wait_for
from tests.faults.stack import ROOT


def event(number: int, kind: str, attempt: str, card: str = "GPU-1") -> dict[str, object]:
    return {"id": number, "kind": kind, "attempt": attempt, "gpu_uuids": json.dumps([card])}


@pytest.mark.parametrize(
    ("events", "count"),
    [
        ([event(1, "assigned", "a"), event(2, "released", "a"), event(3, "assigned", "b")], 0),
        ([event(1, "assigned", "a"), event(2, "assigned", "b", "GPU-2")], 0),
        ([event(1, "assigned", "a"), event(2, "assigned", "b"), event(3, "released", "a")], 1),
    ],
)
def test_a_card_that_two_attempts_have_is_found(events, count):
    assert len(judge.cards(SimpleNamespace(ask=lambda *_: events))) == count


def test_a_torn_end_is_forgiven_to_the_killed_and_to_nobody_else():
    rows = [judge.workload.row(number) for number in (1, 2)]
    torn = b"\n".join([judge.workload.HEADER, *rows, b"3,ab"])

    def faults(content: bytes, killed: bool) -> list[str]:
        return judge._told(judge.workload.faults_of, content, 2, killed)

    assert faults(torn, killed=True) == []
    assert faults(torn, killed=False) != []
    assert faults(torn.replace(rows[1], rows[0]), killed=True) != []


def test_memory_is_held_for_a_while_after_its_process_has_died(tmp_path: Path):
    [card] = simulated(1, "machine")
    script = f"from tests.faults import memory; memory.take(memory.Path({str(tmp_path)!r}), "
    script += f"[{card.uuid!r}]); input()"
    holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, cwd=ROOT)
    wait_for((tmp_path / card.uuid).exists, "it holds the card", 10)

    [reading] = memory.readings(tmp_path, [card])
    assert [process.pid for process in reading.processes] == [holder.pid]
    holder.communicate(b"\n")
    [reading] = memory.readings(tmp_path, [card])
    assert (reading.processes, reading.memory_used_bytes) == ([], memory.USED_BYTES)
    assert memory.take(tmp_path, [card.uuid]) == [card.uuid]  # it was given out too early
    (tmp_path / card.uuid).write_text(json.dumps([holder.pid, 1]))
    time.sleep(memory.LAG_SECONDS)
    assert memory.readings(tmp_path, [card]) == [card]


def test_a_gate_holds_whom_it_is_meant_for_until_it_is_opened(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(gates.PLACES, "test", {"gate": ("os", "getcwd", False)})
    monkeypatch.setitem(gates.MATCHES, "gate", lambda project, args: project == "meant")
    monkeypatch.setattr(os, "getcwd", os.getcwd)  # put back afterwards
    hand = Gates(tmp_path)
    gates.install(str(tmp_path), "test")

    hand.arm("gate", "another")
    os.getcwd()
    hand.arm("gate", "meant")
    caller = threading.Thread(target=os.getcwd)
    caller.start()

    wait_for(lambda: hand.is_reached("gate"), "it is met", 5)
    os.getcwd()  # only the first is held
    assert caller.is_alive()
    hand.open("gate")
    caller.join(5)
    assert not caller.is_alive()


def test_every_moment_that_a_gate_is_for_is_one_of_the_matrix():
    held = {name for places in gates.PLACES.values() for name in places}

    assert held == set(gates.MATCHES)
    assert held <= {phase.name for phase in phases.ALL}
    assert len(phases.ALL) >= 16
    assert len(set(CELLS)) == len(phases.ALL) * len(victims.ALL)


def test_a_kill_is_the_same_each_time_it_is_drawn():
    kills = [victims.draw(7, number, CELLS, DOWNTIMES) for number in range(300)]

    assert kills == [victims.draw(7, number, CELLS, DOWNTIMES) for number in range(300)]
    assert {kill.downtime_seconds for kill in kills} == set(DOWNTIMES)
    assert {kill.policy for kill in kills if kill.downtime_seconds >= 60} == {"wait"}
