"""Cards that a heartbeat shows to be broken are set aside by themselves, once for each fault."""

from dataclasses import replace
from datetime import timedelta

import pytest

from agent import wire
from devices import heartbeat
from devices.heartbeat import Beat
from devices.models import GPU, Device, Fault, GPUEvent
from labsite.clock import database_now
from tests import make

pytestmark = pytest.mark.django_db

CARD = wire.GPUReading(uuid="GPU-1", index=0, name="H100", ecc_errors=0)
OTHER = replace(CARD, uuid="GPU-2", index=1)


@pytest.fixture
def device() -> Device:
    made = make.device()
    beat(made, CARD, OTHER)
    return made


def beat(device: Device, *cards: wire.GPUReading, **fields) -> None:
    device.refresh_from_db()
    fields.setdefault("driver_answers", True)
    heartbeat.record([Beat(device.pk, make.beat(device, gpus=list(cards), **fields))])


def restart(device: Device, *cards: wire.GPUReading, instance: str = "next") -> None:
    device.refresh_from_db()
    beat(device, *cards, instance_id=instance, previous_instance_id=device.instance_id)


def gpu() -> GPU:
    return GPU.objects.get(uuid="GPU-1")


def let_pass(seconds: float) -> None:
    """As if the cards that are missing had been so for longer."""
    since = GPU.objects.exclude(missing_since=None)
    for card in since:
        before = card.missing_since - timedelta(seconds=seconds)
        GPU.objects.filter(pk=card.pk).update(missing_since=before)


@pytest.mark.parametrize("xid", [48, 63, 64, 74, 79])
def test_a_fatal_xid_sets_the_card_aside_and_no_other(device, xid):
    beat(device, replace(CARD, xid_errors=[13, xid]), OTHER)

    assert gpu().fault == Fault.XID
    assert str(xid) in gpu().quarantine_reason
    assert GPU.objects.usable().get().uuid == "GPU-2"
    assert GPUEvent.objects.get().by is None


def test_a_programs_own_xid_is_no_fault_of_the_card(device):
    beat(device, replace(CARD, xid_errors=[13, 31, 43, 45]), OTHER)

    assert gpu().quarantined_at is None


def test_what_a_manager_has_seen_is_not_held_against_the_card_again(device):
    broken = replace(CARD, xid_errors=[79], ecc_errors=3)
    beat(device, broken)
    gpu().release()

    for _ in range(2):
        beat(device, broken)
    beat(device, replace(CARD, ecc_errors=None))  # the driver hung for a while
    beat(device, broken)
    assert gpu().quarantined_at is None

    beat(device, replace(broken, xid_errors=[79, 31]))
    assert gpu().quarantined_at is None

    beat(device, replace(broken, xid_errors=[79, 31, 79]))
    assert gpu().fault == Fault.XID


def test_after_a_restart_of_the_agent_each_xid_is_a_new_one(device):
    beat(device, replace(CARD, xid_errors=[79]))
    gpu().release()
    restart(device, CARD)
    assert gpu().quarantined_at is None

    restart(device, replace(CARD, xid_errors=[79]), instance="third")

    assert gpu().fault == Fault.XID


def test_the_oldest_xids_that_an_agent_drops_make_no_new_ones(device):
    kept = [31, 43, 79] + [13] * 61
    beat(device, replace(CARD, xid_errors=kept))
    gpu().release()

    beat(device, replace(CARD, xid_errors=[*kept[1:], 31]))
    assert gpu().quarantined_at is None

    beat(device, replace(CARD, xid_errors=[*kept[2:], 31, 48]))
    assert gpu().fault_facts == {"xid": 48}


@pytest.mark.parametrize(("counts", "faulty"), [((0, 1), True), ((4, 0, 0), False)])
def test_only_a_count_of_ecc_errors_that_rises_is_a_fault(device, counts, faulty):
    restart(device, replace(CARD, ecc_errors=counts[0]))
    gpu().release()
    for count in counts[1:]:
        beat(device, replace(CARD, ecc_errors=count))

    assert (gpu().fault == Fault.ECC) is faulty


