"""What Prometheus scrapes: by whom, in its form, how the lab is, and at what cost."""

from datetime import timedelta

import pytest
from django.test import Client
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.parser import text_string_to_metric_families

from devices.models import Device
from experiments.models import Job
from experiments.states import JobState, Outcome
from labsite.clock import database_now
from labsite.prometheus import Family, families, text_of
from people.models import Profile
from tests import make

pytestmark = pytest.mark.django_db

TOKEN = "a-token-of-the-scraper"


def scrape(authorization: str = f"Bearer {TOKEN}"):
    return Client().get("/metrics", headers={"authorization": authorization})


def samples(text: str = "") -> dict[str, float]:
    text = text or text_of(families(database_now()))
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _space, value in (line.rpartition(" ") for line in lines)}


# --- for whom ------------------------------------------------------------------------------------


def test_it_is_open_to_nobody_by_default():
    for authorization in ("", "Bearer ", "Bearer", f"Bearer {TOKEN}", "Token x", "Bearer labd_x"):
        answer = scrape(authorization)
        assert answer.status_code == 401
        assert "lab_" not in answer.content.decode().replace("operations", "")


def test_the_token_of_the_setting_opens_it_and_no_other(settings):
    settings.LAB_METRICS_TOKEN = TOKEN

    assert scrape().status_code == 200
    assert scrape(f"Bearer {TOKEN}x").status_code == 401
    assert scrape(f"Basic {TOKEN}").status_code == 401


def test_a_persons_own_token_opens_it_until_their_account_is_closed():
    kim = make.viewer("kim")
    token = make.token(kim)

    assert scrape(f"Bearer {token}").status_code == 200
    assert scrape(f"Token {token}").status_code == 200
    Profile.set_active(kim, False)
    assert scrape(f"Bearer {token}").status_code == 401


# --- in which form -------------------------------------------------------------------------------


def test_prometheus_reads_it_whatever_a_host_is_called(settings):
    settings.LAB_METRICS_TOKEN = TOKEN
    make.device(gpus=1, host_id='a"b\\c\nd{}#')

    answer = scrape()

    assert answer["Content-Type"] == CONTENT_TYPE_LATEST
    read = {one.name: one for one in text_string_to_metric_families(answer.content.decode())}
    assert read["lab_gpu_faulty"].type == "gauge"
    assert read["lab_gpu_faulty"].samples[0].labels["host_id"] == 'a"b\\c\nd{}#'


def test_what_nobody_knows_is_left_out_and_a_family_of_nothing_with_it():
    counted, unknown = Family("lab_a", "One.", "counter"), Family("lab_b", "None.")
    counted.add(1.5, {"x": "y"})
    counted.add(None)
    unknown.add(None)

    assert text_of([counted, unknown]) == (
        '# HELP lab_a_total One.\n# TYPE lab_a_total counter\nlab_a_total{x="y"} 1.5\n'
    )


# --- what it says --------------------------------------------------------------------------------


def test_runs_are_counted_by_state_and_the_queue_by_age():
    make.job(gpus=8)
    make.job(gpus=8).hold(True)
    make.attempt(started=True)
    make.attempt(started=True).end(Outcome.FAILED, database_now())
    Job.objects.filter(state=JobState.QUEUED).update(
        submitted_at=database_now() - timedelta(hours=1)
    )

    told = samples()

    assert told['lab_jobs{state="queued"}'] == 2
    assert told['lab_jobs{state="running"}'] == told['lab_jobs{state="failed"}'] == 1
    assert told['lab_jobs{state="succeeded"}'] == 0
    assert (told["lab_queue_jobs"], told["lab_queue_held_jobs"]) == (1, 1)
    assert 3600 <= told["lab_queue_oldest_age_seconds"] < 3700


def test_a_card_has_its_readings_and_what_it_does():
    device = make.device(host_id="gpu-1")
    make.gpu(
        device, uuid="GPU-1", name="A100", utilization_percent=87.5, memory_used_bytes=2**30,
        temperature_celsius=61, power_watts=250.5,
    )  # fmt: skip
    make.gpu(device, index=1, uuid="GPU-2").fail("xid", {"xid": 79}, database_now())
    card = '{host_id="gpu-1",index="0",model="A100",uuid="GPU-1"}'

    told = samples()

    assert told[f"lab_gpu_utilization_ratio{card}"] == 0.875
    assert told[f"lab_gpu_memory_used_bytes{card}"] == 2**30
    assert told[f"lab_gpu_temperature_celsius{card}"] == 61
    assert told[f"lab_gpu_power_watts{card}"] == 250.5
    assert told[f"lab_gpu_faulty{card}"] == 0
    assert told['lab_gpus{use="faulty"}'] == 1


def test_of_a_server_that_is_not_heard_no_old_reading_passes_for_a_new_one():
    device = make.device(gpus=1, online=False, host_id="gpu-1")

    told = samples()

    assert told['lab_devices{state="disconnected"}'] == 1
    assert told['lab_device_heartbeat_age_seconds{host_id="gpu-1"}'] >= 3600
    assert not [name for name in told if "gpu_utilization" in name and device.host_id in name]


def test_the_server_says_whether_runs_are_given_out_and_how_full_its_disk_is():
    told = samples()

    assert told["lab_dispatch_up"] == 1
    assert 0 < told["lab_disk_free_bytes"] <= told["lab_disk_size_bytes"]
    assert told["lab_files_bytes"] == 0


def test_it_names_neither_people_nor_projects_nor_runs():
    minjun = make.user("minjun")
    make.project("hush", private=True, created_by=minjun)
    make.attempt(by=minjun, project="hush", name="secretive", started=True)

    text = text_of(families(database_now()))

    assert not [word for word in ("hush", "minjun", "secretive", "run_001") if word in text]


def test_what_is_made_up_for_a_demo_is_not_counted():
    make.device(gpus=1, is_demo=True, host_id="made-up")

    assert "made-up" not in text_of(families(database_now()))


def test_it_asks_as_often_for_200_cards_as_for_one(django_assert_max_num_queries):
    make.device(gpus=1)
    for _ in range(25):
        make.device(gpus=8)
    assert Device.objects.count() == 26

    with django_assert_max_num_queries(11):
        text_of(families(database_now()))
