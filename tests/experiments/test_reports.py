"""What a device reports of an attempt: taken once, in any order, and never after its end."""

import pytest

from agent.wire import EventType, ExitCause
from devices.models import GPU, Device
from experiments import reports
from experiments.dispatch import dispatch
from experiments.errors import AttemptEnded, IllegalTransition
from experiments.models import GPUClaim, Job, JobEvent
from experiments.models.job import AVOID_TAKEN
from experiments.states import JobState, Outcome
from labsite.clock import database_now
from labsite.errors import NotFound
from tests import make

pytestmark = pytest.mark.django_db
STARTED, EXITED = EventType.STARTED, EventType.EXITED
START_FAILED, RELEASED = EventType.START_FAILED, EventType.RELEASED


def report(attempt, event):
    return reports.receive(attempt.device, str(attempt.pk), event)


def test_started_then_exited():
    attempt = make.attempt()

    report(attempt, make.event(STARTED, pid=4711))
    reply = report(attempt, make.event(EXITED, exit_code=0))

    assert (reply.job_state, reply.outcome) == ("succeeded", "succeeded")


def test_exited_makes_both_transitions_when_started_was_lost():
    attempt = make.attempt()

    report(attempt, make.event(EXITED, exit_code=1, started_at="2026-11-24T00:00:00+00:00"))

    job = Job.objects.get()
    states = list(job.events.exclude(to_state="").values_list("to_state", flat=True))
    assert states == ["queued", "assigned", "running", "failed"]


@pytest.mark.parametrize("started_at", [None, "", "yesterday", "2026-13-45", "9999-01-01T00:00Z"])
def test_an_agents_clock_is_shown_and_never_believed(started_at):
    attempt = make.attempt()

    report(attempt, make.event(EXITED, exit_code=0, started_at=started_at))

    attempt.refresh_from_db()
    assert attempt.created_at <= attempt.started_at <= database_now()


def test_a_repeated_event_gets_its_first_answer_also_after_the_end():
    attempt = make.attempt()
    started, exited = make.event(STARTED), make.event(EXITED, exit_code=0)
    first = [report(attempt, started), report(attempt, exited)]
    count = JobEvent.objects.count()

    again = [report(attempt, started), report(attempt, exited)]

    assert [r.job_state for r in again] == [r.job_state for r in first]
    assert all(reply.duplicate for reply in again)
    assert JobEvent.objects.count() == count


@pytest.mark.parametrize(
    ("cause", "outcome", "state"),
    [
        (ExitCause.TIMED_OUT, Outcome.TIMED_OUT, JobState.FAILED),
        (ExitCause.HOST_REBOOTED, Outcome.HOST_REBOOTED, JobState.QUEUED),
        (ExitCause.SUPERVISOR_LOST, Outcome.SUPERVISOR_LOST, JobState.QUEUED),
    ],
)
def test_a_cause_says_more_than_an_exit_code(cause, outcome, state):
    attempt = make.attempt(started=True)

    report(attempt, make.event(EXITED, exit_code=None, cause=cause))

    attempt.refresh_from_db()
    assert (attempt.outcome, Job.objects.get().state) == (outcome, state)


def test_a_fenced_job_is_queued_again():
    attempt = make.attempt(make.job(on_device_lost="requeue", max_attempts=1), started=True)

    report(attempt, make.event(EXITED, exit_code=-15, cause=ExitCause.FENCED))

    assert Job.objects.get().state == JobState.QUEUED


def test_an_event_of_an_attempt_that_was_given_up_changes_nothing():
    attempt = make.attempt(started=True)
    attempt.end(Outcome.LOST, database_now(), then=JobState.QUEUED)

    with pytest.raises(AttemptEnded):
        report(attempt, make.event(EXITED, exit_code=0))

    assert Job.objects.get().state == JobState.QUEUED


def test_another_devices_attempt_is_not_found():
    attempt = make.attempt()

    with pytest.raises(NotFound):
        reports.receive(make.device(), str(attempt.pk), make.event(STARTED))


def test_released_gives_the_gpus_back_after_the_end_only():
    attempt = make.attempt(make.job(gpus=2), started=True)
    uuids = attempt.gpu_uuids
    with pytest.raises(IllegalTransition):
        report(attempt, make.event(EventType.RELEASED, gpu_uuids=uuids))
    report(attempt, make.event(EXITED, exit_code=0))

    report(attempt, make.event(EventType.RELEASED, gpu_uuids=uuids[:1]))
    assert GPUClaim.objects.count() == 1
    report(attempt, make.event(EventType.RELEASED, gpu_uuids=uuids))

    assert GPUClaim.objects.count() == 0


def test_a_start_that_failed_says_why():
    attempt = make.attempt(make.job(max_attempts=1))

    report(attempt, make.event(EventType.START_FAILED, message="pyhton: no such command"))

    attempt.refresh_from_db()
    assert attempt.message == "pyhton: no such command"
    assert Job.objects.get().state == JobState.FAILED


def test_a_gpu_that_another_lab_server_took_costs_no_try_and_is_not_offered_again():
    device = make.device(gpus=2)
    job = make.job(max_attempts=1)
    attempt = make.attempt(job, device)
    taken, other = attempt.gpu_uuids[0], device.gpus.exclude(uuid__in=attempt.gpu_uuids).get()

    reply = report(attempt, make.event(START_FAILED, message="taken", used_elsewhere=[taken]))
    report(attempt, make.event(RELEASED, gpu_uuids=[taken]))

    assert (reply.job_state, reply.outcome) == ("queued", "gpu_taken")
    assert GPU.objects.get(uuid=taken).used_elsewhere
    assert dispatch(database_now()) == []  # a few heartbeats say how it is there
    later = database_now() + AVOID_TAKEN
    Device.objects.update(last_heartbeat_at=later, last_poll_at=later)
    [second] = dispatch(later)
    assert second.gpu_uuids == [other.uuid]


def test_only_its_own_gpus_excuse_a_start_that_failed():
    attempt = make.attempt()
    strangers = make.gpu(make.device())

    report(attempt, make.event(START_FAILED, message="no", used_elsewhere=[strangers.uuid]))

    attempt.refresh_from_db()
    strangers.refresh_from_db()
    assert attempt.outcome == Outcome.START_FAILED
    assert not strangers.used_elsewhere


def test_a_push_without_an_agent_says_that_all_files_have_arrived():
    attempt = make.attempt(started=True)
    attempt.advertise({}, database_now(), to_come=True)
    attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)

    reply = report(attempt, make.event(EventType.ARRIVED))

    attempt.refresh_from_db()
    assert attempt.files_to_come is False
    assert (reply.job_state, reply.outcome) == ("succeeded", "succeeded")
