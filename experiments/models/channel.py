"""Where people are told of ends of runs and of what is wrong: Slack, a webhook, e-mail.

A channel is a person's (their own runs), a project's (its runs) or the lab's (its machines). There
is no outbox: `told_upto` is the last JobEvent that was told, ids rise in the order of commits, and
so "the events after it" is all that is left to tell, whatever crashed in between. See
docs/adr/0042; who sends is labsite.telling.
"""

import json
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.cache import cache
from django.db import models, transaction
from django.db.models import F, Max, Q
from django.utils.translation import get_language, gettext
from django.utils.translation import gettext_lazy as _

from experiments import addresses, sealing
from experiments.errors import ChannelInvalid
from experiments.models.event import JobEvent
from experiments.models.job import Job
from experiments.models.member import LEADS
from experiments.models.project import Project
from experiments.models.sealed import make_first_key, seal_to_keep
from labsite import wake
from people.audit import facts_of, note
from people.models import Profile
from people.roles import may_manage, may_submit

MOST = 20  # of one person, of one project, of the lab
#: Of a webhook's key: what is shorter could be guessed from one message.
MIN_KEY_CHARACTERS, MAX_KEY_CHARACTERS = 16, 256
#: Nobody tells what is older, nor tries a channel that has failed for longer.
TOO_OLD = timedelta(days=2)
GIVES_UP_AFTER = timedelta(days=7)
#: Between two tries of one that fails: twice as long each time.
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=5), timedelta(hours=1)
#: Who sends has a channel for itself for so long; each message that was sent renews it.
LEASE = timedelta(seconds=30)
TEST_AGAIN_SECONDS = 20  # of this process's count, which is enough to be no nuisance


class ChannelKind(models.TextChoices):
    SLACK = "slack", "Slack"
    WEBHOOK = "webhook", _("webhook")
    MAIL = "mail", _("e-mail")


class Tells(models.TextChoices):
    """What a channel may be told of: the first three of runs, the others of the lab."""

    SUCCEEDED = "succeeded", _("runs that succeeded")
    FAILED = "failed", _("runs that failed")
    CANCELLED = "cancelled", _("runs that somebody else cancelled")
    SILENT = "silent", _("silent GPU servers with runs on them")
    FAULTY = "faulty", _("faulty GPUs")
    DISK = "disk", _("disks that fill up")


OF_RUNS = (Tells.SUCCEEDED, Tells.FAILED, Tells.CANCELLED)
OF_LAB = (Tells.SILENT, Tells.FAULTY, Tells.DISK)


def kinds_offered() -> list[ChannelKind]:
    """E-mail only where there is a server to send it by."""
    offered = list(ChannelKind)
    return offered if settings.EMAIL_HOST else offered[:-1]


class ChannelQuerySet(models.QuerySet):
    def visible_to(self, user: Any) -> "ChannelQuerySet":
        """Those that this user sees and may change: their own, those of projects that they lead;
        managers besides all of projects, and the lab's."""
        if user is None or user.pk is None:
            return self.none()
        own = Q(user=user)
        if may_manage(user):
            return self.filter(own | Q(user=None))
        if not may_submit(user):
            return self.filter(own)
        leads = Q(members__user=user, members__role__in=LEADS)
        led = Project.objects.filter(Q(created_by=user) | leads)
        return self.filter(own | Q(project__in=led.values("pk")))

    def of(self, of: Any) -> "ChannelQuerySet":
        """Of a person, of a project, or (None) of the lab."""
        return self.filter(**_of(of))

    def due(self, now: datetime) -> "ChannelQuerySet":
        """Those that nobody sends to just now, and that do not pause after a failure. Those that
        failed come last: four of them at a time would have the others wait."""
        idle = Q(busy_until=None) | Q(busy_until__lt=now)
        rested = Q(retry_at=None) | Q(retry_at__lte=now)
        lively = Q(failing_since=None) | Q(failing_since__gt=now - GIVES_UP_AFTER)
        found = self.filter(idle, Q(test_asked_at__isnull=False) | rested & lively)
        return found.order_by("failures", "id")

    def pass_over(self, upto: int) -> None:
        """There was nothing for these up to that event."""
        self.filter(told_upto__lt=upto).update(told_upto=upto)


