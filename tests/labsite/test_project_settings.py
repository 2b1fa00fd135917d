"""Settings of a project: what its runs use, who belongs to it, and its end."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils.html import escape

from experiments import submission
from experiments.models import Job, Member, MemberRole, Project
from experiments.states import Outcome
from labsite.clock import database_now
from people.models import AuditEntry
from sync.models import Trash
from tests import make
from tests.labsite.reading import client_of, text_of

pytestmark = pytest.mark.django_db
ADDRESS = "/projects/digits/settings/"


@pytest.fixture
def ann():
    return make.user("ann")


@pytest.fixture
def digits(ann):
    return make.project("digits", created_by=ann)


@pytest.fixture
def client(ann, digits):
    return client_of(ann)


WRITTEN = {
    "title": "Digits, again",
    "private": "1",
    "description": "MNIST",
    "main_metric": "val_accuracy",
    "main_metric_goal": "max",
    "command": "python train.py --config {config}",
    "environment": "A=1\nB = two=2 \n",
    "python": "~/venv",
    "working_directory": "~/code",
    "outputs": "runs/**\n",
    "ignore": "",
    "checkpoints": "last",
    "max_file": "20GB",
}


def test_what_is_written_is_what_runs_use_and_what_is_shown_again(client, ann):
    client.post(ADDRESS, WRITTEN)

    project = Project.objects.get()
    assert project.private
    assert project.command == ["python", "train.py", "--config", "{config}"]
    assert project.environment == {"A": "1", "B": "two=2"}
    assert (project.outputs, project.ignore) == (["runs/**"], [])
    assert project.sync == {"checkpoints": "last", "max_file": "20GB"}
    assert submission.submit("lr: 1\n", {"project": "digits"}, by=ann).command == project.command
    again = client.get(ADDRESS).content.decode()
    for words in ("Digits, again", "B=two=2", "runs/**", "val_accuracy", "20GB"):
        assert words in again
    changes = AuditEntry.objects.get().after
    assert changes["private"] is True
    assert "ignore" not in changes  # it is what it was


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"command": "a | b"}, "shell"),
        ({"environment": "nothing"}, "Write one NAME=value a line."),
        ({"outputs": "../secret"}, "leads elsewhere"),
        ({"max_file": "much"}, "max_file"),
        ({"main_metric": 'a"b'}, "neither quotes nor backslashes"),
    ],
)
def test_a_mistake_saves_nothing_and_keeps_what_was_written(client, wrong, said):
    answer = client.post(ADDRESS, WRITTEN | wrong)

    assert answer.status_code == 400
    assert said in text_of(answer)
    assert "Digits, again" in answer.content.decode()
    assert Project.objects.get().title == ""


@pytest.mark.parametrize(
    ("role", "status"), [(MemberRole.LEAD, 200), (MemberRole.WORK, 403), (None, 403)]
)
def test_who_leads_it_changes_it(digits, role, status):
    bob = make.user("bob")
    if role:
        Member.put(digits, bob, role)

    assert client_of(bob).get(ADDRESS).status_code == status


def test_an_archived_project_is_not_changed(client, digits):
    digits.archive(database_now())

    assert "take it out of the archive" in text_of(client.post(ADDRESS, WRITTEN))
    assert not Project.objects.get().private


def test_members_come_and_go(client, digits):
    bob = make.user("bob")

    client.post("/projects/digits/members/", {"user": "bob", "role": "look"})
    client.post("/projects/digits/members/", {"user": "bob", "role": "work"})
    member = digits.members.get()
    assert (member.user, member.role) == (bob, "work")
    client.post(f"/projects/digits/members/{member.pk}/leave/")

    assert not digits.members.exists()
    told = AuditEntry.objects.order_by("pk").values_list("verb", "before", "after")
    look, work = {"role": "look"}, {"role": "work"}
    assert list(told) == [("join", {}, look), ("join", look, work), ("leave", work, {})]


@pytest.mark.parametrize("wrong", [{"user": "nobody", "role": "work"}, {"user": "ann"}])
def test_a_member_is_somebody_and_has_a_place(client, digits, wrong):
    shown = text_of(client.post("/projects/digits/members/", wrong, follow=True))

    assert "Nobody here is called so" in shown
    assert not digits.members.exists()


def test_a_project_is_deleted_into_the_trash_after_a_question(client, ann):
    attempt = make.attempt(make.job(by=ann), started=True)
    attempt.end(Outcome.FAILED, database_now(), exit_code=1)

    asked = client.post("/projects/digits/delete/")
    assert "Its one run" in text_of(asked)
    assert Job.objects.present().exists()
    client.post("/projects/digits/delete/", {"sure": "1"})

    assert not Job.objects.present().exists()
    assert Project.objects.get().archived_at
    assert Trash.objects.get().can_be_restored


def test_runs_of_others_are_not_deleted_with_ones_project(client):
    make.attempt(make.job(by=make.user()), started=True).end(Outcome.FAILED, database_now())

    assert client.post("/projects/digits/delete/", {"sure": "1"}).status_code == 403
    assert Job.objects.present().exists()


def test_a_project_whose_runs_wait_is_not_deleted(client, ann):
    make.job(by=ann)

    shown = text_of(client.post("/projects/digits/delete/", {"sure": "1"}, follow=True))

    assert "has runs that wait or run" in shown
    assert Job.objects.present().exists()


# --- the cards -----------------------------------------------------------------------------------


def summed(job: Job, **summary) -> None:
    Job.objects.filter(pk=job.pk).update(summary=summary)


@pytest.mark.parametrize(("goal", "best"), [("max", "0.93"), ("min", "0.21")])
def test_a_card_shows_the_best_of_the_main_metric(client, ann, goal, best):
    name = "val acc/top-1 (%) '5'"
    Project.objects.update(main_metric=name, main_metric_goal=goal)
    summed(make.job(by=ann), max={name: 0.5}, min={name: 0.21})
    summed(make.job(by=ann), max={name: 0.93}, min={name: 0.4}, others={"max": {name: 2}})
    summed(make.job(by=ann), max={"loss": 9}, others={"max": {name: 0.7}, "min": {name: 0.6}})
    summed(make.job(by=ann))

    shown = text_of(client.get("/projects/"))

    assert f"best {escape(name)} {best}" in shown
    assert "4 runs in 30 days" in shown


def test_no_value_is_no_best(client, ann):
    Project.objects.update(main_metric="never_written")
    summed(make.job(by=ann), max={"loss": 9})

    assert "best never_written –" in text_of(client.get("/projects/"))


def test_the_list_asks_the_database_no_more_for_more_projects(client, ann):
    def asked() -> int:
        job = make.job(by=ann, project=f"p{Project.objects.count()}")
        Project.objects.filter(pk=job.project_id).update(main_metric="loss")
        with CaptureQueriesContext(connection) as queries:
            client.get("/projects/")
        return sum("clock_timestamp()" not in query["sql"] for query in queries)

    counts = [asked() for _ in range(5)]

    assert counts[-1] == counts[1]
    assert counts[-1] <= 12
