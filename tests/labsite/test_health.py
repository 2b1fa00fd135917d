"""Whether dispatch is alive, what restarted it, and who is told."""

import json
import os
from datetime import datetime, timedelta

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from experiments.models import Pulse
from labsite.clock import database_now
from labsite.health import dispatch, programs
from tests import make

pytestmark = pytest.mark.django_db
SILENT, AGAIN = "Queued runs are not given out", "Giving out runs was started again at"


def ago(**how_long: float) -> datetime:
    return database_now() - timedelta(**how_long)


def pulse(name: str, at: datetime, since: datetime | None = None, **fields) -> None:
    values = {"at": at, "unbroken_since": since or min(at, ago(hours=1)), **fields}
    Pulse.objects.update_or_create(name=name, defaults=values)


def program(**facts) -> dict:
    return {
        "pid": 4711, "started_at": ago(hours=1).timestamp(), "restarts": 0, "last_end": None,
        "last_end_at": None, "last_cause": None, "last_status": None, **facts,
    }  # fmt: skip


def restarted(cause: str, status: int, at: datetime) -> dict:
    moment = at.timestamp()
    return program(
        restarts=1, started_at=moment, last_end_at=moment, last_cause=cause, last_status=status
    )


@pytest.fixture
def kept():
    """runlab keeps this process, as far as its file tells; call it to say how its programs do."""
    path = settings.LAB_DATA_DIR / "run" / "status.json"
    path.parent.mkdir(exist_ok=True)

    def write(*, supervisor: int | None = None, **programs: dict) -> None:
        known = {"web": program(), "dispatch": program(), **programs}
        pid = supervisor or os.getppid()
        facts = {"supervisor_pid": pid, "started_at": ago(hours=2).timestamp(), "programs": known}
        path.write_text(json.dumps(facts))

    write()
    yield write
    path.unlink()


def pages(user) -> Client:
    client = Client()
    client.force_login(user)
    return client


def test_dispatch_that_is_silent_for_15_s_is_told_on_the_pages_it_is_told_on(kept):
    pulse(Pulse.DISPATCH, ago(seconds=16))
    researcher, manager = pages(make.user()), pages(make.manager())

    def told(client: Client, path: str) -> bool:
        return SILENT in client.get(path).content.decode()

    assert [told(researcher, path) for path in ("/queue/", "/devices/", "/runs/")] == [
        True, True, False,
    ]  # fmt: skip
    assert all(told(manager, path) for path in ("/queue/", "/devices/", "/runs/", "/execute/"))


def test_since_when_is_told_to_the_second(kept):
    at = ago(seconds=40)
    pulse(Pulse.DISPATCH, at)

    text = pages(make.manager()).get("/serving/").content.decode()

    assert f"{timezone.localtime(at):%H:%M:%S}</time>" in text


def test_a_pulse_of_just_now_is_nothing_to_tell(kept):
    pulse(Pulse.DISPATCH, ago(seconds=14))

    assert dispatch(database_now()).silent_since is None
    assert pages(make.manager()).get("/serving/").content == b""


def test_a_server_that_was_just_started_has_its_patience_before_it(kept):
    pulse(Pulse.DISPATCH, ago(hours=9))
    pulse(Pulse.LANE, ago(seconds=0), since=ago(seconds=10))
    assert dispatch(database_now()).silent_since is None

    pulse(Pulse.LANE, ago(seconds=0), since=ago(seconds=16))

    assert dispatch(database_now()).silent_since is not None


def test_a_dispatch_that_was_never_started_is_told():
    up_since = ago(minutes=5)
    pulse(Pulse.LANE, ago(seconds=0), since=up_since)

    assert dispatch(database_now()).silent_since == up_since
    text = pages(make.user()).get("/queue/").content.decode()
    assert "that part of the server has not run since" in text
    assert "qcluster" in text


