"""`manage.py projects`: what each takes on the disk, the archive, freeing space, the trash."""

import re
from argparse import ArgumentParser
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from experiments.models import Project
from labsite.clock import database_now
from labsite.errors import Refused
from labsite.templatetags.lab import size as size_words
from people.audit import recorded
from sync import disk, freeing, tasks
from sync.freeing import Rule
from sync.models import Trash, What

UNITS = {"": 1, "k": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}


def size_of(text: str) -> int | None:
    """500G, 2T, 0 (no limit), or `default`: the lab's own."""
    if text == "default":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", text)
    if match is None:
        raise CommandError(f"{text} is no size: write 500G, 2T, 0 (no limit) or default.")
    return int(float(match[1]) * UNITS[match[2]])


class Command(BaseCommand):
    help = (
        "What projects take on the server's disk; archive them; delete of them by a rule (first "
        "shown, then with --yes done); restore from the trash."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verbs.add_parser("list", help="what each takes, archived ones too")
        for verb, words in (
            ("archive", "make it read-only and leave it out of lists"),
            ("unarchive", "take it out of the archive"),
            ("trash", "what was deleted of it"),
        ):
            verbs.add_parser(verb, help=words).add_argument("project")
        quota = verbs.add_parser("quota", help="limit what it takes")
        quota.add_argument("project")
        quota.add_argument("size", help="500G, 2T, 0 (no limit) or default (the lab's)")
        free = verbs.add_parser("free", help="delete by a rule, into the trash")
        free.add_argument("project")
        free.add_argument("--what", required=True, choices=[what.value for what in freeing.RULES])
        free.add_argument("--older-than", type=int, default=0, metavar="DAYS")
        free.add_argument("--yes", action="store_true", help="do it; else only show it")
        for verb, words in (
            ("restore", "bring a deletion back"),
            ("empty", "remove a deletion for good now"),
        ):
            verbs.add_parser(verb, help=words).add_argument("number", type=int)

    def handle(self, *args: Any, verb: str, **given: Any) -> None:
        do: Callable[..., None] = getattr(self, f"do_{verb}")
        if "project" in given and given["project"] is not None:
            given["project"] = _project(given["project"])
        try:
            do(database_now(), given)
        except Refused as refused:
            raise CommandError(str(refused)) from refused

    def do_list(self, now: datetime, given: dict[str, Any]) -> None:
        for project in Project.objects.all():
            limit = f" of {size_words(project.limit_bytes)}" if project.limit_bytes else ""
            archived = ", archived" if project.archived_at else ""
            self._say(f"{project}: {size_words(project.used_bytes)}{limit}{archived}")
        found = disk.forecast(now)
        left = "" if found.days_left is None else f", full in about {found.days_left:.0f} days"
        self._say(f"The disk: {size_words(found.free_bytes)} free{left}")

    def do_archive(self, now: datetime, given: dict[str, Any]) -> None:
        with recorded(None, given["project"], "archive"):
            given["project"].archive(now)
        self._say(f"{given['project']} is archived.")

    def do_unarchive(self, now: datetime, given: dict[str, Any]) -> None:
        with recorded(None, given["project"], "unarchive"):
            given["project"].unarchive()
        self._say(f"{given['project']} takes new runs again.")

    def do_quota(self, now: datetime, given: dict[str, Any]) -> None:
        project = given["project"]
        quota_bytes = size_of(given["size"])
        with recorded(None, project, "quota"):
            project.set_options({"quota_bytes": quota_bytes})
        project.refresh_from_db()
        limit = size_words(project.limit_bytes) if project.limit_bytes else "as much as there is"
        self._say(f"{project} may take {limit}; it takes {size_words(project.used_bytes)}.")

    def do_free(self, now: datetime, given: dict[str, Any]) -> None:
        rule = Rule(What(given["what"]), given["older_than"])
        found = freeing.plan(given["project"], rule, now)
        would = "" if given["yes"] else "would be "
        self._say(
            f"{len(found.files)} files of {found.runs} runs, {size_words(found.size)}, "
            f"{would}deleted; {len(found.jobs)} of the runs as a whole."
        )
        if found.unsure:
            self._say(f"{found.unsure} runs are left alone: not all of them has arrived here.")
        if given["yes"]:
            made = freeing.free(given["project"], rule, found.digest, now)
            tasks.tidy()
            self._say(f"In the trash as number {made.pk}: manage.py projects restore {made.pk}")

    def do_trash(self, now: datetime, given: dict[str, Any]) -> None:
        for one in given["project"].trash.select_related("by"):
            by = one.by.username if one.by else "-"
            self._say(
                f"{one.pk}: {one.made_at:%Y-%m-%d %H:%M} by {by}: {one.get_what_display()}, "
                f"{one.file_count} files, {size_words(one.size)}, {one.get_state_display()}"
            )

    def do_restore(self, now: datetime, given: dict[str, Any]) -> None:
        self._turn("restore", now, given["number"])

    def do_empty(self, now: datetime, given: dict[str, Any]) -> None:
        self._turn("empty", now, given["number"])

    def _turn(self, verb: str, now: datetime, number: int) -> None:
        one = Trash.objects.filter(pk=number).first()
        if one is None:
            raise CommandError(f"There is no number {number} in the trash.")
        with recorded(None, one, verb):
            getattr(one, verb)(now)
        tasks.tidy()
        one.refresh_from_db()
        self._say(f"{one}: {one.get_state_display()}")

    def _say(self, words: str) -> None:
        self.stdout.write(words.replace("\xa0", " "))


def _project(name: str) -> Project:
    found = Project.objects.filter(name=name).first()
    if found is None:
        raise CommandError(f"There is no project {name}.")
    return found
