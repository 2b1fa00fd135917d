"""The state machine: what may follow what, that each change leaves an event, and wishes."""

import threading
from contextlib import suppress
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from devices.models import Device
from experiments.errors import AttemptEnded, IllegalTransition, LostRace
from experiments.models import Attempt, GPUClaim, Job, JobEvent
from experiments.models.event import change, record
from experiments.states import ENDED, TRANSITIONS, EventKind, JobState, Outcome, Priority
from labsite.clock import database_now
from labsite.errors import Refused
from tests import make

pytestmark = pytest.mark.django_db


def replay(job: Job) -> str:
    """The state that the job's events lead to; each step checked against the table."""
    state = ""
    for event in job.events.order_by("id"):
        if not event.to_state:
            continue
        assert event.from_state == state, f"{event} follows {state}"
        assert state == "" or event.to_state in TRANSITIONS[state]
        state = event.to_state
    return state


def end(attempt: Attempt, outcome: Outcome, **more) -> None:
    attempt.end(outcome, database_now(), **more)


def test_a_job_from_submit_to_success():
    attempt = make.attempt(started=True)
    end(attempt, Outcome.SUCCEEDED, exit_code=0)

    job = Job.objects.get()
    assert job.state == JobState.SUCCEEDED == replay(job)
    assert [event.kind for event in job.events.all()] == [
        EventKind.SUBMITTED,
        EventKind.ASSIGNED,
        EventKind.ACCEPTED,
        EventKind.STARTED,
        EventKind.ENDED,
    ]


def test_the_end_of_an_attempt_does_not_free_its_gpus():
    attempt = make.attempt(started=True)

    end(attempt, Outcome.SUCCEEDED, exit_code=0)

    assert GPUClaim.objects.filter(attempt=attempt).count() == 1
    assert attempt.release() == 1
    assert GPUClaim.objects.count() == 0


def test_an_attempt_that_nobody_accepted_frees_its_gpus_at_once():
    attempt = make.attempt(accepted=False)

    attempt.job.cancel()

    assert attempt.job.state == JobState.CANCELLED
    assert GPUClaim.objects.count() == 0


@pytest.mark.parametrize("state", ENDED)
def test_a_final_state_absorbs(state):
    attempt = make.attempt(started=True)
    if state == JobState.CANCELLED:
        attempt.job.cancel()
    end(attempt, Outcome.SUCCEEDED if state == JobState.SUCCEEDED else Outcome.FAILED)
    job = Job.objects.get()
    assert job.state == state

    for verb in (job.cancel, job.requeue, lambda: job.give_up(requeue=True)):
        with pytest.raises(IllegalTransition):
            verb()
    with pytest.raises(AttemptEnded):
        end(attempt, Outcome.SUCCEEDED, exit_code=0)
    assert Job.objects.get().state == state


def test_of_two_that_race_for_a_job_one_loses():
    job = make.job()
    same = Job.objects.get(pk=job.pk)
    job.assign(make.device(gpus=1), [], database_now())

    with pytest.raises(LostRace):
        same.assign(make.device(gpus=1), [], database_now())


def test_a_cancel_wins_over_a_success():
    attempt = make.attempt(started=True)
    attempt.job.cancel()
    assert Job.objects.get().state == JobState.RUNNING  # a wish, until the process has stopped

    end(attempt, Outcome.SUCCEEDED, exit_code=0)

    job = Job.objects.get()
    assert (job.state, attempt.outcome) == (JobState.CANCELLED, Outcome.CANCELLED)
    assert replay(job) == JobState.CANCELLED


def test_a_cancel_on_an_unreachable_device_is_done_at_once_and_unconfirmed():
    attempt = make.attempt(started=True)
    device = attempt.device
    type(device).objects.update(last_heartbeat_at=database_now() - timedelta(minutes=5))

    Job.objects.get().cancel()

    attempt.refresh_from_db()
    assert (attempt.outcome, attempt.unconfirmed) == (Outcome.CANCELLED, True)
    assert GPUClaim.objects.count() == 1  # its process may live on


def test_a_device_that_beats_and_does_not_poll_keeps_no_job_for_ever():
    """Its agent's disk hangs: it would never hear of the wish."""
    cancelled, given_up = (make.attempt(started=True) for _ in range(2))
    Device.objects.update(last_poll_at=database_now() - timedelta(minutes=2))

    Job.objects.get(pk=cancelled.job_id).cancel()
    Job.objects.get(pk=given_up.job_id).give_up(requeue=True)

    states = Job.objects.order_by("pk").values_list("state", flat=True)
    assert list(states) == [JobState.CANCELLED, JobState.QUEUED]
    assert GPUClaim.objects.count() == 2


