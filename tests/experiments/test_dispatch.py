"""Who gets which GPU, who waits, and why."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import chain

import pytest
from django.db import connection

from agent.wire import AttemptState
from experiments import dispatch as dispatching
from experiments import leases, line
from experiments.dispatch import dispatch, held_gpus
from experiments.errors import LostRace
from experiments.models import Attempt, GPUClaim, Job, Pulse
from experiments.states import JobState, Outcome
from labsite.clock import database_now
from tests import make

pytestmark = pytest.mark.django_db


def names(attempts: list[Attempt]) -> list[str]:
    return [attempt.job.name for attempt in attempts]


def test_an_urgent_job_goes_first():
    make.device(gpus=1)
    make.job(name="routine")
    make.job(name="urgent", priority="urgent")

    [attempt] = dispatch()

    assert attempt.job.name == "urgent"
    assert attempt.job.state == JobState.ASSIGNED


def test_the_user_who_holds_fewest_gpus_comes_next_whatever_the_age():
    ann, bob = make.user("ann"), make.user("bob")
    make.device(gpus=3)
    for n in range(3):
        make.job(name=f"ann{n}", by=ann)
    make.job(name="bob0", by=bob)

    assert names(dispatch()) == ["ann0", "bob0", "ann1"]


def test_gpus_held_from_earlier_count():
    ann, bob = make.user("ann"), make.user("bob")
    make.attempt(make.job(by=ann), make.device(gpus=1))
    make.device(gpus=1)
    make.job(name="ann", by=ann)
    make.job(name="bob", by=bob)

    assert names(dispatch()) == ["bob"]


def test_a_requeued_job_keeps_its_place():
    device = make.device(gpus=1)
    first = make.attempt(make.job(name="first"), device, started=True)
    make.job(name="second")
    first.job.requeue()
    first.end(Outcome.FAILED, database_now(), exit_code=-15)
    first.release()

    assert names(dispatch()) == ["first"]


def test_a_silent_device_gets_nothing():
    device = make.device(gpus=8, online=False)
    job = make.job()

    assert dispatch() == []
    assert device.host_id in reason(job)


def test_a_device_that_still_stops_what_was_given_up_is_what_a_job_waits_for():
    device = make.device(gpus=1, runs_ended_attempt=True)
    make.device(gpus=1, online=False, runs_ended_attempt=True)  # that one cannot be reached
    job = make.job()

    assert dispatch() == []
    assert reason(job).startswith(f"On {device.host_id} a process")


def test_a_device_that_does_not_poll_gets_nothing():
    make.device(gpus=1, last_poll_at=database_now() - timedelta(minutes=2))
    make.job()

    assert dispatch() == []


def test_a_stopped_device_gets_nothing_until_it_is_resumed():
    device = make.device(gpus=1)
    device.drain()
    make.job()
    assert dispatch() == []

    device.resume()

    assert len(dispatch()) == 1


def test_a_device_that_runs_an_ended_attempt_gets_nothing():
    device = make.device(gpus=2)
    ended = make.attempt(make.job(), device)
    ended.end(Outcome.LOST, database_now(), then=JobState.FAILED)
    leases.poll([leases.Call(device.pk, make.poll(device, (ended, AttemptState.RUNNING)))])
    make.job()
    assert dispatch() == []

    leases.poll([leases.Call(device.pk, make.poll(device, (ended, AttemptState.EXITED)))])

    assert len(dispatch()) == 1


def test_one_job_at_a_time_where_the_manager_wants_it():
    make.device(gpus=4, max_jobs=1)
    make.job()
    make.job()

    assert len(dispatch()) == 1
    assert dispatch() == []


def test_a_cpu_host_has_one_slot_for_jobs_without_gpus():
    make.device(gpus=0)
    make.job(name="first", gpus=0)
    second = make.job(name="second", gpus=0)

    assert names(dispatch()) == ["first"]
    assert GPUClaim.objects.count() == 0
    assert "place without a GPU" in reason(second)


def test_a_job_gets_all_its_gpus_on_one_device_or_none():
    make.device(gpus=2)
    make.device(gpus=2)
    job = make.job(gpus=3)

    assert dispatch() == []
    assert "3 GPUs" in reason(job)


def test_the_fullest_place_that_fits_is_taken():
    large, small = make.device(gpus=4), make.device(gpus=1)
    make.job(gpus=1)

    [attempt] = dispatch()

    assert attempt.device == small
    assert large.gpus.filter(claim=None).count() == 4


@pytest.mark.parametrize(
    ("wish", "fits"),
    [
        ({"gpu_type": "rtx 3090"}, True),
        ({"gpu_type": "A100"}, False),
        ({"gpu_memory": "24GiB"}, True),
        ({"gpu_memory": "40GiB"}, False),
        ({"labels": {"room": "b12"}}, True),
        ({"labels": {"room": "c3"}}, False),
    ],
)
def test_a_job_runs_only_where_its_wishes_are_met(wish, fits):
    make.device(gpus=1, labels={"room": "b12"})
    job = make.job(**wish)

    assert bool(dispatch()) is fits
    assert fits or "No GPU server of this lab has" in reason(job)


def test_a_gpu_used_outside_the_queue_is_not_offered():
    device = make.device()
    stranger = {"pid": 1, "user": "kim", "memory_bytes": 2**30, "attempt_id": None}
    make.gpu(device, processes=[stranger], memory_used_bytes=2**30)
    job = make.job()

    assert dispatch() == []
    assert "used outside the queue on" in reason(job)
    assert "by kim" in reason(job)


def test_who_works_outside_the_queue_is_named_also_where_other_gpus_are_only_busy():
    device = make.device(gpus=1)
    make.attempt(make.job(), device, started=True)
    stranger = {"pid": 1, "user": "kim", "memory_bytes": 2**30, "attempt_id": None}
    make.gpu(device, index=1, processes=[stranger], memory_used_bytes=2**30)
    job = make.job()

    assert dispatch() == []
    assert reason(job).endswith("are free. Used outside the queue by kim.")


def test_a_gpu_that_another_lab_server_uses_is_not_offered():
    device = make.device(gpus=2)
    device.gpus.update(used_elsewhere=True)
    job = make.job()
    assert dispatch() == []
    assert f"used by another lab server on {device.host_id}" in reason(job)

    device.gpus.filter(index=1).update(used_elsewhere=False)

    [attempt] = dispatch()
    assert attempt.gpu_uuids == [device.gpus.get(index=1).uuid]


def test_a_faulty_gpu_is_not_offered_until_released():
    device = make.device(gpus=1)
    gpu = device.gpus.get()
    gpu.quarantine("XID 79", database_now())
    make.job()
    assert dispatch() == []

    gpu.release()

    assert len(dispatch()) == 1


def test_memory_of_an_ended_job_keeps_the_gpu_from_being_offered():
    device = make.device(gpus=1)
    attempt = make.attempt(make.job(), device, started=True)
    attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
    make.job()
    assert dispatch() == []  # ended, and not released

    attempt.release()
    device.gpus.update(memory_used_bytes=20 * 2**30)
    assert dispatch() == []  # released, and not empty

    device.gpus.update(memory_used_bytes=0)
    assert len(dispatch()) == 1


def test_a_held_job_waits_and_lets_others_pass():
    make.device(gpus=1)
    held = make.job(name="held")
    held.hold(True)
    make.job(name="other")

    assert names(dispatch()) == ["other"]
    assert "kept queued by hand" in reason(held)


def test_a_large_job_that_waited_long_is_not_passed_by_small_ones(settings):
    device = make.device(gpus=2)
    make.attempt(make.job(), device)
    large = make.job(name="large", gpus=2)
    small = make.job(name="small")
    _waited_long(large, settings)

    assert dispatch() == []
    assert "held back for digits/run_002" in reason(small)


def test_a_large_job_is_held_back_for_also_behind_a_younger_one_that_asks_for_the_same(settings):
    device, ann = make.device(gpus=2), make.user("ann")
    make.attempt(make.job(by=ann), device)
    old = make.job(name="old", gpus=2, by=ann)
    make.job(name="young", gpus=2)  # of somebody who holds nothing: looked at first
    make.job(name="small", by=ann)
    _waited_long(old, settings)

    assert dispatch() == []


def test_fair_share_does_not_pass_a_large_job_for_ever(settings):
    """Its submitter holds something, and others who hold nothing always have something small."""
    device, ann = make.device(gpus=3), make.user("ann")
    make.attempt(make.job(by=ann), device)
    large = make.job(name="large", gpus=2, by=ann)
    small = make.job(name="small")
    assert _in_turn(large, small) == [small, large]

    _waited_long(large, settings, times=line.PASSED_OVER)

    assert _in_turn(large, small) == [large, small]
    assert names(dispatch()) == ["large"]


def test_gpus_gather_for_a_large_job_that_fair_share_passed_over(settings):
    device, ann = make.device(gpus=3), make.user("ann")
    make.attempt(make.job(by=ann), device)
    make.attempt(make.job(), device)
    large = make.job(name="large", gpus=2, by=ann)
    small = make.job(name="small")
    _waited_long(large, settings, times=line.PASSED_OVER)

    assert dispatch() == []
    assert "held back for digits/run_003" in reason(small)


def test_who_holds_as_much_as_a_job_asks_for_waits_for_their_turn_however_long(settings):
    device, ann = make.device(gpus=3), make.user("ann")
    make.attempt(make.job(gpus=2, by=ann), device)
    old = make.job(name="old", gpus=1, by=ann)
    _waited_long(old, settings, times=line.PASSED_OVER)
    make.job(name="new")

    assert names(dispatch()) == ["new"]


def test_no_gpu_stands_idle_for_a_large_job_where_somebody_works_outside_the_queue(settings):
    device = make.device(gpus=1)
    make.gpu(device, index=1, memory_used_bytes=8 * 2**30)
    large = make.job(name="large", gpus=2)
    make.job(name="small")
    _waited_long(large, settings)

    assert names(dispatch()) == ["small"]


def _in_turn(*jobs: Job) -> list[Job]:
    """As the queue's page has them."""
    for job in jobs:
        job.refresh_from_db()
    return sorted(jobs, key=line.turn(held_gpus(), database_now()))


