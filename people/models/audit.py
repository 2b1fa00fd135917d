"""What managers did: who, to what, before and after, when, and through which door."""

from typing import Any

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _


class Door(models.TextChoices):
    PAGE = "page", _("page")
    ADMIN = "admin", _("administration")
    API = "api", _("API")
    COMMAND = "command", _("command line")


class AuditEntry(models.Model):
    """Written in the transaction of what it tells, and never changed. Names stand in it as they
    were, since accounts and rows may go."""

    at = models.DateTimeField(_("when"), db_index=True, editable=False)
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", editable=False,
        verbose_name=_("who"),
    )  # fmt: skip
    by_name = models.CharField(_("who"), max_length=150, editable=False)
    door = models.CharField(_("through"), max_length=8, choices=Door, editable=False)
    verb = models.CharField(_("what"), max_length=32, editable=False)
    kind = models.CharField(_("kind"), max_length=64, editable=False)  # "experiments.job"
    key = models.CharField(max_length=64, editable=False)
    name = models.CharField(_("of what"), max_length=255, editable=False)
    before = models.JSONField(_("before"), default=dict, editable=False)
    after = models.JSONField(_("after"), default=dict, editable=False)

    class Meta:
        verbose_name = _("audit entry")
        verbose_name_plural = _("audit log")
        ordering = ["-id"]
        indexes = [models.Index(fields=["kind", "key"], name="audit_of_row")]

    def __str__(self) -> str:
        return f"{self.by_name}: {self.verb} {self.name}"

    @property
    def changes(self) -> list[tuple[str, Any, Any]]:
        """(field, before, after) of each that differs."""
        names = dict.fromkeys([*self.before, *self.after])
        return [(name, self.before.get(name), self.after.get(name)) for name in names]
