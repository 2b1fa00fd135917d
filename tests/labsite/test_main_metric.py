"""A project's main metric goes before what metrics are called, wherever runs are judged."""

import re

import pytest
from django.test import Client
from django.urls import reverse

from experiments.models import Job, Project
from labsite.pages.asking import usual
from labsite.pages.queue import best_words
from labsite.pages.ranking import scores_of
from tests import make
from tests.experiments.test_table import metrics
from tests.labsite.reading import text_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def jobs():
    """Two runs of a project that wants few `flops`, whose name says nothing."""
    made = [make.job(config=f"lr: {lr}\n") for lr in (0.1, 0.01)]
    for job, flops in zip(made, (30.0, 20.0), strict=True):
        job.note_summary(metrics(loss=0.5, acc=flops / 100, flops=(flops, flops - 5, flops)))
    Project.objects.update(main_metric="flops", main_metric_goal="min")
    return list(Job.objects.select_related("project").order_by("pk"))


@pytest.mark.parametrize(
    ("metric", "goal", "side"),
    [("flops", "min", "min"), ("acc", "min", "min"), ("loss", "", "min"), ("flops", "", "")],
)
def test_the_project_says_which_way_its_main_metric_is_better(metric, goal, side):
    project = Project(main_metric=metric if goal else "", main_metric_goal=goal or "max")

    assert project.better(metric) == side


def test_a_table_shows_it_first_and_by_its_own_goal(jobs):
    metric = [ref.word for ref in usual(jobs[0].project) if ref.is_metric]

    assert metric == ["best:flops", "best:acc", "best:loss"]


def test_best_is_judged_by_each_projects_own_goal(jobs):
    other = make.job(project="other", config="lr: 1\n")
    other.note_summary(metrics(flops=(30.0, 20.0, 40.0)))
    Project.objects.filter(name="other").update(main_metric="flops", main_metric_goal="max")
    client = Client()
    client.force_login(make.user("kim"))

    def found(query: str) -> list[Job]:
        page = client.get(f"/runs/?{query}")
        return [row.line.job for row in page.context["table"].rows]

    assert found("sort=best:flops") == [jobs[1], jobs[0], other]  # 15, 25 of few; 40 of many
    assert found("q=flops.best<20") == [jobs[1]]
    assert found("q=flops.best>39") == [other]
    assert found("q=flops.best!=15&sort=best:flops") == [jobs[0], other]
    shown = text_of(client.get("/runs/?c=best:flops&sort=-best:flops"))
    assert re.search(r"\b40\b.*\b25\b.*\b15\b", shown)
    grouped = text_of(client.get("/runs/?g=project&c=best:flops&sort=best:flops"))
    assert "digits 2 20.0 ± 7.1 Project other 1 40" in grouped


def test_a_sweep_is_ranked_by_it_until_the_reader_chooses(jobs):
    by_pk = {job.pk: job.summary for job in jobs}
    best, chosen = (scores_of(by_pk, metric, project=jobs[0].project) for metric in ("", "acc"))

    assert (best.metric, best.goal, best.winner) == ("flops", "min", jobs[1].pk)
    assert (chosen.metric, chosen.goal, chosen.winner) == ("acc", "max", jobs[0].pk)


def test_the_pages_of_runs_begin_with_it(jobs):
    client = Client()
    client.force_login(make.user("kim"))
    uids = ",".join(job.uid for job in jobs)
    page = text_of(client.get(reverse("run", args=[jobs[1].uid])))
    compared = client.get(reverse("compare"), {"runs": uids})

    assert "flops 20 best 15" in page
    assert compared.context["charted"][0] == "flops"
    first = compared.context["metrics"][0]
    assert (first.name, first.cells) == ("flops", [(25.0, False), (15.0, True)])
    assert best_words(jobs[1]) == "flops 15"
