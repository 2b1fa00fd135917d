"""How long others wait for the database while a hundred thousand files are deleted at once.

SQLite has one writer. Beside the deletion another process asks for its place again and again, as
heartbeats and deltas do; measured is how long that one waits at most. Told is also how long the
deletion takes, its plan included.
"""

import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILES = 100_000
FILES_A_RUN = 20
HOLD_TO_SECONDS = 0.3
PAUSE_SECONDS = 0.01


def main() -> int:
    if len(sys.argv) == 2:
        return wait_again_and_again(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        os.environ |= {"LAB_DATA_DIR": folder, "DJANGO_SETTINGS_MODULE": "labsite.settings"}
        os.environ.pop("LAB_DATABASE_URL", None)
        import django

        django.setup()
        from django.conf import settings
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        fill()
        command = [
            sys.executable,
            "-m",
            "bench.freeing",
            str(settings.DATABASES["default"]["NAME"]),
        ]
        beside = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert beside.stdout
        beside.stdout.readline()
        took = free()
        waits = [float(wait) for wait in beside.communicate("")[0].split()]
    longest = max(waits)
    print(
        f"{FILES} files of {FILES // FILES_A_RUN} runs deleted in {took:.1f} s; beside it", end=" "
    )
    print(
        f"{len(waits)} writers waited {statistics.median(waits) * 1000:.0f} ms in the median,",
        end=" ",
    )
    print(f"{longest * 1000:.0f} ms at most (to hold: {HOLD_TO_SECONDS * 1000:.0f} ms)")
    return 0 if longest <= HOLD_TO_SECONDS else 1


def wait_again_and_again(database: str) -> int:
    """Until stdin ends: be the writer for a moment, and print how long that was waited for."""
    import select

    connection = sqlite3.connect(Path(database), timeout=20, isolation_level=None)
    waits = []
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
        began = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("COMMIT")
        waits.append(time.perf_counter() - began)
    print(*waits)
    return 0


def fill() -> None:
    from django.utils import timezone

    from experiments.models import Job, Project
    from experiments.states import JobState
    from sync.models import SyncFile

    now = timezone.now()
    project = Project.objects.create(name="bench", used_bytes=FILES)
    jobs = Job.objects.bulk_create(
        Job(
            uid=f"20200101_{n:08x}", project=project, run_number=n, command=["true"], gpus=1,
            submitted_at=now, finished_at=now, state=JobState.SUCCEEDED,
        )
        for n in range(FILES // FILES_A_RUN)
    )  # fmt: skip
    SyncFile.objects.bulk_create(
        (
            SyncFile(
                job=job, name=f"run/{n}.pt", attempt=1, generation=1, size=1, complete=True,
                sha256="0" * 64, synced_at=now,
            )
            for job in jobs
            for n in range(FILES_A_RUN)
        ),
        batch_size=1000,
    )  # fmt: skip


def free() -> float:
    from django.utils import timezone

    from experiments.models import Project
    from sync.freeing import EVERYTHING, free, plan

    [project] = Project.objects.all()
    began = time.perf_counter()
    found = plan(project, EVERYTHING, timezone.now())
    free(project, EVERYTHING, found.digest, timezone.now())
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
