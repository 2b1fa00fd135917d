"""A body of work, and what its jobs have in common."""

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from agent import wire
from experiments.errors import NotSubmitted
from experiments.options import options_of
from experiments.yamltree import ConfigInvalid

DEFAULTS = ("command", "environment", "python", "working_directory")


class Project(models.Model):
    """A body of work; its runs are numbered run_001 and so on, and no number is used twice."""

    name = models.CharField(_("name"), max_length=128, unique=True)
    description = models.TextField(_("description"), blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, editable=False
    )
    #: The last number given to a run; moved only by next_run().
    last_run = models.PositiveIntegerField(default=0, editable=False)

    # What its jobs use where they say nothing themselves.
    command = models.JSONField(_("command"), default=list, blank=True)
    environment = models.JSONField(_("environment"), default=dict, blank=True)
    python = models.CharField(_("Python (venv or conda)"), max_length=1024, blank=True)
    working_directory = models.CharField(_("working directory"), max_length=1024, blank=True)

    class Meta:
        verbose_name = _("project")
        verbose_name_plural = _("projects")
        ordering = ["name"]
        constraints = [models.CheckConstraint(condition=~Q(name=""), name="project_name")]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Hold its defaults to what a job's own options are, whoever sets them."""
        said = {name: value for name in DEFAULTS if (value := getattr(self, name))}
        try:
            options = options_of(said)
        except ConfigInvalid as exc:
            raise ValidationError(str(exc)) from exc
        for name in said:  # a command may be written as a line
            setattr(self, name, getattr(options, name))

    @classmethod
    def named(cls, name: str, *, by) -> "Project":
        """The project of that name, made when there is none.

        Raises:
            NotSubmitted: the name is not one that a folder may have.
        """
        cls.check_name(name)
        return cls.objects.get_or_create(name=name, defaults={"created_by": by})[0]

    @staticmethod
    def check_name(name: str) -> None:
        """
        Raises:
            NotSubmitted: it is not one that a folder may have.
        """
        if not wire.is_name(name):
            raise NotSubmitted(
                f"“{name}” cannot be a project's name: use letters, digits, dots, dashes and "
                "underscores, beginning with a letter or digit (at most 128).",
                field="project",
            )

    def next_run(self) -> int:
        """Take the next number. In the transaction of the submit: a refused one leaves no gap."""
        Project.objects.filter(pk=self.pk).update(last_run=F("last_run") + 1)
        self.refresh_from_db(fields=["last_run"])
        return self.last_run
