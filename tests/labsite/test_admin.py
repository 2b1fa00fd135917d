"""The lab manager's desk: everything is seen, and what a verb rules is changed by it only."""

import pytest
from django.apps import apps
from django.contrib import admin
from django.test import Client
from django.urls import reverse
from django.utils import translation

from devices.models import GPU, Device, EnrollmentCode
from experiments.models import GPUClaim, Job
from experiments.states import JobState
from labsite.clock import database_now
from people.models import ApiToken, AuditEntry
from tests import make
from tests.labsite.reading import text_of

pytestmark = pytest.mark.django_db
OURS = ["people", "devices", "experiments", "sync"]
#: What only programs keep for themselves.
UNLISTED = {"ServerIdentity", "ReceivedEvent", "Pulse", "DiskSample", "Profile", "DemoUser"}
UNLISTED |= {"Blob", "TrashSlice"}
#: By which a request that comes twice is known; let go of after a week.
UNLISTED |= {"SubmitKey"}
UNLISTED |= {"DeviceSample", "GPUSample", "LabSample"}  # drawn on pages; millions of rows
#: Derived from a job's config and summary; and how each reader's own tables look.
UNLISTED |= {"Column", "Cell", "SavedView", "Pin"}


@pytest.fixture
def manager():
    client = Client()
    client.force_login(make.manager())
    return client


@pytest.fixture
def administrator():
    client = Client()
    client.force_login(make.administrator())
    return client


@pytest.fixture
def attempt():
    EnrollmentCode.make(database_now())
    return make.attempt(make.job(by=make.user("minjun")), started=True)


def act(client, model, action, *rows):
    url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    data = {"action": action, "_selected_action": [row.pk for row in rows]}
    return client.post(url, data, follow=True)


def test_every_model_of_ours_is_at_the_desk():
    ours = {model for app in OURS for model in apps.get_app_config(app).get_models()}

    missing = {model.__name__ for model in ours if not admin.site.is_registered(model)}

    assert missing == UNLISTED


@pytest.mark.parametrize(
    "model", sorted(admin.site._registry, key=lambda model: model._meta.label), ids=str
)
def test_each_table_and_each_row_opens(administrator, attempt, model):
    ApiToken.make(attempt.job.user, "script", database_now())
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}"

    assert administrator.get(reverse(f"{name}_changelist")).status_code == 200
    if row := model.objects.first():
        assert administrator.get(reverse(f"{name}_change", args=[row.pk])).status_code == 200


def test_the_sidebar_has_each_table_once_in_groups(administrator, manager):
    def tables(client) -> dict[str, list[str]]:
        page = client.get("/admin/")
        groups = page.context["sidebar_navigation"]
        return {str(group["title"]): [one["link"] for one in group["items"]] for group in groups}

    shown = tables(administrator)
    groups = ["GPU servers", "Runs", "Projects and files", "Secrets and notifications"]
    groups += ["People", "Others"]
    assert list(shown) == groups
    links = [link for some in shown.values() for link in some]
    assert len(links) == len(set(links)) == len(admin.site._registry)
    assert shown["Others"] == []
    assert reverse("admin:auth_user_changelist") in shown["People"]
    assert reverse("admin:auth_user_changelist") not in tables(manager)["People"]


def test_a_state_is_nowhere_to_be_written(manager, attempt):
    url = reverse("admin:experiments_job_change", args=[attempt.job.pk])

    manager.post(url, {"state": "succeeded", "name": "x", "tags": "[]", "notes": ""})

    assert Job.objects.get(pk=attempt.job.pk).state == JobState.RUNNING


def test_a_manager_saves_only_what_was_changed(manager):
    device = make.device()
    url = reverse("admin:devices_device_change", args=[device.pk])
    form = {
        "max_jobs": "1",
        "cpu_slots": "1",
        "labels": "{}",
        "environment": "{}",
        "gpus-TOTAL_FORMS": "0",
        "gpus-INITIAL_FORMS": "0",
    }

    response = manager.post(url, form)

    assert response.status_code == 302
    assert Device.objects.get(pk=device.pk).max_jobs == 1


def test_no_digest_of_a_secret_is_shown(manager):
    device = make.device(token="labd_secret")
    code, _text = EnrollmentCode.make(database_now())

    shown = manager.get(reverse("admin:devices_device_change", args=[device.pk])).content.decode()
    shown += manager.get(
        reverse("admin:devices_enrollmentcode_change", args=[code.pk])
    ).content.decode()

    assert device.token_sha256 not in shown
    assert code.code_sha256 not in shown


