"""A run's files as the server has them."""

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from experiments.models import Job


class SyncFileQuerySet(models.QuerySet):
    def results(self) -> "SyncFileQuerySet":
        """The run's own files, without what attempts that were given up left behind."""
        return self.filter(shelf=0)


class SyncFile(models.Model):
    """One file of a run: which version of it is stored, and how much.

    The bytes lie in the lab's logs folder (sync.storage). `size` is the truth: bytes beyond it
    were never acknowledged, and are cut off before anything is added. Written by sync.append and
    sync.upload only, by UPDATEs on what they saw under the file's lock.
    """

    job = models.ForeignKey(Job, models.CASCADE, related_name="files")
    name = models.CharField(max_length=512)  # run_001.csv, or run_001/images/1.png
    #: 0: a result. Else the number of the attempt that left it behind: evidence, not a result.
    shelf = models.PositiveIntegerField(default=0)
    attempt = models.PositiveIntegerField()  # the number of the attempt whose bytes these are
    generation = models.BigIntegerField()
    size = models.BigIntegerField(default=0)
    sha256 = models.CharField(max_length=64, blank=True)  # of the whole; empty: not known now
    complete = models.BooleanField(default=False)  # the agent confirmed the hash of the whole
    outdated = models.BooleanField(default=False)  # the disk held less than was acknowledged
    source_mtime = models.BigIntegerField(null=True)  # of the agent's file, whole seconds
    synced_at = models.DateTimeField()
    #: The last Idempotency-Key of a delta without an offset, and what it was answered.
    last_key = models.CharField(max_length=200, blank=True)
    last_answer = models.JSONField(default=dict)

    objects = SyncFileQuerySet.as_manager()

    class Meta:
        verbose_name = _("file")
        verbose_name_plural = _("files")
        ordering = ["job", "shelf", "name"]
        constraints = [
            models.UniqueConstraint(fields=["job", "shelf", "name"], name="one_row_a_file"),
            models.CheckConstraint(condition=Q(size__gte=0), name="file_size"),
            models.CheckConstraint(
                condition=Q(complete=False) | ~Q(sha256=""), name="complete_is_hashed"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.job}: {self.name}"

    @property
    def version(self) -> tuple[int, int]:
        return self.attempt, self.generation
