"""Polls: who is told what, what a poll changes, and what ends by time alone."""

import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from agent import wire
from agent.wire import AttemptState, EventType
from devices.errors import DuplicateAgent
from devices.heartbeat import Beat, record
from devices.models import Device, DeviceState
from experiments import leases, reports, submission
from experiments.leases import Call
from experiments.models import Attempt, GPUClaim, Job, Project, Pulse
from experiments.states import JobState, Outcome
from labsite.clock import database_now
from tests import make
from tests.waiting import until_somebody_waits_for_a_row

pytestmark = pytest.mark.django_db
RUNNING, ACCEPTED, EXITED = AttemptState.RUNNING, AttemptState.ACCEPTED, AttemptState.EXITED


def ask(device: Device, *named, **fields) -> wire.PollReply:
    [reply] = leases.poll([Call(device.pk, make.poll(device, *named, **fields))])
    assert isinstance(reply, wire.PollReply), reply
    return reply


def test_the_answer_holds_all_that_should_run():
    device = make.device(gpus=1, environment={"NCCL_DEBUG": "INFO", "A": "device"})
    job = make.job(
        config="lr: 0.1\n",
        command=["python", "train.py", "{config}"],
        environment={"A": "job"},
        by=make.user("ann"),
    )
    attempt = make.attempt(job, device, accepted=False)

    [order] = ask(device).attempts

    assert order.id == str(attempt.pk)
    assert order.command == ["python", "train.py", "{config}"]
    assert order.environment == {"NCCL_DEBUG": "INFO", "A": "job"}
    assert order.gpus == [device.gpus.get().uuid]
    assert (order.project, order.run_name, order.user) == ("digits", "run_001", "ann")
    assert not order.confirmed


def test_an_attempt_is_confirmed_only_once_it_was_named_accepted():
    attempt = make.attempt(accepted=False)
    assert not ask(attempt.device).attempts[0].confirmed

    [order] = ask(attempt.device, (attempt, ACCEPTED)).attempts

    assert order.confirmed
    attempt.refresh_from_db()
    assert attempt.accepted_at is not None


def test_naming_an_attempt_twice_accepts_it_once():
    attempt = make.attempt(accepted=False)
    ask(attempt.device, (attempt, ACCEPTED))
    first = Attempt.objects.get().accepted_at

    ask(attempt.device, (attempt, ACCEPTED))

    assert Attempt.objects.get().accepted_at == first


def test_a_cancelled_attempt_cannot_be_accepted_late():
    attempt = make.attempt(accepted=False)
    attempt.job.cancel()

    reply = ask(attempt.device, (attempt, ACCEPTED))

    assert reply.attempts == []
    assert reply.ended == [str(attempt.pk)]


def test_a_named_attempt_that_is_unknown_here_is_in_neither_list():
    device = make.device(gpus=1)
    strange = wire.AttemptReport(id="f" * 8 + "-0000-0000-0000-" + "0" * 12, state=RUNNING)
    odd = wire.AttemptReport(id="not-a-uuid", state=RUNNING)
    message = wire.Poll(instance_id=device.instance_id, poll_seq=1, attempts=[strange, odd])

    [reply] = leases.poll([Call(device.pk, message)])

    assert (reply.ended, reply.attempts) == ([], [])


def test_another_devices_attempt_is_unknown_here():
    attempt = make.attempt(started=True)
    attempt.end(Outcome.FAILED, database_now())
    other = make.device(gpus=1)

    assert ask(other, (attempt, RUNNING)).ended == []


def test_a_wish_to_stop_reaches_the_agent_and_changes_the_revision():
    attempt = make.attempt(started=True)
    before = ask(attempt.device, (attempt, RUNNING))
    attempt.job.cancel()

    after = ask(attempt.device, (attempt, RUNNING))

    assert before.attempts[0].stop is None
    assert after.attempts[0].stop == wire.Stop("cancelled")
    assert after.revision != before.revision


def test_the_revision_is_that_of_the_answer_alone():
    attempt = make.attempt(started=True)

    first = ask(attempt.device, (attempt, RUNNING))
    second = ask(attempt.device, (attempt, RUNNING))

    assert first.revision == second.revision


def test_an_old_poll_changes_nothing():
    attempt = make.attempt(started=True)
    ask(attempt.device, (attempt, RUNNING), poll_seq=1_000_000)
    attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)

    ask(attempt.device, poll_seq=999_999)  # sent before the other, and late

    assert GPUClaim.objects.count() == 1


