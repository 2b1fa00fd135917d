"""Dashboard, a GPU server's page and the queue's buttons: who sees what, and what moves."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import translation

from devices.models import Device, GPUSample, Span, minute_of
from experiments import sampling
from experiments.dispatch import dispatch
from experiments.models import Attempt, Job, LabSample, Project
from experiments.states import Outcome
from labsite.clock import database_now
from labsite.pages import labuse
from labsite.pages.minutely import EachMinute
from tests import make
from tests.labsite.reading import client_of, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _fresh():
    EachMinute.forget_all()
    yield
    translation.deactivate()


@pytest.fixture
def minjun():
    return make.user("minjun", first_name="Minjun", last_name="Kim")


@pytest.fixture
def client(minjun):
    return client_of(minjun)


@pytest.fixture
def manager():
    return client_of(make.manager())


def silent(device: Device) -> None:
    gone = database_now() - timedelta(minutes=5)
    Device.objects.filter(pk=device.pk).update(last_heartbeat_at=gone)


# --- Dashboard ----------------------------------------------------------------------------------


def test_an_empty_lab_tells_the_next_steps_with_commands(manager):
    text = text_of(manager.get("/"))

    assert "Add a GPU server" in text
    assert "manage.py demo_data" in text


def test_a_newcomer_is_told_how_to_start_a_first_run(client):
    make.device(gpus=1)

    text = text_of(client.get("/"))

    assert "Your first run" in text
    assert "/api/jobs/" in text


def test_its_figures_are_those_of_the_lab(client, minjun):
    device = make.device(gpus=4, host_id="gpu-01")
    make.attempt(make.job(by=minjun, gpus=2), device, started=True)
    make.job(by=minjun, gpus=8)
    device.gpus.filter(index=3).first().quarantine("fan", database_now())

    page = client.get("/").content.decode()

    assert page.count('data-state="running" href="/devices/gpu/') == 2
    assert page.count('data-state="free" href="/devices/gpu/') == 1
    assert page.count('data-state="faulty" href="/devices/gpu/') == 1
    text = text_of(client.get("/"))
    assert "1 faulty, 0 used outside, 0 unreachable" in text
    assert "1 running, 1 waiting" in text


def test_a_manager_sees_what_needs_a_person(manager):
    attempt = make.attempt(started=True)
    silent(attempt.device)
    faulty = make.gpu(make.device(host_id="gpu-77"))
    faulty.quarantine("Xid 79: fell off the bus", database_now())
    make.device(host_id="full", disk_free_bytes=10**9, disk_total_bytes=10**12)
    for n in range(3):
        make.device(host_id=f"a{n}", versions={"agent": "0.2.0"})
    make.device(host_id="old", versions={"agent": "0.1.0"})

    text = text_of(manager.get("/"))

    assert f"{attempt.job} is probably still training; nothing is lost." in text
    assert "Xid 79: fell off the bus. It gets no jobs until somebody clears it." in text
    assert "full has" in text
    assert "agent 0.1.0, most others have 0.2.0." in text


def test_a_researcher_sees_what_is_wrong_with_their_own_runs_only(client, minjun):
    own = make.attempt(make.job(by=minjun), started=True)
    other = make.attempt(make.job(by=make.user()), started=True)
    for attempt in (own, other):
        silent(attempt.device)

    todo = client.get("/").content.decode().partition('class="todo"')[2].partition("</ul>")[0]

    assert own.device.host_id in todo
    assert other.device.host_id not in todo


@pytest.mark.parametrize(
    ("fields", "of_job"),
    [
        ({"started_at": None, "accepted_at": None}, {}),
        ({}, {"cancel_requested_at": timedelta(minutes=30)}),
    ],
)
def test_what_hangs_is_named(manager, fields, of_job):
    attempt = make.attempt(started=True)
    long_ago = database_now() - timedelta(hours=1)
    Attempt.objects.filter(pk=attempt.pk).update(created_at=long_ago, **fields)
    asked = {name: database_now() - ago for name, ago in of_job.items()}
    Job.objects.filter(pk=attempt.job_id).update(state="running", **asked)

    assert "stuck" in text_of(manager.get("/"))


def test_what_can_never_start_is_named_and_its_wish_is_only_text(manager):
    make.device(gpus=1)
    make.job(gpu_type="<b>{run}</b>")
    dispatch()

    page = manager.get("/").content.decode().partition('class="todo"')[2]

    assert "&lt;b&gt;{run}&lt;/b&gt;" in page
    assert "<b>{run}" not in page


def test_who_uses_how_much_now(client, minjun):
    make.attempt(make.job(by=minjun, gpus=3), make.device(gpus=3), started=True)

    page = text_of(client.get("/"))

    assert "Minjun Kim" in page.partition("Who uses how much now")[2]


def test_the_last_day_is_drawn_without_a_script(client):
    make.device(gpus=2)
    now = minute_of(database_now())
    for minute in range(now - 100, now):
        LabSample.objects.create(
            minute=minute, gpus=10, busy=5, outside=1, faulty=0, unreachable=0,
            utilization_percent=80, running=3, waiting=0,
        )  # fmt: skip

    page = client.get("/")

    assert "50 % of all in the mean" in text_of(page)
    assert 'class="k1" d="M' in page.content.decode()


def test_the_wall_has_nothing_to_click_through(client):
    make.device(gpus=2)

    page = client.get("/?wall=1").content.decode()

    assert "data-signed-in" in page  # it is live
    assert 'class="tabbar"' not in page
    assert "js/wall.js" in page


def test_a_wall_stays_signed_in_without_writing_each_time(client):
    make.device(gpus=1)

    answers = [client.get("/?wall=1&part=all") for _ in range(2)]

    assert ["sessionid" in answer.cookies for answer in answers] == [True, False]


@pytest.mark.parametrize("who", ["manager", "client"])
def test_it_asks_the_database_no_more_for_more_rows(who, request, minjun):
    client = request.getfixturevalue(who)

    def asked_with_one_more() -> int:
        device = make.device(gpus=4)
        make.attempt(make.job(by=minjun), device, started=True)
        ended = make.attempt(make.job(by=make.user()), device, started=True)
        ended.end(Outcome.SUCCEEDED, database_now(), exit_code=0)
        make.job(by=minjun, gpus=8)
        EachMinute.forget_all()  # a new minute may begin at any time
        with CaptureQueriesContext(connection) as asked:
            client.get("/")
        return sum("clock_timestamp()" not in query["sql"] for query in asked)

    counts = [asked_with_one_more() for _ in range(5)]

    assert counts[-1] <= counts[1]
    assert counts[-1] <= 34


def test_a_demo_is_marked_on_every_page(client):
    assert "Demo data." not in text_of(client.get("/queue/"))

    Device.objects.filter(pk=make.device(gpus=1).pk).update(is_demo=True)

    assert "Demo data." in text_of(client.get("/queue/"))
    assert "demo" in text_of(client.get("/devices/"))


# --- A GPU server's page ------------------------------------------------------------------------


def test_its_page_says_what_it_runs_on_and_marks_what_differs(client):
    for n in range(3):
        make.device(host_id=f"a{n}", versions={"driver": "570.86"})
    odd = make.device(host_id="odd", versions={"driver": "550.54"})

    text = text_of(client.get(f"/devices/{odd.pk}/"))

    assert "550.54 most others: 570.86" in text


def test_its_page_tells_who_was_there_and_when(client, minjun):
    device = make.device(gpus=2)
    attempt = make.attempt(make.job(by=minjun, gpus=1), device, started=True)
    attempt.end(Outcome.FAILED, database_now(), exit_code=1)

    page = client.get(f"/devices/{device.pk}/?span=hour").content.decode()

    bands = page.partition('class="bands"')[2].partition("</section>")[0]
    assert bands.count('data-state="failed"') == 1
    assert f"/runs/{attempt.job.uid}/" in page.partition('id="h-tries"')[2]


def test_its_page_shows_when_it_was_used_outside_the_queue(client):
    device = make.device()
    card = make.gpu(device)
    now = minute_of(database_now())
    for minute in (now - 30, now - 29, now - 10):
        GPUSample.objects.create(gpu=card, minute=minute, outside_minutes=1)

    page = client.get(f"/devices/{device.pk}/?span=hour").content.decode()

    assert page.count('class="others"') == 2


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL plans by what is there")
def test_its_curves_look_up_its_own_samples_and_not_the_labs(client):
    device = make.device(gpus=2)

    with CaptureQueriesContext(connection) as asked:
        client.get(f"/devices/{device.pk}/history/?span=week")

    sql = next(one["sql"] for one in asked if 'FROM "devices_gpusample"' in one["sql"])
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
        plan = " ".join(str(row) for row in cursor.fetchall())
    assert "gpu_id=?" in plan, plan


def test_its_curves_have_a_place_for_each_minute_and_gaps_where_nothing_was(client):
    device = make.device(gpus=1, cpu_percent=40)
    card = device.gpus.get()
    now = database_now()
    sampling.sample(now)
    GPUSample.objects.create(gpu=card, minute=minute_of(now) - 30, utilization_percent_mean=77)

    told = client.get(f"/devices/{device.pk}/history/?span=hour").json()

    use = told["charts"][0]["series"][0]["values"]
    assert len(use) == len(told["at"]) == 61
    assert (use[-1], use[30], use[0]) == (0, 77, None)
    assert {chart["label"] for chart in told["charts"]} >= {"GPU use", "VRAM", "Power", "CPU"}


@pytest.mark.parametrize("span", ["day", "week", "month", "year", "nonsense"])
def test_every_stretch_of_time_is_answered(client, span):
    device = make.device(gpus=2)
    for card in device.gpus.all():
        for size in (Span.TEN, Span.HOUR):
            GPUSample.objects.create(
                gpu=card, span=size, minute=minute_of(database_now()) // size * size - 2 * size,
                utilization_percent_mean=50, job_minutes=5, memory_mib_max=1024,
            )  # fmt: skip

    assert client.get(f"/devices/{device.pk}/?span={span}").status_code == 200
    told = client.get(f"/devices/{device.pk}/history/?span={span}").json()
    assert 50 in told["charts"][0]["series"][1]["values"]


def test_one_that_is_not_there_is_not_found(client):
    assert client.get("/devices/999/").status_code == 404
    assert client.get("/devices/999/history/").status_code == 404


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("type=A6000", ["big"]),
        ("label=room%3Db1", ["small"]),
        ("label=room", ["big", "small"]),
        ("state=disconnected", ["gone"]),
        ("state=draining", ["big"]),
        ("type=H100", []),
    ],
)
def test_devices_are_chosen_by_state_kind_and_label(client, query, shown):
    big = make.device(host_id="big", labels={"room": "b2"}, draining=True)
    make.gpu(big, name="NVIDIA RTX A6000")
    make.device(host_id="small", gpus=1, labels={"room": "b1"})
    make.device(host_id="gone", online=False)

    page = client.get(f"/devices/?{query}").content.decode()

    found = [name for name in ("big", "gone", "small") if f">{name}</a></h2>" in page]
    assert found == sorted(shown)


def test_a_card_shows_its_last_hour(client):
    card = make.gpu(make.device())
    now = minute_of(database_now())
    for minute in range(now - 30, now):
        GPUSample.objects.create(gpu=card, minute=minute, utilization_percent_mean=50)

    page = client.get("/devices/").content.decode()

    assert page.count('class="spark') == 1


# --- Queue --------------------------------------------------------------------------------------


def names(client, query: str = "") -> list[str]:
    page = client.get(f"/queue/{query}").content.decode()
    places = {job.name: page.find(f'"w-{job.uid}"') for job in Job.objects.all()}
    return sorted((name for name, at in places.items() if at >= 0), key=places.__getitem__)


def test_arrows_move_a_run_among_ones_own(client, minjun):
    jobs = [make.job(by=by, name=name) for by, name in ((minjun, "a"), (None, "x"), (minjun, "b"))]

    client.post(f"/runs/{jobs[2].uid}/move/", {"to": "up"})

    assert names(client) == ["b", "x", "a"]


def test_a_run_is_dropped_after_another(client, minjun):
    a, b, _c = [make.job(by=minjun, name=name) for name in "abc"]

    client.post(f"/runs/{a.uid}/move/", {"after": b.uid, "back": "/queue/"})

    assert names(client) == ["b", "a", "c"]


def test_what_does_not_go_is_said(client, minjun):
    first, other = make.job(by=minjun, name="a"), make.job(by=make.user(), name="x")

    at_top = client.post(f"/runs/{first.uid}/move/", {"to": "up"}, follow=True)
    across = client.post(f"/runs/{first.uid}/move/", {"after": other.uid}, follow=True)
    unknown = client.post(f"/runs/{first.uid}/move/", {"before": "nothing"}, follow=True)

    assert "stands as far as it can there" in text_of(at_top)
    assert "Only a manager moves a run before somebody" in text_of(across)
    assert "No run with the identifier “nothing” waits" in text_of(unknown)
    assert client.post(f"/runs/{other.uid}/move/", {"to": "up"}).status_code == 403


def test_a_manager_moves_anybodys_and_gives_its_turn_back(manager, minjun):
    make.job(by=make.user(), name="x")
    job = make.job(by=minjun, name="a")

    manager.post(f"/runs/{job.uid}/move/", {"to": "up"})
    assert names(manager) == ["a", "x"]
    assert "placed by a manager" in text_of(manager.get("/queue/"))
    manager.post(f"/runs/{job.uid}/move/", {"to": "turn"})
    assert names(manager) == ["x", "a"]


@pytest.mark.parametrize(
    ("query", "found"),
    [("?user=minjun", ["a"]), ("?project=other", ["x"]), ("?whose=mine", ["a"])],
)
def test_the_queue_is_filtered(client, minjun, query, found):
    make.job(by=minjun, name="a")
    make.job(by=make.user("seoyeon"), name="x", project="other")

    assert names(client, query) == found


def test_the_weeks_hours_are_told_by_person(client, minjun):
    attempt = make.attempt(make.job(by=minjun, gpus=2), make.device(gpus=2), started=True)
    Attempt.objects.filter(pk=attempt.pk).update(started_at=database_now() - timedelta(days=20))

    [share] = labuse.users_of_week(minjun, database_now())

    assert round(share.amount) == 2 * 7 * 24
    assert "Minjun Kim (you)" in text_of(client.get("/queue/"))
    assert Project.objects.count() == 1
