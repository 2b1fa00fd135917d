"""What others write is text on every page: of hundreds of hostile ones (payloads.txt), in every
place that keeps a text, none becomes an element, an attribute, an address or a formula."""

import csv
import io
from urllib.parse import urlencode

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from devices.models import GPU, Device
from experiments.models import Column, Job, Project, Sweep
from sync.models import SyncFile
from tests import make
from tests.labsite import hostile
from tests.labsite.hostile import Made, Texts, disarmed
from tests.labsite.payloads import PAYLOADS

pytestmark = pytest.mark.django_db
#: Text decides how many of these there are: words of a command, colours of a line, links in a log.
BY_TEXT = {"span", "mark", "br"}


@pytest.fixture(scope="module")
def _files_of_ours(tmp_path_factory):
    return tmp_path_factory.mktemp("logs")


@pytest.fixture
def client(_files_of_ours, settings):
    settings.LAB_LOGS_DIR = _files_of_ours
    boss = make.administrator("boss")
    hostile.lab(boss)
    client = Client()
    client.force_login(boss)
    return client


def lists() -> list[str]:
    """Pages that show many rows, each with texts of its own."""
    columns = [("c", name) for name in ("state", "tag", "notes", "user", "device", "project")]
    return [
        f"/runs/?{urlencode(columns)}", "/queue/", "/projects/", "/people/", "/people/audit/",
        "/projects/digits/",
    ]  # fmt: skip


def single() -> list[str]:
    running, failed = Job.objects.filter(project__name="tried").order_by("pk")
    swept = Sweep.objects.get()
    device, gpu = Device.objects.get(), GPU.objects.exclude(fault="").get()
    file = SyncFile.objects.filter(job=failed, name__endswith=".txt").first()
    uids = ",".join(Job.objects.values_list("uid", flat=True)[:6])
    people = make.user("last")
    return [
        "/", "/?wall=1", "/devices/", f"/devices/{device.pk}/", f"/devices/gpu/{gpu.pk}/",
        "/devices/add/", "/account/", f"/people/{people.pk - 1}/", "/people/several/",
        f"/execute/?from={failed.uid}", "/execute/?project=digits", "/sweeps/",
        f"/sweeps/{swept.pk}/", f"/compare/?runs={uids}&all=", "/projects/tried/settings/",
        "/projects/tried/?what=failed&older_than_days=0", "/runs/?choose=1&g=user&g=project",
        *(f"/runs/{job.uid}/" for job in (running, failed)), f"/runs/{failed.uid}/edit/",
        *(f"/runs/{failed.uid}/?part={part}" for part in ("head", "side", "files", "failed")),
        f"/runs/{failed.uid}/look/{file.name}", "/admin/",
    ]  # fmt: skip


def desk() -> list[str]:
    names = [f"admin:{model._meta.app_label}_{model._meta.model_name}" for model in admin.site._registry]
    return [reverse(f"{name}_changelist") for name in names]


def made_of(client: Client, path: str) -> Made:
    answer = client.get(path)
    assert answer.status_code == 200, path
    return Made(answer.content.decode())


def strange(client: Client, paths: list[str], harmless: dict[str, Made]) -> list[tuple[str, object]]:
    """What pages have now that they had not with harmless texts."""
    found: list[tuple[str, object]] = []
    for path in paths:
        made, was = made_of(client, path), harmless[path]
        new = {one: n for one, n in made.elements.items() if n != was.elements[one]}
        found += [(path, one) for one in new if one[0] not in BY_TEXT or one not in was.elements]
        found += [(path, one) for one in made.astray]
    return found


def test_no_text_becomes_a_part_of_a_page(client):
    many, each = lists(), [*single(), *desk()]
    hostile.write(Texts(disarm=disarmed))
    harmless = {path: made_of(client, path) for path in [*many, *each]}
    wrong: list[tuple[str, object]] = []

    for first in range(0, len(PAYLOADS), hostile.ROWS):
        hostile.write(Texts(first))
        wrong += strange(client, many if first else [*many, *each], harmless)

    assert wrong == []