def test_a_poll_that_names_an_ended_attempt_no_more_gives_its_gpus_back():
    attempt = make.attempt(started=True)
    attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)

    ask(attempt.device, (attempt, EXITED))
    assert GPUClaim.objects.count() == 1  # its memory is not back yet
    ask(attempt.device)

    assert GPUClaim.objects.count() == 0


def test_a_poll_of_another_instance_is_refused():
    device = make.device(gpus=1)
    message = make.poll(device, instance_id="another")

    [reply] = leases.poll([Call(device.pk, message)])

    assert isinstance(reply, DuplicateAgent)


def test_one_refused_poll_of_a_batch_leaves_the_others_alone():
    good, bad = make.device(), make.device()
    calls = [
        Call(bad.pk, make.poll(bad, instance_id="another")),
        Call(good.pk, make.poll(good)),
        Call(10**9, make.poll(good)),
    ]

    refused, reply, gone = leases.poll(calls)

    assert refused.code == "duplicate_agent"
    assert isinstance(reply, wire.PollReply)
    assert gone.status == 404


def test_files_are_advertised():
    attempt = make.attempt(started=True)
    files = {"run_001.csv": wire.FileReport(generation=1, size_bytes=20, acked_bytes=10)}
    report = wire.AttemptReport(id=str(attempt.pk), state=RUNNING, files=files)
    message = wire.Poll(instance_id=attempt.device.instance_id, poll_seq=10**6, attempts=[report])

    leases.poll([Call(attempt.device_id, message)])

    attempt.refresh_from_db()
    assert attempt.files_advertised["run_001.csv"]["size_bytes"] == 20


def test_an_agent_that_has_not_looked_yet_takes_nothing_back_of_what_it_told():
    attempt = make.attempt(started=True)
    files = {"run_001.csv": wire.FileReport(generation=1, size_bytes=20, acked_bytes=10)}
    left_out = [wire.LeftOut("run_001/1.ckpt", wire.WhyLeftOut.NOT_WISHED, 20)]
    told = {"files": files, "left_out": left_out, "files_to_come": True}
    ask(attempt.device, (attempt, RUNNING), of_each=told)

    ask(attempt.device, (attempt, EXITED), of_each={"files_to_come": True})

    attempt.refresh_from_db()
    assert attempt.files_advertised["run_001.csv"]["size_bytes"] == 20
    assert [one["name"] for one in attempt.files_left_out] == ["run_001/1.ckpt"]


def test_an_agents_last_word_takes_back_what_will_never_come():
    attempt = make.attempt(started=True)
    files = {"run_001/1.ckpt": wire.FileReport(generation=1, size_bytes=20, acked_bytes=0)}
    ask(attempt.device, (attempt, EXITED), of_each={"files": files, "files_to_come": True})

    ask(attempt.device, (attempt, EXITED), of_each={"files_to_come": False})

    attempt.refresh_from_db()
    assert attempt.files_advertised == {}
    assert attempt.files_to_come is False


@pytest.mark.parametrize("by", ["saying so", "naming it no more"])
def test_an_agent_tells_that_all_files_have_arrived(by):
    attempt = make.attempt(started=True)
    device, to_come = attempt.device, {"files_to_come": True}
    ask(device, (attempt, RUNNING), of_each=to_come)
    ask(device)  # of a run that is under way this says nothing
    attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
    ask(device, (attempt, EXITED), of_each=to_come)
    attempt.refresh_from_db()
    assert attempt.files_to_come

    named = [(attempt, EXITED)] if by == "saying so" else []
    ask(device, *named, of_each={"files_to_come": False})

    attempt.refresh_from_db()
    assert attempt.files_to_come is False


def test_of_two_polls_in_one_batch_the_second_is_heard():
    attempt = make.attempt(started=True)
    device = attempt.device
    ask(device, (attempt, RUNNING), of_each={"files_to_come": True})
    attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
    first = make.poll(device, (attempt, EXITED), of_each={"files_to_come": True})

    leases.poll([Call(device.pk, first), Call(device.pk, make.poll(device))])

    attempt.refresh_from_db()
    assert attempt.files_to_come is False