def test_a_requeue_comes_true_when_the_attempt_ends_whatever_the_exit_code():
    attempt = make.attempt(started=True)
    attempt.job.requeue()

    end(attempt, Outcome.SUCCEEDED, exit_code=0)

    job = Job.objects.get()
    assert (job.state, attempt.outcome) == (JobState.QUEUED, Outcome.PREEMPTED)
    assert job.stop_reason == ""


def test_a_rebooted_host_costs_no_try():
    job = make.job(max_attempts=1)
    for _ in range(3):
        attempt = make.attempt(job, started=True)
        end(attempt, Outcome.HOST_REBOOTED)
        job.refresh_from_db()

    assert job.state == JobState.QUEUED


def test_a_job_that_brings_its_hosts_down_ends_some_day():
    job = make.job()
    for _ in range(10):
        assert job.state == JobState.QUEUED
        end(make.attempt(job, started=True), Outcome.HOST_REBOOTED)
        job.refresh_from_db()

    assert job.state == JobState.FAILED


def test_failed_starts_are_bounded_by_max_attempts():
    job = make.job(max_attempts=2)

    for _ in range(2):
        end(make.attempt(job), Outcome.START_FAILED, message="no such command")
        job.refresh_from_db()

    assert job.state == JobState.FAILED


def test_however_often_a_start_failed_elsewhere_a_device_is_avoided_for_an_hour_at_most():
    attempt = make.attempt(max_attempts=100)
    job, now = attempt.job, database_now()
    told = {"device": attempt.device, "created_at": now, "ended_at": now}
    Attempt.objects.bulk_create(
        Attempt(job=job, number=number, outcome=Outcome.START_FAILED, **told)
        for number in range(2, 60)
    )

    end(attempt, Outcome.START_FAILED)

    assert job.state == JobState.QUEUED
    [until] = job.avoids.values()
    assert until < (now + timedelta(minutes=90)).isoformat()


def test_giving_up_is_for_unreachable_devices_only():
    attempt = make.attempt(started=True)

    with pytest.raises(IllegalTransition, match="can be reached"):
        attempt.job.give_up(requeue=True)

    type(attempt.device).objects.update(last_heartbeat_at=database_now() - timedelta(minutes=5))
    job = Job.objects.get()
    job.give_up(requeue=True)
    assert job.state == JobState.QUEUED
    assert GPUClaim.objects.count() == 1


def test_priority_and_hold_are_for_queued_jobs_only():
    attempt = make.attempt(started=True)

    with pytest.raises(IllegalTransition):
        attempt.job.set_priority(Priority.URGENT)
    with pytest.raises(IllegalTransition):
        attempt.job.hold(True)


def test_run_numbers_have_no_gap_from_a_refused_submit():
    assert make.job().run_name == "run_001"
    with suppress(RuntimeError), transaction.atomic():
        make.job()
        raise RuntimeError("after the number was taken")

    assert make.job().run_name == "run_002"


@pytest.mark.parametrize("name", ["", "../etc", "a/b", ".hidden", "a..b", "ä", "x" * 129])
def test_a_project_must_be_named_as_a_folder_may_be(name):
    with pytest.raises(Refused):
        make.job(project=name)
    assert Job.objects.count() == 0


def test_the_uid_is_the_labs_day_and_hex(settings):
    settings.TIME_ZONE = "Asia/Seoul"
    day, _, rest = make.job().uid.partition("_")

    assert len(day) == 8
    assert set(rest) <= set("0123456789abcdef")
    assert len(rest) >= 4


@pytest.mark.parametrize(
    "values",
    [
        {"state": "sleeping"},
        {"priority": 17},
        {"gpus": 65},
        {"state": "succeeded", "finished_at": None},
    ],
)
def test_the_database_refuses_what_no_verb_would_write(values):
    job = make.job()

    with pytest.raises(IntegrityError), transaction.atomic():
        Job.objects.filter(pk=job.pk).update(**values)


def test_the_database_refuses_two_open_attempts_and_a_gpu_held_twice():
    attempt = make.attempt()
    fields = {
        "device": attempt.device,
        "created_at": attempt.created_at,
        "on_device_lost": "wait",
        "number": 7,
    }

    with pytest.raises(IntegrityError), transaction.atomic():
        Attempt.objects.create(job=attempt.job, **fields)
    other = Attempt.objects.create(job=make.job(), **fields)
    with pytest.raises(IntegrityError), transaction.atomic():
        GPUClaim.objects.create(gpu=attempt.gpu_claims.get().gpu, attempt=other)


