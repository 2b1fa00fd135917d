"""The form of a new run: what has several values, and that it is carried along by a rerun."""

import re

import pytest
from django.test import Client

from experiments.models import Job, Member, MemberRole, Secret, Sweep
from experiments.table import tags
from labsite.clock import database_now
from tests import make
from tests.labsite.reading import text_of

pytestmark = pytest.mark.django_db
CONFIG = "lr: 0.1\nlab: {project: digits, command: [python, a.py]}\n"
NEEDS = {"secrets": ["HF_TOKEN", "WANDB_API_KEY"], "paths": "/data/a\n\n /data/b, c \n",
         "commands": "ffmpeg"}  # fmt: skip
REQUIRES = {"paths": ["/data/a", "/data/b, c"], "commands": ["ffmpeg"]}


@pytest.fixture(autouse=True)
def key_file(settings, tmp_path):
    settings.LAB_SECRETS_KEYS = []
    settings.LAB_SECRETS_KEY_FILE = tmp_path / "secrets_key"


@pytest.fixture
def kim():
    kim = make.user("kim")
    for name in ("HF_TOKEN", "WANDB_API_KEY"):
        keep(kim, name)
    return kim


@pytest.fixture
def client(kim):
    client = Client()
    client.force_login(kim)
    return client


def keep(of, name: str) -> None:
    Secret.put(of, name, "a value of it", database_now(), by=None)


def chosen(page) -> list[str]:
    html = page.content.decode()
    return re.findall(r'name="secrets" value="([^"]*)" checked', html)


def offered(page) -> list[str]:
    return re.findall(r'name="secrets" value="([^"]*)"', page.content.decode())


def test_secrets_and_what_must_be_there_are_fields(client):
    make.device(gpus=1)
    seen = client.post("/execute/check/", {"config": CONFIG, **NEEDS}).json()
    client.post("/execute/", {"config": CONFIG, **NEEDS})

    job = Job.objects.get()
    assert (job.secrets, job.requires) == (NEEDS["secrets"], REQUIRES)
    words = re.sub("<[^>]+>", " ", seen["preview"])
    assert "HF_TOKEN, WANDB_API_KEY" in words
    assert "/data/a, /data/b, c" in words


def test_one_field_of_what_must_be_there_leaves_the_file_the_other(client):
    config = CONFIG.replace("lab: {", "lab: {requires: {paths: [/data/a], commands: [ffmpeg]}, ")

    client.post("/execute/", {"config": config, "paths": "/data/b"})

    assert Job.objects.get().requires == {"paths": ["/data/b"], "commands": ["ffmpeg"]}


def test_a_rerun_with_a_change_begins_with_them_and_can_leave_them_out(client):
    client.post("/execute/", {"config": CONFIG, **NEEDS})
    job = Job.objects.get()

    page = client.get(f"/execute/?from={job.uid}")
    form = page.context["values"]
    same = client.post("/execute/check/", {**form, "secrets": NEEDS["secrets"]}).json()
    fewer = {**form, "secrets": ["HF_TOKEN"], "commands": ""}
    other = client.post("/execute/check/", fewer).json()
    client.post("/execute/", fewer)

    assert chosen(page) == NEEDS["secrets"]
    assert "Nothing differs yet" in same["wide"]
    assert "lab: secrets" in other["wide"]
    again = Job.objects.order_by("pk").last()
    assert (again.secrets, again.requires) == (["HF_TOKEN"], {"paths": REQUIRES["paths"]})


def test_a_rerun_says_nothing_of_what_its_file_says(client):
    config = CONFIG.replace("lab: {", "lab: {secrets: [HF_TOKEN], requires: {paths: [/data/a]}, ")
    client.post("/execute/", {"config": config})

    page = client.get(f"/execute/?from={Job.objects.get().uid}")

    assert (chosen(page), page.context["values"]["paths"]) == ([], "")


def test_a_sweep_once_more_has_them_too(client):
    client.post("/execute/", {"config": CONFIG, "sweep": "lr=1,2", **NEEDS})

    page = client.get(f"/execute/?start=sweep:{Sweep.objects.get().pk}")
    client.post("/execute/", {**page.context["values"], "secrets": chosen(page)})

    assert chosen(page) == NEEDS["secrets"]
    newest = Job.objects.order_by("pk").last()
    assert (newest.secrets, newest.requires) == (NEEDS["secrets"], REQUIRES)


def test_offered_are_the_names_that_one_may_use_and_one_that_was_chosen(client, kim):
    team, looked_at, strange = (make.project(name) for name in ("team", "seen", "strange"))
    for project, name in ((team, "TEAM_KEY"), (looked_at, "SEEN_KEY"), (strange, "STRANGE_KEY")):
        keep(project, name)
    Member.put(team, kim, MemberRole.WORK)
    Member.put(looked_at, kim, MemberRole.LOOK)
    lost = client.post("/execute/", {"config": CONFIG, "secrets": ["GONE_KEY"], "look": "1"})

    assert offered(client.get("/execute/")) == ["HF_TOKEN", "TEAM_KEY", "WANDB_API_KEY"]
    assert chosen(lost) == ["GONE_KEY"]
    assert "GONE_KEY" in text_of(lost)


@pytest.mark.parametrize(
    "several", [["a, b", "c"], ['say "x", y', '"q"', "plain"], ["한글, 둘", 'in "it"'], []]
)
def test_a_tag_stays_whole_where_it_is_shown_and_sent_again(several):
    assert tags.parted(tags.typed(several)) == several


def test_a_tag_with_a_comma_outlives_a_rerun_and_an_edit(client, kim):
    job = make.job(by=kim, project="digits", config=CONFIG, tags=["paper, fig. 3", "best"])
    form = client.get(f"/execute/?from={job.uid}").context["values"]

    client.post("/execute/", form)
    shown = client.get(f"/runs/{job.uid}/edit/").context["tags"]
    client.post(f"/runs/{job.uid}/edit/", {"tags": shown})

    job.refresh_from_db()
    assert job.tags == Job.objects.order_by("pk").last().tags == ["paper, fig. 3", "best"]
    assert Job.objects.count() == 2
