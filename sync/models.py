"""A run's files as the server has them, and what became of those that were deleted."""

from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Exists, F, Func, OuterRef, Q, Sum, Value
from django.db.models.functions import Concat
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from experiments.models import Job, Project
from labsite import wake
from people.roles import may_manage, may_submit
from sync.errors import NotInTrash, PlaceTaken

#: So many names are asked for at once.
_AT_ONCE = 500


class What(models.TextChoices):
    """What one act of deleting takes away."""

    RUN = "run", _("one run")
    CHECKPOINTS = "checkpoints", _("checkpoints, but the newest and the best of each run")
    GIVEN_UP = "given_up", _("what tries that were given up have left")
    FAILED = "failed", _("runs that failed")
    RUNS = "runs", _("runs that have ended")
    ALL = "all", _("all runs that have ended, arrived or not")
    REPLACED = "replaced", _("replaced: a folder became a file, or a file a folder")


class TrashState(models.TextChoices):
    GATHERING = "gathering", _("being deleted")
    FILLING = "filling", _("being moved to the trash")
    KEPT = "kept", _("in the trash")
    RESTORING = "restoring", _("being restored")
    RESTORED = "restored", _("restored")
    EMPTYING = "emptying", _("being removed")
    EMPTIED = "emptied", _("removed")


class TrashQuerySet(models.QuerySet):
    def kept(self) -> "TrashQuerySet":
        """What can be restored."""
        return self.filter(state__in=(TrashState.FILLING, TrashState.KEPT))

    def moving(self) -> "TrashQuerySet":
        """What sync.trash has yet to do."""
        moving = (
            TrashState.GATHERING, TrashState.FILLING,
            TrashState.RESTORING, TrashState.EMPTYING,
        )  # fmt: skip
        return self.filter(state__in=moving)


class Trash(models.Model):
    """One act of deleting: which runs and files, by whom, and what became of them since.

    The rows decide: once a file is marked sync refuses it (410) and no page shows it. The bytes
    follow (sync.trash), at once or after a crash. A row is never deleted: it is what tells later
    who deleted what.
    """

    project = models.ForeignKey(Project, models.PROTECT, related_name="trash")
    jobs = models.ManyToManyField(Job, related_name="trash")  # deleted as a whole
    what = models.CharField(max_length=16, choices=What)
    older_than_days = models.PositiveIntegerField(default=0)
    runs = models.PositiveIntegerField(default=0)  # whose files these are
    #: Of its files, as far as they are marked, and what these take in bytes.
    file_count = models.PositiveIntegerField(default=0)
    size = models.BigIntegerField(default=0)
    made_at = models.DateTimeField()
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")

    state = models.CharField(max_length=16, choices=TrashState, default=TrashState.GATHERING)
    changed_at = models.DateTimeField()
    changed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    #: Files are moved in the order of their keys; those up to here are where `state` wants them.
    moved_upto = models.BigIntegerField(default=0)

    objects = TrashQuerySet.as_manager()

    AUDITED = ("what", "runs", "file_count", "size", "state")

    class Meta:
        verbose_name = _("deletion")
        verbose_name_plural = _("trash")
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=TrashState.values), name="trash_state")
        ]
        indexes = [models.Index(fields=["state"], name="trash_by_state")]

    def __str__(self) -> str:
        return f"{self.project}: {self.get_what_display()}"

    @property
    def can_be_restored(self) -> bool:
        return self.state in (TrashState.FILLING, TrashState.KEPT)

    def may_be_turned_by(self, user: Any) -> bool:
        """Whose run it was, and managers, may restore it or remove it for good."""
        own = self.what == What.RUN and all(job.user_id == user.pk for job in self.jobs.all())
        return may_manage(user) or (own and may_submit(user))

    def restore(self, now: datetime, *, by: Any = None) -> None:
        """Wish all of it back where it was.

        Raises:
            NotInTrash: it was turned already.
            PlaceTaken: newer files lie there.
        """
        if self.can_be_restored:
            self._check_places_free()
        self._turn(TrashState.RESTORING, now, by)

    def _check_places_free(self) -> None:
        """SyncFile.check_place_free() of all its files, by few queries. Raises: PlaceTaken."""
        files = list(self.files.order_by("pk").values_list("job", "shelf", "name", "displaced"))
        for start in range(0, len(files), _AT_ONCE):
            _check_above(files[start : start + _AT_ONCE])
        has_beneath = self.files.filter(Exists(_beneath_outer())).order_by("pk")
        for row in has_beneath.select_related("job")[:1]:
            row.check_place_free()

    def empty(self, now: datetime, *, by: Any = None) -> None:
        """Wish its bytes away for good. Raises: NotInTrash."""
        self._turn(TrashState.EMPTYING, now, by)

    def _turn(self, to: TrashState, now: datetime, by: Any) -> None:
        fields = {"state": to, "changed_at": now, "changed_by": by, "moved_upto": 0}
        if not Trash.objects.kept().filter(pk=self.pk).update(**fields):
            self.refresh_from_db(fields=["state"])
            words = gettext("This is not in the trash any more (%(state)s).")
            raise NotInTrash(words % {"state": self.get_state_display()}, state=self.state)
        self.refresh_from_db()
        wake.publish_on_commit("project", self.project_id)
        wake.ask_tidy()


