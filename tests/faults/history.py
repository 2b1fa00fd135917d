"""What the events of a job say, replayed against the table of what may happen."""

from typing import Any

from experiments.states import TRANSITIONS, JobState

Event = dict[str, Any]  # as GET /api/jobs/<uid>/events/ gives it
#: What may be told of an attempt when the next one has begun already.
LATE = ("released", "found")


def faults_of(events: list[Event], state_now: str) -> list[str]:
    """Whether each change of state was allowed and followed the one before, attempt numbers
    never fall, and the last change leads to the state that the job has. A card may be given back,
    and word of what was found come, when the next attempt has begun already."""
    found = []
    state, attempt, last_id = "", 0, 0
    for event in events:
        name = f"{event['kind']} ({event['id']})"
        if event["id"] <= last_id:
            found.append(f"{name} stands after {last_id}")
        last_id = event["id"]
        if event["to_state"]:
            found += _change(name, state, event)
            state = event["to_state"]
        number = (event["kind"] not in LATE and event["attempt"]) or attempt
        if number < attempt:
            found.append(f"{name} is of attempt {number}, after one of {attempt}")
        attempt = number
    if state != state_now:
        found.append(f"the events end with {state!r}, and the job is {state_now!r}")
    return found


def kinds(events: list[Event]) -> list[str]:
    return [event["kind"] for event in events]


def _change(name: str, state: str, event: Event) -> list[str]:
    before, after = event["from_state"], event["to_state"]
    if before != state:
        return [f"{name} changes from {before!r}, and the job was {state!r}"]
    allowed = TRANSITIONS.get(JobState(state), set()) if state else {JobState.QUEUED}
    return [] if after in allowed else [f"{name}: {state!r} may not become {after!r}"]
