"""The queue's order: people change it among their own, managers as they see fit."""

import threading
from collections import Counter

import pytest
from django.db import connection, transaction
from rest_framework.test import APIClient

from experiments import line
from experiments.dispatch import dispatch, held_gpus
from experiments.errors import IllegalTransition
from experiments.models import Job
from labsite.clock import database_now
from people.models import AuditEntry
from tests import make
from tests.waiting import until_somebody_waits_for_a_row

pytestmark = pytest.mark.django_db
NOBODY = Counter()


@pytest.fixture
def people():
    return make.user("minjun"), make.user("seoyeon"), make.manager()


def queue(*owners) -> list[Job]:
    return [make.job(by=owner, name=f"j{n}") for n, owner in enumerate(owners)]


def order() -> list[str]:
    jobs = Job.objects.queued().select_related("project")
    return [job.name for job in sorted(jobs, key=line.turn(held_gpus(), database_now()))]


def test_a_job_moves_among_its_owners_and_overtakes_nobody(people):
    minjun, seoyeon, _ = people
    first, _other, _second, last = queue(minjun, seoyeon, minjun, minjun)

    line.move(last, first, after=False, held_gpus=NOBODY, by=minjun)

    assert order() == ["j3", "j1", "j0", "j2"]


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite has one lock")
@pytest.mark.django_db(transaction=True)
def test_who_moves_a_job_and_whoever_else_writes_to_several_lock_them_in_one_order(people):
    minjun, _, _ = people
    first, last = queue(minjun, minjun)
    line.move(last, first, after=False, held_gpus=NOBODY, by=minjun)  # ranks no longer as keys

    def move_back():
        try:
            line.move(first, last, after=False, held_gpus=NOBODY, by=minjun)
        finally:
            connection.close()

    thread = threading.Thread(target=move_back)
    with transaction.atomic():
        first.lock()
        thread.start()
        until_somebody_waits_for_a_row()
        last.lock()  # or: deadlock detected
    thread.join()

    assert order() == ["j0", "j1"]


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite has one lock")
@pytest.mark.django_db(transaction=True)
def test_dispatch_waits_for_nobody_to_tell_a_job_why_it_waits(people):
    changed, other = queue(*people[:2])

    def one_pass():
        try:
            dispatch()
        finally:
            connection.close()

    with transaction.atomic():
        changed.lock()
        thread = threading.Thread(target=one_pass)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()

    other.refresh_from_db()
    assert other.waiting == {"code": "no_devices"}


def api_of(user) -> APIClient:
    client = APIClient()
    client.force_authenticate(user)
    return client


def test_the_api_moves_a_job_as_the_page_does(people):
    minjun, _seoyeon, manager = people
    a, _b, c = queue(minjun, minjun, minjun)

    answer = api_of(minjun).post(f"/api/jobs/{c.uid}/move/", {"before": a.uid}, format="json")

    assert (answer.status_code, answer.json()["uid"]) == (200, c.uid)
    assert order() == ["j2", "j0", "j1"]
    api_of(minjun).post(f"/api/jobs/{a.uid}/move/", {"to": "down"}, format="json")
    assert order() == ["j2", "j1", "j0"]
    api_of(manager).post(f"/api/jobs/{a.uid}/move/", {"before": c.uid}, format="json")
    assert order() == ["j0", "j2", "j1"]
    assert AuditEntry.objects.get().verb == "move"
    api_of(manager).post(f"/api/jobs/{a.uid}/move/", {"to": "turn"}, format="json")
    assert not Job.objects.filter(pk=a.pk, placed__isnull=False).exists()


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({}, 400), ({"to": "up", "after": "x"}, 400), ({"to": "sideways"}, 400),
        ({"before": "nothing"}, 409), ({"to": "up"}, 409), ({"to": "turn"}, 403),
        ({"after": "itself"}, 409), ({"before": "other"}, 409),
    ],
)  # fmt: skip
def test_the_api_refuses_a_move_by_a_sentence(people, said, status):
    minjun, seoyeon, _manager = people
    job, other = queue(minjun, seoyeon)
    uids = {"itself": job.uid, "other": other.uid}
    wish = {name: uids.get(uid, uid) for name, uid in said.items()}

    answer = api_of(minjun).post(f"/api/jobs/{job.uid}/move/", wish, format="json")

    assert answer.status_code == status
    assert answer.json()["detail"]
    assert order() == ["j0", "j1"]