@pytest.mark.parametrize(
    ("action", "held"), [("keep_queued", True), ("let_go", False)], ids=["keep", "let go"]
)
def test_an_action_is_the_verb(manager, action, held):
    job = make.job()

    act(manager, Job, action, job)

    assert Job.objects.get(pk=job.pk).held is held
    assert AuditEntry.objects.filter(kind="experiments.job", key=job.pk, door="admin").exists()


def test_a_cancel_from_the_desk_is_a_wish_like_any_other(manager, attempt):
    act(manager, Job, "cancel", attempt.job)

    assert Job.objects.get(pk=attempt.job.pk).cancel_requested_at


def test_a_refused_action_is_a_sentence(manager):
    job = make.job()
    job.cancel()

    response = act(manager, Job, "cancel", job)

    assert "has ended" in response.content.decode()


@pytest.mark.parametrize(("action", "draining"), [("drain", True), ("resume", False)])
def test_a_manager_drains_and_resumes(manager, action, draining):
    device = make.device(draining=not draining)

    act(manager, Device, action, device)

    assert Device.objects.get(pk=device.pk).draining is draining


def test_a_gpu_is_set_aside_and_released(manager):
    gpu = make.device(gpus=1).gpus.get()

    act(manager, GPU, "quarantine", gpu)
    assert GPU.objects.get(pk=gpu.pk).quarantined_at
    act(manager, GPU, "release", gpu)
    assert not GPU.objects.get(pk=gpu.pk).quarantined_at


def test_a_claim_that_nothing_keeps_is_released(manager, attempt):
    act(manager, GPUClaim, "release", GPUClaim.objects.get())

    assert not GPUClaim.objects.exists()


def test_a_known_gpu_server_gets_a_new_code(manager):
    device = make.device(host_id="gpu-07")

    shown = manager.post("/devices/add/", {"device": "gpu-07"})

    assert "--host-id gpu-07" in text_of(shown)
    assert EnrollmentCode.objects.get().device == device


def test_a_code_is_made_worthless(manager):
    code, _text = EnrollmentCode.make(database_now())

    act(manager, EnrollmentCode, "end", code)

    assert EnrollmentCode.objects.get().uses_left == 0


def test_a_researcher_does_not_come_to_the_desk():
    client = Client()
    client.force_login(make.user("minjun"))

    assert client.get("/admin/").status_code == 302


def test_the_desk_has_its_own_policy(manager):
    assert "'unsafe-eval'" in manager.get("/admin/")["Content-Security-Policy"]
    assert "'unsafe-eval'" not in manager.get("/devices/")["Content-Security-Policy"]


@pytest.mark.parametrize(
    "values", [{"labels": '["a100"]'}, {"environment": '{"A": 1}'}, {"environment": '{"A=B": ""}'}]
)
def test_what_dispatch_and_agents_could_not_read_is_not_taken(manager, values):
    device = make.device()
    url = reverse("admin:devices_device_change", args=[device.pk])
    form = {"cpu_slots": 1, "labels": "{}", "environment": "{}", **values}
    inline = {"gpus-TOTAL_FORMS": 0, "gpus-INITIAL_FORMS": 0}

    answer = manager.post(url, {**form, **inline})

    assert answer.status_code == 200  # the form once more, with what is wrong
    device.refresh_from_db()
    assert (device.labels, device.environment) == ({}, {})


def test_the_desk_opens_with_the_labs_figures_and_what_was_done_last(manager, attempt):
    make.device(online=False, gpus=1)
    gpu = make.device(gpus=2).gpus.first()
    act(manager, GPU, "quarantine", gpu)
    make.job(gpus=8)

    shown = text_of(manager.get("/admin/"))

    for words in (
        "of 3 healthy ▲ 1 not connected", "1 of 4 busy", "1 faulty", "1 running 1 waiting",
        "marked as faulty GPU",
    ):  # fmt: skip
        assert words in shown


def test_the_history_of_a_row_is_the_audit_log(manager):
    device, other = make.device(), make.device()
    act(manager, Device, "drain", device, other)

    shown = manager.get(reverse("admin:devices_device_history", args=[device.pk]), follow=True)

    assert [entry.key for entry in shown.context["cl"].result_list] == [str(device.pk)]


def test_fields_are_called_in_the_readers_language():
    """Also those that a model gives no name; what is not in the words of people is translated."""
    with translation.override("ko"):
        in_english = [
            f"{desk.model.__name__}.{field.name}"
            for desk in admin.site._registry.values()
            if desk.model._meta.app_label in OURS
            for field in desk.model._meta.fields
            if field.name not in getattr(desk, "hidden", ())
            and str(field.verbose_name).isascii()
            and str(field.verbose_name)
            not in {"GPU", "PID", "UUID", "GPU UUID", "Python", "SHA-256"}
        ]

    assert in_english == []
