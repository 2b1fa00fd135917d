"""Accounts: one's own page, keys of scripts, who is let in, and what managers did."""

import io
import re
from contextlib import suppress
from datetime import timedelta
from importlib import import_module
from types import SimpleNamespace

import pytest
from axes.models import AccessAttempt
from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.utils import timezone, translation

from experiments.errors import LostRace
from experiments.models import UnixAccount
from labsite.clock import database_now
from labsite.pages import throttle
from people.audit import note, recorded
from people.errors import NotDone
from people.models import ApiToken, AuditEntry, Invite, Profile
from people.models.token import digest
from people.roles import Role, role_of
from tests import make
from tests.labsite.reading import text_of

pytestmark = pytest.mark.django_db
PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _english_again(settings):
    """And passwords that cost no second each."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    yield
    translation.deactivate()


def signed_in(user) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def minjun():
    return make.user("minjun", password=PASSWORD)


@pytest.fixture
def client(minjun):
    return signed_in(minjun)


@pytest.fixture
def boss():
    return make.manager()


@pytest.fixture
def manager(boss):
    return signed_in(boss)


def link_in(response) -> str:
    """The path of the link that a page shows once."""
    return re.search(r"http://testserver(/(?:join|reset)/[^\s<]+)", text_of(response))[1]


# --- one's own account ---------------------------------------------------------------------------


def test_a_token_is_shown_once_and_kept_as_a_digest(client, minjun):
    shown = text_of(client.post("/account/tokens/", {"name": "laptop", "days": "90"}))

    key = re.search(r"labp_[0-9a-f]{40}", shown)[0]
    token = minjun.api_tokens.get()
    assert f"Token {key}&quot; http://testserver/api/jobs/" in shown
    assert token.sha256 == digest(key)
    assert key not in text_of(client.get("/account/"))
    assert Client().get("/api/jobs/", headers={"authorization": f"Token {key}"}).status_code == 200
    assert (
        Client().get("/api/jobs/", headers={"authorization": f"Bearer {key}"}).status_code == 200
    )


def test_the_use_of_a_token_is_noted_once_a_minute(minjun):
    key = make.token(minjun)
    ask = {"authorization": f"Token {key}"}

    Client().get("/api/jobs/", headers=ask)
    first = minjun.api_tokens.get().last_used_at
    Client().get("/api/jobs/", headers=ask)

    assert first is not None
    assert minjun.api_tokens.get().last_used_at == first


@pytest.mark.parametrize(
    "end",
    [
        lambda token, client: client.post(f"/account/tokens/{token.pk}/revoke/"),
        lambda token, client: ApiToken.objects.update(expires_at=database_now()),
        lambda token, client: Profile.set_active(token.user, False),
    ],
    ids=["revoked", "expired", "deactivated"],
)
def test_a_token_ends(client, minjun, end):
    key = make.token(minjun)

    end(minjun.api_tokens.get(), client)

    answer = Client().get("/api/jobs/", headers={"authorization": f"Token {key}"})
    assert answer.status_code == 403
    assert "revoked, or has expired" in answer.json()["detail"]


def test_nobody_revokes_the_token_of_another(minjun):
    make.token(minjun)
    token = minjun.api_tokens.get()

    answer = signed_in(make.user()).post(f"/account/tokens/{token.pk}/revoke/")

    assert answer.status_code == 404
    assert minjun.api_tokens.get().revoked_at is None


def test_keys_of_drf_go_on_working_as_digests(minjun):
    take_over = import_module("people.migrations.0002_keys_of_authtoken")
    key = "9944b09199c62bcf9418ad846dd0e4bbdfc6ee4b"
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE authtoken_token (key text, user_id bigint, created text)")
        cursor.execute(
            "INSERT INTO authtoken_token VALUES (%s, %s, '2026-01-01 00:00:00')", [key, minjun.pk]
        )
        take_over.take_over(apps, SimpleNamespace(connection=connection))
        cursor.execute("SELECT count(*) FROM authtoken_token")
        left = cursor.fetchone()[0]
        cursor.execute("DROP TABLE authtoken_token")

    assert left == 0
    assert Client().get("/api/jobs/", headers={"authorization": f"Token {key}"}).status_code == 200


def test_wishes_go_with_the_person_to_another_computer(client, minjun):
    client.post("/account/wishes/", {"language": "ko", "theme": "dark", "time_zone": "Asia/Tokyo"})

    elsewhere = Client()
    elsewhere.post("/login/", {"username": "minjun", "password": PASSWORD})
    page = elsewhere.get("/account/").content.decode()

    assert '<html lang="ko"' in page
    assert 'data-theme="dark"' in page
    assert "Asia/Tokyo" in page.split('class="foot"')[1]


def test_a_zone_that_is_none_is_refused(client, minjun):
    answer = client.post("/account/wishes/", {"theme": "system", "time_zone": "Mars/Olympus"})

    assert answer.status_code == 400
    assert "This is no time zone" in text_of(answer)


def test_a_new_password_signs_out_elsewhere(client, minjun):
    elsewhere = signed_in(minjun)
    new = "another long phrase"

    client.post(
        "/account/password/",
        {"old_password": PASSWORD, "new_password1": new, "new_password2": new},
    )

    assert client.get("/account/").status_code == 200
    assert elsewhere.get("/account/").status_code == 302
    minjun.refresh_from_db()
    assert minjun.check_password(new)


def test_passwords_are_kept_by_argon2():
    assert import_module("labsite.settings").PASSWORD_HASHERS[0].endswith("Argon2PasswordHasher")


def test_the_command_line_makes_a_token_too(minjun):
    printed = io.StringIO()

    call_command("token", "minjun", "--name", "nightly", "--days", "7", stdout=printed)

    ask = {"authorization": f"Token {printed.getvalue().strip()}"}
    assert Client().get("/api/jobs/", headers=ask).status_code == 200
    assert AuditEntry.objects.get().door == "command"


# --- signing in ----------------------------------------------------------------------------------


def guess(times: int, address: str = "10.0.0.1"):
    wrong = {"username": "minjun", "password": "wrong"}
    for _ in range(times):
        answer = Client().post("/login/", wrong, REMOTE_ADDR=address)
    return answer


def sign_in(address: str = "10.0.0.1"):
    right = {"username": "minjun", "password": PASSWORD}
    return Client().post("/login/", right, REMOTE_ADDR=address)


def test_who_guesses_too_often_waits_and_is_told_how_long(minjun):
    guess(5)

    answer = sign_in()

    assert answer.status_code == 429
    assert 590 <= int(answer["Retry-After"]) <= 601
    assert re.search(r"Try again in (9|10) min", text_of(answer))


def test_nobody_else_waits_with_them(minjun):
    guess(5)

    assert sign_in("10.0.0.2").status_code == 302


def test_the_wait_ends_by_itself(minjun):
    guess(5)
    AccessAttempt.objects.update(attempt_time=timezone.now() - timedelta(minutes=11))

    assert sign_in().status_code == 302


def test_four_mistakes_are_forgiven(minjun):
    guess(4)

    assert sign_in().status_code == 302
    assert not AccessAttempt.objects.exists()


# --- letting people in ---------------------------------------------------------------------------

NEW = {"username": "jiho", "full_name": "김지호", "password1": PASSWORD, "password2": PASSWORD}


@pytest.mark.parametrize("role", ["viewer", "researcher"])
def test_an_invited_person_makes_an_account(manager, role):
    link = link_in(manager.post("/people/invite/", {"role": role, "uses": "1"}))
    visitor = Client()

    welcome = visitor.post(link, NEW, follow=True)

    jiho = get_user_model().objects.get(username="jiho")
    assert "Welcome, jiho." in text_of(welcome)
    assert (role_of(jiho), jiho.get_full_name()) == (role, "김지호")
    assert Client().get(link).status_code == 403  # it is used up


def test_the_code_of_an_invitation_is_not_kept(manager):
    link = link_in(manager.post("/people/invite/", {"role": "viewer"}))

    code = link.removeprefix("/join/").strip("/")
    assert Invite.objects.get().code_sha256 == digest(code)
    assert code not in text_of(manager.get("/people/"))


@pytest.mark.parametrize("change", [{"expires_at": "now"}, {"uses_left": 0}])
def test_an_invitation_ends(manager, change):
    link = link_in(manager.post("/people/invite/", {"role": "researcher", "uses": "9"}))
    Invite.objects.update(**{k: database_now() if v == "now" else v for k, v in change.items()})

    assert "does not hold any more" in text_of(Client().post(link, NEW))
    assert not get_user_model().objects.filter(username="jiho").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"password2": "something else"}, "The two passwords are not the same."),
        ({"username": "minjun"}, "Somebody has this name already"),
        ({"password1": "short", "password2": "short"}, "too short"),
    ],
)
def test_a_mistake_is_told_and_costs_no_use(manager, minjun, wrong, said, caplog):
    link = link_in(manager.post("/people/invite/", {"role": "researcher"}))

    answer = Client().post(link, NEW | wrong)

    assert said in text_of(answer)
    assert Invite.objects.get().uses_left == 1
    assert link not in caplog.text  # it still lets somebody in


@pytest.mark.parametrize("role", ["manager", "administrator"])
def test_a_manager_makes_no_one_their_equal(manager, role):
    manager.post("/people/invite/", {"role": role})

    assert not Invite.objects.exists()


def test_by_themselves_people_come_in_only_where_the_lab_wants_it(settings):
    assert Client().get("/join/").status_code == 404
    settings.LAB_SELF_REGISTRATION = True

    Client().post("/join/", NEW)

    assert role_of(get_user_model().objects.get(username="jiho")) == Role.VIEWER


def test_whoever_sends_the_form_too_often_waits_and_nobody_else(manager, monkeypatch):
    monkeypatch.setattr(throttle, "MOST", 2)
    link = link_in(manager.post("/people/invite/", {"role": "researcher"}))
    mistaken = NEW | {"password2": "something else"}

    answers = [Client().post(link, mistaken) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert "Too many forms came from your address" in text_of(answers[-1])
    assert 0 < int(answers[-1]["Retry-After"]) <= 600
    assert Client().get(link).status_code == 200  # to look costs nothing
    elsewhere = Client(REMOTE_ADDR="10.0.0.9").post(link, NEW)
    assert (elsewhere.status_code, elsewhere["Location"]) == (302, "/")


def test_a_list_makes_all_of_them_with_a_link_each(manager):
    text = "username,name,role,unix_name\njiho,김지호,viewer,\nsuah,,,suah\n"

    shown = text_of(manager.post("/people/several/", {"text": text}))

    assert "2 accounts were made" in shown
    assert role_of(get_user_model().objects.get(username="jiho")) == Role.VIEWER
    assert UnixAccount.objects.get().name == "suah"
    link = re.search(r"suah,http://testserver(/reset/\S+)", shown)[1]
    assert Client().get(link, follow=True).status_code == 200


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name\njiho", "The first line names the columns"),
        ("username,role\nsuah,\njiho,boss", "line 3: the role is one of"),
        ("username,role\nsuah,\njiho,administrator", "line 3: You may not invite"),
        ("username\nsuah\nminjun", "line 3:"),
        ("username,unix_name\nsuah,root", "line 2:"),
        ("username", "between 1 and 500"),
        ("username\n" + "x" * 200, "line 2:"),
    ],
)
def test_a_wrong_list_makes_nobody(manager, minjun, text, said):
    before = get_user_model().objects.count()

    answer = manager.post("/people/several/", {"text": text})

    assert said in text_of(answer)
    assert get_user_model().objects.count() == before


def test_a_link_sets_a_new_password_once(manager, minjun):
    guess(5)
    link = link_in(manager.post(f"/people/{minjun.pk}/reset/"))
    visitor = Client()
    form = visitor.get(link, follow=True).redirect_chain[-1][0]
    new = {"new_password1": "a wholly new phrase", "new_password2": "a wholly new phrase"}

    done = visitor.post(form, new, follow=True, REMOTE_ADDR="10.0.0.1")

    assert "Your new password holds" in text_of(done)
    minjun.refresh_from_db()
    assert minjun.check_password("a wholly new phrase")
    assert "does not work" in text_of(Client().get(link, follow=True))
    assert not AccessAttempt.objects.exists()


# --- what managers decide ------------------------------------------------------------------------


def test_a_deactivated_person_is_out_at_once_and_their_jobs_go_on(manager, client, minjun):
    job = make.attempt(make.job(by=minjun), started=True).job

    manager.post(f"/people/{minjun.pk}/deactivate/")

    assert client.get("/devices/").status_code == 302
    job.refresh_from_db()
    assert (job.state, job.cancel_requested_at) == ("running", None)


def test_a_viewer_queues_nothing_by_any_door(manager, client, minjun):
    manager.post(f"/people/{minjun.pk}/role/", {"role": "viewer"})

    page = client.post("/execute/", {"project": "digits", "command": "true"})
    api = client.post("/api/jobs/", {"project": "digits", "command": ["true"]})

    assert (page.status_code, api.status_code) == (403, 403)
    assert "You are a viewer here" in text_of(page)
    assert "You are a viewer here" in api.json()["detail"]


@pytest.mark.parametrize("verb", ["role", "deactivate", "unix-name"])
def test_a_manager_decides_nothing_about_an_administrator(manager, verb):
    admin = make.administrator()

    manager.post(f"/people/{admin.pk}/{verb}/", {"role": "viewer", "name": "kim"})

    admin.refresh_from_db()
    assert admin.is_active
    assert role_of(admin) == Role.ADMINISTRATOR
    assert not UnixAccount.objects.exists()


def test_nobody_gets_a_link_for_an_administrators_password(manager):
    admin = make.administrator()

    shown = text_of(manager.post(f"/people/{admin.pk}/reset/", follow=True))

    assert "/reset/" not in shown
    assert "Only an administrator may change" in shown


def test_the_last_administrator_stays_one():
    admin = make.administrator()

    for ask in (
        lambda: Profile.set_role(admin, Role.RESEARCHER),
        lambda: Profile.set_active(admin, False),
    ):
        with pytest.raises(NotDone, match="only administrator"):
            ask()


@pytest.mark.parametrize("path", ["/people/", "/people/audit/", "/people/several/"])
def test_the_pages_of_people_are_the_managers(client, manager, path):
    assert client.get(path).status_code == 403
    assert manager.get(path).status_code == 200


# --- the audit log -------------------------------------------------------------------------------


def test_what_a_manager_does_is_told_with_before_and_after(manager, boss, minjun):
    manager.post(f"/people/{minjun.pk}/role/", {"role": "viewer"})

    entry = AuditEntry.objects.get()
    assert (entry.by, entry.verb, entry.door, entry.name) == (boss, "role", "page", "minjun")
    assert entry.changes == [("role", "researcher", "viewer")]
    shown = text_of(manager.get("/people/audit/"))
    assert "changed the role" in shown
    assert "researcher → became viewer" in shown


def test_each_door_leaves_its_name(manager, boss):
    device = make.device()

    manager.post(f"/devices/{device.pk}/drain/")
    manager.post(f"/api/devices/{device.host_id}/resume/")
    manager.post("/admin/devices/device/", {"action": "drain", "_selected_action": [device.pk]})

    told = AuditEntry.objects.order_by("pk").values_list("door", "verb", "before", "after")
    on, off = {"draining": True}, {"draining": False}
    assert list(told) == [
        ("page", "drain", off, on),
        ("api", "resume", on, off),
        ("admin", "drain", off, on),
    ]


def test_somebody_elses_job_is_told_and_ones_own_is_not(manager, boss, minjun):
    for job in (make.job(by=minjun), make.job(by=boss)):
        manager.post(f"/runs/{job.uid}/cancel/")

    entry = AuditEntry.objects.get()
    assert entry.name == "digits/run_001"
    assert entry.after["state"] == "cancelled"


def test_what_is_taken_back_is_not_told(boss):
    device = make.device()

    with suppress(LostRace), recorded(boss, device, "drain"):
        device.drain()
        raise LostRace("somebody was faster")

    device.refresh_from_db()
    assert not device.draining
    assert not AuditEntry.objects.exists()


@pytest.mark.parametrize(
    ("query", "count"),
    [("q=minjun", 1), ("kind=devices.device", 1), ("door=api", 0), ("verb=drain&q=gpu", 1),
     ("since=2999-01-01", 0), ("since=2026-02-31", 2), ("kind=%00nonsense", 0)],
)  # fmt: skip
def test_the_log_is_filtered(manager, boss, minjun, query, count):
    note(None, make.device(host_id="gpu-1"), "drain")
    note(boss, minjun, "role")

    page = manager.get(f"/people/audit/?{query}")

    assert len(page.context["lines"]) == count
