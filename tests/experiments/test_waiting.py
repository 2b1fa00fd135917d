"""The queue as dispatch reads it: plain rows that say what Django's objects say."""

from datetime import timedelta

import pytest

from experiments import dispatch as dispatching
from experiments import waiting
from experiments.models import Job
from labsite.clock import database_now
from tests import make

pytestmark = pytest.mark.django_db


def test_a_row_says_what_the_jobs_object_says():
    later = (database_now() + timedelta(hours=1)).isoformat()
    job = make.job(gpu_type="A100", gpus=2, labels={"disk": "nvme", "가": "나"}, by=make.user())
    make.job(requires={"paths": ["/data"], "commands": ["make"]}, python="uv")
    Job.objects.filter(pk=job.pk).update(avoids={"7": later}, waiting={"code": "busy", "all": 8})

    rows = waiting.read_waiting(at_most=10)

    objects = {one.pk: one for one in Job.objects.all()}
    assert {row.pk for row in rows} == objects.keys()
    for row in rows:
        whole = objects[row.pk]
        assert {name: getattr(row, name) for name in row._fields} == {
            name: getattr(whole, name) for name in row._fields
        }
        assert str(row) == str(whole)


def test_no_more_than_asked_for_is_read_and_the_first_in_line():
    first, _second = make.job(), make.job()

    assert [row.pk for row in waiting.read_waiting(at_most=1)] == [first.pk]


def test_a_job_that_was_deleted_since_it_was_read_is_left_out(monkeypatch):
    make.device(gpus=2)
    gone, other = make.job(), make.job()
    rows = waiting.read_waiting(at_most=10)
    monkeypatch.setattr(dispatching, "read_waiting", lambda at_most: rows)
    gone.events.all().delete()
    gone.delete()

    made = dispatching.dispatch()

    assert [attempt.job for attempt in made] == [other]