def test_an_event_outside_a_change_is_refused():
    with pytest.raises(RuntimeError):
        record(make.job(), EventKind.HELD)


def test_what_was_taken_back_leaves_no_event():
    job = make.job()
    before = JobEvent.objects.count()
    device = make.device(gpus=1, max_jobs=0)

    with pytest.raises(LostRace):
        job.assign(device, list(device.gpus.all()), database_now())

    assert JobEvent.objects.count() == before
    assert Job.objects.get().state == JobState.QUEUED


class AnyOrder(RuleBasedStateMachine):
    """Every verb at any time: refused or done, and the events tell the whole story."""

    def __init__(self) -> None:
        super().__init__()
        self.savepoint = transaction.atomic()
        self.savepoint.__enter__()
        self.device = make.device(gpus=2)
        self.job = make.job(max_attempts=3)
        self.cancelled = False

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.savepoint.__exit__(None, None, None)

    def fresh(self) -> Job:
        return Job.objects.get(pk=self.job.pk)

    def attempt(self) -> Attempt | None:
        return self.fresh().open_attempt()

    @rule()
    def assign(self):
        free = list(self.device.gpus.filter(claim=None)[:1])
        self.tried(lambda: self.fresh().assign(self.device, free, database_now()))

    @rule()
    def accept(self):
        if attempt := self.attempt():
            attempt.accept(database_now())

    @rule()
    def start(self):
        if attempt := self.attempt():
            self.tried(lambda: attempt.start(database_now()))

    @rule(outcome=st.sampled_from(Outcome.values))
    def end(self, outcome):
        if attempt := self.attempt():
            self.tried(lambda: attempt.end(Outcome(outcome), database_now()))

    @rule(which=st.integers(0, 5))
    def late_end(self, which):
        ended = list(self.job.attempts.filter(ended_at__isnull=False))
        if ended:
            late = ended[which % len(ended)]
            state = self.fresh().state
            with pytest.raises(Refused), transaction.atomic():
                late.end(Outcome.SUCCEEDED, database_now())
            assert self.fresh().state == state
            late.release()

    @rule()
    def cancel(self):
        if self.tried(lambda: self.fresh().cancel()):
            self.cancelled = True

    @rule()
    def requeue(self):
        self.tried(lambda: self.fresh().requeue())

    @rule(gone=st.booleans())
    def reachability(self, gone):
        ago = timedelta(hours=1) if gone else timedelta(0)
        type(self.device).objects.update(last_heartbeat_at=database_now() - ago)

    @rule(again=st.booleans())
    def give_up(self, again):
        self.tried(lambda: self.fresh().give_up(requeue=again))

    def tried(self, verb) -> bool:
        try:
            with transaction.atomic():
                verb()
        except (Refused, IntegrityError):
            return False
        return True

    @invariant()
    def events_tell_the_state(self):
        assert replay(self.fresh()) == self.fresh().state

    @invariant()
    def cancelled_never_succeeds(self):
        assert not (self.cancelled and self.fresh().state == JobState.SUCCEEDED)

    @invariant()
    def slots_are_counted(self):
        self.device.refresh_from_db()
        assert self.device.open_attempts == self.device.attempts.open().count() <= 1

    @invariant()
    def open_means_live(self):
        assert (self.attempt() is not None) == self.fresh().is_live


def test_any_order_of_verbs_keeps_to_the_table():
    run_state_machine_as_test(
        AnyOrder,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.skipif(
    "connection.vendor != 'postgresql'", reason="ids and commits differ there only"
)
@pytest.mark.django_db(transaction=True)
def test_event_ids_rise_in_the_order_of_commits():
    """Two open transactions: the one that commits first has the lower ids."""
    slow_is_open, may_commit = threading.Event(), threading.Event()
    seen: list[list[int]] = []
    make.job(project="a")
    make.job(project="b")

    def slow():
        try:
            with change():
                make.job(project="a", name="slow")
                slow_is_open.set()
                may_commit.wait(10)
        finally:
            connection.close()

    thread = threading.Thread(target=slow)
    thread.start()
    slow_is_open.wait(10)
    make.job(project="b", name="fast")
    seen.append(list(JobEvent.objects.order_by("id").values_list("id", flat=True)))
    may_commit.set()
    thread.join()
    seen.append(list(JobEvent.objects.order_by("id").values_list("id", flat=True)))

    assert len(seen[0]) == 3
    assert seen[1][:3] == seen[0]  # nothing appeared before what a reader had seen
    assert JobEvent.objects.order_by("id").last().job.name == "slow"
