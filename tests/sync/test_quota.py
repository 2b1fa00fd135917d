"""Quotas: a project that is full takes no more, but its curves go on for a while."""

from datetime import timedelta

import pytest

from experiments.models import Project
from labsite.clock import database_now
from sync import chunks
from sync.errors import QuotaFull
from sync.models import SyncFile, Upload
from tests.sync.conftest import TOKEN, Run

pytestmark = pytest.mark.django_db
AGENT = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(autouse=True)
def _small(settings):
    settings.LAB_QUOTA_RESERVE_BYTES = 10


def limit(size: int | None) -> None:
    Project.objects.update(quota_bytes=size)


def test_a_full_project_takes_no_file_and_nothing_of_it_is_kept(run: Run):
    limit(9)

    for send in (lambda: run.full(b"0123456789"), lambda: run.chunk(b"0123456789", 0, 4)):
        with pytest.raises(QuotaFull) as refused:
            send()
        assert refused.value.facts["quota_bytes"] == 9
    with pytest.raises(QuotaFull):
        run.full(b"0123456789", length=10)

    assert not SyncFile.objects.exists()
    assert not Upload.objects.exists()
    assert not run.target("run_001.pt").place.path.exists()
    limit(10)
    assert run.full(b"0123456789").row.complete


def test_agents_are_told_when_to_try_again(run: Run, client):
    limit(3)

    answer = client.post(
        f"/api/sync/full/{run.uid}/run_001.pt", b"0123", "application/octet-stream", headers=AGENT
    )

    assert (answer.status_code, answer.json()["code"]) == (507, "quota_full")
    assert answer.json()["retryable"]
    assert answer["Retry-After"] == "60"


def test_curves_and_logs_go_on_in_the_reserve(run: Run):
    limit(4)
    run.full(b"0123")

    run.delta(b"0,0.5\n")
    run.delta(b"ok\n", name="run_001.log")

    assert Project.objects.get().used_bytes == 13
    with pytest.raises(QuotaFull):
        run.delta(b"1,0.4\n")
    assert run.stored() == b"0,0.5\n"
    with pytest.raises(QuotaFull):
        run.delta(b"x", name="run_001.bin")  # grows, and is no curve
    with pytest.raises(QuotaFull):
        run.delta(b"x", name="run_001/events.out.tfevents.1.host.2.0")  # holds pictures as well
    with pytest.raises(QuotaFull):
        run.delta(b"x", name="run_001/train.txt")


def test_a_checkpoint_that_replaces_another_needs_only_the_difference(run: Run):
    limit(10)
    run.full(b"0123456789")

    run.full(b"abcdefghij", generation=2)
    run.chunk(b"9876543210", 0, 4, generation=3)
    run.chunk(b"9876543210", 4, 6, generation=3)

    assert run.stored("run_001.pt") == b"9876543210"
    with pytest.raises(QuotaFull):
        run.full(b"0123456789X", generation=4)
    assert run.stored("run_001.pt") == b"9876543210"


def test_what_is_on_its_way_counts(run: Run):
    limit(10)
    run.chunk(b"01234567", 0, 8 - 2)

    with pytest.raises(QuotaFull):
        run.full(b"01234", name="run_001/other.pt")
    run.chunk(b"01234567", 6, 2)

    assert run.row("run_001.pt").complete


def test_what_is_left_of_an_abandoned_upload_counts_no_more(run: Run, settings):
    limit(10)
    run.chunk(b"0123456789", 0, 6)
    now = database_now() + timedelta(hours=settings.LAB_KEEP_UPLOADS_HOURS, seconds=1)

    chunks.tidy(now)

    assert run.full(b"0123456789", name="run_001/other.pt").row.complete


def test_an_upload_that_takes_the_place_of_another_needs_its_room_only_once(run: Run):
    limit(10)
    run.chunk(b"01234567", 0, 6)

    run.chunk(b"abcdefgh", 0, 4, upload_id="u2", generation=2)
    run.chunk(b"abcdefgh", 4, 4, upload_id="u2", generation=2)

    assert run.stored("run_001.pt") == b"abcdefgh"


@pytest.mark.parametrize(
    ("own", "lab", "found"), [(None, 0, None), (None, 5, 5), (7, 5, 7), (0, 5, None)]
)
def test_a_project_has_its_own_quota_else_the_labs(settings, own, lab, found):
    settings.LAB_QUOTA_BYTES = lab

    assert Project(name="digits", quota_bytes=own).limit_bytes == found


@pytest.mark.parametrize(("used", "warns"), [(89, False), (90, True), (120, True)])
def test_people_are_warned_from_nine_tenths_on(used, warns):
    project = Project(name="digits", quota_bytes=100, used_bytes=used)

    assert project.is_nearly_full is warns