def test_a_poll_that_has_no_room_for_all_tells_nothing_by_leaving_one_out():
    attempt = make.attempt(started=True)
    ask(attempt.device, (attempt, RUNNING), of_each={"files_to_come": True})
    attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
    others = [wire.AttemptReport(id=f"other-{n}", state=RUNNING) for n in range(wire.MAX_REPORTS)]
    message = replace(make.poll(attempt.device), attempts=others)

    leases.poll([Call(attempt.device_id, message)])

    attempt.refresh_from_db()
    assert attempt.files_to_come


def test_what_an_agent_does_not_send_is_noted_with_the_reason():
    attempt = make.attempt(started=True)
    left_out = [wire.LeftOut("run_001/epoch=1.ckpt", wire.WhyLeftOut.NOT_WISHED, 20)]
    report = wire.AttemptReport(id=str(attempt.pk), state=RUNNING, left_out=left_out)
    message = wire.Poll(instance_id=attempt.device.instance_id, poll_seq=10**6, attempts=[report])

    leases.poll([Call(attempt.device_id, message)])

    attempt.refresh_from_db()
    assert attempt.files_left_out == [
        {"name": "run_001/epoch=1.ckpt", "reason": "not_wished", "size_bytes": 20}
    ]


def test_an_order_says_what_is_wished_of_the_runs_files():
    project = Project.objects.create(
        name="vision", outputs=["runs/**"], sync={"checkpoints": "last", "max_file": "5GB"}
    )
    project.clean()
    job = submission.submit(
        None, {"project": "vision", "command": "true", "ignore": ["*.tmp"], "sync": {}}
    )
    attempt = make.attempt(submission.rerun(job))

    order = leases.order(attempt, attempt.device)

    assert (order.outputs, order.ignore) == (["runs/**"], ["*.tmp"])
    assert order.sync == wire.SyncPolicy(wire.Checkpoints.LAST, 5 * 10**9)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"outputs": ["/etc/**"]}, "leads elsewhere"),
        ({"sync": {"max_file": 20}}, "20 has no unit"),
        ({"sync": ["last"]}, "must hold keys and values"),
        ({"ignore": "*.tmp"}, "write a list"),
    ],
)
def test_a_projects_defaults_are_held_to_what_a_job_may_say(said, sentence):
    with pytest.raises(ValidationError) as refused:
        Project(name="vision", **said).clean()

    assert sentence in str(refused.value)


# --- what ends by time ---------------------------------------------------------------------------


def sight(now, *, since: float = 600.0, ago: float = 0.0) -> None:
    """The lane has stamped without a gap for `since` seconds, last `ago` seconds ago."""
    Pulse.objects.update_or_create(
        name=Pulse.LANE,
        defaults={
            "at": now - timedelta(seconds=ago),
            "unbroken_since": now - timedelta(seconds=since),
        },
    )


def lease_out(*, policy: str = "requeue", seconds: float = 200.0) -> Attempt:
    attempt = make.attempt(make.job(on_device_lost=policy), started=True)
    long_ago = database_now() - timedelta(seconds=seconds)
    Attempt.objects.filter(pk=attempt.pk).update(renewed_at=long_ago)
    Device.objects.filter(pk=attempt.device_id).update(last_heartbeat_at=long_ago)
    attempt.refresh_from_db()
    return attempt


def test_what_nobody_accepts_goes_back_to_the_queue_without_costing_a_try():
    attempt = make.attempt(make.job(max_attempts=1), accepted=False)
    due = attempt.created_at + timedelta(seconds=60)
    sight(due, since=60)

    assert leases.reap(due - timedelta(seconds=1)) == []
    leases.reap(due)

    attempt.refresh_from_db()
    assert (attempt.outcome, Job.objects.get().state) == (Outcome.NOT_ACCEPTED, JobState.QUEUED)
    assert GPUClaim.objects.count() == 0


def test_a_server_that_was_away_gives_an_agent_its_time_to_accept():
    """It may have accepted long ago, and had nobody to tell."""
    attempt = make.attempt(accepted=False)
    now = attempt.created_at + timedelta(seconds=180)
    sight(now, since=59)

    assert leases.reap(now) == []
    sight(now, since=60)
    assert leases.reap(now) == [attempt]


def test_policy_requeue_runs_elsewhere_and_keeps_the_gpu_held():
    attempt = lease_out()
    now = database_now()
    sight(now)

    assert leases.reap(now) == [attempt]

    assert Job.objects.get().state == JobState.QUEUED
    assert GPUClaim.objects.count() == 1