class TrashSlice(models.Model):
    """Keys of jobs and files that a deletion has yet to mark; gone once they are marked.

    Rows of their own: SQLite writes a row anew as a whole, and all keys of a large deletion are a
    megabyte.
    """

    trash = models.ForeignKey(Trash, models.CASCADE, related_name="slices")
    jobs = models.JSONField(default=list)
    files = models.JSONField(default=list)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.trash}: {len(self.jobs)} runs, {len(self.files)} files"


class ByBytes(Func):
    """A text that is compared byte by byte, as SQLite does, whatever PostgreSQL's collation is.
    Migration 0007 has the index for it."""

    template = "%(expressions)s"
    arity = 1
    output_field = models.CharField()

    def as_postgresql(self, compiler: Any, connection: Any, **more: Any) -> Any:
        return self.as_sql(compiler, connection, template='%(expressions)s COLLATE "C"', **more)


def _check_above(files: list[tuple[int, int, str, int]]) -> None:
    """Whether one lies where these, or folders above them, are to be. Raises: PlaceTaken."""
    named: set[tuple[int, int, str]] = set()
    above: set[tuple[int, int, str]] = set()
    for job, shelf, name, displaced in files:
        if displaced:  # else it is its own row that has the name
            named.add((job, shelf, name))
        parts = name.split("/")
        above |= {(job, shelf, "/".join(parts[:count])) for count in range(2, len(parts))}
    of_these = SyncFile.objects.filter(job__in={job for job, *_ in files})
    for rows, places in ((of_these.filter(displaced=0), named), (of_these.present(), above)):
        names = sorted({name for _, _, name in places})
        for start in range(0, len(names), _AT_ONCE):
            there = rows.filter(name__in=names[start : start + _AT_ONCE])
            for place in there.order_by("pk").values_list("job", "shelf", "name"):
                if place in places:
                    raise place_taken(place[-1])


def _beneath_outer() -> "SyncFileQuerySet":
    """The files beneath each of those that are asked for, as if it were a folder."""
    name = OuterRef("name")
    return (
        SyncFile.objects.present()
        .alias(by_bytes=ByBytes("name"))
        .filter(
            job=OuterRef("job"), shelf=OuterRef("shelf"),
            by_bytes__gt=Concat(name, Value("/")), by_bytes__lt=Concat(name, Value("0")),
        )
    )  # fmt: skip


def place_taken(name: str) -> PlaceTaken:
    words = gettext("“%(name)s” has taken the place of this; delete that first.")
    return PlaceTaken(words % {"name": name}, file_name=name)


