"""The queue's wake-up, and the wish for a dispatch pass."""

import threading
import time

import pytest
from django.db import connection, transaction
from django_q.brokers import get_broker
from django_q.models import OrmQ
from django_q.signing import SignedPackage
from django_q.tasks import async_task

from labsite import broker as module
from labsite import wake

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def broker(settings, tmp_path):
    settings.LAB_REDIS_URL = ""
    settings.LAB_SOCKET_DIR = str(tmp_path / "s")
    made = get_broker()
    yield made
    if made._mailbox:
        made._mailbox.close()


def functions() -> list[str]:
    return [waiting.func() for waiting in OrmQ.objects.all()]


def test_the_settings_name_this_broker(broker):
    assert isinstance(broker, module.WakingORM)


def test_a_task_wakes_the_pusher_at_once(broker, monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 10.0)
    assert broker._take() == []  # the database is open before the clock runs
    threading.Timer(0.1, in_a_thread, [lambda: async_task("math.sqrt", 4)]).start()
    began = time.monotonic()

    taken = broker.dequeue() or broker.dequeue()

    assert time.monotonic() - began < 5
    assert SignedPackage.loads(taken[0][1])["func"] == "math.sqrt"


def test_a_task_whose_wake_up_was_lost_is_found_all_the_same(broker, monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(wake, "publish", lambda *lost: None)
    async_task("math.sqrt", 4)

    assert len(broker.dequeue()) == 1
    assert broker.dequeue() is None  # taken once


def test_any_number_of_wishes_is_one_pass(broker):
    for _ in range(20):
        wake.ask_dispatch()

    assert functions() == ["experiments.tasks.dispatch"]


def test_a_wish_while_a_pass_runs_is_another_pass(broker):
    wake.ask_dispatch()
    [(_, running)] = broker.dequeue()

    wake.ask_dispatch()
    wake.ask_dispatch()

    [(_, waiting)] = broker.dequeue()
    assert waiting != running


def test_a_wish_of_a_transaction_that_is_taken_back_is_none(broker):
    with transaction.atomic():
        wake.ask_dispatch()
        transaction.set_rollback(True)

    assert functions() == []


def test_other_waiting_tasks_do_not_stand_for_a_wish(broker):
    async_task("math.sqrt", 4)

    wake.ask_dispatch()

    assert sorted(functions()) == ["experiments.tasks.dispatch", "math.sqrt"]


def in_a_thread(call):
    try:
        call()
    finally:
        connection.close()
