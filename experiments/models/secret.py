"""What jobs need and nobody may read again: HF_TOKEN, WANDB_API_KEY.

A secret is a person's or a project's. It is written and never read by people: pages and API tell
its name, when it was set last and by whom. Where both have one of a name, a run is given the
project's: whoever queues it, it runs with the same. See docs/adr/0033.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import models, transaction
from django.db.models import Q
from django.utils.translation import gettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from experiments import sealing
from experiments.errors import NotSubmitted, SecretInvalid, SecretsLocked
from experiments.models.member import WORKS, Member
from experiments.models.project import Project
from experiments.models.sealed import make_first_key, seal_to_keep
from experiments.values import Wrong, node_of, secret_name
from labsite import wake
from people.audit import facts_of, note
from people.roles import may_manage

#: A shorter one would be found, and masked, in innocent places of logs.
MIN_CHARACTERS, MAX_CHARACTERS = 8, 4096
MOST = 50  # of one person, or of one project
#: What an ended try was given is kept (sealed) for so long: a GPU server that was away may still
#: have a log to mask.
KEEP_GIVEN = timedelta(days=30)
_ONE_LINE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]*")


class SecretQuerySet(models.QuerySet):
    def usable_by(self, user: Any) -> models.QuerySet:
        """The names that a run of this user may be given, in some project: as Vault gives them."""
        if may_manage(user):
            return self._names(Q(user=user) | Q(user=None))
        works = Member.objects.filter(user=user, role__in=WORKS).values("project")
        mine = Q(project__created_by=user) | Q(project__in=works)
        return self._names(Q(user=user) | mine)

    def _names(self, which: Q) -> models.QuerySet:
        return self.filter(which).order_by("name").values_list("name", flat=True).distinct()


class Secret(models.Model):
    name = models.CharField(_("name"), max_length=128, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, null=True, related_name="secrets",
        editable=False,
    )  # fmt: skip
    project = models.ForeignKey(
        "experiments.Project", models.CASCADE, null=True, related_name="kept_secrets",
        editable=False,
    )  # fmt: skip
    sealed = models.TextField(editable=False)  # by experiments.sealing
    changed_at = models.DateTimeField(pgettext_lazy("of a secret", "set"), editable=False)
    changed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", editable=False
    )

    objects = SecretQuerySet.as_manager()

    AUDITED = ("name", "changed_at")  # when it was set, and never what it is

    class Meta:
        verbose_name = _("secret")
        verbose_name_plural = _("secrets")
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(user=None, project__isnull=False)
                | Q(user__isnull=False, project=None),
                name="secret_of_one",
            ),
            models.UniqueConstraint(fields=["user", "name"], name="secret_of_user"),
            models.UniqueConstraint(fields=["project", "name"], name="secret_of_project"),
        ]

    def __str__(self) -> str:
        return f"{self.project}: {self.name}" if self.project else self.name

    @classmethod
    def put(cls, of: Any, name: str, value: str, now: datetime, *, by: Any) -> "Secret":
        """Keep a value for a person or a project, in place of the one before.

        Raises:
            SecretInvalid: its name or value cannot be one; which says nothing of the value.
            SecretsLocked: the key is gone that others were sealed with.
        """
        check_name(name)
        value = _checked(value)
        make_first_key()
        with transaction.atomic():
            fields = {"sealed": seal_to_keep(value), "changed_at": now, "changed_by": by}
            kept = cls.objects.filter(**_of(of))
            if kept.exclude(name=name).count() >= MOST:
                words = gettext("There are %(n)d secrets here; delete some first.")
                raise SecretInvalid(words % {"n": MOST})
            before = facts_of(known) if (known := kept.filter(name=name).first()) else {}
            made = cls.objects.update_or_create(**_of(of), name=name, defaults=fields)[0]
            made._note(by, "set", before=before, after=facts_of(made))
        wake.ask_dispatch()  # a job may have waited for it
        return made

    def take(self, *, by: Any) -> None:
        """Keep it no longer. What runs goes on with what it was given."""
        with transaction.atomic():
            self._note(by, "delete", before=facts_of(self))
            self.delete()

    def _note(self, by: Any, verb: str, **facts: Any) -> None:
        """One's own account is no matter of the audit log, a project is."""
        if self.project_id is not None:
            note(by, self, verb, **facts)


