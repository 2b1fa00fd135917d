"""A part that many look at: made once for all who wait, and never for eyes that see less."""

import re
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client

from experiments.models import Borrow, Member, MemberRole, Project
from labsite.clock import database_now
from labsite.environ import ARRIVED
from labsite.pages import devices, sharing
from tests import make
from tests.labsite.reading import client_of

pytestmark = pytest.mark.django_db
PART = "/devices/?part=list"
TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="(\w+)"')


@pytest.fixture(autouse=True)
def _nothing_made(monkeypatch):
    monkeypatch.setattr(devices, "_LIST", devices.SharedPart("parts/devices.html"))


@pytest.fixture
def made(monkeypatch) -> list[User]:
    """For whom the list was made, each time."""
    readers: list[User] = []
    listed = devices._listed

    def told(reader, wish):
        readers.append(reader)
        return listed(reader, wish)

    monkeypatch.setattr(devices, "_listed", told)
    return readers


@pytest.fixture
def lab():
    """A free GPU, one with a run of a private project, one that is faulty, and one lent."""
    owner = make.user("owner")
    make.project("secretive", created_by=owner, private=True)
    device = make.device(gpus=4, host_id="gpu-01")
    make.attempt(make.job(by=owner, project="secretive", name="hush"), device)
    faulty, lent = device.gpus.all()[1:3]
    faulty.quarantine("it fell off the bus", database_now(), by=owner)
    borrower = make.user("borrower")
    now = database_now()
    Borrow.objects.begin(borrower, device, [lent], now, now + timedelta(hours=1))
    return device


def answer_of(client: Client, arrived: float, path: str = PART) -> HttpResponse:
    answer = client.get(path, headers={"x-part": "1"}, **{ARRIVED: arrived})
    assert answer.status_code == 200
    return answer


def asked(client: Client, arrived: float, path: str = PART) -> str:
    return answer_of(client, arrived, path).content.decode()


def plain(client: Client) -> str:
    return client.get(PART).content.decode()


def without_tokens(html: str) -> str:
    return TOKEN.sub("", html)


def test_who_asked_before_it_was_begun_shares_it_with_a_token_of_their_own(lab, made):
    one, two = client_of(make.manager()), client_of(make.manager("other"))
    before = time.monotonic()

    first, second = asked(one, before), asked(two, before)

    assert len(made) == 1
    assert without_tokens(first) == without_tokens(second)
    tokens = [set(TOKEN.findall(html)) for html in (first, second)]
    assert [len(some) for some in tokens] == [1, 1]
    assert tokens[0] != tokens[1]
    assert two.cookies["csrftoken"].value not in first


def test_who_asks_soon_after_gets_it_too_and_is_told_that_it_is_older(lab, made, monkeypatch):
    monkeypatch.setattr(sharing, "SHARE", 1e6)
    client = client_of(make.user("bob"))
    first = answer_of(client, time.monotonic())

    later = answer_of(client, time.monotonic())

    assert "X-Older" not in first
    assert later["X-Older"] == "1"
    assert later.content == first.content
    assert len(made) == 1


def test_who_asks_later_than_that_has_it_made_anew(lab, made, monkeypatch):
    monkeypatch.setattr(sharing, "SHARE", 0)
    client = client_of(make.user("bob"))
    asked(client, time.monotonic())
    lab.draining = True
    lab.save()

    answer = answer_of(client, time.monotonic())

    assert "no new jobs" in answer.content.decode()
    assert "X-Older" not in answer
    assert len(made) == 2


def test_a_token_that_was_put_in_is_taken(lab):
    client = Client(enforce_csrf_checks=True)
    client.force_login(make.manager())
    html = asked(client, time.monotonic())

    data = {"csrfmiddlewaretoken": TOKEN.findall(html)[0]}
    assert client.post(f"/devices/{lab.pk}/drain/", data).status_code == 302
    lab.refresh_from_db()
    assert lab.draining


def test_another_wish_language_or_zone_is_another_part(lab, made):
    client, before = client_of(make.user("bob")), time.monotonic()
    asked(client, before)

    assert "<article" not in asked(client, before, f"{PART}&label=none")
    client.cookies["django_language"] = "ko"
    assert "비어 있음" in asked(client, before)
    client.cookies["zone"] = "America/New_York"
    asked(client, before)

    assert len(made) == 4


def member() -> User:
    person = make.user("mia")
    Member.put(Project.objects.get(name="secretive"), person, MemberRole.LOOK)
    return person


KINDS: dict[str, Callable[[], User]] = {
    "viewer": make.viewer,
    "researcher": lambda: make.user("rosa"),
    "manager": make.manager,
    "owner": lambda: User.objects.get(username="owner"),
    "borrower": lambda: User.objects.get(username="borrower"),
    "member": member,
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_reader_sees_just_what_is_made_for_them_alone(lab, kind):
    before = time.monotonic()
    everybody = {name: make_one() for name, make_one in KINDS.items()}
    for name, person in everybody.items():
        if name != kind:
            asked(client_of(person), before)  # what others' eyes saw lies there
    client = client_of(everybody[kind])

    shared = asked(client, before)

    assert without_tokens(shared) == without_tokens(plain(client))
    assert ("secretive" in shared) == (kind in {"manager", "owner", "member"})
    assert ("Return gpu-01" in shared) == (kind in {"manager", "borrower"})
    assert ("Use again" in shared) == (kind == "manager")


def test_who_has_something_of_their_own_there_shares_with_nobody(lab, made):
    before = time.monotonic()
    borrower = client_of(User.objects.get(username="borrower"))
    stranger = client_of(make.user("rosa"))

    asked(borrower, before)
    asked(stranger, before)
    asked(stranger, before)

    assert [reader.username for reader in made] == ["borrower", "rosa"]


def test_what_nobody_waits_for_any_more_is_forgotten(lab, monkeypatch):
    client = client_of(make.user("bob"))
    asked(client, time.monotonic(), f"{PART}&label=other")
    monkeypatch.setattr(sharing, "KEPT_SECONDS", 0)

    asked(client, time.monotonic())

    assert len(devices._LIST._kept) == 1


def test_however_much_is_wished_for_some_of_it_is_kept(lab, monkeypatch):
    monkeypatch.setattr(sharing, "MOST_KEPT", 2)
    client = client_of(make.user("bob"))

    for label in ("one", "two", "three"):
        asked(client, time.monotonic(), f"{PART}&label={label}")

    assert [key[0].label for key in devices._LIST._kept] == ["two", "three"]
