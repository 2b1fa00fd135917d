"""`manage.py token USER`: a key for a script, printed once."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from labsite.clock import database_now
from people.audit import facts_of, note
from people.models import ApiToken


class Command(BaseCommand):
    help = "Make an API token for a person, and print its key, this once."
    requires_system_checks: list[str] = []  # runlab's, and half of what this takes

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user")
        parser.add_argument("--name", default="script", help="what it is for")
        parser.add_argument("--days", type=int, help="how long it holds (else: until revoked)")

    def handle(self, *args: Any, user: str, name: str, days: int | None, **given: Any) -> None:
        person = get_user_model().objects.filter(username=user).first()
        if person is None:
            raise CommandError(f"There is no user {user}.")
        life = timedelta(days=days) if days else None
        with transaction.atomic():
            token, key = ApiToken.make(person, name, database_now(), life)
            note(None, token, "make", after=facts_of(token))
        self.stdout.write(key)