class Channel(models.Model):
    """Written by people through put(), take() and ask_test(), and by who sends through the rest:
    each one conditional UPDATE, which counts only while the channel is theirs (`busy_by`)."""

    uid = models.UUIDField(default=uuid.uuid4, editable=False)  # ids of messages are made of it
    kind = models.CharField(_("kind"), max_length=8, choices=ChannelKind, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, null=True, related_name="channels",
        editable=False,
    )  # fmt: skip
    project = models.ForeignKey(
        Project, models.CASCADE, null=True, related_name="channels", editable=False
    )
    host = models.CharField(_("where"), max_length=255, editable=False)  # all that is shown of it
    sealed = models.TextField(editable=False)  # {"address", "key"}, by experiments.sealing
    wants = models.JSONField(_("told of"), default=list, editable=False)
    language = models.CharField(max_length=8, editable=False)  # where its maker has not said one
    site = models.CharField(max_length=255, blank=True, editable=False)  # as its maker came by
    made_at = models.DateTimeField(editable=False)
    made_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", editable=False
    )

    told_upto = models.BigIntegerField(default=0, editable=False)  # a JobEvent's key
    lab_told = models.JSONField(default=list, editable=False)  # of the lab: what is wrong still
    told_at = models.DateTimeField(null=True, editable=False)
    test_asked_at = models.DateTimeField(null=True, editable=False)
    busy_by = models.CharField(max_length=32, blank=True, editable=False)
    busy_until = models.DateTimeField(null=True, editable=False)
    failures = models.PositiveIntegerField(default=0, editable=False)
    failing_since = models.DateTimeField(null=True, editable=False)
    retry_at = models.DateTimeField(null=True, editable=False)
    trouble = models.JSONField(default=dict, editable=False)  # as addresses.trouble_words has it
    skipped = models.PositiveIntegerField(default=0, editable=False)  # too old to be told

    AUDITED = ("kind", "host", "wants")

    objects = ChannelQuerySet.as_manager()

    class Meta:
        verbose_name = _("notification")
        verbose_name_plural = _("notifications")
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(kind__in=ChannelKind.values), name="channel_kind_known"
            ),
            models.CheckConstraint(
                condition=Q(user=None) | Q(project=None), name="channel_of_one"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.host}"

    # --- what people wish -----------------------------------------------------------------------

    @classmethod
    def put(
        cls, of: Any, kind: str, address: str, wants: Sequence[str], now: datetime,
        *, by: Any, key: str = "", site: str = "",
    ) -> "Channel":  # fmt: skip
        """Tell a person, a project's or (`of` None) the lab's people there from now on.

        Args:
            key: what a webhook's messages are signed with.
            site: how links in messages begin, where no LAB_PUBLIC_URL says it.

        Raises:
            ChannelInvalid: the address cannot be one, or nothing is wanted.
            SecretsLocked: the key is gone that others were sealed with.
        """
        host = addresses.checked(_offered(kind), address)
        kept = json.dumps({"address": address.strip(), "key": _key(kind, key)})
        make_first_key()
        with transaction.atomic():
            sealed = seal_to_keep(kept)
            if cls.objects.of(of).count() >= MOST:
                words = gettext("There are %(n)d notifications here; delete some first.")
                raise ChannelInvalid(words % {"n": MOST})
            newest = JobEvent.objects.aggregate(newest=Max("pk"))["newest"] or 0
            made = cls.objects.create(
                **_of(of), kind=kind, host=host, sealed=sealed, wants=_wants(of, wants),
                language=get_language() or "en", site=site[:255], made_at=now, made_by=by,
                told_upto=newest,
            )  # fmt: skip
            made._note(by, "make", after=facts_of(made))
        wake.publish_on_commit("channel", made.pk)
        return made

    def take(self, *, by: Any) -> None:
        with transaction.atomic():
            self._note(by, "delete", before=facts_of(self))
            self.delete()

    def ask_test(self, now: datetime) -> None:
        """Have a test message sent; its answer is found in the row a moment later.

        Raises:
            ChannelInvalid: one was sent just now; an address may be anybody's.
        """
        if not cache.add(f"tried:{self.pk}:{self.made_at.timestamp()}", 1, TEST_AGAIN_SECONDS):
            words = gettext("A test message was sent there just now; wait %(n)d s for the next.")
            raise ChannelInvalid(words % {"n": TEST_AGAIN_SECONDS})
        Channel.objects.filter(pk=self.pk).update(test_asked_at=now, trouble={}, skipped=0)
        wake.publish_on_commit("channel", self.pk)

    # --- how it stands --------------------------------------------------------------------------

    @property
    def is_of_lab(self) -> bool:
        return self.user_id is None and self.project_id is None

    @property
    def want_words(self) -> list[str]:
        return [str(Tells(want).label) for want in self.wants]

    @property
    def trouble_words(self) -> str:
        """Why the last message did not arrive, in the reader's language; empty: it did."""
        return addresses.trouble_words(self.get_kind_display(), self.trouble)

    def has_given_up(self, now: datetime) -> bool:
        return self.failing_since is not None and now - self.failing_since >= GIVES_UP_AFTER

    def spoken(self) -> str:
        """The language of its messages: its maker's."""
        return (Profile.of(self.made_by).language if self.made_by else "") or self.language

    def may_be_told(self) -> bool:
        """Whether its maker may still know what it tells."""
        maker = self.made_by
        if maker is None or not maker.is_active:
            return False
        if self.project is not None:
            return self.project.may_be_changed_by(maker)
        return may_manage(maker) if self.is_of_lab else maker.pk == self.user_id

    def may_tell_of(self, job: Job) -> bool:
        """Asked before each message, and so of the rows: to tell a backlog takes its time."""
        there = Channel.objects.select_related("made_by", "project").filter(pk=self.pk).first()
        if there is None or not there.may_be_told():
            return False
        return Job.objects.visible_to(there.made_by).filter(pk=job.pk).exists()

    def opened(self) -> dict[str, str]:
        """{"address", "key"}.

        Raises:
            SecretsLocked: none of the keys opens it.
        """
        return dict(json.loads(sealing.unseal(self.sealed)))

    # --- what who sends does --------------------------------------------------------------------

    def lease(self, sender: str, now: datetime) -> bool:
        """Have it for oneself; of several one does."""
        due = Channel.objects.due(now).filter(pk=self.pk)
        if not due.update(busy_by=sender, busy_until=now + LEASE):
            return False
        try:
            self.refresh_from_db()
        except Channel.DoesNotExist:  # deleted since
            return False
        return True

    def leave(self) -> None:
        """Give it to whoever comes next."""
        self._mine().update(busy_by="", busy_until=None)

    def note_told(self, now: datetime, **moved: Any) -> bool:
        """The other side has it; go on from there. False: it is not ours any more.

        Args:
            moved: `told_upto`, `lab_told`, `test_asked_at`.
        """
        mended = {"failures": 0, "failing_since": None, "retry_at": None, "trouble": {}}
        told = {"told_at": now, "busy_until": now + LEASE}
        self.failures, self.failing_since = 0, None  # by which note_failed() goes
        return bool(self._mine().update(**mended, **told, **moved))

    def note_passed(self, upto: int, skipped: int, now: datetime) -> bool:
        """There was nothing to tell up to that event, or it was too old."""
        moved = {"told_upto": upto, "skipped": F("skipped") + skipped, "busy_until": now + LEASE}
        return bool(self._mine().update(**moved))

    def note_better(self, left: list[str]) -> None:
        """Of what was wrong in the lab only these are."""
        self._mine().update(lab_told=left)

    def note_failed(self, trouble: dict[str, Any], now: datetime, pause: timedelta | None) -> None:
        """
        Args:
            pause: what the other side asks for; None: twice the last one.
        """
        doubled = FIRST_PAUSE * 2 ** min(self.failures, 16)
        self._mine().update(
            trouble=trouble,
            failures=F("failures") + 1,
            failing_since=self.failing_since or now,
            retry_at=now + min(pause or doubled, LONGEST_PAUSE),
            test_asked_at=None,
        )

    def note_test_failed(self, trouble: dict[str, Any]) -> None:
        """Of what waits nothing was tried."""
        self._mine().update(trouble=trouble, test_asked_at=None)

    # --- inside ---------------------------------------------------------------------------------

    def _mine(self) -> ChannelQuerySet:
        return Channel.objects.filter(pk=self.pk, busy_by=self.busy_by)

    def _note(self, by: Any, verb: str, **facts: Any) -> None:
        """One's own account is no matter of the audit log."""
        if self.user_id is None:
            note(by, self, verb, **facts)


