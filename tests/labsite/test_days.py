"""Stored in UTC; days are the lab's, the same for everybody; times are shown in the reader's zone,
which is named."""

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from django.test import Client
from django.utils import timezone

from experiments.best import activity_of
from experiments.models import Job, Project
from experiments.table.fields import Reader
from experiments.table.match import match
from labsite.clock import lab_date
from people.audit import recorded
from people.models import AuditEntry
from tests import make
from tests.labsite.reading import text_of

pytestmark = pytest.mark.django_db
#: It is never the same day in both.
LAB, READER = "Pacific/Kiritimati", "Etc/GMT+12"
#: In Seoul the day after begins; in New York it is an afternoon.
EVENING = datetime(2026, 11, 30, 20, tzinfo=UTC)


@pytest.fixture
def far_away(settings):
    settings.TIME_ZONE = LAB
    with timezone.override(READER):
        yield


def test_a_runs_identifier_begins_with_the_labs_day(far_away):
    assert make.job().uid.startswith(f"{datetime.now(ZoneInfo(LAB)):%Y%m%d}_")


def test_days_of_a_query_and_of_a_project_are_the_labs(settings):
    settings.TIME_ZONE = "Asia/Seoul"
    job = make.job()
    Job.objects.update(submitted_at=EVENING)
    asker = Reader(make.user(), EVENING)

    def found(query: str) -> bool:
        return Job.objects.filter(match(query, asker).condition).exists()

    with timezone.override("America/New_York"):
        assert lab_date(EVENING).isoformat() == "2026-12-01"
        assert found("submitted:2026-12-01")
        assert found("submitted:today")
        assert not found("submitted:2026-11-30")
        assert found("submitted>=2026-11-30T15:00 submitted<2026-11-30T15:01")  # as pages show it
        [days] = activity_of(Project.objects.all(), EVENING).values()
        assert (job.project_id, days[-1]) == (Project.objects.get().pk, 1)


@pytest.mark.parametrize("said", ["0001-01-01", "0001-01-01T00:00", "9999-12-31"])
def test_a_day_that_no_clock_has_is_told_and_breaks_nothing(settings, said):
    settings.TIME_ZONE = "Asia/Seoul"
    client = Client(raise_request_exception=False)
    client.force_login(make.manager())
    client.cookies["zone"] = "Asia/Seoul"

    assert "is not a time" in text_of(client.get(f"/runs/?q=submitted:{said}"))
    assert client.get(f"/people/audit/?since={said}").status_code == 200


def test_the_audit_log_shows_times_as_pages_do_and_begins_with_a_day_of_the_labs(settings):
    settings.TIME_ZONE = "Asia/Seoul"
    project = make.project("digits")
    manager = make.manager()
    with recorded(manager, project, "archive"):
        project.archive(EVENING)
    AuditEntry.objects.update(at=EVENING)
    client = Client()
    client.force_login(manager)
    client.cookies["zone"] = "America/New_York"

    shown = text_of(client.get("/people/audit/?since=2026-12-01"))

    assert "archived" in shown
    assert re.search(r"→ became (Nov 30, )?15:00", shown)
    assert "T20:00" not in shown
    assert "Nothing like that" in text_of(client.get("/people/audit/?since=2026-12-02"))


def test_a_page_shows_the_readers_zone_and_names_it():
    job = make.job(by=make.user("kim"))
    Job.objects.update(submitted_at=EVENING)
    client = Client()
    client.force_login(job.user)
    client.cookies["zone"] = "America/New_York"

    page = client.get(f"/runs/{job.uid}/")

    assert 'title="2026-11-30 15:00:00 America/New_York"' in page.content.decode()
    assert "Times in America/New_York" in text_of(page)


@pytest.mark.parametrize("language", ["en", "ko"])
def test_the_desk_writes_times_in_24_hours_with_their_zone(language):
    client = Client(headers={"accept-language": language})
    client.force_login(make.manager())
    client.cookies["zone"] = "Asia/Seoul"
    job = make.job()
    Job.objects.update(submitted_at=EVENING)

    shown = text_of(client.get("/admin/experiments/job/"))

    assert job.uid in shown
    assert "2026-12-01 05:00 KST" in shown
