"""Setting up notifications: pages, API, and that nobody reads again where one goes."""

import json

import pytest
from django.core.management import call_command
from django.test import Client
from rest_framework.test import APIClient

from experiments import sealing
from experiments.errors import ChannelInvalid, SecretsLocked
from experiments.models import Channel, Secret
from experiments.models.channel import MOST
from labsite.clock import database_now
from people.models import AuditEntry
from tests import make
from tests.labsite.reading import text_of

pytestmark = pytest.mark.django_db

ADDRESS = "https://hooks.slack.example/services/T0/B0/s3cr3t"
KEY = "0123456789abcdef"


@pytest.fixture(autouse=True)
def key_file(settings, tmp_path):
    settings.LAB_SECRETS_KEYS = []
    settings.LAB_SECRETS_KEY_FILE = tmp_path / "secrets_key"
    return tmp_path / "secrets_key"


@pytest.fixture
def kim():
    return make.user("kim")


def client_of(person) -> Client:
    client = Client()
    client.force_login(person)
    return client


def put(of, by=None, **more) -> Channel:
    given = {"kind": "slack", "address": ADDRESS, "wants": ["failed"], **more}
    return Channel.put(of, now=database_now(), by=by or of, **given)


FORM = {"kind": "slack", "address": ADDRESS, "wants": ["failed", "succeeded"]}


# --- what may be kept ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "", "hooks.slack.example", "ftp://a/b", "file:///etc/passwd", "https://", "https://a b/",
        "https://kim:pw@hooks.example/", "https://a:99999999/", "https://[::1", "https://ü.example",
        "https://a/\r\nHost: b", "https://" + "a" * 2000,
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_and_not_repeated(kim, address):
    with pytest.raises(ChannelInvalid) as refused:
        put(kim, address=address)

    assert len(address) < 12 or address not in str(refused.value)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kind": "pigeon"}, "offered"),
        ({"kind": "mail", "address": "kim@uni.example"}, "offered"),
        ({"kind": "webhook"}, "key"),
        ({"kind": "webhook", "key": "brief"}, "key"),
        ({"wants": []}, "succeeded"),
        ({"wants": ["faulty"]}, "succeeded"),
    ],
)
def test_what_cannot_be_told_is_refused(kim, wrong, says):
    with pytest.raises(ChannelInvalid, match=says):
        put(kim, **wrong)


def test_of_one_there_are_so_many_at_most(kim):
    for _ in range(MOST):
        put(kim)

    with pytest.raises(ChannelInvalid, match="delete some"):
        put(kim)


def test_a_host_that_managers_have_not_allowed_is_refused(kim, settings):
    settings.LAB_NOTIFY_HOSTS = ["hooks.slack.com", ".uni.example"]

    with pytest.raises(ChannelInvalid, match="manager"):
        put(kim)

    assert put(kim, address="https://chat.uni.example/hooks/x").host == "chat.uni.example"


@pytest.mark.parametrize("made", ["\\", "%2f", ";", "{", "|"])
def test_a_host_that_ends_elsewhere_for_who_sends_is_no_address(kim, settings, made):
    """`https://evil.example\\.uni.example/`: by some readers of URLs the host is what stands
    before the backslash."""
    settings.LAB_NOTIFY_HOSTS = [".uni.example"]

    with pytest.raises(ChannelInvalid, match="begins with https"):
        put(kim, address=f"https://evil.example{made}.uni.example/x")


@pytest.mark.parametrize("host", ["gpu_01.uni.example", "10.0.0.1", "[fd00::1]", "xn--9n2bp8q"])
def test_a_name_or_number_of_a_host_is_an_address(kim, host):
    assert put(kim, address=f"https://{host}:8065/hooks/x").host == host.strip("[]")


# --- nobody reads it again -----------------------------------------------------------------------


def test_the_address_is_sealed_and_in_no_page_no_answer_no_dump_and_no_log(kim, capsys, caplog):
    caplog.set_level("DEBUG")
    project = make.project("digits", created_by=kim)
    made = put(project, by=kim, kind="webhook", key=KEY)
    put(kim)
    boss = make.administrator()

    told = [client_of(kim).get("/account/"), client_of(kim).get("/projects/digits/settings/")]
    told += [client_of(boss).get(f"/admin/experiments/channel/{made.pk}/change/")]
    told += [
        client_of(boss).get("/admin/experiments/channel/"),
        client_of(boss).get("/people/audit/"),
    ]
    api = APIClient()
    api.force_authenticate(kim)
    told += [api.get("/api/channels/"), api.get(f"/api/channels/{made.pk}/")]
    call_command("dumpdata", "experiments", "people")
    texts = [answer.content.decode() for answer in told] + [capsys.readouterr().out, caplog.text]

    assert [answer.status_code for answer in told] == [200] * len(told)
    assert not [text for text in texts if "s3cr3t" in text or KEY in text]
    assert not [text for text in texts[:-2] if made.sealed in text]
    assert "hooks.slack.example" in texts[0]
    assert json.loads(sealing.unseal(made.sealed)) == {"address": ADDRESS, "key": KEY}


