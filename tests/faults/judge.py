"""What must be true of a job, its bystander and the whole lab after a kill (docs/protocol.md).

Each check returns sentences, one for each thing that is wrong, led by the invariant's number.
"""

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

import requests

from agent import wire
from tests.faults import history, workload
from tests.faults.ground import Ground, Subject
from tests.faults.processes import LOOK_SECONDS, Born
from tests.faults.stack import older_generations, sha256_of

#: A server that is down, or an agent, for less than this cannot keep a job from being accepted.
NOT_ACCEPTED_SECONDS = 40.0
TOLD_SECONDS = 10.0  # a poll that failed is followed by another


@dataclass(frozen=True)
class Expected:
    """`outcomes`: lists of which the outcomes of the attempts must be one."""

    state: str
    outcomes: tuple[list[str], ...]


def expected(victim: str, phase: str, *, own: bool, may_lapse: bool) -> Expected:
    """What a job comes to.

    Args:
        own: the victim is its own supervisor or process.
        may_lapse: its agent was away for so long that the server had to offer it anew.
    """
    if phase == "cancel asked":
        return Expected("cancelled", (["cancelled"],))
    if own and victim == "job":
        return Expected("failed", (["failed"],))
    if own:
        return Expected("succeeded", (["supervisor_lost", "succeeded"],))
    lapsed = (["not_accepted", "succeeded"],) if may_lapse else ()
    return Expected("succeeded", (["succeeded"], *lapsed))


def life(subject: Subject, wanted: Expected) -> list[str]:
    """I1, I8, I9, I14, I15: how it ended, in how many attempts, and by which changes."""
    job = subject.ground.lab.job(subject.uid)
    events = subject.ground.lab.events(subject.uid)
    outcomes = [attempt["outcome"] for attempt in job["attempts"]]
    found = [f"I9 {fault}" for fault in history.faults_of(events, job["state"])]
    if job["state"] != wanted.state:
        found.append(f"I14/I15 the job is {job['state']} and not {wanted.state}: {outcomes}")
    elif outcomes not in wanted.outcomes:
        found.append(f"I15 its attempts ended {outcomes} and not {wanted.outcomes}")
    if outcomes.count("succeeded") > 1:
        found.append(f"I1 results of two attempts were accepted: {outcomes}")
    kinds = history.kinds(events)
    if "cancel_requested" in kinds and job["state"] == "succeeded":
        found.append("I8 it was cancelled, and has succeeded")
    return found


def untouched(subject: Subject, process: Born, number: int = 1) -> list[str]:
    """I16: what ran when it happened is what the server knows of, from its first to its last."""
    attempts = subject.attempts()
    if len(attempts) < number or attempts[number - 1]["pid"] != process.pid:
        pids = [attempt["pid"] for attempt in attempts]
        return [f"I16 process {process.pid} of {subject.project} is not that of {pids}"]
    return []


def bystander(subject: Subject, process: Born, rows_before: int) -> list[str]:
    """I15, I16, I25: whoever had nothing to do with it lives on in the same process."""
    found = untouched(subject, process)
    if not process.alive:
        found.append(f"I16 the bystander's process {process.pid} is gone")
    if subject.rows_written() <= rows_before:
        found.append("I16 the bystander has written nothing since")
    attempts = subject.attempts()
    if subject.state != "running" or len(attempts) != 1:
        found.append(f"I15 the bystander is {subject.state}, with {len(attempts)} attempts")
    return found + own_words(subject)


def own_words(subject: Subject) -> list[str]:
    """I2, I24: what the processes themselves found wrong when they came to be."""
    path = subject.folder / "faults"
    words = path.read_text().splitlines() if path.exists() else []
    return [f"{'I24' if 'memory' in word else 'I2'} {word}" for word in words]


def cards(ground: Ground) -> list[str]:
    """I3: between `assigned` and `released` a card has one attempt. In the order of events."""
    events = ground.ask(
        "SELECT e.id, e.kind, a.id AS attempt, a.gpu_uuids FROM experiments_jobevent e"
        " JOIN experiments_attempt a ON a.id = e.attempt_id"
        " WHERE e.kind IN ('assigned', 'released') ORDER BY e.id"
    )
    held: dict[str, str] = {}
    found = []
    for event in events:
        for card in json.loads(event["gpu_uuids"]):
            if event["kind"] == "released":
                held.pop(card, None)
            elif held.setdefault(card, event["attempt"]) != event["attempt"]:
                found.append(f"I3 {card} was given to {event['attempt']} and {held[card]} has it")
    return found


