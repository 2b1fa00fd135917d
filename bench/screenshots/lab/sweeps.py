"""Sweeps: one in the middle of its work, and a large one that is done."""

from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import User

from bench.screenshots.lab.runs import end, queued_at, started
from bench.screenshots.lab.written import CONFIG
from devices.models import Device
from experiments import sweeps
from experiments.models import Sweep


def half_done(hosts: list[Device], now: datetime) -> None:
    """Some of its runs ended, one failed, two run, the others wait."""
    grid = {"lr": [0.1, 0.03, 0.01, 0.003], "batch_size": [32, 64, 128]}
    made = _submit("digits", "minjun", "rate and width", {"grid": grid, "max_running": 2})
    _queued_at(made, now - timedelta(minutes=103))
    for n, job in enumerate(made.jobs.order_by("pk")[:8]):
        is_running = n > 5
        attempt = started(job, hosts[2 if is_running else 5], now, 100 - 12 * n)
        if not is_running:
            ended = now - timedelta(minutes=61 - 11 * n)
            end(attempt, "failed" if n == 2 else "succeeded", n == 2, ended)


def large(host: Device, project: str, then: datetime) -> None:
    """40 runs of one afternoon; each fourth width did not fit the GPU."""
    grid = {"lr": [0.3, 0.1, 0.03, 0.01], "width": [32, 64, 128, 256, 512], "seed": [0, 1]}
    made = _submit(project, "jiho", "how wide, and how fast", {"grid": grid})
    _queued_at(made, then - timedelta(hours=9))
    for n, job in enumerate(made.jobs.order_by("pk")):
        begun = then - timedelta(minutes=12 * (40 - n))
        attempt = started(job, host, begun + timedelta(minutes=11), 11)
        outcome = "failed" if n % 10 in (8, 9) and n < 30 else "succeeded"
        end(attempt, outcome, int(outcome == "failed"), begun + timedelta(minutes=11))


def _submit(project: str, user: str, name: str, sweep: dict[str, Any]) -> Sweep:
    wish = {"project": project, "name": name, "resources": {"gpus": 1}, "sweep": sweep}
    return sweeps.submit(CONFIG, wish, by=User.objects.get(username=user))


def _queued_at(made: Sweep, when: datetime) -> None:
    Sweep.objects.filter(pk=made.pk).update(submitted_at=when)
    for job in made.jobs.all():
        queued_at(job, when)
