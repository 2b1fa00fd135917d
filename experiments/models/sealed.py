"""The rows that hold something sealed: each model of ours with a field `sealed`."""

from django.apps import apps
from django.db import models

from experiments import sealing


def kept_sealed() -> list[type[models.Model]]:
    found = apps.get_app_config("experiments").get_models()
    return [model for model in found if any(f.name == "sealed" for f in model._meta.fields)]


def make_first_key() -> None:
    """If nothing sealed is kept yet: else the key is not missing but lost. Not in a transaction:
    it writes a file."""
    if not sealing.has_key() and not any(m._base_manager.exists() for m in kept_sealed()):
        sealing.make_first_key()


def seal_to_keep(text: str) -> str:
    """For a row of this transaction, until whose end its key is not dropped.

    Raises:
        SecretsLocked: as sealing.seal().
    """
    sealing.hold_keys()
    return sealing.seal(text)
