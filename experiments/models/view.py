"""How people look at tables of runs: saved views, remembered columns, pinned runs."""

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from experiments.errors import NotYours, ViewInvalid
from experiments.models.job import Job
from experiments.models.project import Project
from people.roles import may_manage

MAX_VIEWS = 200


class SavedViewQuerySet(models.QuerySet):
    def named(self) -> "SavedViewQuerySet":
        """Without those that only remember somebody's columns."""
        return self.exclude(name="")

    def offered_to(self, user: Any, project: Project | None) -> "SavedViewQuerySet":
        """What stands above that table: one's own and the shared ones, by name."""
        ours = self.named().filter(Q(owner=user) | Q(is_shared=True), project=project)
        return ours.order_by("name", "pk")


class SavedView(models.Model):
    """A table's query, columns, order and groups. Without a name: the columns that its owner chose
    last for the tables of that project, or for those of all projects."""

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="views", editable=False
    )
    project = models.ForeignKey(
        Project, models.CASCADE, null=True, related_name="views", editable=False
    )
    name = models.CharField(_("name"), max_length=80, blank=True)
    is_shared = models.BooleanField(_("for everybody"), default=False)
    query = models.CharField(max_length=2000, blank=True)
    columns = models.JSONField(default=list)  # their words, in order; empty: the usual ones
    groups = models.JSONField(default=list)
    sort = models.CharField(max_length=300, blank=True)

    objects = SavedViewQuerySet.as_manager()

    class Meta:
        ordering = ["name", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["owner", "project", "name"],
                condition=Q(project__isnull=False),
                name="view_of_project",
            ),
            models.UniqueConstraint(
                fields=["owner", "name"], condition=Q(project=None), name="view_of_all"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @classmethod
    def save_as(cls, name: str, *, by: Any, project: Project | None, **spec: Any) -> "SavedView":
        """Save a view under a name; one's own of that name is replaced.

        Raises:
            ViewInvalid: it has no name, or one has too many.
        """
        name = " ".join(name.split())[:80]
        if not name:
            raise ViewInvalid(gettext("Give the view a name."))
        own = cls.objects.filter(owner=by)
        if own.count() >= MAX_VIEWS and not own.filter(project=project, name=name).exists():
            words = gettext("You have %(n)d views: delete one before you save another.")
            raise ViewInvalid(words % {"n": MAX_VIEWS})
        return cls._store(by, project, name, spec)

    @classmethod
    def remember_columns(cls, columns: list[str], *, by: Any, project: Project | None) -> None:
        cls._store(by, project, "", {"columns": columns})

    @classmethod
    def remembered_columns(cls, by: Any, project: Project | None) -> list[str]:
        """Empty: none were chosen."""
        found = cls.objects.filter(owner=by, project=project, name="").first()
        return found.columns if found else []

    @classmethod
    def _store(cls, by: Any, project: Project | None, name: str, spec: dict[str, Any]):
        view, _made = cls.objects.update_or_create(
            owner=by, project=project, name=name, defaults=spec
        )
        return view

    def remove(self, *, by: Any) -> None:
        """
        Raises:
            NotYours: it is somebody else's.
        """
        if self.owner_id != by.pk and not may_manage(by):
            raise NotYours(gettext("This view is somebody else's; its owner may delete it."))
        self.delete()


class Pin(models.Model):
    """A run that stands at the top of its reader's tables."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="pins")
    job = models.ForeignKey(Job, models.CASCADE, related_name="pins")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "job"], name="pin_once")]

    def __str__(self) -> str:
        return str(self.job)

    @classmethod
    def put(cls, job: Job, *, by: Any) -> None:
        cls.objects.get_or_create(user=by, job=job)

    @classmethod
    def take(cls, job: Job, *, by: Any) -> None:
        cls.objects.filter(user=by, job=job).delete()
