"""What a GPU server had of attempts that were ended while it could not be reached."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from agent import wire
from agent.wire import AttemptState, EventType, ExitCause
from devices.heartbeat import Beat, record
from devices.models import Device
from experiments import leases, reports
from experiments.errors import AttemptEnded
from experiments.leases import Call
from experiments.models import Attempt, JobEvent
from experiments.states import EventKind, JobState
from labsite.clock import database_now
from tests import make

pytestmark = pytest.mark.django_db


def cut_off(device: Device) -> None:
    Device.objects.filter(pk=device.pk).update(
        last_heartbeat_at=database_now() - timedelta(minutes=5)
    )
    device.refresh_from_db()


@pytest.fixture
def given_up() -> Attempt:
    """Its host was away, and a person had it run elsewhere."""
    attempt = make.attempt(started=True)
    cut_off(attempt.device)
    attempt.job.give_up(requeue=True)
    attempt.refresh_from_db()
    return attempt


def back(attempt: Attempt, *named: tuple[Attempt, AttemptState]) -> wire.PollReply:
    device = attempt.device
    record([Beat(device.pk, make.beat(device))])
    device.refresh_from_db()
    [reply] = leases.poll([Call(device.pk, make.poll(device, *named))])
    attempt.refresh_from_db()
    return reply


def kinds(attempt: Attempt) -> list[str]:
    return [event.kind for event in JobEvent.objects.filter(attempt=attempt)]


def test_nothing_is_known_before_it_is_back(given_up):
    assert given_up.unconfirmed
    assert given_up.found is None


def test_what_still_runs_there_is_stopped_and_noted(given_up):
    reply = back(given_up, (given_up, AttemptState.RUNNING))

    assert reply.ended == [str(given_up.pk)]
    assert given_up.found["what"] == "running"
    assert kinds(given_up).count(EventKind.FOUND) == 1


def test_each_poll_that_still_names_it_is_no_news(given_up):
    back(given_up, (given_up, AttemptState.RUNNING))
    first = given_up.found

    back(given_up, (given_up, AttemptState.RUNNING))

    assert given_up.found == first
    assert kinds(given_up).count(EventKind.FOUND) == 1


def test_its_end_there_changes_neither_state_nor_result(given_up):
    back(given_up, (given_up, AttemptState.EXITED))
    event = make.event(EventType.EXITED, exit_code=0, ended_at="2020-01-01T00:00:00Z")

    with pytest.raises(AttemptEnded):
        reports.receive(given_up.device, str(given_up.pk), event)

    given_up.refresh_from_db()
    given_up.job.refresh_from_db()
    assert (given_up.found["what"], given_up.found["exit_code"]) == ("ended", 0)
    assert not given_up.found["was_running"]
    assert (given_up.outcome, given_up.exit_code) == ("lost", None)
    assert given_up.job.state == JobState.QUEUED


def test_that_it_had_still_been_running_is_kept_when_it_has_been_stopped(given_up):
    back(given_up, (given_up, AttemptState.RUNNING))

    with pytest.raises(AttemptEnded):
        reports.receive(
            given_up.device,
            str(given_up.pk),
            make.event(EventType.EXITED, exit_code=-15, cause=ExitCause.STOPPED),
        )

    given_up.refresh_from_db()
    assert given_up.found["what"] == "ended"
    assert given_up.found["was_running"]


def test_a_host_that_knows_nothing_of_it_any_more_says_so_by_its_silence(given_up):
    back(given_up)

    assert given_up.found["what"] == "gone"


def test_what_ran_when_the_host_was_back_and_is_named_no_more_is_gone(given_up):
    back(given_up, (given_up, AttemptState.RUNNING))

    back(given_up)

    assert (given_up.found["what"], given_up.found["was_running"]) == ("gone", True)


def test_who_knows_how_it_ended_knows_better_than_a_silence(given_up):
    back(given_up)

    with pytest.raises(AttemptEnded):
        reports.receive(
            given_up.device, str(given_up.pk), make.event(EventType.EXITED, exit_code=0)
        )

    given_up.refresh_from_db()
    assert (given_up.found["what"], given_up.found["exit_code"]) == ("ended", 0)


def test_why_it_had_not_even_started_is_kept(given_up):
    with pytest.raises(AttemptEnded):
        reports.receive(
            given_up.device,
            str(given_up.pk),
            make.event(EventType.START_FAILED, message="There is no 'pyhton' here."),
        )

    given_up.refresh_from_db()
    assert given_up.found["message"] == "There is no 'pyhton' here."


def test_a_poll_asks_the_database_more_only_until_the_device_has_told(given_up):
    device, other = given_up.device, make.device(gpus=1)

    def is_asked(device: Device) -> bool:
        with CaptureQueriesContext(connection) as captured:
            leases.poll([Call(device.pk, make.poll(device))])
        return any('"found" IS NULL' in query["sql"] for query in captured)

    assert not is_asked(other)
    back(given_up, (given_up, AttemptState.EXITED))
    assert is_asked(device)  # it had yet to tell how that ended

    assert not is_asked(device)


def test_an_attempt_that_was_not_given_up_is_never_looked_for():
    attempt = make.attempt(started=True)

    back(attempt, (attempt, AttemptState.RUNNING))

    assert attempt.found is None
    assert EventKind.FOUND not in kinds(attempt)


def test_a_silence_and_its_end_are_kept(given_up):
    device = given_up.device
    last = device.last_heartbeat_at

    back(given_up)

    assert device.silent_since == last
    assert database_now() - device.back_at < timedelta(seconds=10)


def test_an_orderly_stop_is_no_silence():
    device = make.device()
    now = database_now()
    device.say_goodbye(device.instance_id, now)

    record([Beat(device.pk, make.beat(device))])

    device.refresh_from_db()
    assert device.back_at is None


class TestUnknown:
    def named(self, device: Device, *ids: str) -> None:
        reports_ = [wire.AttemptReport(id_, AttemptState.RUNNING, pid=42) for id_ in ids]
        device.refresh_from_db()
        message = wire.Poll(device.instance_id, device.poll_seq + 1, attempts=reports_)
        leases.poll([Call(device.pk, message)])
        device.refresh_from_db()

    def test_what_this_server_does_not_know_is_kept_with_the_moment_since_when(self):
        device = make.device()
        self.named(device, "of-another-database")
        [first] = device.unknown_attempts

        self.named(device, "of-another-database", "another")

        assert (first["id"], first["pid"]) == ("of-another-database", 42)
        assert device.unknown_attempts[0] == first
        assert len(device.unknown_attempts) == 2

    def test_it_is_gone_when_no_poll_names_it_any_more(self):
        device = make.device()
        self.named(device, "of-another-database")

        self.named(device)

        assert device.unknown_attempts == []

    def test_an_attempt_of_another_device_is_unknown_on_this_one(self):
        attempt, device = make.attempt(started=True), make.device()

        self.named(device, str(attempt.pk))

        assert [one["id"] for one in device.unknown_attempts] == [str(attempt.pk)]
