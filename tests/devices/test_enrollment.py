"""Letting devices in: codes, repeats, throttling, rotation, revocation — over HTTP."""

from datetime import timedelta

import pytest
from django.conf import settings

from devices.models import Device, EnrollmentCode, ServerIdentity, digest
from labsite.clock import database_now
from tests import make

pytestmark = pytest.mark.django_db
URL = "/api/devices/enroll"
TOKEN = "labd_abcdefgh_" + "x" * 43


def body(code: str, **fields):
    return {
        "enroll_code": code,
        "host_id": "gpu-01",
        "machine_id": "machine-1",
        "agent_version": "0.1.0",
        "token_sha256": digest(TOKEN),
        **fields,
    }


def post(client, data, url: str = URL, **headers):
    return client.post(url, data, content_type="application/json", **headers)


def bearer(token: str = TOKEN) -> dict:
    return {"HTTP_AUTHORIZATION": f"Bearer {token}"}


def code(**fields) -> str:
    return EnrollmentCode.make(database_now(), **fields)[1]


def test_a_code_lets_one_device_in_whose_token_is_its_own(client):
    answer = post(client, body(code()))

    assert answer.status_code == 201
    assert answer.json()["host_id"] == "gpu-01"
    assert Device.objects.get().token_sha256 == digest(TOKEN)


def test_neither_code_nor_token_is_kept(client):
    text = code()
    post(client, body(text))

    assert not EnrollmentCode.objects.filter(code_sha256=text).exists()
    assert TOKEN not in str(list(Device.objects.values()))


def test_a_lost_answer_costs_nothing(client):
    text = code()
    first = post(client, body(text)).json()

    assert post(client, body(text)).json() == first
    assert Device.objects.count() == 1


@pytest.mark.parametrize("wrong", ["used", "expired", "unknown"])
def test_a_code_that_lets_nobody_in_says_so(client, wrong):
    text = {
        "used": lambda: code(uses=0),
        "expired": lambda: code(life=timedelta(seconds=-1)),
        "unknown": lambda: "0" * 32,
    }[wrong]()

    answer = post(client, body(text))

    assert answer.status_code == 403
    assert answer.json()["code"] == "enrollment_refused"
    assert Device.objects.count() == 0


def test_a_code_for_n_hosts_lets_n_in(client):
    text = code(uses=2)

    statuses = [
        post(
            client,
            body(
                text,
                host_id=f"gpu-{n}",
                machine_id=f"m{n}",
                token_sha256=digest(f"labd_{n}"),
            ),
        ).status_code
        for n in range(3)
    ]

    assert statuses == [201, 201, 403]


def test_a_name_that_is_another_machines_is_refused_and_spends_no_code(client):
    make.device(host_id="gpu-01", machine_id="somebody-else")
    text = code()

    assert post(client, body(text)).status_code == 403
    assert post(client, body(text, host_id="gpu-02")).status_code == 201


def test_the_sixth_failed_try_in_a_minute_is_too_many(client):
    statuses = [post(client, body("0" * 32)).status_code for _ in range(6)]

    assert statuses == [403] * 5 + [429]


def test_a_rotated_token_lives_until_the_new_one_is_used(client):
    post(client, body(code()))
    new = TOKEN.replace("x", "y")
    url = "/api/devices/token"
    assert post(client, {"token_sha256": digest(new)}, url, **bearer()).status_code == 200

    goodbye = {"instance_id": "i"}

    def ask(token: str) -> int:
        return post(client, goodbye, "/api/devices/goodbye", **bearer(token)).status_code

    assert [ask(TOKEN), ask(new), ask(TOKEN)] == [200, 200, 401]


def test_a_revoked_device_is_401_with_what_to_do(client):
    post(client, body(code()))
    Device.objects.get().revoke(database_now())

    answer = post(client, {"instance_id": "i"}, "/api/devices/goodbye", **bearer())

    assert answer.status_code == 401
    assert "enroll again" in answer.json()["detail"]


def test_a_token_may_ask_what_it_is_good_for_without_being_a_sign_of_life(client):
    post(client, body(code()))
    before = Device.objects.values().get()

    answer = client.get("/api/devices/me", **bearer())

    assert answer.status_code == 200
    assert answer.json() == {
        "device_id": before["id"],
        "host_id": "gpu-01",
        "server_id": ServerIdentity.current(),
        "server_name": settings.LAB_NAME,
    }
    assert Device.objects.values().get() == before
    assert client.get("/api/devices/me", **bearer("labd_other")).status_code == 401
    assert client.get("/api/devices/me").status_code == 401


def test_a_person_is_no_device(admin_client):
    assert admin_client.get("/api/devices/me").status_code in (401, 403)


def test_another_version_of_the_wire_is_426(client):
    answer = post(client, body(code(), protocol=99))

    assert answer.status_code == 426
    assert answer.json()["versions"] == [1]


@pytest.mark.parametrize(
    ("field", "value"),
    [("host_id", "../x"), ("token_sha256", "zz"), ("machine_id", None), ("enroll_code", 7)],
)
def test_a_malformed_request_names_the_field(client, field, value):
    answer = post(client, body(code(), **{field: value}))

    assert answer.status_code == 400
    assert answer.json()["field"] == field


def test_a_token_is_never_two_devices(client):
    post(client, body(code()))
    other = make.device(token="labd_other")

    enrolled = post(client, body(code(), host_id="gpu-02"))
    rotated = post(
        client, {"token_sha256": digest(TOKEN)}, "/api/devices/token", **bearer("labd_other")
    )

    assert (enrolled.status_code, rotated.status_code) == (403, 403)
    other.refresh_from_db()
    assert other.next_token_sha256 is None


def test_of_two_that_are_let_in_by_one_name_at_once_one_is_told_to_look_again(client, monkeypatch):
    make.device(host_id="gpu-07")
    monkeypatch.setattr(
        EnrollmentCode, "_device_for", lambda self, request: make.device(host_id="gpu-07")
    )

    answer = post(client, body(code(), host_id="gpu-07"))

    assert (answer.status_code, answer.json()["code"]) == (409, "lost_race")
