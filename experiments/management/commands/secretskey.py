"""`manage.py secretskey`: change the key that seals people's secrets, or give up what it sealed.

Every process reads the keys anew at each use, so the server may run meanwhile.
"""

from argparse import ArgumentParser
from typing import Any

from cryptography.fernet import Fernet
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import models, transaction

from experiments import sealing
from experiments.errors import SecretsLocked
from experiments.models import Channel, Secret
from experiments.models.sealed import kept_sealed


class Command(BaseCommand):
    help = "Seal all secrets by a new key, and forget the old one."

    def add_arguments(self, parser: ArgumentParser) -> None:
        how = parser.add_mutually_exclusive_group()
        how.add_argument(
            "--print", action="store_true", help="print a key for LAB_SECRETS_KEY, change nothing"
        )
        how.add_argument(
            "--reseal",
            action="store_true",
            help="seal all by the first key there is: after LAB_SECRETS_KEY=new,old was set",
        )
        how.add_argument(
            "--forget",
            action="store_true",
            help="the key is lost: delete what it sealed, so that people set it again",
        )

    def handle(self, *args: Any, **given: Any) -> None:
        if given["print"]:
            self.stdout.write(Fernet.generate_key().decode())
        elif given["forget"]:
            self._forget()
        else:
            self._rotate(new_key=not given["reseal"])

    def _rotate(self, *, new_key: bool) -> None:
        if new_key and settings.LAB_SECRETS_KEYS:
            raise CommandError(
                "The keys stand in LAB_SECRETS_KEY: put a new one (--print makes it) before the "
                "others there, start the server again, and run this with --reseal."
            )
        if new_key:
            sealing.make_key()
        try:
            count = _reseal_all()
        except SecretsLocked as locked:
            raise CommandError(str(locked)) from locked
        sealing.drop_old_keys()
        self.stdout.write(f"{count} values are sealed by the first key now.")

    def _forget(self) -> None:
        secrets, channels = Secret.objects.count(), Channel.objects.count()
        for model in kept_sealed():
            model._base_manager.all().delete()
        self.stdout.write(
            f"{secrets} secrets were deleted: jobs that name one wait until it is set again."
        )
        if channels:
            self.stdout.write(f"{channels} notifications were deleted: people set them again.")


def _reseal_all() -> int:
    """All but what is being written, without hindering anybody; then the few that were."""
    fresh: set[str] = set()
    for model in kept_sealed():
        _reseal(model, fresh)
    with transaction.atomic():
        sealing.lock_keys()
        for model in kept_sealed():
            _reseal(model, fresh)
    return len(fresh)


def _reseal(model: type[models.Model], fresh: set[str]) -> None:
    """Those that are not among the `fresh` ones, which get the new seals too."""
    for pk, sealed in list(model._base_manager.values_list("pk", "sealed")):
        if sealed not in fresh:
            anew = sealing.resealed(sealed)
            with transaction.atomic():
                if model._base_manager.filter(pk=pk, sealed=sealed).update(sealed=anew):
                    fresh.add(anew)