@pytest.mark.parametrize(
    ("cause", "status", "words"),
    [
        ("stuck", -9, "because no queued run was looked at for ten seconds"),
        ("member_killed", 5, "because one of its processes was killed"),
        ("signal", -11, "because it was killed (SIGSEGV)"),
        ("status", 1, "because it ended with status 1"),
    ],
)
def test_what_restarted_it_is_told_for_a_while(kept, cause, status, words):
    at = ago(minutes=9)
    kept(dispatch=restarted(cause, status, at))
    pulse(Pulse.DISPATCH, ago(seconds=1))

    text = pages(make.user()).get("/queue/").content.decode()

    assert AGAIN in text
    assert words in text
    assert f"{timezone.localtime(at):%H:%M:%S}</time>" in text
    kept(dispatch=restarted(cause, status, ago(minutes=11)))
    assert AGAIN not in pages(make.manager()).get("/queue/").content.decode()


def test_while_it_is_silent_a_restart_is_no_recovery(kept):
    kept(dispatch=restarted("stuck", -9, ago(minutes=1)))
    pulse(Pulse.DISPATCH, ago(minutes=2))

    text = pages(make.manager()).get("/serving/").content.decode()

    assert SILENT in text
    assert AGAIN not in text


@pytest.mark.parametrize("broken", ["", "{}", "[]", '{"supervisor_pid": 1, "programs": 3}'])
def test_no_status_file_breaks_a_page(kept, broken):
    (settings.LAB_DATA_DIR / "run" / "status.json").write_text(broken)

    assert pages(make.manager()).get("/devices/").status_code == 200
    assert programs() == []


def test_a_file_that_another_runlab_left_tells_nothing(kept):
    kept(supervisor=1)

    assert programs() == []


# --- without runlab -----------------------------------------------------------------------------


def test_by_hand_a_pass_each_minute_is_alive():
    pulse(Pulse.DISPATCH, ago(seconds=100))
    assert dispatch(database_now()).silent_since is None

    pulse(Pulse.DISPATCH, ago(seconds=151))

    assert dispatch(database_now()).silent_since is not None


def test_by_hand_the_pulse_alone_tells_that_it_is_back():
    now = database_now()
    pulse(Pulse.LANE, now, since=now - timedelta(hours=2))
    Pulse.beat(Pulse.DISPATCH, now - timedelta(minutes=40))
    Pulse.beat(Pulse.DISPATCH, now - timedelta(minutes=2))
    Pulse.beat(Pulse.DISPATCH, now - timedelta(minutes=1))  # as usual: nothing is forgotten

    text = pages(make.user()).get("/queue/").content.decode()

    assert "Queued runs are given out again since" in text
    assert "for 38\xa0min they were not" in text


def test_when_the_site_was_away_as_well_nobody_is_told_of_dispatch():
    now = database_now()
    Pulse.beat(Pulse.DISPATCH, now - timedelta(hours=9))
    Pulse.beat(Pulse.DISPATCH, now - timedelta(minutes=1))
    pulse(Pulse.LANE, now, since=now - timedelta(minutes=2))

    assert dispatch(now).over is None


# --- the managers' panel ------------------------------------------------------------------------


def test_managers_see_each_program_with_why_it_ended_last(kept):
    kept(web=restarted("signal", -9, ago(minutes=5)), clock=program(pid=None))
    pulse(Pulse.DISPATCH, ago(seconds=1))

    text = pages(make.manager()).get("/devices/").content.decode()

    for words in (
        "the site",
        "1 time;",
        "it was killed (SIGKILL)",
        "is being started again",
        "never started again",
    ):
        assert words in text


def test_the_panel_is_not_for_researchers(kept):
    assert "This server" in pages(make.manager()).get("/devices/").content.decode()
    assert "This server" not in pages(make.user()).get("/devices/").content.decode()


def test_by_hand_the_panel_shows_the_pulses():
    pulse(Pulse.LANE, ago(seconds=0))
    pulse(Pulse.DISPATCH, ago(seconds=3))

    text = pages(make.manager()).get("/devices/").content.decode()

    assert "Looked at the queue last" in text
    assert "started by hand" in text