def _of(of: Any) -> dict[str, Any]:
    if of is None:
        return {"user": None, "project": None}
    return {"project": of} if isinstance(of, Project) else {"user": of}


def _offered(kind: str) -> str:
    if kind not in kinds_offered():
        raise ChannelInvalid(gettext("Choose what to send it by: one of those that are offered."))
    return kind


def _key(kind: str, key: str) -> str:
    key = key.strip()
    if kind != ChannelKind.WEBHOOK:
        return ""
    if not MIN_KEY_CHARACTERS <= len(key) <= MAX_KEY_CHARACTERS or not key.isprintable():
        words = gettext(
            "A webhook's messages are signed with a key of %(low)d to %(high)d characters: make "
            "one up, and give it to whoever receives them."
        )
        raise ChannelInvalid(words % {"low": MIN_KEY_CHARACTERS, "high": MAX_KEY_CHARACTERS})
    return key


def _wants(of: Any, wants: Sequence[str]) -> list[str]:
    """In the order of Tells, each once."""
    offered = OF_LAB if of is None else OF_RUNS
    if not wants or not set(wants) <= set(offered):
        raise ChannelInvalid(
            gettext("Choose what to tell: one at least of %(names)s.")
            % {"names": ", ".join(offered)}
        )
    return [want for want in offered if want in wants]