def test_a_key_that_was_changed_opens_it_still(kim):
    made = put(kim)

    call_command("secretskey")

    made.refresh_from_db()
    assert made.opened()["address"] == ADDRESS


def test_no_new_key_is_made_while_a_channel_was_sealed_with_a_lost_one(kim, key_file):
    put(kim)
    key_file.unlink()

    with pytest.raises(SecretsLocked):
        Secret.put(kim, "HF_TOKEN", "a value of it", database_now(), by=kim)


def test_what_is_done_to_a_projects_is_in_the_audit_log_and_ones_own_is_not(kim):
    project = make.project("digits", created_by=kim)
    put(project, by=kim).take(by=kim)
    put(kim).take(by=kim)

    assert [entry.verb for entry in AuditEntry.objects.order_by("pk")] == ["make", "delete"]


# --- pages and API -------------------------------------------------------------------------------


def test_it_is_set_up_tried_and_taken_away_on_ones_page(kim):
    client = client_of(kim)
    client.post("/account/channels/", FORM)
    made = Channel.objects.get(user=kim)
    listed = text_of(client.get("/account/"))
    client.post(f"/account/channels/{made.pk}/test/")
    asked = text_of(client.get("/account/"))
    client.post(f"/account/channels/{made.pk}/delete/")

    assert (made.wants, made.site) == (["succeeded", "failed"], "http://testserver")
    assert "Slack hooks.slack.example" in listed
    assert "A test message is on its way." in asked
    assert not Channel.objects.exists()


def test_a_page_says_why_a_message_did_not_arrive(kim):
    made = put(kim)
    trouble = {"code": "answered", "status": 404, "text": "no_service"}
    Channel.objects.filter(pk=made.pk).update(trouble=trouble, skipped=3)

    page = text_of(client_of(kim).get("/account/"))

    assert "Slack answered 404: no_service." in page
    assert "3 ends of runs were not told" in page


def test_a_test_again_and_again_is_no_way_to_fill_a_mailbox(kim):
    made, client = put(kim), client_of(kim)
    client.post(f"/account/channels/{made.pk}/test/")
    Channel.objects.update(test_asked_at=None)

    page = client.post(f"/account/channels/{made.pk}/test/", follow=True)

    assert "wait 20 s" in text_of(page)
    assert Channel.objects.get().test_asked_at is None
    with pytest.raises(ChannelInvalid):
        made.ask_test(database_now())


def test_managers_alone_set_up_the_labs(kim):
    boss = make.manager("boss")
    wrong = {**FORM, "wants": ["silent", "disk"]}
    refused = client_of(kim).post("/account/channels/lab/", wrong)
    client_of(boss).post("/account/channels/lab/", wrong)

    assert refused.status_code == 403
    assert Channel.objects.get().is_of_lab
    assert "Notifications of the lab" not in text_of(client_of(kim).get("/account/"))


def test_e_mail_is_offered_where_there_is_a_server_for_it(kim, settings):
    client = client_of(kim)
    before = client.get("/account/").content.decode()
    settings.EMAIL_HOST = "mail.example"

    assert 'value="mail"' not in before
    assert 'value="mail"' in client.get("/account/").content.decode()


def test_programs_set_up_try_and_take_away(kim):
    make.project("digits", created_by=kim)
    api = APIClient()
    api.force_authenticate(kim)
    made = api.post("/api/channels/", {**FORM, "project": "digits"}, format="json").json()
    tried = api.post(f"/api/channels/{made['id']}/test/")
    gone = api.delete(f"/api/channels/{made['id']}/")

    assert (made["host"], made["project"], made["of_lab"]) == (
        "hooks.slack.example",
        "digits",
        False,
    )
    assert (tried.status_code, gone.status_code) == (202, 204)
    assert tried.json()["test_asked_at"]


@pytest.mark.parametrize(
    ("more", "status"), [({"of_lab": True}, 403), ({"project": "digits"}, 403)]
)
def test_programs_set_up_nothing_that_their_person_may_not(kim, more, status):
    make.project("digits")
    api = APIClient()
    api.force_authenticate(kim)

    assert api.post("/api/channels/", {**FORM, **more}, format="json").status_code == status
    assert not Channel.objects.exists()
