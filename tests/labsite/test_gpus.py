"""What people see of cards: their faults, who works on them, and what a manager does."""

import re

import pytest
from django.test import Client
from django.urls import reverse

from devices.models import GPU, Fault
from labsite.clock import database_now
from people.models import AuditEntry
from tests import make

pytestmark = pytest.mark.django_db


def signed_in(user) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def boss():
    return make.manager()


@pytest.fixture
def manager(boss):
    return signed_in(boss)


@pytest.fixture
def client():
    return signed_in(make.user("minjun"))


@pytest.fixture
def gpu() -> GPU:
    return make.device(gpus=1, host_id="gpu-01").gpus.get()


def text_of(response) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", response.content.decode()).split())


def devices(client) -> str:
    return text_of(client.get(reverse("devices")))


def page(client, gpu) -> str:
    return text_of(client.get(reverse("gpu", args=[gpu.pk])))


def act(client, gpu, verb, **given):
    return client.post(reverse("gpu-act", args=[gpu.pk, verb]), given, follow=True)


def test_a_manager_sets_a_card_aside_with_a_reason_and_uses_it_again(manager, boss, gpu):
    act(manager, gpu, "quarantine", reason=" fan\0 is  loud ")

    assert "Faulty since" in page(manager, gpu)
    assert "fan is loud" in devices(manager)
    act(manager, gpu, "release")
    assert not GPU.objects.faulty().exists()
    shown = page(manager, gpu)
    assert "marked as faulty manager fan is loud" in shown
    assert "used again manager" in shown
    assert AuditEntry.objects.filter(by=boss, key=gpu.pk).count() == 2


def test_without_a_reason_nothing_is_set_aside(manager, gpu):
    assert "Say in a few words why" in text_of(act(manager, gpu, "quarantine", reason=" "))
    assert not GPU.objects.faulty().exists()


@pytest.mark.parametrize("verb", ["quarantine", "release"])
def test_only_a_manager_does_so(client, gpu, verb):
    assert act(client, gpu, verb, reason="mine").status_code == 403
    assert "Use again" not in page(client, gpu)


def test_faulty_cards_and_silent_drivers_stand_at_the_top_and_are_counted_for_managers(
    manager, client, gpu
):
    other = make.device(gpus=1, host_id="gpu-02", driver_answers=False)
    make.device(host_id="cpu-01", driver_answers=False)  # has no GPU to miss
    assert "need a manager" in devices(manager)
    assert text_of(manager.get(reverse("devices-count"))) == "1 need a manager"

    gpu.fail(Fault.XID, {"xid": 79}, database_now())

    shown = devices(manager)
    assert "1 GPU is faulty and given to nobody." in shown
    assert "The driver reported XID 79." in shown
    assert f"A GPU driver does not answer: {other.host_id} ." in shown
    assert text_of(manager.get(reverse("devices-count"))) == "2 need a manager"
    assert text_of(client.get(reverse("devices-count"))) == ""
    assert "need a manager" not in devices(client)


def test_a_card_that_is_back_on_the_bus_waits_for_a_manager_and_says_so(client, gpu):
    gpu.fail(Fault.OFF_BUS, {}, database_now())

    for shown in (devices(client), page(client, gpu)):
        assert "It is back; a manager says when it is used again." in shown


def test_a_card_that_is_missing_for_a_moment_is_shown_so(client, gpu):
    GPU.objects.update(present=False, missing_since=database_now())

    assert "missing" in devices(client)


def test_a_stranger_on_a_card_of_ours_is_shown_beside_the_run_which_goes_on(client):
    attempt = make.attempt(started=True)
    stranger = {"pid": 7, "user": "kim", "memory_bytes": 2**30, "attempt_id": None}
    ours = {"pid": 8, "user": "lab", "memory_bytes": 2**31, "attempt_id": str(attempt.pk)}
    strange = {"pid": 9, "user": "x", "memory_bytes": None, "attempt_id": "-" * 36}
    GPU.objects.update(processes=[stranger, ours, strange])

    shown = devices(client)

    assert attempt.job.run_name in shown
    assert "also used outside the queue by kim" in shown
    processes = page(client, GPU.objects.get())
    assert "7 kim 1 GiB outside the queue" in processes
    assert f"8 lab 2 GiB {attempt.job}" in processes


