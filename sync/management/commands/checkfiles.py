"""`manage.py checkfiles`: read every file of every run, and compare it with the database."""

from typing import Any

from django.core.management.base import BaseCommand

from sync import verify


class Command(BaseCommand):
    help = (
        "Read all files of runs and compare their hashes with the database, after only one of the "
        "two was restored. What differs is marked, and agents that have it send it again."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        checked = differing = 0
        for row, is_right in verify.check_all():
            checked += 1
            if not is_right:
                differing += 1
                self.stdout.write(f"differs: {row}")
        self.stdout.write(f"{checked} files read, {differing} differ.")