class GivenSecret(models.Model):
    """What a try was given, sealed: copied when it was assigned, so that it is the same for all
    of the try's life, whatever is changed or deleted meanwhile."""

    attempt = models.ForeignKey(
        "experiments.Attempt", models.CASCADE, related_name="given_secrets", editable=False
    )
    name = models.CharField(max_length=128, editable=False)
    sealed = models.TextField(editable=False)

    class Meta:
        verbose_name = _("secret of a try")
        verbose_name_plural = _("secrets of tries")
        constraints = [models.UniqueConstraint(fields=["attempt", "name"], name="given_once")]

    def __str__(self) -> str:
        return self.name

    @classmethod
    def of(cls, attempts: Iterable[Any]) -> dict[Any, dict[str, str]]:
        """Attempt's key → {name: value} of those that have any. Those that cannot be opened are
        left out: agents start nothing without them."""
        keys = [attempt.pk for attempt in attempts]
        found: dict[Any, dict[str, str]] = {}
        for given in cls.objects.filter(attempt__in=keys) if keys else ():
            try:
                found.setdefault(given.attempt_id, {})[given.name] = sealing.unseal(given.sealed)
            except SecretsLocked:
                continue
        return found

    @classmethod
    def forget(cls, now: datetime) -> None:
        """Of tries that ended long ago."""
        cls.objects.filter(attempt__ended_at__lt=now - KEEP_GIVEN).delete()


class Vault:
    """Which secrets some jobs would be given now. Three queries, however many jobs; none at all
    where no job names any."""

    def __init__(self, jobs: Sequence[Any]) -> None:
        """`jobs` with their projects; unsaved ones will do."""
        jobs = [job for job in jobs if job.secrets]
        self._sealed: dict[tuple[str, Any, str], str] = {}
        self._members: set[tuple[Any, Any]] = set()
        self._managers: set[Any] = set()
        self._opens: dict[str, bool] = {}
        if jobs:
            self._read({job.user_id for job in jobs}, {job.project_id for job in jobs})

    def _read(self, users: set[Any], projects: set[Any]) -> None:
        kept = Secret.objects.filter(Q(user__in=users) | Q(project__in=projects))
        for one in kept.only("name", "user", "project", "sealed"):
            kind, owner = ("project", one.project_id) if one.project_id else ("user", one.user_id)
            self._sealed[kind, owner, one.name] = one.sealed
        work = Member.objects.filter(project__in=projects, user__in=users, role__in=WORKS)
        self._members = set(work.values_list("project_id", "user_id"))
        people = get_user_model().objects.filter(pk__in=users)
        self._managers = {one.pk for one in people if may_manage(one)}

    def given(self, job: Any) -> dict[str, str]:
        """{name: sealed} of what it names and there is; the project's before the submitter's."""
        found = {}
        for name in job.secrets:
            sealed = self._sealed.get(("user", job.user_id, name))
            if self._may_use(job):
                sealed = self._sealed.get(("project", job.project_id, name), sealed)
            if sealed is not None:
                found[name] = sealed
        return found

    def missing(self, job: Any) -> list[str]:
        given = self.given(job)
        return [name for name in job.secrets if name not in given]

    def opens(self, job: Any) -> bool:
        """Whether what it would be given can be opened."""
        return all(self._does_open(sealed) for sealed in self.given(job).values())

    def _does_open(self, sealed: str) -> bool:
        if sealed not in self._opens:
            try:
                sealing.unseal(sealed)
                self._opens[sealed] = True
            except SecretsLocked:
                self._opens[sealed] = False
        return self._opens[sealed]

    def _may_use(self, job: Any) -> bool:
        """A project's secrets are for its maker, its members who work, and managers, also where
        the whole lab may queue runs in it."""
        if job.user_id is None:
            return False
        is_maker = job.project.created_by_id == job.user_id
        is_member = (job.project_id, job.user_id) in self._members
        return is_maker or is_member or job.user_id in self._managers


def check_all_kept(job: Any) -> None:
    """At the submit, of a job that may not be saved yet.

    Raises:
        NotSubmitted: a secret that it names is kept nowhere.
    """
    missing = Vault([job]).missing(job)
    if missing:
        words = gettext(
            "No secret %(name)s is kept for you, nor for your use in the project %(project)s: set "
            "it under My account, or have whoever leads the project set it in its settings."
        )
        raise NotSubmitted(words % {"name": missing[0], "project": job.project}, field="secrets")


def check_name(name: str) -> None:
    """
    Raises:
        SecretInvalid: no variable of a job may be called so.
    """
    try:
        secret_name(node_of(name))
    except Wrong as wrong:
        raise SecretInvalid(str(wrong)) from wrong


def _checked(value: str) -> str:
    value = value.strip()
    if not MIN_CHARACTERS <= len(value) <= MAX_CHARACTERS:
        words = gettext(
            "A secret has %(low)d to %(high)d characters: a shorter one could not be kept out of "
            "logs."
        )
        raise SecretInvalid(words % {"low": MIN_CHARACTERS, "high": MAX_CHARACTERS})
    if not _ONE_LINE.fullmatch(value):
        raise SecretInvalid(
            gettext("A secret is one line: keep what has several in a file on the GPU server.")
        )
    return value


def _of(of: Any) -> dict[str, Any]:
    return {"project": of} if isinstance(of, Project) else {"user": of}