def test_dispatch_gives_out_in_that_order(people):
    minjun, *_ = people
    _first, second, third = queue(minjun, minjun, minjun)
    line.move(third, second, after=False, held_gpus=NOBODY, by=minjun)
    make.device(gpus=2)

    assert [attempt.job.name for attempt in dispatch()] == ["j0", "j2"]


def test_only_a_manager_moves_a_job_before_somebody_elses(people):
    minjun, seoyeon, manager = people
    a, b = queue(seoyeon, minjun)

    with pytest.raises(IllegalTransition, match="manager"):
        line.move(b, a, after=False, held_gpus=NOBODY, by=minjun)
    line.move(b, a, after=False, held_gpus=NOBODY, by=manager)

    assert order() == ["j1", "j0"]


def test_what_a_manager_laid_out_goes_before_fair_share(people):
    minjun, seoyeon, manager = people
    make.attempt(make.job(by=minjun, gpus=2), make.device(gpus=2), started=True)
    a, b = queue(seoyeon, minjun)
    assert order() == ["j0", "j1"]  # minjun holds two GPUs

    line.move(b, a, after=False, held_gpus=held_gpus(), by=manager)
    make.device(gpus=1)

    assert [attempt.job.name for attempt in dispatch()] == ["j1"]


def test_what_stood_before_the_new_place_stays_there(people):
    minjun, seoyeon, manager = people
    jobs = queue(seoyeon, seoyeon, minjun, seoyeon)

    line.move(jobs[2], jobs[1], after=False, held_gpus=NOBODY, by=manager)

    assert order() == ["j0", "j2", "j1", "j3"]
    assert list(Job.objects.order_by("pk").values_list("placed", flat=True)) == [1, None, 2, None]


def test_it_waits_its_turn_again(people):
    minjun, seoyeon, manager = people
    a, b = queue(seoyeon, minjun)
    line.move(b, a, after=False, held_gpus=NOBODY, by=manager)

    line.give_back(b, by=manager)

    assert order() == ["j0", "j1"]


def test_a_place_goes_with_its_priority_and_with_its_start(people):
    minjun, seoyeon, manager = people
    a, b = queue(seoyeon, minjun)
    line.move(b, a, after=False, held_gpus=NOBODY, by=manager)

    b.refresh_from_db()
    b.set_priority(2, by=manager)
    b.refresh_from_db()
    assert b.placed is None

    device = make.device(gpus=1)
    Job.objects.filter(pk=a.pk).update(placed=1)
    a.refresh_from_db()
    a.assign(device, list(device.gpus.all()), database_now())
    a.refresh_from_db()
    assert a.placed is None


def test_priorities_are_not_mixed_and_what_started_does_not_move(people):
    minjun, *_ = people
    a, b = queue(minjun, minjun)
    b.set_priority(2, by=minjun)

    with pytest.raises(IllegalTransition, match="priority"):
        line.move(a, b, after=False, held_gpus=NOBODY, by=minjun)
    b.cancel(by=minjun)
    with pytest.raises(IllegalTransition, match="wait"):
        line.move(a, b, after=False, held_gpus=NOBODY, by=minjun)


def test_a_run_that_is_requeued_keeps_its_rank(people):
    minjun, *_ = people
    first = make.job(by=minjun)
    attempt = make.attempt(first, started=True)
    make.job(by=minjun, name="later")
    rank = Job.objects.get(pk=first.pk).rank

    attempt.job.requeue(by=minjun)
    attempt.end("preempted", database_now())

    assert Job.objects.get(pk=first.pk).rank == rank
    assert order()[-1] == "later"
