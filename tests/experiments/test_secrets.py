"""Secrets: who may keep and use which, what a try is given, and that nobody reads one again."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client

from devices.models import digest
from experiments import leases, sealing
from experiments.dispatch import dispatch
from experiments.errors import NotSubmitted, SecretInvalid, SecretsLocked
from experiments.models import GivenSecret, Job, Member, MemberRole, Secret
from experiments.models import job as job_module
from experiments.models.secret import KEEP_GIVEN
from experiments.states import Outcome
from experiments.submission import spec_of
from labsite.clock import database_now
from people.models import AuditEntry
from tests import make

pytestmark = pytest.mark.django_db

VALUE = "hf_Zx81QmVsecret"


@pytest.fixture(autouse=True)
def key_file(settings, tmp_path: Path) -> Path:
    settings.LAB_HEALTHY_SECONDS = 60  # however long a test takes
    settings.LAB_SECRETS_KEYS = []
    settings.LAB_SECRETS_KEY_FILE = tmp_path / "secrets_key"
    return tmp_path / "secrets_key"


@pytest.fixture
def kim():
    return make.user("kim")


def keep(of, name: str = "HF_TOKEN", value: str = VALUE) -> Secret:
    return Secret.put(of, name, value, database_now(), by=None)


def order_of(job: Job):
    attempt = job.attempts.get()
    [reply] = leases.answer([leases.Call(attempt.device_id, make.poll(attempt.device))])
    return reply.attempts[0]


# --- keeping one ---------------------------------------------------------------------------------


def test_what_is_kept_is_sealed_by_a_key_that_is_its_owners_alone(kim, key_file) -> None:
    kept = keep(kim)

    assert VALUE not in kept.sealed
    assert sealing.unseal(kept.sealed) == VALUE
    assert key_file.stat().st_mode & 0o777 == 0o600


def test_those_who_keep_the_first_at_once_seal_by_one_key(key_file) -> None:
    def first(value: str) -> str:
        sealing.make_first_key()
        return sealing.seal(value)

    values = [f"value {number}" for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        sealed = list(pool.map(first, values))

    assert len(key_file.read_text().splitlines()) == 1
    assert [sealing.unseal(one) for one in sealed] == values


@pytest.mark.parametrize("value", ["", "brief", "x" * 5000, "two\nlines of it", "nul\0 in the it"])
def test_a_value_that_could_not_be_masked_or_given_is_refused(kim, value: str) -> None:
    with pytest.raises(SecretInvalid) as refused:
        keep(kim, value=value)

    assert not value or value not in str(refused.value)


@pytest.mark.parametrize("name", ["", "1A", "A-B", "LAB_TOKEN", "CUDA_VISIBLE_DEVICES", "ü"])
def test_a_name_that_no_variable_may_have_is_refused(kim, name: str) -> None:
    with pytest.raises(SecretInvalid):
        keep(kim, name)


def test_a_new_value_takes_the_place_of_the_old_one(kim) -> None:
    keep(kim)
    kept = keep(kim, value="another value")

    assert Secret.objects.count() == 1
    assert sealing.unseal(kept.sealed) == "another value"


def test_no_new_key_is_made_while_others_were_sealed_with_a_lost_one(kim, key_file) -> None:
    keep(kim)
    key_file.unlink()

    with pytest.raises(SecretsLocked, match="secrets_key"):
        keep(kim, "OTHER")


def test_the_audit_log_has_that_a_projects_was_set_and_not_what_it_is(kim) -> None:
    project = make.project("digits")
    Secret.put(project, "TEAM_KEY", VALUE, database_now(), by=kim)

    entry = AuditEntry.objects.get()
    assert (entry.verb, entry.name) == ("set", "digits: TEAM_KEY")
    assert VALUE not in json.dumps([entry.before, entry.after])


# --- who is given which --------------------------------------------------------------------------


def test_a_name_that_is_kept_nowhere_is_refused_at_the_submit(kim) -> None:
    with pytest.raises(NotSubmitted, match="HF_TOKEN"):
        make.job(by=kim, secrets=["HF_TOKEN"])


def test_ones_own_is_given_until_the_start_and_to_its_device_alone(kim) -> None:
    keep(kim)
    job = make.job(by=kim, secrets=["HF_TOKEN"])
    attempt = make.attempt(job)

    before = order_of(job)
    attempt.start(database_now())
    after = order_of(job)

    assert (before.secrets, before.secret_names) == ({"HF_TOKEN": VALUE}, ["HF_TOKEN"])
    assert (after.secrets, after.secret_names) == ({}, ["HF_TOKEN"])


def test_the_projects_comes_before_the_submitters(kim) -> None:
    project = make.project("digits", created_by=kim)
    keep(kim, value="the submitter's")
    keep(project, value="the project's")
    job = make.job(by=kim, secrets=["HF_TOKEN"])
    make.attempt(job)

    assert order_of(job).secrets == {"HF_TOKEN": "the project's"}


def test_a_projects_secret_is_for_those_who_belong_to_it(kim) -> None:
    project = make.project("digits")
    keep(project)
    with pytest.raises(NotSubmitted):
        make.job(by=kim, secrets=["HF_TOKEN"])

    Member.put(project, kim, MemberRole.LOOK)
    with pytest.raises(NotSubmitted):
        make.job(by=kim, secrets=["HF_TOKEN"])

    Member.put(project, kim, MemberRole.WORK)
    assert make.job(by=kim, secrets=["HF_TOKEN"]).secrets == ["HF_TOKEN"]


def test_another_who_reruns_it_is_given_their_own(kim) -> None:
    keep(kim)
    lee = make.user("lee")
    keep(lee, value="the other's value")
    job = make.job(by=kim, secrets=["HF_TOKEN"])

    again = Job.objects.submit(spec_of(job), project="digits", by=lee, parent=job)
    make.attempt(again)

    assert order_of(again).secrets == {"HF_TOKEN": "the other's value"}


def test_a_projects_default_names_them_and_an_empty_list_says_none(kim) -> None:
    make.project("digits", secrets=["HF_TOKEN"])
    keep(kim)

    assert make.job(by=kim).secrets == ["HF_TOKEN"]
    assert make.job(by=kim, secrets=[]).secrets == []


def test_what_a_try_was_given_stays_the_same_whatever_is_changed(kim) -> None:
    kept = keep(kim)
    job = make.job(by=kim, secrets=["HF_TOKEN"])
    make.attempt(job)

    keep(kim, value="a newer value")
    kept.take(by=kim)

    assert order_of(job).secrets == {"HF_TOKEN": VALUE}


# --- at the offer --------------------------------------------------------------------------------


def test_a_job_whose_secret_is_gone_waits_and_says_which(kim) -> None:
    kept = keep(kim)
    job = make.job(by=kim, secrets=["HF_TOKEN"])
    make.device(gpus=1)
    kept.take(by=kim)

    assert dispatch() == []
    job.refresh_from_db()
    assert "HF_TOKEN" in job.waiting_reason

    keep(kim)
    assert len(dispatch()) == 1


def test_a_lost_key_holds_such_jobs_back_and_no_others(kim, key_file) -> None:
    keep(kim)
    job = make.job(by=kim, secrets=["HF_TOKEN"])
    other = make.job(by=kim)
    make.device(gpus=2)
    key_file.unlink()

    made = dispatch()

    job.refresh_from_db()
    assert [attempt.job for attempt in made] == [other]
    assert "secrets_key" in job.waiting_reason


def test_how_many_questions_are_asked_does_not_grow_with_the_jobs(
    kim, django_assert_max_num_queries
) -> None:
    keep(kim)
    make.job(by=kim, secrets=["HF_TOKEN"])

    def asked() -> int:
        with django_assert_max_num_queries(100) as seen:
            dispatch()
        return len(seen.captured_queries)

    dispatch()
    few = asked()
    for _n in range(5):
        make.job(by=kim, secrets=["HF_TOKEN"])
    dispatch()
    assert asked() == few


# --- to mask it in the log -----------------------------------------------------------------------


def ask(client: Client, attempt, token: str):
    return client.get(
        f"/api/agent/attempts/{attempt.pk}/secrets", headers={"authorization": f"Bearer {token}"}
    )


def test_its_device_may_ask_again_also_after_the_end_and_no_other(kim, client) -> None:
    mine, others = "labd_aaaaaaaa_mine", "labd_bbbbbbbb_others"
    here, there = make.device(gpus=1, token=mine), make.device(gpus=1, token=others)
    assert here.token_sha256 == digest(mine)
    assert there.token_sha256 == digest(others)
    keep(kim)
    attempt = make.attempt(make.job(by=kim, secrets=["HF_TOKEN"]), here, started=True)
    attempt.end(Outcome.SUCCEEDED, database_now())

    answer = ask(client, attempt, mine)

    assert answer.json() == {"secrets": {"HF_TOKEN": VALUE}}
    assert "no-store" in answer["Cache-Control"]
    assert ask(client, attempt, others).status_code == 404
    assert ask(client, attempt, make.token(kim)).status_code == 401


def test_long_after_its_end_it_is_kept_no_more(kim, client) -> None:
    here = make.device(gpus=1, token="labd_aaaaaaaa_mine")
    keep(kim)
    attempt = make.attempt(make.job(by=kim, secrets=["HF_TOKEN"]), here, started=True)
    GivenSecret.forget(database_now() + timedelta(days=3650))
    assert GivenSecret.objects.count() == 1  # it runs
    attempt.end(Outcome.SUCCEEDED, database_now())
    GivenSecret.forget(database_now())
    assert GivenSecret.objects.count() == 1

    GivenSecret.forget(database_now() + KEEP_GIVEN + timedelta(seconds=1))

    assert GivenSecret.objects.count() == 0
    assert ask(client, attempt, "labd_aaaaaaaa_mine").status_code == 404


# --- the key -------------------------------------------------------------------------------------


def test_the_key_is_changed_and_all_opens_by_the_new_one(kim, key_file, capsys) -> None:
    kept = keep(kim)
    make.attempt(job := make.job(by=kim, secrets=["HF_TOKEN"]))
    old = key_file.read_text()

    call_command("secretskey")

    kept.refresh_from_db()
    assert old.strip() not in key_file.read_text()
    assert len(key_file.read_text().splitlines()) == 1
    assert sealing.unseal(kept.sealed) == VALUE
    assert order_of(job).secrets == {"HF_TOKEN": VALUE}


def test_a_lost_key_is_said_and_its_secrets_are_given_up_by_word(kim, key_file) -> None:
    keep(kim)
    key_file.write_text("")

    with pytest.raises(CommandError, match="--forget"):
        call_command("secretskey")
    assert Secret.objects.count() == 1

    call_command("secretskey", forget=True)
    assert Secret.objects.count() == 0


def test_a_key_of_the_environment_is_changed_there(kim, settings, capsys) -> None:
    call_command("secretskey", print=True)
    first = capsys.readouterr().out.strip()
    settings.LAB_SECRETS_KEYS = [first]
    kept = keep(kim)
    with pytest.raises(CommandError, match="LAB_SECRETS_KEY"):
        call_command("secretskey")
    call_command("secretskey", print=True)
    settings.LAB_SECRETS_KEYS = [capsys.readouterr().out.strip(), first]

    call_command("secretskey", reseal=True)

    settings.LAB_SECRETS_KEYS = settings.LAB_SECRETS_KEYS[:1]
    kept.refresh_from_db()
    assert sealing.unseal(kept.sealed) == VALUE


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("writer", ["kept", "given"])
def test_what_is_written_while_the_key_is_changed_opens_by_the_new_one(
    kim, writer: str, monkeypatch
) -> None:
    """It was sealed by the old key, and is written as late as it can be."""
    keep(kim)
    job, device = make.job(by=kim, secrets=["HF_TOKEN"]), make.device(gpus=1)
    acts = {
        "kept": lambda: keep(kim, "OTHER", "another value"),
        "given": lambda: job.assign(device, list(device.gpus.all()), database_now()),
    }
    sealed, dropped = threading.Event(), threading.Event()

    def late(inner):
        def wrapped(*args):
            found = inner(*args)
            if threading.current_thread() is not threading.main_thread():
                sealed.set()
                dropped.wait(0.5)  # or as long as who changes the key waits for it
            return found

        return wrapped

    drop = sealing.drop_old_keys
    monkeypatch.setattr(sealing, "drop_old_keys", lambda: (drop(), dropped.set()))
    if writer == "kept":
        monkeypatch.setattr(sealing, "seal", late(sealing.seal))
    else:
        monkeypatch.setattr(job_module.Vault, "given", late(job_module.Vault.given))

    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(_in_a_connection_of_its_own, acts[writer])
        assert sealed.wait(5)
        call_command("secretskey")
        written.result()

    rows = (*Secret.objects.all(), *GivenSecret.objects.all())
    opened = [sealing.unseal(one.sealed) for one in rows]
    assert opened == ([VALUE, "another value"] if writer == "kept" else [VALUE, VALUE])


def _in_a_connection_of_its_own(act) -> None:
    try:
        act()
    finally:
        connection.close()


def test_the_key_stays_the_servers_when_root_changes_it(kim, key_file, monkeypatch) -> None:
    """Root writes it, whoever runs this test: what it gives away is what is looked at."""
    keep(kim)
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda _descriptor, uid, gid: given.append((uid, gid)))
    owner = key_file.parent.stat()
    mine = (owner.st_uid, owner.st_gid)

    call_command("secretskey")

    assert given == [mine] * 4  # lock and key, as it is laid before the old one and then alone


# --- doors ---------------------------------------------------------------------------------------


def test_the_api_sets_lists_and_deletes_and_never_tells(kim, client) -> None:
    client.force_login(kim)
    put = client.put("/api/secrets/HF_TOKEN/", {"value": VALUE}, "application/json")
    listed = client.get("/api/secrets/")

    assert put.status_code == 200
    assert [one["name"] for one in listed.json()] == ["HF_TOKEN"]
    assert VALUE not in put.content.decode() + listed.content.decode()
    assert client.delete("/api/secrets/HF_TOKEN/").status_code == 204
    assert client.get("/api/secrets/").json() == []


def test_a_value_that_is_refused_does_not_come_back_in_the_answer(kim, client) -> None:
    client.force_login(kim)
    value = "first line\nsecond line"
    put = client.put("/api/secrets/HF_TOKEN/", {"value": value}, "application/json")

    assert put.status_code == 400
    assert "second line" not in put.content.decode()


def test_pages_set_and_delete_it(kim, client) -> None:
    client.force_login(kim)
    project = make.project("digits", created_by=kim)

    client.post("/account/secrets/", {"name": "HF_TOKEN", "value": VALUE})
    client.post("/projects/digits/secrets/", {"name": "TEAM_KEY", "value": VALUE})
    pages = [
        client.get(page).content.decode() for page in ("/account/", "/projects/digits/settings/")
    ]

    assert "HF_TOKEN" in pages[0]
    assert "TEAM_KEY" in pages[1]
    assert VALUE not in "".join(pages)
    client.post("/account/secrets/HF_TOKEN/delete/")
    client.post("/projects/digits/secrets/TEAM_KEY/delete/")
    assert not Secret.objects.filter(user=kim).exists()
    assert not Secret.objects.filter(project=project).exists()
