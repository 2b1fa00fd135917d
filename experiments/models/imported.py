"""Runs that were brought in from files which the lab already had: nothing of them ran here."""

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from experiments.models.job import Job
from experiments.models.project import Project


class ImportedQuerySet(models.QuerySet):
    def known(self, project: Project, marks: list[str]) -> "Imported | None":
        """The one that was made of these files, of which there may be more by now."""
        return self.filter(project=project, mark__in=marks).select_related("job").first()


class Imported(models.Model):
    """Where an imported run came from, and by what it is known again (docs/adr/0038)."""

    job = models.OneToOneField(
        Job, models.CASCADE, primary_key=True, related_name="imported", editable=False
    )
    project = models.ForeignKey(
        Project, models.CASCADE, related_name="+", db_index=False, editable=False
    )
    #: A digest of how its files begin; empty: it was deleted, and imported once more.
    mark = models.CharField(max_length=64, blank=True, editable=False)
    host = models.CharField(max_length=255, editable=False)
    folder = models.CharField(max_length=4096, editable=False)
    name = models.CharField(max_length=255, editable=False)  # what it was called there
    #: What there is of it, as was said last; some of it may be yet to come.
    file_count = models.PositiveIntegerField(editable=False)
    size_bytes = models.BigIntegerField(editable=False)

    objects = ImportedQuerySet.as_manager()

    class Meta:
        verbose_name = _("imported run")
        verbose_name_plural = _("imported runs")
        ordering = ["-job"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "mark"], condition=~Q(mark=""), name="imported_once"
            ),
            models.CheckConstraint(condition=Q(size_bytes__gte=0), name="imported_size"),
        ]

    def __str__(self) -> str:
        return f"{self.job}: {self.place}"

    @property
    def place(self) -> str:
        return f"{self.host}:{self.folder}"

    def say(self, **fields: object) -> None:
        """Write what was said last of where it lies and of how much there is."""
        Imported.objects.filter(pk=self.pk).update(**fields)

    def forget(self) -> None:
        """Let the same files make another run."""
        self.say(mark="")
