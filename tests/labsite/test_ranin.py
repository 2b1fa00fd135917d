"""What runs ran in, on their pages and beside each other; and what a GPU server gives its jobs."""

import pytest

from agent import wire
from experiments import leases, reports
from experiments.models import Attempt, PackageSet
from people.models import AuditEntry
from tests import make

pytestmark = pytest.mark.django_db


def started(packages: list[str], **facts: str) -> Attempt:
    attempt = make.attempt()
    seen = wire.Environment(packages=packages, unix_user="lab", **facts)
    event = make.event(wire.EventType.STARTED, pid=7, environment=seen)
    reports.receive(attempt.device, str(attempt.pk), event)
    attempt.refresh_from_db()
    return attempt


def test_the_page_of_a_run_tells_what_it_runs_in(client) -> None:
    attempt = started(["numpy==2.1.0", "torch==2.5.1"], torch="2.5.1", torch_cuda="12.4")
    client.force_login(make.user())

    page = client.get(f"/runs/{attempt.job.uid}/").content.decode()

    assert "2.5.1 for CUDA 12.4" in page
    assert "numpy==2.1.0" in page
    assert "2 packages" in page


def test_alike_environments_are_kept_once() -> None:
    first, second = started(["numpy==2.1.0"]), started(["numpy==2.1.0"])
    started(["numpy==2.2.0"])

    assert first.packages == second.packages
    assert PackageSet.objects.count() == 2


def test_the_comparison_has_what_differs_and_nothing_else(client) -> None:
    here = started(["numpy==2.1.0", "pip==24"], python="3.11.7", driver="550")
    there = started(["numpy==2.2.0", "pip==24", "wandb==0.19"], python="3.11.7", driver="560")
    untold = make.job()
    client.force_login(make.user())

    uids = ",".join(job.uid for job in (here.job, there.job, untold))
    page = client.get(f"/compare/?runs={uids}").content.decode()
    table = page[page.index('aria-labelledby="h-ran-in"') :]

    for text in ("numpy", "2.1.0", "2.2.0", "wandb", "550", "560"):
        assert text in table
    assert "3.11.7" not in table
    assert "pip" not in table


def test_without_a_difference_there_is_no_table(client) -> None:
    here, there = started(["numpy==2.1.0"]), started(["numpy==2.1.0"])
    client.force_login(make.user())

    page = client.get(f"/compare/?runs={here.job.uid},{there.job.uid}").content.decode()

    assert "h-ran-in" not in page


def test_what_a_hostile_agent_tells_is_text(client) -> None:
    attempt = started(["<script>==1"], python="<b>3</b>")
    client.force_login(make.user())

    page = client.get(f"/runs/{attempt.job.uid}/").content.decode()

    assert "<script>==1" not in page
    assert "&lt;b&gt;3" in page


# --- what a GPU server gives its jobs ------------------------------------------------------------


def test_a_manager_sets_variables_and_the_audit_log_has_both(client) -> None:
    device = make.device(gpus=1, environment={"OLD": "1"})
    client.force_login(make.manager())
    form = {"environment": "DATA_ROOT=/data2\n\nA = b=c", "python": "~/venvs/torch"}

    client.post(f"/devices/{device.pk}/settings/", form)

    device.refresh_from_db()
    entry = AuditEntry.objects.get()
    assert device.environment == {"DATA_ROOT": "/data2", "A": "b=c"}
    assert entry.before["environment"] == {"OLD": "1"}
    assert entry.after["python"] == "~/venvs/torch"


@pytest.mark.parametrize("environment", ["DATA_ROOT", "A-B=c"])
def test_what_is_no_variable_is_refused_and_nothing_saved(client, environment: str) -> None:
    device = make.device(gpus=1, environment={"OLD": "1"})
    client.force_login(make.manager())

    form = {"environment": environment}
    page = client.post(f"/devices/{device.pk}/settings/", form, follow=True).content.decode()

    device.refresh_from_db()
    assert device.environment == {"OLD": "1"}
    assert 'class="message' in page or "role=" in page
    assert "NAME=value" in page or "letters, digits" in page


def test_a_jobs_own_goes_before_the_servers(client) -> None:
    device = make.device(gpus=1, environment={"DATA_ROOT": "/data2", "A": "1"})
    attempt = make.attempt(make.job(environment={"A": "2"}), device)

    given = leases.order(attempt, attempt.device).environment

    assert given == {"DATA_ROOT": "/data2", "A": "2"}


def test_everybody_reads_them_and_a_manager_writes_them(client) -> None:
    device = make.device(gpus=1, environment={"DATA_ROOT": "/data2"})
    client.force_login(make.user())
    theirs = client.get(f"/devices/{device.pk}/").content.decode()
    client.force_login(make.manager())
    managers = client.get(f"/devices/{device.pk}/").content.decode()

    assert "DATA_ROOT=/data2" in theirs
    assert f"/devices/{device.pk}/settings/" not in theirs
    assert f"/devices/{device.pk}/settings/" in managers


# --- what the same run needs elsewhere too -------------------------------------------------------


def test_the_page_tells_which_paths_and_variables_it_was_given(client) -> None:
    device = make.device(gpus=1, environment={"DATA_ROOT": "/data2", "SEED": "0"})
    job = make.job(
        environment={"SEED": "7"},
        source={"kind": "git", "url": "https://git.invalid/lab/digits", "commit": "3fd1525"},
        links={"data": "/data/imagenet"},
        requires={"paths": ["/data/tokens"]},
    )
    make.attempt(job, device)
    client.force_login(make.user())

    page = client.get(f"/runs/{job.uid}/").content.decode()

    assert "data → /data/imagenet" in page
    assert "/data/tokens" in page
    assert "SEED=7" in page
    assert f"Variables of {device.host_id}" in page
    assert "DATA_ROOT=/data2" in page
    assert "SEED=0" not in page  # the job's own went before it


def test_what_a_manager_changes_later_is_not_what_it_ran_with(client) -> None:
    device = make.device(gpus=1, environment={"DATA_ROOT": "/data2"})
    attempt = make.attempt(on=device)
    type(device).objects.update(environment={"DATA_ROOT": "/moved"})
    device.refresh_from_db()
    client.force_login(make.user())

    page = client.get(f"/runs/{attempt.job.uid}/").content.decode()

    assert "DATA_ROOT=/data2" in page
    assert "/moved" not in page
    assert leases.order(attempt, device).environment == {"DATA_ROOT": "/data2"}
