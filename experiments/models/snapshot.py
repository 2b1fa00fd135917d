"""Code that jobs run in: snapshots of people's folders, and the files that these hold.

The bytes lie on the disk by their SHA-256 (sync.code.blobs); here stands whose they are and for
how long they are wanted. That one knows a file's SHA-256 gives nobody the file: a snapshot is made
of files that its maker has sent, and is read by those who see a job of it (docs/adr/0030).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from django.conf import settings
from django.db import models, transaction
from django.db.models import Exists, F, OuterRef, Q, Sum
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from agent.code.manifest import MAX_LINE_CHARACTERS, MAX_WORD_CHARACTERS, Manifest
from experiments.errors import LostRace

#: Of the keys of one query: a database takes some thousands at most.
AT_ONCE = 500
#: A snapshot that no job names is kept for so long, and so is a file that no snapshot names.
KEEP = timedelta(days=7)

T = TypeVar("T")


def no_snapshot() -> str:
    return gettext(
        "The code that it names is not on the server, or is not yours: submit it again from its "
        "folder (lab submit), which sends it."
    )


def just_removed() -> str:
    return gettext("A file of it was just removed; send it once more.")


class BlobQuerySet(models.QuerySet):
    def lacking(self, sizes: Mapping[str, int], user: Any) -> list[str]:
        """Those that this person has not sent, whoever else has; or not of that size."""
        sent: dict[str, int] = {}
        for some in _in_slices(sorted(sizes)):
            sent.update(self.filter(sha256__in=some, holders=user).values_list("sha256", "size"))
        return sorted(one for one, size in sizes.items() if sent.get(one) != size)

    def note(self, sizes: Mapping[str, int], user: Any, now: datetime) -> None:
        """These lie on the disk, and this person has sent them. Twice is once."""
        with transaction.atomic():
            for some in _in_slices(sorted(sizes)):
                made = [Blob(sha256=one, size=sizes[one], idle_since=now) for one in some]
                self.bulk_create(made, ignore_conflicts=True)
                there = self.filter(sha256__in=some)
                there.filter(named=0).update(idle_since=now)
                held = [
                    Blob.holders.through(blob_id=pk, user_id=user.pk)
                    for pk in there.values_list("pk", flat=True)
                ]
                Blob.holders.through.objects.bulk_create(held, ignore_conflicts=True)

    def count_in(self, sha256s: Collection[str]) -> None:
        """One more snapshot holds these. Only inside a transaction.

        Raises:
            LostRace: one of them was let go of in between.
        """
        for some in _in_slices(sorted(sha256s)):
            named = {"named": F("named") + 1, "idle_since": None}
            if self.filter(sha256__in=some).update(**named) < len(some):
                raise LostRace(just_removed())

    def count_out(self, sha256s: Collection[str], now: datetime) -> None:
        """One snapshot less holds these. Only inside a transaction."""
        for some in _in_slices(sorted(sha256s)):
            self.filter(sha256__in=some, named__gt=0).update(named=F("named") - 1)
            self.filter(sha256__in=some, named=0).update(idle_since=now)

    def idle_bytes(self, user: Any) -> int:
        """How much this person has sent that no snapshot holds."""
        found = self.filter(holders=user, named=0).aggregate(sum=Sum("size"))
        return found["sum"] or 0

    def idle_bytes_among(self, sha256s: Collection[str]) -> int:
        """How much of these no snapshot holds."""
        found = 0
        for some in _in_slices(sorted(sha256s)):
            sizes = self.filter(sha256__in=some, named=0).aggregate(sum=Sum("size"))
            found += sizes["sum"] or 0
        return found

    def forget_idle(self, now: datetime, kept: timedelta = KEEP) -> list[str]:
        """Let go of some of those that no snapshot has held for so long, and return their names.
        Their bytes follow."""
        with transaction.atomic():
            idle = self.filter(named=0, idle_since__lt=now - kept).order_by("pk")
            locked = dict(idle.select_for_update().values_list("pk", "sha256")[:AT_ONCE])
            Blob.objects.filter(pk__in=locked).delete()
        return list(locked.values())

    def named(self, sha256s: Collection[str]) -> Iterator[str]:
        """Those of these names that there are."""
        return _named(self, sha256s)


class Blob(models.Model):
    """One content of a file, however many snapshots and people have it."""

    sha256 = models.CharField(max_length=64, unique=True, editable=False)
    size = models.PositiveBigIntegerField(editable=False)
    named = models.PositiveIntegerField(default=0, editable=False)  # by so many snapshots
    idle_since = models.DateTimeField(null=True, editable=False)  # while none does
    #: Who has sent it, and so need not send it again.
    holders = models.ManyToManyField(settings.AUTH_USER_MODEL, related_name="+")

    objects = BlobQuerySet.as_manager()

    class Meta:
        verbose_name = _("file of code")
        verbose_name_plural = _("files of code")
        indexes = [
            models.Index(fields=["idle_since"], condition=Q(named=0), name="blob_idle"),
        ]

    def __str__(self) -> str:
        return self.sha256


class SnapshotQuerySet(models.QuerySet):
    def keep(self, manifest: Manifest, sha256: str, *, by: Any, now: datetime) -> "Snapshot":
        """Make it, or find it made; `by` has sent all that it holds, the document too.

        Raises:
            LostRace: it, or a file of it, was let go of in between.
        """
        with transaction.atomic():
            facts = {name: getattr(manifest, name) for name in FACTS}
            facts |= {"file_count": len(manifest.files) + len(manifest.links), "made_at": now}
            kept, is_new = self.get_or_create(sha256=sha256, defaults={**facts, "used_at": now})
            if is_new:
                Blob.objects.count_in(manifest.sizes)
            elif not self.filter(pk=kept.pk).update(used_at=now):
                raise LostRace(just_removed())
            kept.holders.add(by)
        return kept

    def for_job_of(self, user: Any, sha256: str) -> "Snapshot | None":
        """The one of that name, if this person may run it: their own, or that of a run that they
        see. None as a user is the server itself."""
        found = self.filter(sha256=sha256).first()
        if found is None or user is None or found.may_be_read_by(user):
            return found
        return None

    def unused(
        self, now: datetime, deleted_before: datetime, kept: timedelta = KEEP
    ) -> "SnapshotQuerySet":
        """Those that no job has named for so long. A deleted one counts until it cannot come
        back."""
        gone = Q(deleted_at__lt=deleted_before)
        wanted = Snapshot.jobs.rel.related_model.objects.filter(~gone, snapshot=OuterRef("pk"))
        return self.filter(~Exists(wanted), used_at__lt=now - kept)

    def unnamed_bytes(self, user: Any) -> int:
        """Of those that this person has taken and no job names."""
        jobs = Snapshot.jobs.rel.related_model.objects.filter(snapshot=OuterRef("pk"))
        theirs = self.filter(~Exists(jobs), holders=user)
        return theirs.aggregate(sum=Sum("size_bytes"))["sum"] or 0

    def named(self, sha256s: Collection[str]) -> Iterator[str]:
        """Those of these names that there are."""
        return _named(self, sha256s)


#: Of a manifest, what its row tells.
FACTS = ("commit", "branch", "dirty", "remote", "size_bytes")


class Snapshot(models.Model):
    """A folder as it was: named by the SHA-256 of its manifest, and never changed."""

    sha256 = models.CharField(max_length=64, unique=True, editable=False)
    commit = models.CharField(max_length=MAX_WORD_CHARACTERS, blank=True, editable=False)
    branch = models.CharField(max_length=MAX_WORD_CHARACTERS, blank=True, editable=False)
    dirty = models.BooleanField(default=False, editable=False)  # with what is in no commit
    remote = models.CharField(max_length=MAX_LINE_CHARACTERS, blank=True, editable=False)
    size_bytes = models.PositiveBigIntegerField(editable=False)
    file_count = models.PositiveIntegerField(editable=False)  # with links
    made_at = models.DateTimeField(editable=False)
    used_at = models.DateTimeField(editable=False)  # when somebody last took it
    #: Who has taken it.
    holders = models.ManyToManyField(settings.AUTH_USER_MODEL, related_name="+")

    objects = SnapshotQuerySet.as_manager()

    class Meta:
        verbose_name = _("snapshot of code")
        verbose_name_plural = _("snapshots of code")
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.sha256[:12]

    def may_be_read_by(self, user: Any) -> bool:
        holds = self.holders.filter(pk=user.pk).exists()
        return holds or self.jobs.visible_to(user).present().exists()

    def drop(
        self,
        sha256s: Collection[str],
        now: datetime,
        deleted_before: datetime,
        *,
        not_since: datetime | None = None,
    ) -> bool:
        """Let go of it and of what it holds, unless a job has named it meanwhile.

        Args:
            sha256s: of its files, each once.
            now: from when on files that no other snapshot holds count as idle.
            not_since: nobody may have taken it since then; None: for as long as such are kept.
        """
        with transaction.atomic():
            row = Snapshot.objects.filter(pk=self.pk)
            row.select_for_update().first()
            # Asked with the row locked: a job that named it until then is seen now.
            latest = not_since or now - KEEP
            if not row.unused(latest, deleted_before, timedelta()).exists():
                return False
            self.jobs.update(snapshot=None)
            Blob.objects.count_out(sha256s, now)
            Snapshot.objects.filter(pk=self.pk).delete()
        return True


def _named(rows: models.QuerySet, sha256s: Collection[str]) -> Iterator[str]:
    for some in _in_slices(sorted(sha256s)):
        yield from rows.filter(sha256__in=some).values_list("sha256", flat=True)


def _in_slices(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]