def test_errors_from_before_a_card_was_known_are_not_new_but_its_xids_are():
    device = make.device()

    beat(device, replace(CARD, ecc_errors=5), replace(OTHER, xid_errors=[79]))

    assert gpu().quarantined_at is None
    assert GPU.objects.get(uuid="GPU-2").fault == Fault.XID


def test_a_card_off_the_bus_is_set_aside_after_ten_seconds_and_stays_so_when_it_is_back(device):
    beat(device, OTHER)
    let_pass(9)
    beat(device, OTHER)
    assert gpu().quarantined_at is None

    let_pass(1)
    beat(device, OTHER)
    assert gpu().fault == Fault.OFF_BUS

    beat(device, CARD, OTHER, boot_id="boot-2")
    assert gpu().present
    assert gpu().fault == Fault.OFF_BUS


def test_a_card_that_a_manager_uses_again_while_it_is_missing_is_not_set_aside_again(device):
    beat(device, OTHER)
    let_pass(10)
    beat(device, OTHER)
    gpu().release()
    beat(device, OTHER)

    assert gpu().quarantined_at is None
    assert GPU.objects.usable().get().uuid == "GPU-2"


def test_a_card_that_was_not_read_for_a_moment_is_used_again(device):
    beat(device, OTHER)
    beat(device, CARD, OTHER)
    let_pass(60)
    beat(device, OTHER)

    assert gpu().quarantined_at is None


@pytest.mark.parametrize("answers", [False, None], ids=["driver fails", "agent of before"])
def test_a_driver_that_does_not_answer_makes_no_card_faulty(device, answers):
    for _ in range(2):
        beat(device, driver_answers=answers)
        let_pass(60)

    assert not GPU.objects.exclude(quarantined_at=None).exists()
    assert not GPU.objects.usable().exists()


def test_a_host_that_is_silent_loses_no_card(device):
    let_pass(3600)
    beat(device, CARD, OTHER)

    assert GPU.objects.usable().count() == 2


def test_a_card_that_its_agent_leaves_out_is_not_offered_and_not_lost(device):
    beat(device, OTHER, gpus_left_out=["GPU-1"])
    let_pass(60)
    beat(device, OTHER, gpus_left_out=["GPU-1"])

    assert not gpu().present
    assert gpu().fault == ""
    assert gpu().missing_since is None


def test_a_card_that_was_missing_and_is_then_left_out_is_not_lost(device):
    beat(device, OTHER)

    beat(device, OTHER, gpus_left_out=["GPU-1"])
    let_pass(60)
    beat(device, OTHER, gpus_left_out=["GPU-1"])

    assert gpu().fault == ""


def test_simulated_cards_that_are_gone_are_not_broken(device):
    simulated = replace(CARD, uuid="SIM-1-0", simulated=True)
    beat(device, CARD, OTHER, simulated)
    for _ in range(2):
        beat(device, CARD, OTHER)
        let_pass(60)

    assert GPU.objects.get(uuid="SIM-1-0").quarantined_at is None


def test_a_fault_that_lasts_takes_the_place_of_one_that_ends_by_itself_and_of_no_other(device):
    now = database_now()
    assert gpu().fail(Fault.HELD, {"attempt": "a"}, now)
    assert not gpu().fail(Fault.HELD, {"attempt": "b"}, now)
    assert gpu().fail(Fault.XID, {"xid": 79}, now)
    assert not gpu().fail(Fault.OFF_BUS, {}, now)

    assert gpu().fault == Fault.XID


def test_errors_of_a_card_that_another_device_has_are_not_judged(device):
    second = make.device()

    beat(second, replace(CARD, xid_errors=[79]))

    assert gpu().device == device
    assert gpu().quarantined_at is None


def test_what_was_done_is_kept_with_who_did_it(device):
    manager = make.manager()
    gpu().quarantine("fan is loud", database_now(), by=manager)
    gpu().release(by=manager)
    gpu().release(by=manager)  # twice is once

    done = [(event.kind, event.by, event.reason) for event in GPUEvent.objects.order_by("id")]
    assert done == [("quarantined", manager, "fan is loud"), ("released", manager, "")]
