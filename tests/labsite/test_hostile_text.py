"""What others write is text on every page: of hundreds of hostile ones (payloads.txt), in every
place that keeps a text, none becomes an element, an attribute, an address or a formula."""

import csv
import io
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from devices.models import GPU, Device
from experiments.models import Job, Sweep
from labsite.clock import database_now
from sync.models import SyncFile
from tests import make
from tests.labsite import hostile
from tests.labsite.hostile import Made, Texts, disarmed
from tests.labsite.payloads import PAYLOADS

pytestmark = pytest.mark.django_db
#: What the texts would become if they were no texts.
ALIKE = {element for text in PAYLOADS for element in Made(text).elements}


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
    people, brought = make.user("last"), Job.objects.get(project__name="brought")
    return [
        "/", "/?wall=1", "/devices/", f"/devices/{device.pk}/", f"/devices/gpu/{gpu.pk}/",
        "/devices/add/", "/account/", f"/people/{people.pk - 1}/", "/people/several/",
        f"/execute/?from={failed.uid}", "/execute/?project=digits", "/sweeps/",
        f"/sweeps/{swept.pk}/", f"/compare/?runs={uids}&all=", "/projects/tried/settings/",
        "/projects/tried/?what=failed&older_than_days=0", "/runs/?choose=1&g=user&g=project",
        *(f"/runs/{job.uid}/" for job in (running, failed)), f"/runs/{failed.uid}/edit/",
        *(f"/runs/{failed.uid}/?part={part}" for part in ("head", "side", "files", "failed")),
        f"/runs/{failed.uid}/look/{file.name}", "/admin/", f"/runs/{brought.uid}/",
        f"/execute/?from={brought.uid}",
    ]  # fmt: skip


def desk() -> list[str]:
    names = [
        f"admin:{model._meta.app_label}_{model._meta.model_name}" for model in admin.site._registry
    ]
    return [reverse(f"{name}_changelist") for name in names]


def made_of(client: Client, path: str) -> Made:
    Device.objects.update(last_heartbeat_at=database_now())  # however long all this takes
    answer = client.get(path)
    assert answer.status_code == 200, path
    return Made(answer.content.decode())


def strange(client: Client, paths: list[str], harmless: dict[str, Made]) -> list[tuple[str, Any]]:
    """What pages have that none has with harmless texts; and of what a text could look like, more
    or less of it than there was."""
    ours = {element for made in harmless.values() for element in made.elements}
    found: list[tuple[str, Any]] = []
    for path in paths:
        made, was = made_of(client, path), harmless[path]
        found += [(path, one) for one in made.elements if one not in ours]
        found += [(path, one) for one in ALIKE if made.elements[one] != was.elements[one]]
        found += [(path, address) for address in made.astray]
    return found


def test_no_text_becomes_a_part_of_a_page(client):
    many, each = lists(), [*single(), *desk()]
    hostile.write(Texts(disarm=disarmed))
    harmless = {path: made_of(client, path) for path in [*many, *each]}
    wrong: list[tuple[str, Any]] = []

    for first in range(0, len(PAYLOADS), hostile.ROWS):
        hostile.write(Texts(first))
        wrong += strange(client, many if first else [*many, *each], harmless)

    assert wrong == []


def test_no_cell_of_a_sheet_is_a_formula(client):
    hostile.write(Texts())
    sheets = []
    for first in range(0, len(PAYLOADS), hostile.ROWS):
        hostile.write_jobs(Texts(first))
        columns = [("c", name) for name in ("tag", "notes", "user", "device", "project", "name")]
        answer = client.get(f"/runs/export.csv?{urlencode(columns)}")
        sheets.append(b"".join(answer.streaming_content).decode("utf-8-sig"))

    cells = [cell for text in sheets for row in csv.reader(io.StringIO(text)) for cell in row]
    assert len(cells) > 7 * len(PAYLOADS)
    assert [cell for cell in cells if cell.lstrip()[:1] in {"=", "+", "-", "@", "\t", "\r"}] == []


def answers(client: Client, uid: str, text: str) -> dict[str, Made]:
    """What is said to one who asks for `text`: in an address, a form, a log."""
    query = urlencode({"q": text[:1900], "g": text[:200], "sort": text[:200]})
    made = {path: made_of(client, f"{path}?{query}") for path in ("/runs/", "/queue/", "/people/")}
    checked = client.post("/execute/check/", {"config": f"[ {text}", "project": text[:90]}).json()
    found = client.get(f"/runs/{uid}/log/find/?{urlencode({'q': text[:80]})}").json()
    pieces = [checked["preview"], checked["wide"], *(hit[2] for hit in found.get("hits", ()))]
    return {**made, "pieces": Made("".join(pieces))}


def test_what_is_asked_for_is_text_in_the_answer(client):
    uid = Job.objects.filter(project__name="tried").first().uid
    packs = [" ".join(PAYLOADS[at : at + 40]) for at in range(0, len(PAYLOADS), 40)]
    wrong: list[tuple[str, Any]] = []
    unreadable, unknown = (answers(client, uid, text) for text in ('"', "harmless"))

    for pack in packs:
        for where, made in answers(client, uid, pack).items():
            was = unreadable[where].elements | unknown[where].elements
            wrong += [(where, one) for one in ALIKE if made.elements[one] > was[one]]
            wrong += [(where, address) for address in made.astray]

    assert wrong == []
