"""Memory that an ended attempt has not given back keeps its card, and no other, from the rest."""

import pytest

from agent import wire
from agent.wire import AttemptState, EventType, GPUProcess
from devices.models import GPU, Fault
from experiments import leases, reports
from experiments.dispatch import dispatch
from experiments.leases import Call
from experiments.models import GPUClaim, Project
from experiments.states import Outcome
from labsite.clock import database_now
from tests import make

pytestmark = pytest.mark.django_db
GIB = 2**30


@pytest.fixture
def device():
    return make.device(gpus=2, host_id="gpu-01")


@pytest.fixture
def ended(device):
    attempt = make.attempt(make.job(gpus=2), device, started=True)
    attempt.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
    return attempt


def held(attempt, seconds: float, index: int = 0) -> wire.HeldGPU:
    process = GPUProcess(4242, "kim", int(20.1 * GIB), str(attempt.pk))
    small = GPUProcess(4243, "lee", GIB, str(attempt.pk))
    return wire.HeldGPU(attempt.gpu_uuids[index], seconds, 21 * GIB, [small, process])


def say(attempt, *cards: wire.HeldGPU, state=AttemptState.EXITED) -> None:
    report = wire.AttemptReport(id=str(attempt.pk), state=state, held_gpus=list(cards))
    message = make.poll(attempt.device)
    [reply] = leases.poll([Call(attempt.device_id, wire.Poll(
        instance_id=message.instance_id, poll_seq=message.poll_seq, attempts=[report],
    ))])  # fmt: skip
    assert isinstance(reply, wire.PollReply)


def claimed() -> list[str]:
    return sorted(GPUClaim.objects.values_list("gpu__uuid", flat=True))


def released(attempt) -> None:
    event = make.event(EventType.RELEASED, gpu_uuids=attempt.gpu_uuids)
    reports.receive(attempt.device, str(attempt.pk), event)


def first() -> GPU:
    return GPU.objects.get(index=0)


def test_its_other_cards_are_given_out_at_once(ended):
    say(ended, held(ended, 1.0))

    assert claimed() == [ended.gpu_uuids[0]]
    assert first().quarantined_at is None
    make.job()
    [attempt] = dispatch()
    assert attempt.gpu_uuids == [ended.gpu_uuids[1]]


def test_of_a_private_run_everybody_reads_that_it_is_one_and_no_more(ended):
    Project.objects.update(private=True)

    say(ended, held(ended, 61.0))

    assert first().quarantine_reason.startswith("Memory of a private run was not given back")


def test_after_a_minute_the_card_is_faulty_and_says_who_holds_it(ended):
    say(ended, held(ended, 59.9))
    assert first().quarantined_at is None

    say(ended, held(ended, 60.0))

    assert first().fault == Fault.HELD
    run = f"digits/{ended.job.run_name}"
    assert f"Memory of {run} was not given back: process 4242 (kim) holds 20.1 GiB" in (
        first().quarantine_reason
    )


def test_a_faulty_card_is_no_longer_held_by_what_has_ended_and_not_offered_either(ended):
    say(ended, held(ended, 60.0))

    leases.reap()

    assert claimed() == []
    make.job(gpus=2)
    assert dispatch() == []


def test_a_running_attempt_keeps_a_card_that_becomes_faulty(device):
    attempt = make.attempt(make.job(gpus=1), device, started=True)
    first().fail(Fault.XID, {"xid": 79}, database_now())

    leases.reap()

    assert claimed() == attempt.gpu_uuids


def test_memory_that_comes_back_after_all_ends_the_fault_and_the_card_is_used_again(ended):
    say(ended, held(ended, 60.0))
    leases.reap()

    released(ended)

    assert first().quarantined_at is None
    assert [event.kind for event in first().events.all()] == ["released", "quarantined"]
    make.job(gpus=2)
    assert len(dispatch()) == 1


def test_memory_that_comes_back_mends_no_other_fault(ended):
    say(ended, held(ended, 60.0))
    first().fail(Fault.XID, {"xid": 79}, database_now())

    released(ended)

    assert first().fault == Fault.XID


def test_a_manager_who_uses_it_again_is_not_overruled_by_the_same_memory(ended):
    say(ended, held(ended, 60.0))
    first().release(by=make.manager())

    say(ended, held(ended, 70.0))

    assert first().quarantined_at is None


def test_a_card_that_was_not_this_attempts_is_not_set_aside(ended):
    stranger = make.gpu(ended.device, uuid="GPU-else", index=5)
    card = wire.HeldGPU("GPU-else", 99.0, GIB)

    say(ended, card)

    stranger.refresh_from_db()
    assert stranger.quarantined_at is None


def test_an_open_attempt_gives_nothing_back_whatever_a_poll_says(device):
    attempt = make.attempt(make.job(gpus=2), device, started=True)

    say(attempt, held(attempt, 99.0))

    assert len(claimed()) == 2
    assert first().quarantined_at is None


def test_a_device_whose_driver_does_not_answer_is_given_jobs_without_a_gpu_only(device):
    device.driver_answers = False
    device.save()
    make.job(gpus=1)
    without = make.job(gpus=0)

    [attempt] = dispatch()

    assert attempt.job == without
