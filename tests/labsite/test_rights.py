"""Every address of the site × everybody who may knock: who gets in, and that nobody else changes
anything (invariant I18: a token changes only what is its own). An address that is not in the
table fails the test.

Pages are asked with a session, the API with a token.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import URLPattern, get_resolver, resolve

from devices.models import EnrollmentCode
from experiments import imports
from experiments.models import (
    Borrow,
    Channel,
    Job,
    Member,
    MemberRole,
    SavedView,
    Secret,
    UnixAccount,
)
from experiments.states import Outcome
from experiments.sweeps import submit as submit_sweep
from labsite.clock import database_now
from labsite.pages import sweeps
from people.models import ApiToken, Invite
from people.roles import Role
from sync import trash
from sync.models import Trash
from tests import make

pytestmark = pytest.mark.django_db

#: Of a rule: who is let in where the project is the whole lab's. Agents' addresses let nobody in.
EVERYBODY = {"nobody", "viewer", "stranger", "owner", "manager"}
SIGNED_IN = EVERYBODY - {"nobody"}
RULES = {
    "open": EVERYBODY,
    "signed in": SIGNED_IN,
    "queues": SIGNED_IN - {"viewer"},
    "sees": SIGNED_IN,  # of a project
    "reruns": SIGNED_IN - {"viewer"},  # of a project
    "owns": {"owner", "manager"},  # of a project
    "borrowed": {"owner", "manager"},
    "manages": {"manager"},
    "agent": set(),
}
OF_A_PROJECT = {"sees", "reruns", "owns"}
#: Those who do not see a private project.
OUTSIDERS = {"viewer", "stranger"}

GET, POST = "get", "post"
PAGES = {
    "open": [
        (GET, "/login/"), (POST, "/login/"), (GET, "/join/x/"), (POST, "/join/x/"),
        (GET, "/join/"), (GET, "/reset/MQ/x/"), (POST, "/language/"), (GET, "/words.js"),
        (POST, "/logout/"), (GET, "/api/ca.pem"), (GET, "/"),
        (GET, "/agent.pyz"), (GET, "/agent.pyz.sha256"), (GET, "/install.sh"),
        (GET, "/lab.pyz"), (GET, "/lab.pyz.sha256"), (GET, "/labrun.py"),
    ],
    "signed in": [
        (GET, "/account/"), (POST, "/account/wishes/"), (POST, "/account/password/"),
        (POST, "/account/tokens/"), (GET, "/serving/"), (GET, "/devices/"),
        (GET, "/devices/count/"), (GET, "/devices/gpu/{gpu}/"), (GET, "/queue/"),
        (GET, "/queue/count/"), (GET, "/projects/"), (GET, "/runs/"),
        (GET, "/devices/{device}/"), (GET, "/devices/{device}/history/"), (GET, "/sweeps/"),
        (POST, "/runs/act/"), (POST, "/runs/columns/"), (POST, "/runs/views/"),
        (GET, "/runs/export.csv"), (GET, "/runs/export.tex"), (GET, "/compare/"),
        (GET, "/compare/curves/"),
    ],
    "queues": [
        (GET, "/execute/"), (POST, "/execute/"), (POST, "/execute/check/"),
        (POST, "/account/secrets/"), (POST, "/account/channels/"),
    ],
    "sees": [
        (GET, "/projects/{project}/"), (GET, "/runs/{run}/"), (GET, "/runs/{run}/log/"),
        (GET, "/projects/{project}/timeline/"), (GET, "/projects/{project}/charts/"),
        (GET, "/projects/{project}/curve/"),
        (GET, "/runs/{run}/curve/"), (GET, "/runs/{run}/gpus/"), (GET, "/runs/{run}/log/lines/"),
        (GET, "/runs/{run}/log/find/"), (GET, "/runs/{run}/files.zip"),
        (GET, "/runs/{run}/look/a.csv"), (GET, "/runs/{run}/raw/a.csv"),
        (POST, "/runs/{run}/pin/"), (POST, "/runs/{run}/unpin/"),
        (GET, "/sweeps/{sweep}/"), (GET, "/sweeps/{sweep}/curve/"),
    ],
    "reruns": [(POST, "/runs/{ended}/rerun/"), (POST, "/runs/{ended}/resume/")],
    "owns": [
        (POST, "/account/tokens/{token}/revoke/"), (POST, "/runs/views/{view}/delete/"),
        (GET, "/projects/{project}/settings/"), (POST, "/projects/{project}/settings/"),
        (POST, "/account/secrets/HF_TOKEN/delete/"), (POST, "/projects/{project}/secrets/"),
        (POST, "/projects/{project}/secrets/TEAM_KEY/delete/"),
        *((POST, f"/account/channels/{{channel}}/{verb}/") for verb in ("test", "delete")),
        (POST, "/projects/{project}/channels/{told}/test/"),
        (POST, "/projects/{project}/channels/{told}/delete/"),
        (POST, "/projects/{project}/channels/"),
        (POST, "/projects/{project}/members/"),
        (POST, "/projects/{project}/members/{member}/leave/"),
        (POST, "/projects/{project}/delete/"), (POST, "/projects/{project}/archive/"),
        (POST, "/projects/{project}/unarchive/"),
        (POST, "/projects/{project}/trash/{trash}/restore/"),
        (POST, "/projects/{project}/trash/{trash}/empty/"),
        *((POST, f"/runs/{{run}}/{verb}/") for verb in ("cancel", "requeue", "elsewhere")),
        (POST, "/runs/{run}/give-up/"),
        *((POST, f"/runs/{{waiting}}/{verb}/") for verb in ("hold", "unhold", "priority")),
        (POST, "/runs/{ended}/delete/"), (GET, "/runs/{run}/edit/"), (POST, "/runs/{run}/edit/"),
        (POST, "/runs/{waiting}/move/"),
        *((POST, f"/sweeps/{{sweep}}/{verb}/") for verb in sweeps.VERBS),
    ],
    "borrowed": [(POST, "/devices/borrows/{borrow}/end/")],
    "manages": [
        (POST, "/account/channels/lab/"),
        (GET, "/people/"), (GET, "/people/audit/"), (POST, "/people/invite/"),
        (GET, "/people/several/"), (POST, "/people/several/"),
        (POST, "/people/invites/{invite}/end/"),
        (GET, "/people/{owner}/"), (POST, "/people/{owner}/reset/"),
        (POST, "/people/{owner}/tokens/{token}/revoke/"), (POST, "/people/{owner}/role/"),
        (POST, "/people/{owner}/deactivate/"), (POST, "/people/{owner}/activate/"),
        (POST, "/people/{owner}/unix-name/"), (GET, "/devices/add/"), (POST, "/devices/add/"),
        (GET, "/devices/joined/{code}/"), (POST, "/devices/{device}/drain/"),
        (POST, "/devices/{device}/settings/"),
        (POST, "/devices/{device}/resume/"), (POST, "/devices/gpu/{gpu}/quarantine/"),
        (POST, "/devices/gpu/{gpu}/release/"), (POST, "/projects/{project}/quota/"),
        (POST, "/projects/{project}/free/"),
    ],
}  # fmt: skip
API = {
    "signed in": [
        (GET, "/metrics"), (GET, "/api/schema/"), (GET, "/api/docs/"), (GET, "/api/devices/"),
        (GET, "/api/devices/{host}/"), (GET, "/api/projects/"), (GET, "/api/jobs/"),
        (GET, "/api/unix-accounts/"), (GET, "/api/unix-accounts/kim/"), (GET, "/api/sweeps/"),
        (GET, "/api/me/"), (GET, "/api/claims/"), (GET, "/api/borrows/"),
        (GET, "/api/borrows/{borrow}/"), (GET, "/api/secrets/"),
        (GET, "/api/channels/"),
    ],
    "queues": [
        (POST, "/api/jobs/"), (POST, "/api/projects/"), (POST, "/api/sweeps/"),
        (POST, "/api/jobs/preview/"), (POST, "/api/borrows/"),
        (POST, "/api/code/"), (POST, "/api/code/files"), ("put", "/api/secrets/NEW/"),
        (POST, "/api/imports/"), (POST, "/api/imports/preview/"),
        (POST, "/api/channels/"),
    ],
    "sees": [
        (GET, "/api/projects/{project}/secrets/"),
        (GET, "/api/projects/{project}/"), (GET, "/api/jobs/{run}/"),
        (GET, "/api/jobs/{run}/events/"), (GET, "/api/sync/status/{run}"),
        (GET, "/api/jobs/{run}/why/"), (GET, "/api/jobs/{waiting}/why/"),
        (GET, "/api/sync/projects/{project}/trash"), (GET, "/api/sweeps/{sweep}/"),
    ],
    "reruns": [(POST, "/api/jobs/{ended}/rerun/"), (POST, "/api/jobs/{ended}/resume/")],
    "owns": [
        ("delete", "/api/secrets/HF_TOKEN/"),
        *((method, f"/api/channels/{{{name}}}/") for method in (GET, "delete")
          for name in ("channel", "told")),
        (POST, "/api/channels/{channel}/test/"), (POST, "/api/channels/{told}/test/"),
        *((verb, "/api/projects/{project}/secrets/TEAM_KEY/") for verb in ("put", "delete")),
        ("patch", "/api/projects/{project}/"), ("put", "/api/projects/{project}/"),
        (POST, "/api/projects/{project}/archive/"), (POST, "/api/projects/{project}/unarchive/"),
        ("patch", "/api/jobs/{run}/"), ("put", "/api/jobs/{run}/"),
        ("delete", "/api/jobs/{ended}/"),
        *((POST, f"/api/jobs/{{run}}/{verb}/") for verb in ("cancel", "requeue", "give_up")),
        *((POST, f"/api/jobs/{{waiting}}/{verb}/") for verb in ("hold", "unhold", "priority")),
        (POST, "/api/jobs/{waiting}/move/"),
        ("patch", "/api/sweeps/{sweep}/"), ("put", "/api/sweeps/{sweep}/"),
        ("delete", "/api/sweeps/{sweep}/"), (POST, "/api/sweeps/{sweep}/priority/"),
        *((POST, f"/api/sweeps/{{sweep}}/{verb}/") for verb in ("cancel", "hold", "unhold")),
        (POST, "/api/sweeps/{sweep}/rerun_failed/"),
        (POST, "/api/sync/import/{imported}/run_099.pt"),
        (POST, "/api/sync/trash/{trash}/restore"), (POST, "/api/sync/trash/{trash}/empty"),
    ],
    "manages": [
        *((POST, f"/api/devices/{{host}}/{verb}/") for verb in ("drain", "resume", "revoke")),
        ("patch", "/api/devices/{host}/"), ("put", "/api/devices/{host}/"),
        (POST, "/api/gpus/{uuid}/quarantine/"), (POST, "/api/gpus/{uuid}/release/"),
        (GET, "/api/enrollment-codes/"), (POST, "/api/enrollment-codes/"),
        (POST, "/api/unix-accounts/"), ("patch", "/api/unix-accounts/kim/"),
        ("put", "/api/unix-accounts/kim/"), ("delete", "/api/unix-accounts/kim/"),
        (GET, "/api/sync/projects/{project}/free?what=failed"),
        (POST, "/api/sync/projects/{project}/free"), (GET, "/api/sync/disk"),
    ],
    "borrowed": [(POST, "/api/borrows/{borrow}/end/")],
    "open": [(POST, "/api/devices/enroll")],
    "agent": [
        (GET, "/api/devices/me"), (POST, "/api/devices/token"),
        (POST, "/api/devices/goodbye"), (POST, "/api/devices/heartbeat"),
        (POST, "/api/agent/poll"),
        (POST, "/api/agent/attempts/{attempt}/events"),
        (GET, "/api/agent/attempts/{attempt}/config"),
        (GET, "/api/agent/attempts/{attempt}/code"),
        (POST, "/api/agent/attempts/{attempt}/code/files"),
        (GET, "/api/agent/attempts/{attempt}/secrets"),
        (POST, "/api/sync/delta/{run}/a.csv"), (POST, "/api/sync/full/{run}/a.pt"),
        (POST, "/api/sync/batch/{run}"), (POST, "/api/sync/checkpoint/{run}"),
    ],
}  # fmt: skip
#: Whose answer to those let in may be 404: the file is not there.
ABSENT = {
    "/api/sync/file/{run}/a.csv", "/runs/{run}/look/a.csv", "/runs/{run}/raw/a.csv",
    "/api/code/runs/{run}.tar",
}  # fmt: skip
API["sees"] += [(GET, "/api/sync/file/{run}/a.csv"), (GET, "/api/code/runs/{run}.tar")]
#: What no manager does for another.
ONES_OWN = {
    "/account/tokens/{token}/revoke/", "/account/secrets/HF_TOKEN/delete/",
    "/api/secrets/HF_TOKEN/", "/account/channels/{channel}/test/",
    "/account/channels/{channel}/delete/", "/api/channels/{channel}/",
    "/api/channels/{channel}/test/",
}  # fmt: skip
FOUND = {"project": "other", "run": "run_009", "marks": ["0" * 64]}
IMPORTED = {
    **FOUND, "host": "x", "folder": "/x", "started_at": "2024-03-01T10:00:00Z",
    "finished_at": "2024-03-01T12:00:00Z", "file_count": 1, "size_bytes": 1,
}  # fmt: skip
CHANNEL = {"kind": "slack", "address": "https://hooks.example/x", "wants": ["failed"]}
BODIES = {
    "/account/channels/": CHANNEL,
    "/account/channels/lab/": {**CHANNEL, "wants": ["disk"]},
    "/projects/{project}/channels/": CHANNEL,
    "/api/channels/": CHANNEL,
    "/api/secrets/NEW/": {"value": "0123456789"},
    "/api/projects/{project}/secrets/TEAM_KEY/": {"value": "0123456789"},
    "/execute/": {"project": "own", "command": "true"},
    "/api/jobs/": {"project": "other", "command": ["true"]},
    "/api/jobs/preview/": {"project": "other", "command": ["true"]},
    "/api/borrows/": {"time": "1h", "device": "gpu-2"},
    "/api/projects/": {"name": "another"},
    "/api/imports/": IMPORTED,
    "/api/imports/preview/": {"runs": [FOUND]},
    "/api/sweeps/": {
        "project": "other",
        "command": ["true"],
        "config": "lr: 1\n",
        "sweep": {"grid": {"lr": [1, 2]}},
    },
}
SWEEP = {"project": "own", "command": ["true"], "sweep": {"grid": {"lr": [1, 2]}}}
KEPT_BY_PROGRAMS = {"sessions", "axes", "django_q", "contenttypes"}


def ended(owner, device) -> Job:
    attempt = make.attempt(make.job(by=owner, project="own"), device, started=True)
    attempt.end(Outcome.FAILED, database_now(), exit_code=1)
    attempt.release()
    return Job.objects.get(pk=attempt.job_id)


@pytest.fixture(params=[False, True], ids=["of the lab", "private"])
def world(request) -> dict[str, Any]:
    """The owner's project, with a run that runs, one that waits, one that ended, one deleted."""
    owner = make.user("owner")
    people = {
        "viewer": make.viewer(), "stranger": make.user("stranger"), "owner": owner,
        "manager": make.manager(),
    }  # fmt: skip
    project = make.project("own", created_by=owner, private=request.param)
    device = make.device(gpus=2, host_id="gpu-1")
    over, gone = ended(owner, device), ended(owner, device)
    attempt = make.attempt(make.job(by=owner, project="own"), device, started=True)
    gone.delete_run(database_now(), by=owner)
    trash.collect(database_now())
    UnixAccount.objects.create(user=make.user("kim"), name="kim")
    for name, of in (("HF_TOKEN", {"user": owner}), ("TEAM_KEY", {"project": project})):
        Secret.objects.create(name=name, sealed="", changed_at=database_now(), **of)
    channel, told = (
        Channel.objects.create(kind="slack", made_by=owner, made_at=database_now(), **of)
        for of in ({"user": owner}, {"project": project})
    )
    gpu = device.gpus.last()
    lent = make.device(gpus=2, host_id="gpu-2")
    now = database_now()
    found = imports.Found("own", "run_099", ["0" * 64])
    facts = imports.Facts("x", "/x", now, now, file_count=1, size_bytes=1)
    brought = imports.take_in(found, facts, by=owner).job
    borrow = Borrow.objects.begin(owner, lent, [lent.gpus.first()], now, now + timedelta(hours=1))
    names = {
        "project": project.name, "run": attempt.job.uid, "ended": over.uid, "attempt": attempt.pk,
        "waiting": make.job(by=owner, project="own", gpus=8).uid, "trash": Trash.objects.get().pk,
        "member": Member.put(project, make.user("member"), MemberRole.WORK).pk,
        "token": ApiToken.make(owner, "x", database_now())[0].pk, "owner": owner.pk,
        "invite": Invite.make(Role.VIEWER, database_now(), by=people["manager"])[0].pk,
        "code": EnrollmentCode.make(database_now())[0].pk, "device": device.pk,
        "host": device.host_id, "gpu": gpu.pk, "uuid": gpu.uuid,
        "sweep": submit_sweep("lr: 1\n", SWEEP, by=owner).pk,
        "borrow": borrow.pk, "channel": channel.pk, "told": told.pk, "imported": brought.uid,
        "view": SavedView.save_as("mine", by=owner, project=None).pk,
    }  # fmt: skip
    return {"people": people, "names": names, "private": request.param}


