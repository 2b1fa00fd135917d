"""GPUs for work by hand: nobody else is given them, and they come back by themselves."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.urls import reverse

from experiments import sampling
from experiments.borrowing import borrow
from experiments.dispatch import dispatch, held_gpus
from experiments.errors import LostRace, NothingFree
from experiments.models import Borrow, GPUClaim
from labsite.clock import database_now
from labsite.errors import BadRequest, NotFound
from labsite.pages import hostcards
from people.errors import NotAllowed
from people.models import AuditEntry
from tests import make
from tests.experiments.test_api import caller

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _patient(settings):
    """On however busy a machine, what was just heard of is there."""
    settings.LAB_HEALTHY_SECONDS = 600.0


@pytest.fixture
def kim():
    return make.user("kim")


def take(by, *, gpus: int = 1, time: timedelta = HOUR, host_id: str = "", now=None) -> Borrow:
    return borrow(by, gpus=gpus, time=time, host_id=host_id, now=now or database_now())


def test_a_borrowed_gpu_is_given_to_no_job_until_it_is_back(kim):
    make.device(gpus=1)
    held = take(kim)
    job = make.job(gpus=1)

    assert dispatch() == []
    held.end(database_now())

    assert [one.job for one in dispatch()] == [job]


def test_it_ends_by_itself_when_its_time_is_over(kim):
    now = database_now()
    make.device(gpus=1)
    held = take(kim, now=now - 2 * HOUR)
    make.job(gpus=1)

    [attempt] = dispatch(now)

    held.refresh_from_db()
    assert held.ended_at == held.until
    assert GPUClaim.objects.get().attempt == attempt


def test_it_ends_by_itself_also_where_nothing_waits(kim):
    now = database_now()
    make.device(gpus=1)
    take(kim, now=now - 2 * HOUR)

    sampling.sample(now)

    assert not GPUClaim.objects.exists()


def test_what_computes_there_still_is_outside_the_queue_then(kim):
    device = make.device(gpus=1)
    held = take(kim)
    process = {"pid": 1, "user": "kim", "memory_bytes": 2**30, "attempt_id": None}
    device.gpus.update(processes=[process], memory_used_bytes=2**30)
    make.job(gpus=1)

    held.end(database_now())

    assert dispatch() == []


def test_the_fullest_server_lends_and_the_smallest_card(kim):
    make.device(gpus=3, host_id="whole")
    part = make.device(gpus=2, host_id="part")
    make.gpu(part, index=2, memory_total_bytes=8 * 2**30)
    make.attempt(on=part, gpus=1)

    held = take(kim)

    assert held.device == part
    assert held.gpu_uuids == [part.gpus.get(index=2).uuid]


def test_what_is_borrowed_counts_in_fair_share(kim):
    make.device(gpus=2)
    take(kim, gpus=2)

    assert held_gpus()[kim.pk] == 2


def test_a_claim_has_one_holder(kim):
    device = make.device(gpus=2)
    take(kim)
    attempt = make.attempt(on=device)

    for fields in ({"attempt": None}, {"borrow": Borrow.objects.get()}):
        with pytest.raises(IntegrityError), transaction.atomic():
            GPUClaim.objects.filter(attempt=attempt).update(**fields)


@pytest.mark.parametrize(
    ("wish", "refusal", "says"),
    [
        ({"gpus": 0}, BadRequest, "1 to 2"),
        ({"gpus": 3}, BadRequest, "1 to 2"),
        ({"time": timedelta(seconds=5)}, BadRequest, "a minute to 12 hours"),
        ({"time": timedelta(days=9)}, BadRequest, "a minute to 12 hours"),
        ({"host_id": "nowhere"}, NotFound, "no GPU server “nowhere”"),
        ({"host_id": "away"}, NothingFree, "cannot be reached"),
        ({"host_id": "one", "gpus": 2}, NothingFree, "at most 1"),
    ],
)
def test_what_is_not_lent_is_a_sentence(kim, wish, refusal, says):
    make.device(gpus=1, host_id="one")
    make.device(gpus=4, host_id="away", online=False)

    with pytest.raises(refusal, match=says):
        take(kim, **wish)

    assert not Borrow.objects.exists()


def test_nobody_borrows_more_than_a_share(kim):
    make.device(gpus=4)
    take(kim, gpus=2)

    with pytest.raises(NothingFree, match="You have borrowed 2 already"):
        take(kim)
    assert take(make.user()).gpu_uuids


def test_a_lab_may_lend_nothing(kim, settings):
    settings.LAB_BORROW_GPUS = 0
    make.device(gpus=1)

    with pytest.raises(BadRequest, match="lends no GPUs"):
        take(kim)


def test_a_viewer_borrows_nothing():
    make.device(gpus=1)

    with pytest.raises(NotAllowed):
        take(make.viewer())


@pytest.mark.django_db(transaction=True)  # real transactions in real threads
def test_of_many_at_once_no_two_have_one_gpu():
    make.device(gpus=3)
    people = [make.user() for _ in range(8)]

    def one(person):
        try:
            return take(person)
        except (NothingFree, LostRace):
            return None
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        lent = [made for made in pool.map(one, people) if made]

    cards = [uuid for made in lent for uuid in made.gpu_uuids]
    assert len(cards) == len(set(cards)) == GPUClaim.objects.count() == 3


# --- over HTTP and on the pages -------------------------------------------------------------


def test_the_api_lends_tells_and_takes_back(client, kim):
    api = caller(client, kim)
    device = make.device(gpus=1, host_id="gpu-1")

    made = api("POST", "borrows/", {"time": "2h", "device": "gpu-1"})
    [claim] = api("GET", "claims/").json()["results"]
    ended = api("POST", f"borrows/{made.json()['id']}/end/")

    assert (made.status_code, made.json()["device"]) == (201, "gpu-1")
    assert made.json()["gpu_uuids"] == [device.gpus.get().uuid]
    assert (claim["user"], claim["run"], claim["borrow"]) == ("kim", None, made.json()["id"])
    assert claim["words"].startswith("kim, borrowed until ")
    assert ended.json()["ended_at"]
    assert api("GET", "borrows/").json()["results"] == []


@pytest.mark.parametrize("time", ["", "2", "soon", "2x", "99999999999w", "-1h"])
def test_a_wrong_time_is_a_sentence(client, kim, time):
    make.device(gpus=1)

    answer = caller(client, kim)("POST", "borrows/", {"time": time})

    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("time: ")


def test_pages_say_who_borrowed_what(client, kim):
    device = make.device(gpus=1)
    held = take(kim)
    client.force_login(make.user("lee"))

    pages = [reverse("devices"), reverse("device", args=[device.pk]), reverse("queue")]
    texts = [client.get(page).content.decode() for page in pages]

    assert all("borrowed until" in text and "kim" in text for text in texts)
    assert "kim" in client.get("/").content.decode()
    assert reverse("borrow-end", args=[held.pk]) not in texts[0]  # it is not lee's


@pytest.mark.parametrize("trouble", ["faulty", "missing"])
def test_a_card_that_fails_while_it_is_borrowed_still_says_by_whom(client, kim, trouble):
    device = make.device(gpus=1)
    held, gpu = take(kim), device.gpus.get()
    if trouble == "faulty":
        gpu.quarantine("the fan is loud", database_now())
    else:
        device.gpus.update(present=False, missing_since=database_now())
    client.force_login(kim)

    pages = [
        reverse("devices"),
        reverse("device", args=[device.pk]),
        reverse("gpu", args=[gpu.pk]),
    ]
    texts = [client.get(page).content.decode() for page in pages]

    assert all("kim" in text.partition("<main")[2] for text in texts)
    assert all("borrowed until" in text for text in texts)
    assert all(reverse("borrow-end", args=[held.pk]) in text for text in texts[:2])


def test_a_borrow_of_a_card_that_fails_goes_on_until_it_is_returned(client, kim, settings):
    """Nothing is stopped: what was begun there by hand may go on; but no other is lent for it."""
    settings.LAB_BORROW_GPUS = 1
    device = make.device(gpus=2)
    held = take(kim)
    device.gpus.get(uuid=held.gpu_uuids[0]).quarantine("the fan is loud", database_now())

    with pytest.raises(NothingFree, match="return some"):
        take(kim)
    held.end(database_now())

    assert take(kim).gpu_uuids != held.gpu_uuids


def test_a_page_is_whole_when_a_borrow_ends_while_it_is_made(client, kim, monkeypatch):
    make.device(gpus=1)
    held = take(kim)
    find = hostcards._borrows

    def find_after_the_end(keys):
        held.end(database_now())
        return find(keys)

    monkeypatch.setattr(hostcards, "_borrows", find_after_the_end)
    client.force_login(kim)

    assert "borrowed until" in client.get(reverse("devices")).content.decode()


def test_what_runs_on_a_borrowed_card_is_not_called_outside_the_queue(client, kim):
    device = make.device(gpus=1)
    process = {"pid": 1, "user": "kim", "memory_bytes": 2**30, "attempt_id": None}
    device.gpus.update(processes=[process])
    take_of(kim, device)
    client.force_login(kim)

    text = client.get(reverse("gpu", args=[device.gpus.get().pk])).content.decode()

    assert "borrowed until" in text
    assert "outside the queue" not in text


def take_of(by, device) -> Borrow:
    now = database_now()
    return Borrow.objects.begin(by, device, list(device.gpus.all()), now, now + HOUR)


def test_a_manager_returns_it_and_the_audit_log_tells(client, kim):
    make.device(gpus=1)
    held = take(kim)
    client.force_login(make.manager())
    assert reverse("borrow-end", args=[held.pk]) in client.get(reverse("devices")).content.decode()

    client.post(reverse("borrow-end", args=[held.pk]))

    assert not GPUClaim.objects.exists()
    assert AuditEntry.objects.filter(kind="experiments.borrow", verb="end").count() == 1