def _waited_long(job: Job, settings, times: int = 1) -> None:
    waited = times * timedelta(seconds=settings.LAB_HOLD_BACK_AFTER_SECONDS)
    Job.objects.filter(pk=job.pk).update(submitted_at=database_now() - waited)


def test_a_job_avoids_the_device_where_it_did_not_start():
    device = make.device(gpus=1)
    attempt = make.attempt(make.job(name="picky"), device)
    attempt.end(Outcome.START_FAILED, database_now(), message="no such command")
    attempt.release()
    assert dispatch() == []
    assert "did not start on" in reason(attempt.job)
    other = make.device(gpus=1)

    [second] = dispatch()

    assert second.device == other


def test_a_job_that_avoids_a_device_keeps_nobody_else_from_it():
    """Two that ask for the same, and of which one may go back to the device by now."""
    device, now = make.device(gpus=1), database_now()
    for minutes in (5, -5):
        job = make.job()
        until = (now + timedelta(minutes=minutes)).isoformat()
        Job.objects.filter(pk=job.pk).update(avoids={str(device.pk): until})

    [attempt] = dispatch()

    assert attempt.job == job


def test_a_lab_without_devices_says_so():
    job = make.job()

    dispatch()

    assert "No GPU server is connected" in reason(job)


def test_every_queued_job_has_a_reason_and_it_does_not_change_by_itself():
    make.device(gpus=1)
    jobs = [make.job() for _ in range(20)]
    dispatch()
    before = dict(Job.objects.values_list("pk", "waiting"))

    dispatch()

    assert dict(Job.objects.values_list("pk", "waiting")) == before
    assert all(reason(job) for job in jobs[1:])