def state() -> dict[str, list[Any]]:
    """All that people could change."""
    return {
        model._meta.label: sorted(map(repr, model._base_manager.values_list()))
        for model in apps.get_models()
        if model._meta.app_label not in KEPT_BY_PROGRAMS
    }


def may_change(query: dict[str, str]) -> bool:
    """Whether the database did more than look: reading all of it takes longer than to ask."""
    return not query["sql"].lstrip("(").startswith(("SELECT", "SAVEPOINT", "RELEASE SAVEPOINT"))


def table(doors: dict[str, list[tuple[str, str]]]) -> Iterator[tuple[str, str, str]]:
    for rule, requests in doors.items():
        for method, path in requests:
            yield rule, method, path


def is_let_in(answer) -> bool:
    away = answer.status_code == 302 and answer["Location"].startswith("/login/")
    return not away and answer.status_code not in (401, 403, 404)


def ask(client: Client, method: str, path: str, names, headers) -> Any:
    url = path.format(**names)
    if method == GET:
        return client.get(url, headers=headers)
    body = BODIES.get(path, {})
    if path.startswith("/api/"):
        return getattr(client, method)(url, body, "application/json", headers=headers)
    return getattr(client, method)(url, body)


@pytest.mark.parametrize("who", sorted(EVERYBODY))
@pytest.mark.parametrize("doors", [PAGES, API], ids=["pages", "API"])
def test_who_is_let_in_and_nobody_else_changes_anything(world, who, doors, settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    person = world["people"].get(who)
    headers = {"authorization": f"Token {make.token(person)}"} if person and doors is API else {}
    ApiToken.objects.update(last_used_at=database_now())
    client = Client(raise_request_exception=False)
    if person and doors is PAGES:
        client.force_login(person)
    before, cookies, wrong = state(), client.cookies.output(header="", sep=";"), []
    for rule, method, path in table(doors):
        if world["private"] and rule not in OF_A_PROJECT:
            continue  # asked in the other world
        hidden = world["private"] and who in OUTSIDERS
        may = who in RULES[rule] and not hidden and not (path in ONES_OWN and who == "manager")
        client.cookies.clear()
        client.cookies.load(cookies)
        with transaction.atomic():
            with CaptureQueriesContext(connection) as said:
                answer = ask(client, method, path, world["names"], headers)
            is_free = (method != GET and may) or not any(map(may_change, said))
            changed = [] if is_free else [k for k, rows in state().items() if rows != before[k]]
            transaction.set_rollback(True)
        if not is_as_it_should(rule, path, answer, may) or changed:
            wrong.append((method, path, answer.status_code, changed))

    assert wrong == []


def is_as_it_should(rule: str, path: str, answer: Any, may: bool) -> bool:
    if answer.status_code >= 500:
        return False
    if path in ABSENT and may:
        return answer.status_code == 404
    return rule == "open" or is_let_in(answer) == may


def test_of_a_private_project_strangers_are_told_that_there_is_nothing(world):
    if not world["private"]:
        return
    stranger = world["people"]["stranger"]
    token = {"authorization": f"Token {make.token(stranger)}"}
    client = Client()
    client.force_login(stranger)

    for doors, headers in ((PAGES, {}), (API, token)):
        for rule, method, path in table(doors):
            if rule == "sees":
                told = ask(client, method, path, world["names"], headers)
                assert told.status_code == 404, path


# --- nothing is left out -------------------------------------------------------------------------


def routes(patterns: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for pattern in patterns:
        route = before + str(pattern.pattern).lstrip("^")
        if isinstance(pattern, URLPattern):
            yield route, pattern.callback
        elif not route.startswith("admin/"):
            yield from routes(pattern.url_patterns, route)


def test_every_address_is_in_the_table(world):
    known = {route for route, _view in routes(get_resolver().url_patterns)}
    paths = [path for doors in (PAGES, API) for _rule, _method, path in table(doors)]

    listed = {
        resolve(path.format(**world["names"]).partition("?")[0]).route.lstrip("^")
        for path in paths
    }

    assert known - listed == set()


@pytest.mark.parametrize("who", ["viewer", "stranger", "owner", "manager", "administrator"])
def test_who_comes_to_which_table_of_the_desk(world, who):
    person = world["people"].get(who) or make.administrator()
    client = Client()
    client.force_login(person)
    kept_for_administrators = {"auth.user", "auth.group"}

    for model in admin.site._registry:
        label = model._meta.label_lower
        answer = client.get(f"/admin/{label.replace('.', '/')}/")
        if who == "administrator":
            expected = 200
        elif who == "manager":
            expected = 403 if label in kept_for_administrators else 200
        else:
            expected = 302
        assert answer.status_code == expected, label
