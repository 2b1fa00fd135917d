"""What pages say of GPU servers that are away or came back, and of the server itself."""

import json
import os
import re
import time
from datetime import datetime, timedelta
from html import unescape

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.utils import timezone

from devices.models import Device
from experiments.models import Attempt, Found, Pulse
from experiments.states import Outcome
from labsite import health
from labsite.clock import database_now
from sync.models import SyncFile
from tests import make

pytestmark = pytest.mark.django_db


def page(path: str, user=None) -> str:
    client = Client()
    known = get_user_model().objects.filter(username="manager").first()
    client.force_login(user or known or make.manager())
    text = client.get(path).content.decode()
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


def cut_off(attempt: Attempt, **ago: int) -> datetime:
    silent_since = database_now() - timedelta(**ago)
    Device.objects.filter(pk=attempt.device_id).update(last_heartbeat_at=silent_since)
    return silent_since


def run_page(attempt: Attempt) -> str:
    return page(f"/runs/{attempt.job.uid}/")


class TestARunWhoseHostIsAway:
    def test_it_is_said_to_go_on_and_what_comes_of_it_by_itself(self):
        attempt = make.attempt(started=True, time_limit="2h")
        cut_off(attempt, minutes=5)

        text = run_page(attempt)

        assert "host unreachable since" in text
        assert "nothing is lost" in text
        assert "Its time limit holds there as well" in text
        assert "If the host stays away, it is given up on" in text
        assert "Give up and run elsewhere" in text

    def test_policy_requeue_says_from_when_on_it_runs_elsewhere(self):
        attempt = make.attempt(started=True, on_device_lost="requeue")
        cut_off(attempt, minutes=1)

        text = run_page(attempt)

        assert "It is run elsewhere from" in text
        assert "given up on" not in text

    @pytest.mark.parametrize(
        ("minutes", "words"),
        [(1, "Unless it is heard of, it stops itself"), (2, "It has stopped itself there at")],
    )
    def test_policy_requeue_is_not_said_to_train_on_for_ever(self, minutes, words):
        attempt = make.attempt(started=True, on_device_lost="requeue")
        silent_since = cut_off(attempt, minutes=minutes)
        Attempt.objects.update(renewed_at=silent_since)

        text = run_page(attempt)

        assert words in text
        assert "probably still training" not in text

    def test_many_that_vanished_are_not_said_to_run_elsewhere_by_themselves(self):
        attempts = [make.attempt(started=True, on_device_lost="requeue") for _ in range(3)]
        for attempt in attempts:
            cut_off(attempt, minutes=1)

        assert "run elsewhere only if somebody says so" in run_page(attempts[0])

    @pytest.mark.parametrize(
        ("device", "words"),
        [
            ({"goodbye_at": "now"}, "Agent of its host stopped at"),
            ({"revoked_at": "now"}, "Access of its host revoked at"),
        ],
    )
    def test_a_host_that_went_by_somebodys_word_is_not_called_unreachable(self, device, words):
        attempt = make.attempt(started=True)
        Device.objects.update(**dict.fromkeys(device, database_now()))

        text = run_page(attempt)

        assert words in text
        assert "host unreachable since" not in text

    def test_a_time_limit_that_has_passed_is_said_to_have_ended_it(self):
        attempt = make.attempt(started=True, time_limit="1m")
        now = database_now()
        Attempt.objects.update(started_at=now - timedelta(minutes=4))
        cut_off(attempt, minutes=5)

        assert "Its time limit was reached at" in run_page(attempt)

    def test_what_was_not_taken_goes_back_by_itself_and_need_not_be_given_up(self):
        attempt = make.attempt(accepted=False)
        cut_off(attempt, minutes=5)

        text = run_page(attempt)

        assert "it goes back into the queue at" in text
        assert "Give up" not in text

    def test_what_has_arrived_is_told(self):
        attempt = make.attempt(started=True)
        cut_off(attempt, minutes=5)
        manager = make.manager()
        path = f"/runs/{attempt.job.uid}/"
        assert "Nothing of it has arrived yet" in page(path, manager)

        now = database_now()
        for name, size in (("run_001.csv", 2_000_000), ("run_001.log", 100_000)):
            SyncFile.objects.create(
                job=attempt.job, name=name, attempt=1, generation=1, size=size, synced_at=now
            )

        assert "Arrived so far: 2 files, 2.1 MB, the newest at" in page(path, manager)

    def test_a_host_that_is_late_says_less(self):
        attempt = make.attempt(started=True)
        cut_off(attempt, seconds=10)

        text = run_page(attempt)

        assert "Its host is late to report" in text
        assert "unreachable" not in text
        assert "Give up" not in text

    def test_a_cancel_that_nobody_has_confirmed_is_shown_as_that(self):
        attempt = make.attempt(started=True)
        cut_off(attempt, minutes=5)

        attempt.job.cancel()

        text = run_page(attempt)
        assert "cancelled, not yet confirmed" in text
        assert "Not yet confirmed by" in text

    @pytest.mark.parametrize(
        ("what", "facts", "words"),
        [
            (Found.RUNNING, {}, "it was still running, and is being stopped"),
            (Found.GONE, {}, "nothing was left of it"),
            (Found.ENDED, {"exit_code": 0}, "it had ended at –. It ended normally"),
            (Found.ENDED, {"exit_code": None}, "it had ended at –. How it ended is not known"),
        ],
    )
    def test_what_was_found_is_told_when_the_host_is_back(self, what, facts, words):
        attempt = make.attempt(started=True)
        cut_off(attempt, minutes=5)
        attempt.job.cancel()

        attempt.note_found(what, database_now(), **facts)

        text = run_page(attempt)
        assert words in text
        assert "not yet confirmed" not in text.lower()