class SyncFileQuerySet(models.QuerySet):
    def present(self) -> "SyncFileQuerySet":
        """Without what was deleted."""
        return self.filter(trash=None)

    def results(self) -> "SyncFileQuerySet":
        """The run's own files, without what attempts that were given up left behind."""
        return self.present().filter(shelf=0)

    def in_the_way_of(self, job: Job, shelf: int, name: str) -> "SyncFileQuerySet":
        """The files beside which no disk holds one of that name: it would lie beneath them as if
        they were folders, or they lie beneath it."""
        parts = name.split("/")
        if not parts[1:]:  # `run_001.csv`: all other names begin with `run_001.` or `run_001/`
            return self.none()
        above = ["/".join(parts[:count]) for count in range(1, len(parts))]
        run = SyncFile.objects.filter(job=job, shelf=shelf).order_by().values("pk")
        # "0" comes after "/". Two questions, since SQLite finds no index for one with OR.
        beneath = run.alias(by_bytes=ByBytes("name")).filter(
            by_bytes__gt=f"{name}/", by_bytes__lt=f"{name}0"
        )
        return self.present().filter(pk__in=run.filter(name__in=above).union(beneath, all=True))

    def taken_bytes(self) -> int:
        """What they take on the disk, with their earlier versions."""
        return self.aggregate(sum=Sum(F("size") + F("aside_bytes")))["sum"] or 0


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
    #: The disk held less than was acknowledged, or a person has put something else in its place.
    outdated = models.BooleanField(default=False)
    source_mtime = models.BigIntegerField(null=True)  # of the agent's file, whole seconds
    synced_at = models.DateTimeField()
    aside_bytes = models.BigIntegerField(default=0)  # of its earlier versions, laid aside
    #: Deleted: its bytes are there, or gone from there; sync wants it no more.
    trash = models.ForeignKey(Trash, models.PROTECT, null=True, related_name="files")
    #: Its own key, once a file took its place that cannot be beside it (sync.displacing): its name
    #: is free for another row then.
    displaced = models.BigIntegerField(default=0)
    #: The last Idempotency-Key of a delta without an offset, and what it was answered; of those
    #: before it nothing is known.
    last_key = models.CharField(max_length=200, blank=True)
    last_answer = models.JSONField(default=dict)

    objects = SyncFileQuerySet.as_manager()

    class Meta:
        verbose_name = _("file")
        verbose_name_plural = _("files")
        ordering = ["job", "shelf", "name"]
        constraints = [
            models.UniqueConstraint(
                fields=["job", "shelf", "name", "displaced"], name="one_row_a_file"
            ),
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

    def check_place_free(self) -> None:
        """Of one that is to be restored.

        Raises:
            PlaceTaken: another file has its name, or one lies there that cannot be beside it.
        """
        others = SyncFile.objects.exclude(pk=self.pk)
        same = others.filter(job=self.job, shelf=self.shelf, name=self.name, displaced=0)
        taken = same.first() or others.in_the_way_of(self.job, self.shelf, self.name).first()
        if taken is not None:
            raise place_taken(taken.name)

    @property
    def may_have_earlier(self) -> bool:
        """Whether versions of it may lie aside; to look costs reading its folder."""
        return self.generation > 1


class Upload(models.Model):
    """A whole file that comes in chunk by chunk: which version it will be, and how far it is.

    One for each file of a run: a newer version takes the place of an older one that is still on
    its way. `size` is the truth of what was acknowledged, as that of SyncFile is. Written by
    sync.chunks only. Nothing of it is seen by anybody until it is whole, and then it is gone.
    """

    job = models.ForeignKey(Job, models.CASCADE, related_name="uploads")
    name = models.CharField(max_length=512)
    shelf = models.PositiveIntegerField(default=0)
    attempt = models.PositiveIntegerField()
    generation = models.BigIntegerField()
    upload_id = models.CharField(max_length=64)  # chosen by the sender
    length = models.BigIntegerField()  # of the whole, in bytes
    sha256 = models.CharField(max_length=64)  # of the whole, as the sender says
    size = models.BigIntegerField(default=0)
    moved_at = models.DateTimeField()  # when the last chunk came

    complete = False  # what SyncFile says of a file that may be whole

    class Meta:
        verbose_name = _("upload")
        verbose_name_plural = _("uploads")
        ordering = ["job", "shelf", "name"]
        constraints = [
            models.UniqueConstraint(fields=["job", "shelf", "name"], name="one_upload_a_file"),
            models.CheckConstraint(
                condition=Q(size__gte=0) & Q(size__lte=models.F("length")), name="upload_size"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.job}: {self.name}"

    @property
    def version(self) -> tuple[int, int]:
        return self.attempt, self.generation


class DiskSample(models.Model):
    """How full the disk of the files was, about once an hour; sync.disk looks ahead by them."""

    at = models.DateTimeField(primary_key=True)
    free_bytes = models.BigIntegerField()
    total_bytes = models.BigIntegerField()

    class Meta:
        ordering = ["at"]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M}: {self.free_bytes}"