def test_policy_wait_never_requeues_by_itself():
    lease_out(policy="wait", seconds=6 * 24 * 3600)
    now = database_now()
    sight(now)

    assert leases.reap(now) == []
    assert Job.objects.get().state == JobState.RUNNING


def test_a_start_that_came_before_its_acceptance_holds_no_lease_for_ever():
    """An acceptance that a restored backup has forgotten; and the device is never heard again."""
    attempt = make.attempt(accepted=False)
    attempt.start(database_now(), pid=4711)
    now = database_now() + timedelta(days=8)
    sight(now)

    assert leases.reap(now) == [attempt]


def test_policy_wait_gives_up_after_a_week():
    lease_out(policy="wait", seconds=7 * 24 * 3600 + 1)
    now = database_now()
    sight(now)

    assert len(leases.reap(now)) == 1
    assert Job.objects.get().state == JobState.FAILED


@pytest.mark.parametrize(
    "stamps",
    [
        {"since": 134},  # it saw for less than a lease without a gap
        {"since": 600, "ago": 4},  # it does not answer now
        {"since": 600, "ago": -3600},  # nobody knows: the clock was set back
    ],
)
def test_a_blind_server_judges_nobody(stamps):
    lease_out()
    now = database_now()
    sight(now, **stamps)

    assert leases.reap(now) == []


def test_a_server_without_a_lane_judges_nobody():
    lease_out()

    assert leases.reap() == []


def test_a_gap_in_the_stamps_begins_the_sight_anew():
    now = database_now()
    for second in (0, 1, 2, 8, 9):
        Pulse.beat(Pulse.LANE, now + timedelta(seconds=second))

    assert Pulse.last(Pulse.LANE).unbroken_since == now + timedelta(seconds=8)


def test_a_clock_that_was_set_back_blinds_the_server_for_no_longer_than_a_gap():
    """A host that comes up with a wrong clock stamps of the future before it is put right."""
    now = database_now()
    Pulse.beat(Pulse.LANE, now + timedelta(hours=9))

    Pulse.beat(Pulse.LANE, now)
    Pulse.beat(Pulse.LANE, now + timedelta(seconds=1))

    assert Pulse.sees_since(now + timedelta(seconds=1)) == now


def test_a_stamp_that_comes_late_takes_nothing_back():
    now = database_now()
    Pulse.beat(Pulse.LANE, now)

    Pulse.beat(Pulse.LANE, now - timedelta(seconds=20))

    assert Pulse.sees_since(now) == now


def test_a_lease_renewed_meanwhile_is_not_ended():
    attempt = lease_out()
    stale = Attempt.objects.select_related("job__project", "device").get(pk=attempt.pk)
    Attempt.objects.filter(pk=attempt.pk).update(renewed_at=database_now())

    assert not leases._end(stale, Outcome.LOST, database_now())
    assert Job.objects.get().state == JobState.RUNNING


def test_when_half_of_the_busy_devices_vanish_together_nothing_is_requeued():
    for _ in range(3):
        lease_out()
    for _ in range(3):
        make.attempt(started=True)
    now = database_now()
    sight(now)

    assert leases.reap(now) == []
    assert leases.mass_loss(now).busy == 6


@pytest.mark.parametrize("word", ["goodbye_at", "revoked_at"])
def test_devices_that_went_by_somebodys_word_have_not_vanished(word):
    for _ in range(3):
        lease_out()
    now = database_now()
    Device.objects.update(**{word: now})

    assert leases.mass_loss(now) is None


def test_devices_that_vanish_one_after_the_other_are_requeued():
    for minutes in (5, 10, 15):
        lease_out(seconds=60 * minutes)
    now = database_now()
    sight(now)

    assert leases.mass_loss(now) is None
    assert len(leases.reap(now)) == 3


# --- what runs beside a poll --------------------------------------------------------------------


def test_the_events_of_a_batch_are_its_last_statement():
    """They are written under a lock that all writers of events share: whoever held it while
    waiting for a row could wait for somebody who waits for the lock."""
    first, second = make.attempt(accepted=False), make.attempt(accepted=False)
    calls = [
        Call(one.device.pk, make.poll(one.device, (one, ACCEPTED))) for one in (first, second)
    ]

    with CaptureQueriesContext(connection) as captured:
        leases.poll(calls)

    writes = [q["sql"] for q in captured if q["sql"].startswith(("INSERT", "UPDATE", "DELETE"))]
    assert [sql for sql in writes if "jobevent" in sql] == writes[-1:]


