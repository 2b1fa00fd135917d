"""Curves of a large CSV through the page's own view: first look, next look, and one row more.

Each time is that of a whole request: view, JSON, session and database. `cold` begins with nothing
in the server's memory; the file lies in the kernel's cache, as one does that has just arrived.
pandas.read_csv of the same file stands beside it; it only reads.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 1_000_000
COLUMNS = 8
WIDE_ROWS = 50_000
WIDE_COLUMNS = 200
REPEATS = 5
COLD_SECONDS, WARM_SECONDS, APPEND_SECONDS = 1.5, 0.3, 0.05


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        os.environ |= {"LAB_DATA_DIR": folder, "DJANGO_SETTINGS_MODULE": "labsite.settings"}
        os.environ.pop("LAB_DATABASE_URL", None)
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        held = measure("long", ROWS, COLUMNS)
        return 0 if measure("wide", WIDE_ROWS, WIDE_COLUMNS) and held else 1


def measure(project: str, rows: int, columns: int) -> bool:
    run = Run.make(project, rows, columns)
    reader = run.with_pandas()
    cold, answer = run.timed(run.look_anew)
    warm = min(run.timed(run.look)[0] for _ in range(REPEATS))
    appended = []
    for number in range(REPEATS):
        have = ",".join(f"{one['id']}.{one['rows']}" for one in answer["sources"])
        run.append(number)
        seconds, answer = run.timed(lambda have=have: run.look(have))
        appended.append(seconds)
    [source] = answer["sources"]
    came = [len(series["values"]) for series in source["series"]]
    print(
        f"{rows} rows × {columns} columns, {run.path.stat().st_size / 1e6:.0f} MB: "
        f"cold {cold * 1000:.0f} ms (to hold: {COLD_SECONDS * 1000:.0f}), "
        f"warm {warm * 1000:.0f} ms (to hold: {WARM_SECONDS * 1000:.0f}), "
        f"one row more {min(appended) * 1000:.1f} ms (to hold: {APPEND_SECONDS * 1000:.0f}); "
        f"pandas.read_csv {reader}"
    )
    right = source["start"] == rows + REPEATS - 1 and came == [1] * (columns - 1)
    return (
        right and cold <= COLD_SECONDS and warm <= WARM_SECONDS and min(appended) <= APPEND_SECONDS
    )


@dataclass
class Run:
    """A run with a large CSV, and somebody who looks at its page."""

    client: Any
    row: Any
    url: str
    path: Path
    columns: int

    @classmethod
    def make(cls, project: str, rows: int, columns: int) -> "Run":
        from django.contrib.auth.models import User
        from django.test import Client
        from django.urls import reverse
        from django.utils import timezone

        from experiments.models import Job, Project
        from sync.models import SyncFile
        from sync.storage import Place

        job = Job.objects.create(
            uid=f"20200101_{project}",
            project=Project.objects.create(name=project),
            run_number=1,
            user=User.objects.get_or_create(username="somebody")[0],
            command=["true"],
            submitted_at=timezone.now(),
        )
        path = Place.of(job, "run_001.csv").path
        path.parent.mkdir(parents=True)
        write(path, rows, columns)
        row = SyncFile.objects.create(
            job=job,
            name="run_001.csv",
            attempt=1,
            generation=1,
            size=path.stat().st_size,
            synced_at=timezone.now(),
        )
        client = Client(SERVER_NAME="localhost")
        client.force_login(job.user)
        return cls(client, row, reverse("run-curve", args=[job.uid]), path, columns)

    def look(self, have: str = "") -> dict[str, Any]:
        response = self.client.get(self.url, {"have": have})
        assert response.status_code == 200, response.status_code
        return json.loads(response.content)

    def look_anew(self) -> dict[str, Any]:
        from sync.curves.kept import shelf

        shelf.clear()
        while (answer := self.look())["more"]:
            pass
        return answer

    def append(self, number: int) -> None:
        with self.path.open("a") as file:
            file.write(",".join([str(number)] * self.columns) + "\n")
        self.row.size = self.path.stat().st_size
        self.row.save()

    def timed(self, look: Callable[[], dict[str, Any]]) -> tuple[float, dict[str, Any]]:
        began = time.perf_counter()
        answer = look()
        return time.perf_counter() - began, answer

    def with_pandas(self) -> str:
        try:
            import pandas
        except ImportError:
            return "is not installed"
        began = time.perf_counter()
        pandas.read_csv(self.path)
        return f"{(time.perf_counter() - began) * 1000:.0f} ms"


def write(path: Path, rows: int, columns: int) -> None:
    """A step, and losses with all their digits."""
    import polars

    random = np.random.default_rng(1)
    cells = {"step": np.arange(rows)}
    cells |= {f"loss{number}": random.normal(size=rows) for number in range(1, columns)}
    polars.DataFrame(cells).write_csv(path)


if __name__ == "__main__":
    sys.exit(main())