@pytest.mark.parametrize("path", ["/queue/", "/runs/"])
def test_a_list_tells_since_when_a_host_is_away(path):
    silent_since = cut_off(make.attempt(started=True), minutes=5)

    assert f"host unreachable since {timezone.localtime(silent_since):%H:%M}" in page(path)


def test_a_list_tells_which_host_has_yet_to_confirm_an_end():
    attempt = make.attempt(started=True)
    cut_off(attempt, minutes=5)
    attempt.job.cancel()
    assert f"cancelled not yet confirmed by {attempt.device}" in page("/runs/")

    attempt.note_found(Found.GONE, database_now())

    assert "not yet confirmed" not in page("/runs/")


class TestADevice:
    def test_a_return_is_told_with_what_was_found(self):
        attempt = make.attempt(started=True)
        now = database_now()
        cut_off(attempt, minutes=38)
        attempt.job.cancel()
        Device.objects.update(last_heartbeat_at=now)
        attempt.device.came_back(now - timedelta(minutes=38), now)
        attempt.note_found(Found.GONE, now)

        text = page("/devices/")

        assert "without contact" in text
        assert "38 min" in text
        assert "nothing was left of it" in text

    def test_a_return_tells_of_what_went_on_and_of_what_has_ended_since(self):
        device = make.device(gpus=2)
        goes_on, over = [make.attempt(on=device, started=True, name=n) for n in ("a", "b")]
        now = database_now()
        Attempt.objects.update(accepted_at=now - timedelta(hours=1))
        device.came_back(now - timedelta(minutes=38), now - timedelta(minutes=1))
        over.end(Outcome.SUCCEEDED, now, exit_code=0)
        later = make.attempt(on=device, started=True)

        text = page("/devices/")

        assert f"{goes_on.job} : it went on.".replace("/", " / ") in text
        assert re.search(rf"{over.job.run_name} : it ended at \S+ succeeded\.", text)
        assert f"{later.job.run_name} : it went on" not in text

    def test_when_the_server_itself_was_away_no_gpu_server_is_said_to_have_been(self):
        device = make.device()
        now = database_now()
        device.came_back(now - timedelta(minutes=38), now)
        pulse = {"at": now + timedelta(seconds=5), "unbroken_since": now + timedelta(seconds=1)}

        Pulse.objects.create(name=Pulse.LANE, **pulse)

        assert "without contact" not in page("/devices/")

    def test_a_return_of_long_ago_is_not(self):
        device = make.device()
        long_ago = database_now() - timedelta(hours=2)

        device.came_back(long_ago - timedelta(minutes=5), long_ago)

        assert "without contact" not in page("/devices/")

    def test_what_this_server_does_not_know_is_said_to_run_on(self):
        make.device()
        since = database_now().isoformat()
        unknown = {"id": "x", "pid": 4242, "started_at": None, "since": since}

        Device.objects.update(unknown_attempts=[unknown])

        text = page("/devices/")
        assert "1 process of a job that this server does not know runs here" in text
        assert "4242" in text

    def test_what_still_has_to_be_stopped_is_why_it_takes_no_new_jobs(self):
        make.device()

        Device.objects.update(runs_ended_attempt=True)

        assert "is being stopped. No new jobs until it is gone" in page("/devices/")


@pytest.fixture
def status(settings, tmp_path):
    """Writes what runlab says of its dispatch program."""
    settings.LAB_DATA_DIR = tmp_path

    def write(supervisor_pid: int | None = None, **dispatch: object) -> None:
        (tmp_path / "run").mkdir(exist_ok=True)
        told = {"pid": 1, "restarts": 1, "last_end": "", "started_at": time.time()} | dispatch
        facts = {"supervisor_pid": supervisor_pid or os.getppid(), "programs": {"dispatch": told}}
        (tmp_path / "run" / "status.json").write_text(json.dumps(facts))

    return write


