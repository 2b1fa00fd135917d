"""A body of work, and what its jobs have in common."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import connection, models, transaction
from django.db.models import F, Q
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from agent import wire
from experiments import metrics
from experiments.errors import NotSubmitted, ProjectArchived
from experiments.models.member import LEADS, WORKS, Member
from experiments.options import options_of
from experiments.yamltree import ConfigInvalid
from labsite import wake
from people.errors import NotAllowed
from people.roles import check_may_submit, may_manage, may_submit

#: Of its quota, from where on people are told.
WARN_PERCENT = 90
DEFAULTS = (
    "command", "environment", "python", "working_directory", "outputs", "ignore", "sync",
    "secrets", "requires",
)  # fmt: skip


def check_metric(name: str) -> None:
    """Of a column's name; the database looks for it by a path, where these would mean more."""
    if set(name) & set('"\\'):
        raise ValidationError(gettext("A metric's name has neither quotes nor backslashes here."))


class Goal(models.TextChoices):
    """Which way its main metric is better."""

    MAX = "max", _("the higher the better")
    MIN = "min", _("the lower the better")


class ProjectQuerySet(models.QuerySet):
    def visible_to(self, user: Any) -> "ProjectQuerySet":
        """What this user may see: all but private projects of others; a manager sees those too.

        Nobody and agents, which have no account, see none.
        """
        if user is None or user.pk is None:
            return self.none()
        return self if may_manage(user) else self.exclude(pk__in=self.model.hidden_from(user))

    def listed(self) -> "ProjectQuerySet":
        """Without those in the archive."""
        return self.filter(archived_at=None)