@pytest.mark.parametrize("wish", ["cancel", "requeue"])
def test_what_is_accepted_while_it_is_cancelled_is_asked_to_stop(monkeypatch, wish):
    """Its process may start at any moment: neither the job nor its GPUs are anybody else's yet."""
    job = make.job()
    attempt = make.attempt(job, accepted=False)
    as_it_was = job.open_attempt()
    ask(attempt.device, (attempt, ACCEPTED))
    monkeypatch.setattr(Job, "open_attempt", lambda self: as_it_was)

    getattr(Job.objects.get(), wish)()

    [order] = ask(attempt.device, (attempt, ACCEPTED)).attempts
    assert order.stop is not None
    assert GPUClaim.objects.filter(attempt=attempt).exists()
    assert Job.objects.get().state == JobState.ASSIGNED


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite has one lock")
@pytest.mark.django_db(transaction=True)
def test_a_poll_and_the_end_that_it_crosses_lock_rows_in_one_order():
    attempt = make.attempt(started=True)

    def end():
        try:
            reports.receive(attempt.device, str(attempt.pk), make.event(EventType.EXITED))
        finally:
            connection.close()

    thread = threading.Thread(target=end)
    with transaction.atomic():
        attempt.device.polled(10**9, database_now(), runs_ended_attempt=False, unknown=[])
        thread.start()
        until_somebody_waits_for_a_row()
        attempt.advertise({}, database_now())  # or: deadlock detected
    thread.join()

    assert not Attempt.objects.get().is_open


@pytest.mark.parametrize("name", ["-" * 36, "f" * 36, "unknown"])
def test_an_attempts_id_of_no_attempts_form_is_only_unknown(name):
    device = make.device()
    poll = replace(
        make.poll(device), attempts=[wire.AttemptReport(id=name, state=AttemptState.RUNNING)]
    )

    [reply] = leases.poll([leases.Call(device.pk, poll)])

    assert reply.ended == []


def test_a_crowd_of_polls_costs_two_updates_each_and_no_question_more():
    """At 500 polls together each question more is half a second in which no heartbeat is heard."""
    attempts = [make.attempt(started=True) for _ in range(12)]
    calls = [Call(one.device_id, make.poll(one.device, (one, RUNNING))) for one in attempts]
    leases.answer(calls)  # the server has its identity from here on

    with CaptureQueriesContext(connection) as few:
        leases.poll(calls[:2])
    with CaptureQueriesContext(connection) as many:
        leases.poll(calls[2:])

    assert len(many) - len(few) == 2 * 8  # the poll itself, and the lease


def test_a_clock_that_was_set_back_hides_no_dead_host_and_lets_its_successor_in():
    device, hour = make.device(), timedelta(hours=1)
    ask(device)
    now = database_now()
    Device.objects.update(last_heartbeat_at=now + hour, last_poll_at=now + hour)

    leases.reap(now)

    device.refresh_from_db()
    assert (device.last_heartbeat_at, device.last_poll_at) == (now, now)
    assert device.state(now) == DeviceState.HEALTHY
    assert device.state(now + timedelta(minutes=2)) == DeviceState.DISCONNECTED


def test_who_said_goodbye_before_the_clock_was_set_back_is_heard_again():
    device, now = make.device(), database_now()
    Device.objects.update(
        last_heartbeat_at=now + timedelta(minutes=59), goodbye_at=now + timedelta(hours=1)
    )

    leases.reap(now)

    device.refresh_from_db()
    assert device.state(now) == DeviceState.DISCONNECTED
    [reply] = record([Beat(device.pk, make.beat(device))])
    assert isinstance(reply, wire.HeartbeatReply)
    device.refresh_from_db()
    assert device.state(database_now()) == DeviceState.HEALTHY


def test_a_beat_that_came_while_a_pass_began_is_no_clock_set_back():
    device, now = make.device(), database_now()
    soon = now + timedelta(seconds=2)
    Device.objects.update(last_heartbeat_at=soon)

    leases.reap(now)

    device.refresh_from_db()
    assert device.last_heartbeat_at == soon