class TestTheServer:
    def test_a_restart_of_dispatch_is_told_with_its_cause(self, status):
        status(last_end_at=time.time() - 60, last_cause="stuck", last_status=-9)

        text = page("/queue/")

        assert "Giving out runs was started again at" in text
        assert "because no queued run was looked at for ten seconds" in text

    def test_not_for_ever(self, status):
        long_ago = time.time() - 3600
        status(last_end_at=long_ago, started_at=long_ago, last_cause="stuck", last_status=-9)

        assert "started again at" not in page("/queue/")

    def test_a_file_that_a_dead_runlab_left_tells_nothing(self, status):
        status(2**22 + 1, last_end_at=time.time(), last_cause="stuck", last_status=-9)

        assert health.programs() == []

    def test_managers_hear_of_a_silent_dispatch_on_every_page_others_where_they_wait(self, status):
        now = database_now()
        status(restarts=0, last_end_at=None)
        Pulse.objects.create(
            name=Pulse.DISPATCH, at=now - timedelta(minutes=1), unbroken_since=now
            - timedelta(hours=1),
        )  # fmt: skip
        user, manager = make.user("jisoo"), make.manager()

        told = {path: "not given out" in page(path, user) for path in ("/queue/", "/runs/")}

        assert told == {"/queue/": True, "/runs/": False}
        assert "not given out" in page("/runs/", manager)

    def test_managers_see_what_the_server_keeps_running(self, status):
        make.device()
        status(last_end_at=time.time() - 60, last_cause="signal", last_status=-9)

        text = page("/devices/")

        assert "giving out runs" in text
        assert "because it was killed (SIGKILL)" in text

    def test_what_there_is_to_tell_changes_the_token_that_pages_wait_for(self, status):
        Pulse.beat(Pulse.DISPATCH, database_now())
        quiet = health.dispatch(database_now()).token

        status(last_end_at=time.time(), last_cause="member_killed", last_status=5)

        assert quiet == ""
        assert health.dispatch(database_now()).token.startswith("restarted")


class TestTheTriesOfARun:
    def test_a_try_that_counts_says_which_of_how_many_it_was(self):
        attempt = make.attempt(max_attempts=2)
        attempt.end(Outcome.START_FAILED, database_now(), message="There is no 'pyhton' here.")
        again = make.attempt(attempt.job, attempt.device)
        assert "try 2 of 2" in run_page(again)

        again.end(Outcome.START_FAILED, database_now(), message="Nor here.")

        text = run_page(again)
        assert "There is no 'pyhton' here. That was try 1 of 2." in unescape(text)
        assert "Nor here. That was try 2 of 2, so it is not tried again." in text

    def test_a_try_that_was_nobodys_fault_does_not_count(self):
        attempt = make.attempt(started=True)
        attempt.end(Outcome.HOST_REBOOTED, database_now())
        again = make.attempt(attempt.job, attempt.device)

        text = run_page(again)

        assert "try 2" in text
        assert "of 3" not in text

    def test_how_long_a_try_took_stands_beside_its_times(self):
        attempt = make.attempt(started=True)
        now = database_now()
        Attempt.objects.update(started_at=now - timedelta(minutes=68), created_at=now)
        attempt.refresh_from_db()
        attempt.end(Outcome.FAILED, now, exit_code=-9)

        text = run_page(attempt)

        assert "(1 h 8 min)" in text
        assert "It was killed (SIGKILL)" in text

    def test_who_gave_it_up_is_named(self):
        attempt = make.attempt(started=True)
        cut_off(attempt, minutes=5)

        attempt.job.give_up(requeue=False, by=make.user("minjun"))

        assert "minjun gave it up while the host could not be reached." in run_page(attempt)

    @pytest.mark.parametrize(
        ("policy", "unconfirmed", "words"),
        [
            ("wait", True, "the host could not be reached for too long"),
            ("requeue", True, "so it was queued again, as was wished"),
            ("requeue", False, "It stopped itself there, as was wished"),
        ],
    )
    def test_what_was_given_up_by_nobody_says_why(self, policy, unconfirmed, words):
        attempt = make.attempt(started=True, on_device_lost=policy)

        attempt.end(Outcome.LOST, database_now(), unconfirmed=unconfirmed)

        assert words in run_page(attempt)

    @pytest.mark.parametrize(
        ("facts", "words"),
        [
            ({"cause": "timed_out"}, "It had reached its time limit."),
            ({"cause": "fenced"}, "It had stopped itself"),
            ({"cause": "host_rebooted"}, "The host was rebooted."),
            ({"message": "There is no such folder."}, "There is no such folder."),
            ({"exit_code": 0}, "It ended normally (exit code 0)."),
        ],
    )
    def test_what_was_found_says_how_and_when_it_had_ended(self, facts, words):
        attempt = make.attempt(started=True)
        cut_off(attempt, minutes=5)
        attempt.job.cancel()
        now = database_now()

        attempt.note_found(Found.ENDED, now, ended_at=now.isoformat(), **facts)

        at = timezone.localtime(now)
        assert f"it had ended at {at:%H:%M}. {words}" in run_page(attempt)