class Project(models.Model):
    """A body of work; its runs are numbered run_001 and so on, and no number is used twice."""

    name = models.CharField(_("name"), max_length=128, unique=True)
    #: What people read where the name, which folders bear, has become a poor one.
    title = models.CharField(_("title"), max_length=128, blank=True)
    #: Only its members and managers see it, and its runs.
    private = models.BooleanField(_("private"), default=False)
    description = models.TextField(_("description"), blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, editable=False
    )
    is_demo = models.BooleanField(
        default=False, editable=False,
        help_text=_("Made up by manage.py demo_data: its runs are given to no GPU server."),
    )  # fmt: skip
    #: The last number given to a run; moved only by next_runs().
    last_run = models.PositiveIntegerField(default=0, editable=False)

    # What its jobs use where they say nothing themselves.
    command = models.JSONField(_("command"), default=list, blank=True)
    environment = models.JSONField(_("environment"), default=dict, blank=True)
    python = models.CharField(_("Python (venv or conda)"), max_length=1024, blank=True)
    working_directory = models.CharField(_("working directory"), max_length=1024, blank=True)

    outputs = models.JSONField(
        _("outputs"), default=list, blank=True, help_text='["lightning_logs/**", "runs/**"]'
    )
    ignore = models.JSONField(_("ignored outputs"), default=list, blank=True)
    sync = models.JSONField(
        _("files to send"),
        default=dict,
        blank=True,
        help_text='{"checkpoints": "last", "max_file": "20GB"}',
    )
    #: Names only, of secrets that its runs are given.
    secrets = models.JSONField(_("secrets"), default=list, blank=True)
    requires = models.JSONField(
        _("what GPU servers must have"),
        default=dict,
        blank=True,
        help_text='{"paths": ["/data/imagenet"], "commands": ["ffmpeg"]}',
    )
    main_metric = models.CharField(
        _("main metric"), max_length=255, blank=True, validators=[check_metric]
    )
    main_metric_goal = models.CharField(
        _("its goal"), max_length=3, choices=Goal, default=Goal.MAX
    )
    #: Read-only since then: it takes no new runs, and lists leave it out.
    archived_at = models.DateTimeField(null=True, editable=False)
    quota_bytes = models.BigIntegerField(
        _("quota in bytes"), null=True, blank=True, validators=[MinValueValidator(0)],
        help_text=_("What its files may take on the server; empty: the lab's own, 0: no limit."),
    )  # fmt: skip
    #: What its files take, those in the trash left out; written by sync, through note_used().
    used_bytes = models.BigIntegerField(default=0, editable=False)

    objects = ProjectQuerySet.as_manager()

    AUDITED = (
        "title", "private", "description", "main_metric", "main_metric_goal", "quota_bytes",
        "archived_at", *DEFAULTS,
    )  # fmt: skip

    class Meta:
        verbose_name = _("project")
        verbose_name_plural = _("projects")
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(condition=~Q(name=""), name="project_name"),
            models.CheckConstraint(
                condition=Q(quota_bytes=None) | Q(quota_bytes__gte=0), name="project_quota"
            ),
            models.CheckConstraint(
                condition=Q(main_metric_goal__in=Goal.values), name="project_goal_known"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def better(self, metric: str) -> str:
        """ "max" or "min": of its main metric what the project says, of others what their name
        says; empty: nobody knows."""
        is_main = bool(metric) and metric == self.main_metric
        return self.main_metric_goal if is_main else metrics.better(metric)

    def main_first(self, names: Iterable[str]) -> list[str]:
        """The main metric, those of which one knows which way is better, and the rest."""
        return sorted(names, key=lambda name: (name != self.main_metric, not self.better(name)))

    @property
    def shown_name(self) -> str:
        """What people call it."""
        return self.title or self.name

    def clean(self) -> None:
        """Hold its defaults to what a job's own options are, whoever sets them."""
        said = {name: value for name in DEFAULTS if (value := getattr(self, name))}
        try:
            options = options_of(said)
        except ConfigInvalid as exc:
            raise ValidationError(str(exc)) from exc
        for name in said.keys() - {"sync"}:  # a command may be written as a line
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
            words = gettext(
                "“%(name)s” cannot be a project's name: use letters, digits, dots, dashes and "
                "underscores, beginning with a letter or digit (at most 128)."
            )
            raise NotSubmitted(words % {"name": name}, field="project")

    def next_run(self) -> int:
        """Take the next number, as next_runs() does."""
        return self.next_runs(1)[0]

    def next_runs(self, count: int) -> range:
        """Take the next numbers. In the transaction of the submit: a refused one leaves no gap.

        Raises:
            ProjectArchived: it takes no new runs, or is a demo's, of which nothing is ever run.
        """
        if self.is_demo:
            words = gettext("%(project)s is made up for a demo; name a project of your own.")
            raise ProjectArchived(words % {"project": self})
        open_ = Project.objects.listed().filter(pk=self.pk)
        if not open_.update(last_run=F("last_run") + count):
            words = gettext(
                "%(project)s is archived and takes no new runs; take it out of the archive first."
            )
            raise ProjectArchived(words % {"project": self})
        self.refresh_from_db(fields=["last_run"])
        return range(self.last_run - count + 1, self.last_run + 1)

    def number_for(self, wanted: int | None) -> int:
        """Of an imported run: the number that it had, if no run here has had it; else the next.
        Under lock(), and otherwise as next_runs()."""
        self.next_runs(0)
        if wanted is None or self.jobs.filter(run_number=wanted).exists():
            return self.next_run()
        self.next_runs(max(0, wanted - self.last_run))
        return wanted

    def lock(self) -> None:
        """Let nobody queue a job in it before this transaction ends: a submit holds its row, and
        whoever comes after it sees its job."""
        Project.objects.select_for_update(no_key=True).get(pk=self.pk)

    # --- who may what ---------------------------------------------------------------------------

    @classmethod
    def hidden_from(cls, user: Any) -> models.QuerySet:
        """The keys of the private projects of which `user` is no member, and no maker."""
        mine = Member.objects.filter(user=user).values("project")
        hidden = cls.objects.filter(private=True).exclude(pk__in=mine)
        return hidden.exclude(created_by=user).values("pk")

    def may_be_changed_by(self, user: Any) -> bool:
        """Its maker, whoever leads it, and managers."""
        if may_manage(user):
            return True
        own = may_submit(user) and self.created_by_id == user.pk
        return own or (
            may_submit(user) and self.members.filter(user=user, role__in=LEADS).exists()
        )

    def may_be_worked_in_by(self, user: Any) -> bool:
        """Whoever may submit; in a private one its maker, members who work, and managers."""
        if not may_submit(user):
            return False
        if not self.private or may_manage(user) or self.created_by_id == user.pk:
            return True
        return self.members.filter(user=user, role__in=WORKS).exists()

    def check_submit(self, by: Any) -> None:
        """`by` None: the server itself.

        Raises:
            NotAllowed: their role, or their place in the project, does not allow it.
        """
        if by is None:
            return
        check_may_submit(by)
        if not self.may_be_worked_in_by(by):
            words = gettext(
                "The project %(project)s is private, and you do not work in it: ask who leads it, "
                "or choose another name."
            )
            raise NotAllowed(words % {"project": self})

    # --- archive and quota ----------------------------------------------------------------------

    @property
    def limit_bytes(self) -> int | None:
        """What its files may take; None: as much as there is."""
        quota = settings.LAB_QUOTA_BYTES if self.quota_bytes is None else self.quota_bytes
        return quota or None

    @property
    def used_percent(self) -> int | None:
        """Of its quota; None: it has none. Never 100 before it is full."""
        return 100 * self.used_bytes // self.limit_bytes if self.limit_bytes else None

    @property
    def is_nearly_full(self) -> bool:
        return (self.used_percent or 0) >= WARN_PERCENT

    def archive(self, now: datetime) -> None:
        """Make it read-only. Twice is once.

        Raises:
            ProjectArchived: a run of it waits or runs; it has to end first.
        """
        with transaction.atomic():
            self.lock()
            if self.jobs.unended().exists():
                words = gettext(
                    "%(project)s has runs that wait or run; archive it when they have ended."
                )
                raise ProjectArchived(words % {"project": self})
            Project.objects.listed().filter(pk=self.pk).update(archived_at=now)
        wake.publish_on_commit("project", self.pk)
        self.refresh_from_db(fields=["archived_at"])

    def unarchive(self) -> None:
        Project.objects.filter(pk=self.pk).update(archived_at=None)
        wake.publish_on_commit("project", self.pk)
        self.archived_at = None

    def set_options(self, values: dict[str, Any]) -> None:
        """Write what its settings page holds, after clean()."""
        Project.objects.filter(pk=self.pk).update(**values)
        wake.publish_on_commit("project", self.pk)

    def check_writable(self) -> None:
        """
        Raises:
            ProjectArchived: nothing of it is changed meanwhile.
        """
        if self.archived_at:
            words = gettext("%(project)s is archived; take it out of the archive to change it.")
            raise ProjectArchived(words % {"project": self})

    def note_used(self, more_bytes: int) -> None:
        """Its files take so much more, or less. In the transaction that moves their rows."""
        if more_bytes:
            table = self._meta.db_table
            with connection.cursor() as cursor:  # not composed anew: each delta comes here
                cursor.execute(
                    f"UPDATE {table} SET used_bytes = used_bytes + %s WHERE id = %s",  # noqa: S608
                    [more_bytes, self.pk],
                )