def files(subject: Subject) -> list[str]:
    """I6, I12: each file is the same on both sides, and holds what was written, once."""
    here, there = subject.ground.agent.run_dir(subject.project), _run_dir(subject)
    ours, theirs = sha256_of(here, subject.run_name), sha256_of(there, subject.run_name)
    # A job that was killed leaves a checkpoint half written; it is nobody's result, and that of an
    # earlier attempt stays at the server.
    ours, theirs = (
        {name: said for name, said in files.items() if not name.endswith(wire.UNFINISHED)}
        for files in (ours, theirs)
    )
    if ours != theirs:
        return [
            f"I12 the files differ: here {sorted(ours.items())}, there {sorted(theirs.items())}"
        ]
    [*earlier, last] = subject.attempts()
    if not earlier and older_generations(there, subject.run_name):
        return ["I6 a file was sent anew, as if it had been another one"]
    truth = subject.folder / f"truth.{subject.run_name}.{last['number']}"
    numbers = [int(line) for line in _whole(truth.read_bytes() if truth.exists() else b"")]
    if not numbers:
        return []
    killed = last["outcome"] != "succeeded"
    csv, log = (
        (there / f"{subject.run_name}{suffix}").read_bytes() for suffix in (".csv", ".log")
    )
    found = _told(workload.faults_of, csv, numbers[-1], killed)
    first = numbers[0]
    found += _told(lambda log, n: workload.faults_of_log(log, n, first), log, numbers[-1], killed)
    checkpoint = there / f"{subject.run_name}.pt"
    if checkpoint.exists() and not workload.is_whole(checkpoint.read_bytes()):
        found.append("the checkpoint is torn")
    return [f"I6 {fault}" for fault in found[:5]]


def said_to_be_synced(subject: Subject, *, or_nothing: bool = False) -> list[str]:
    """I13: once all is settled the server says so, as soon as it hears the agent's next poll."""
    good = ("synced", None) if or_nothing else ("synced",)
    end = time.monotonic() + TOLD_SECONDS
    while (status := _sync_status(subject)) not in good:
        if time.monotonic() > end:
            return [f"I13 all is settled, and it is said to be {status}"]
        time.sleep(LOOK_SECONDS)
    return []


def _sync_status(subject: Subject) -> str | None:
    return subject.ground.lab.get(f"/api/sync/status/{subject.uid}")["data"]["sync_status"]


def too_late(subject: Subject) -> list[str]:
    """I10: what is said of an attempt that has ended changes no state and no result."""
    before = _all_of(subject)
    [*_, last] = subject.attempts()
    attempt = str(uuid.UUID(last["id"]))
    event = {"event_id": str(uuid.uuid4()), "type": "exited", "exit_code": 1}
    statuses = [_send(subject.ground, f"/api/agent/attempts/{attempt}/events", json=event)]
    if last["number"] > 1:
        headers = {"X-Sync-Attempt": "1", "Content-Type": "application/octet-stream"}
        path = f"/api/sync/delta/{subject.uid}/{subject.run_name}.csv"
        statuses.append(_send(subject.ground, path, data=b"late\n", headers=headers))
    found = [] if statuses[0] == 409 else [f"I10 an event that came late was answered {statuses}"]
    changed = [line for line in _all_of(subject) if line not in before]
    return found + [f"I10 what came late has changed {line[:1000]}" for line in changed]


def _send(ground: Ground, path: str, *, headers: dict[str, str] | None = None, **how: Any) -> int:
    token = {"Authorization": f"Bearer {ground.token()}"}
    url = ground.lab.url + path
    return requests.post(url, headers={**token, **(headers or {})}, timeout=20, **how).status_code


def _all_of(subject: Subject) -> list[str]:
    """A line for the job, for each attempt, each file's row, and the bytes of each."""
    ground, uid = subject.ground, subject.uid
    job = ground.ask("SELECT * FROM experiments_job WHERE uid = ?", uid)
    rows = ground.ask(
        "SELECT f.* FROM sync_syncfile f JOIN experiments_job j ON j.id = f.job_id"
        " WHERE j.uid = ? AND f.shelf = 0",
        uid,
    )
    files = sha256_of(_run_dir(subject), subject.run_name).items()
    attempts = [
        {name: value for name, value in attempt.items() if not name.startswith("files_")}
        for attempt in subject.attempts()  # what its last poll said of files may come even now
    ]
    return [repr(each) for each in (*job, *attempts, *rows, *files)]


def _run_dir(subject: Subject):
    return subject.ground.lab.run_dir(subject.project)


def _whole(content: bytes) -> list[bytes]:
    return content[: content.rfind(b"\n") + 1].split()


def _told(check, content: bytes, written: int, killed: bool) -> list[str]:
    """A process that was killed may have written half a row, or one that it did not note."""
    if not killed:
        return check(content, written)
    content = content[: content.rfind(b"\n") + 1]
    return check(content, written) and check(content, written + 1)