def test_what_slows_a_card_down_is_told_where_a_person_can_help(client, gpu):
    readings = {"throttle_reasons": ["power_cap", "hw_thermal"], "graphics_clock_mhz": 510}
    GPU.objects.update(
        **readings, memory_clock_mhz=2619, ecc_errors_lifetime=7, remap_pending=True
    )

    assert "slowed down: much too hot" in devices(client)
    shown = page(client, gpu)
    assert "510 MHz, memory 2619 MHz; held down: power limit, much too hot" in shown
    assert "7 in all; rows of its memory are replaced at its next reset" in shown


def test_simulated_cards_are_marked_wherever_they_are_named(client, manager):
    device = make.device(host_id="gpu-sim")
    card = make.gpu(device, uuid="SIM-abc-0", simulated=True)
    attempt = make.attempt(make.job(), device, started=True)

    assert "simulated" in devices(client)
    assert "Simulated: there is no such card." in page(client, card)
    assert "GPU 0 (simulated)" in text_of(client.get(reverse("queue")))
    assert "GPU 0 (simulated)" in text_of(client.get(reverse("run", args=[attempt.job.uid])))
    [told] = client.get("/api/devices/gpu-sim/").json()["gpus"]
    assert told["simulated"] is True
    assert "Simulated" in text_of(manager.get("/admin/devices/gpu/"))


def test_the_api_tells_clocks_faults_and_who_works_outside_the_queue(client, gpu):
    stranger = {"pid": 7, "user": "kim", "memory_bytes": 2**30, "attempt_id": None}
    GPU.objects.update(processes=[stranger], graphics_clock_mhz=510)
    gpu.fail(Fault.ECC, {"count": 2}, database_now())

    [told] = client.get("/api/devices/gpu-01/").json()["gpus"]

    assert (told["graphics_clock_mhz"], told["foreign_users"], told["fault"]) == (
        510,
        ["kim"],
        "ecc",
    )
    assert "could not be corrected (2 since" in told["quarantine_reason"]


def test_a_card_that_is_not_there_is_404(client):
    assert client.get(reverse("gpu", args=[10**17])).status_code == 404


# --- by the API ----------------------------------------------------------------------------------


def asked(client, gpu, verb, **given):
    url = f"/api/gpus/{gpu.uuid}/{verb}/"
    return client.post(url, given, content_type="application/json")


def test_a_manager_sets_a_card_aside_and_uses_it_again_by_the_api(manager, boss, gpu):
    aside = asked(manager, gpu, "quarantine", reason="the fan is loud")
    [told] = manager.get("/api/devices/gpu-01/").json()["gpus"]
    again = asked(manager, gpu, "release")

    assert aside.json()["quarantine_reason"] == "the fan is loud"
    assert told["quarantined_at"] == aside.json()["quarantined_at"]
    assert again.json()["quarantined_at"] is None
    assert list(gpu.events.order_by("id").values_list("kind", "by")) == [
        ("quarantined", boss.pk),
        ("released", boss.pk),
    ]


def test_the_api_wants_a_reason(manager, gpu):
    answer = asked(manager, gpu, "quarantine", reason=" ")

    assert (answer.status_code, GPU.objects.faulty().count()) == (400, 0)
    assert "reason" in answer.json()["detail"]


@pytest.mark.parametrize("verb", ["quarantine", "release"])
def test_the_api_does_that_for_managers_only(client, gpu, verb):
    gpu.quarantine("loud", database_now())

    assert asked(client, gpu, verb, reason="why not").status_code == 403
    assert GPU.objects.get().quarantine_reason == "loud"