def test_a_pass_leaves_its_stamp():
    dispatch()

    assert Pulse.last(Pulse.DISPATCH) is not None


def test_a_pass_that_takes_too_long_leaves_the_rest_to_another(monkeypatch):
    make.device(gpus=3)
    for _ in range(3):
        make.job()
    asked = []
    monkeypatch.setattr(dispatching.wake, "ask_dispatch", lambda: asked.append(True))
    clock = iter([0.0, 0.4, 1.5])  # at its start, before the first, after it
    monkeypatch.setattr(dispatching.time, "monotonic", lambda: next(clock, 1.5))

    assert len(dispatch()) == 1
    assert asked
    monkeypatch.undo()
    assert len(dispatch()) == 2


def test_a_queue_that_takes_long_to_plan_is_given_out_all_the_same(monkeypatch):
    make.device(gpus=1)
    make.job(name="first")
    make.job(name="second")
    asked = []
    monkeypatch.setattr(dispatching.wake, "ask_dispatch", lambda: asked.append(True))
    clock = iter([0.0])
    monkeypatch.setattr(dispatching.time, "monotonic", lambda: next(clock, 5.0))

    assert names(dispatch()) == ["first"]
    assert asked == []  # nothing more can be given out now, so that it would go round and round


def test_a_job_that_is_kept_queued_while_a_pass_runs_is_not_given_out():
    device = make.device(gpus=1)
    planned = Job.objects.get(pk=make.job().pk)
    Job.objects.get().hold(True)

    with pytest.raises(LostRace):
        planned.assign(device, list(device.gpus.all()), database_now())


@pytest.mark.django_db(transaction=True)  # real transactions in real threads
def test_no_job_and_no_gpu_is_given_twice():
    devices = [make.device(gpus=4) for _ in range(3)]
    for _ in range(40):
        make.job()

    def one_dispatcher(_: int) -> list[int]:
        try:
            return [attempt.job_id for attempt in dispatch()]
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        assigned = list(chain.from_iterable(pool.map(one_dispatcher, range(8))))

    assert len(assigned) == len(set(assigned)) == GPUClaim.objects.count() == 12
    for device in devices:
        device.refresh_from_db()
        assert device.open_attempts == 4


def reason(job: Job) -> str:
    job.refresh_from_db()
    return job.waiting_reason
