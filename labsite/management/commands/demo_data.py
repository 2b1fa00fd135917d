"""`manage.py demo_data`: a lab with a past, to look at and to measure by; and away with it."""

import random
import time
from argparse import ArgumentParser
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from experiments.models import Job, Project
from labsite.clock import database_now
from labsite.demo import files, history, plan, removal, rows
from sync import retention, trash

#: Of so many runs that ended last there are curves and logs.
FILES_OF = 300
TRASHED = 6
TRASH_SECONDS = 5.0


class Command(BaseCommand):
    help = (
        "Fill the lab with made-up people, projects, GPU servers and runs. They are marked as a "
        "demo wherever they are shown, nothing of them is ever given out, and --remove takes "
        "exactly them away."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--runs", type=int, default=1000)
        parser.add_argument("--devices", type=int, default=12, metavar="GPU_SERVERS")
        parser.add_argument("--seed", type=int, default=1, help="another one: another lab")
        parser.add_argument(
            "--password", default="", help="with which its people can sign in; else none can"
        )
        parser.add_argument("--beside", action="store_true", help="beside real runs")
        parser.add_argument("--remove", action="store_true", help="take the demo away again")

    def handle(self, *args: Any, **given: Any) -> None:
        if given["remove"]:
            self._remove()
            return
        self._check(given)
        started = time.monotonic()
        made, of = make(given["runs"], given["devices"], given["seed"], given["password"])
        seconds = time.monotonic() - started
        self.stdout.write(f"{made} runs ({of} with files) in {seconds:.0f} s. Sign in as usual;")
        self.stdout.write("manage.py demo_data --remove takes all of it away again.")

    def _check(self, given: dict[str, Any]) -> None:
        if given["runs"] < 1 or given["devices"] < 1:
            raise CommandError("Ask for at least one run and one GPU server.")
        if removal.is_there():
            raise CommandError("There is a demo already: take it away first, with --remove.")
        real = Job.objects.count()
        if real and not given["beside"]:
            raise CommandError(
                f"This lab has {real} real runs: add --beside to have a demo beside them, or "
                "give it a data folder of its own (LAB_DATA_DIR=… manage.py demo_data)."
            )

    def _remove(self) -> None:
        if not removal.is_there():
            self.stdout.write("There is no demo here.")
            return
        counts = removal.remove()
        told = ", ".join(f"{number} {kind}" for kind, number in counts.items())
        self.stdout.write(f"Removed: {told}.")


def make(runs: int, devices: int, seed: int, password: str) -> tuple[int, int]:
    """Returns how many runs were made, and of how many there are files."""
    dice = random.Random(seed)  # noqa: S311  no secret
    hosts = plan.hosts(devices)
    planned = plan.runs(runs, hosts, dice)
    now = database_now()
    lab = rows.lab(hosts, password, now, dice)
    jobs = rows.jobs(planned, lab, now, dice)
    rows.attempts(planned, jobs, lab, now, dice)
    rows.oddities(hosts, lab, now)
    of = files.write(planned, jobs, FILES_OF, now, dice)
    history.write(planned, jobs, hosts, lab, now, seed)
    _throw_away(now)
    for project in Project.objects.filter(is_demo=True):
        retention.recount(project)
    return len(jobs), of


def _throw_away(now: datetime) -> None:
    """Some runs that ended lately lie in the trash."""
    ended = Job.objects.filter(project__is_demo=True, state="failed", files__isnull=False)
    for job in ended.distinct().order_by("-finished_at")[10 : 10 + TRASHED]:
        job.delete_run(now - timedelta(minutes=5), by=job.user)
    trash.tidy(now, time.monotonic() + TRASH_SECONDS)
