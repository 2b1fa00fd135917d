"""GPU servers as cards: what pages show of one, read in few queries however many there are."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import F, Q, QuerySet
from django.utils.translation import gettext as _

from devices.models import GPU, Device, DeviceState, Use
from devices.remarks import lacking, pids, still_stopping, unknown_advice, unknown_count
from experiments.endings import found_words
from experiments.lacking import Lack, known_to
from experiments.models import Attempt, Borrow, GPUClaim, Pulse
from labsite.clock import clock_words, database_now
from labsite.pages.gpus import ALARMING, throttled
from labsite.pages.sparks import of_last_hour
from labsite.pages.states import Badge, device_badge
from labsite.pages.versions import Version, has_older_agent
from labsite.templatetags.lab import since

FULL_PERCENT = 90
#: For so long a card tells that its GPU server was away, and what was found when it came back.
BACK_TOLD = timedelta(hours=1)
#: Of a server that starts: its first stamp may come a little after the first heartbeat.
UP_BEFORE_HEARD = timedelta(seconds=5)
#: Of a job, what cards show: its config and its figures are large.
_HEAVY = (
    "job__config", "job__summary", "job__keys", "job__environment", "job__command",
    "job__resume_point", "job__notes", "job__waiting", "job__outputs", "job__ignore",
    "job__sync", "job__tags", "job__labels", "job__avoids", "files_advertised",
    "files_left_out", "resume",
)  # fmt: skip

#: Of a GPU, what cards do not show.
_UNTOLD = (
    "xid_errors", "errors_judged", "ecc_errors", "ecc_errors_lifetime", "remap_pending",
    "graphics_clock_mhz", "memory_clock_mhz",
)  # fmt: skip

#: "NVIDIA RTX A6000": what everybody calls it comes last, or first after the maker.
_MAKERS = ("NVIDIA", "GeForce", "RTX", "Tesla", "Quadro")


def gpu_type(name: str) -> str:
    """The short name of a card: "RTX 3090" is 3090 to everybody who asks for one."""
    words = [word for word in name.split() if word not in _MAKERS]
    return words[0].partition("-")[0] if words else name


@dataclass
class Card:
    """One GPU server as the page shows it."""

    device: Device
    state: DeviceState
    badge: Badge
    gpus: list["Row"]
    attempts: list[Attempt]
    models: list[str] = field(default_factory=list)
    #: While it is told that it was away: for how long, and what was found when it was back.
    was_away: str = ""
    found: list["Finding"] = field(default_factory=list)
    lacks: list[Lack] = field(default_factory=list)  # of which the reader may know
    other_code: Version | None = None  # where its code is not that of most others

    @property
    def is_old(self) -> bool:
        """Whether its figures are not of now."""
        return self.state != DeviceState.HEALTHY

    @property
    def has_older_agent(self) -> bool:
        return not self.device.is_demo and has_older_agent(self.device)

    @property
    def unknown(self) -> list[str]:
        """What runs there that this server does not know: how much, what to do, which."""
        told = [unknown_count, unknown_advice, pids]
        return [say(self.device) for say in told]

    @property
    def still_stopping(self) -> str:
        return still_stopping(self.device)

    @property
    def lacking(self) -> str:
        return lacking(self.lacks)

    @property
    def short_models(self) -> str:
        """As in the map of all cards: "3090"."""
        return ", ".join(dict.fromkeys(gpu_type(row.gpu.name) for row in self.gpus))

    @property
    def cpu_attempts(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if not attempt.gpu_uuids]

    @property
    def memory_percent(self) -> int | None:
        return percent(self.device.memory_used_bytes, self.device.memory_total_bytes)

    @property
    def disk_percent(self) -> int | None:
        total, free = self.device.disk_total_bytes, self.device.disk_free_bytes
        return None if total is None or free is None else percent(total - free, total)

    @property
    def disk_is_full(self) -> bool:
        return (self.disk_percent or 0) >= FULL_PERCENT


@dataclass
class Finding:
    """What was on a GPU server that came back, of a run that had been ended without it."""

    attempt: Attempt
    words: str


@dataclass
class Row:
    """One card of a GPU server, and what it does."""

    gpu: GPU
    use: Use
    attempt: Attempt | None = None
    borrow: Borrow | None = None  # by whom it was borrowed, where no attempt has it
    spark: str = ""  # the path of its last hour's use, in a box of 60 × 20

    @property
    def slowed(self) -> list[str]:
        """Why it is slower than it should be, where a person can do something about it."""
        return throttled(self.gpu, ALARMING)

    @property
    def vram_percent(self) -> int | None:
        return percent(self.gpu.memory_used_bytes, self.gpu.memory_total_bytes)


def percent(part: float | None, whole: float | None) -> int | None:
    return None if part is None or not whole else round(100 * part / whole)


@dataclass
class _Seen:
    """What all cards are made of, read at once."""

    now: datetime
    gpus: dict[int, list[GPU]]  # by the device's key, as they are numbered there
    lane: Pulse | None
    claims: dict[int, Attempt | None]  # by the key of each card that is held
    borrows: dict[int, Borrow]  # likewise, of those that somebody borrowed
    sparks: dict[int, str]
    running: dict[int, list[Attempt]]  # by the device's key
    back: dict[int, list[Attempt]]  # likewise: what was found there when it came back
    lacks: dict[int, list[Lack]]  # likewise


def read_cards(reader: Any, **only: Any) -> list[Card]:
    """The enrolled GPU servers by name; `only` narrows them. With runs of private projects, of
    which a page tells nothing but whose they are (`{% run_link %}`)."""
    now = database_now()
    devices = list(Device.objects.enrolled().filter(**only))
    # Of one server the claims of its cards alone; of all of them no card need be named.
    claims = GPUClaim.objects.filter(gpu__device__in=devices) if only else GPUClaim.objects.all()
    held = list(claims.values_list("gpu_id", "attempt_id", "borrow_id"))
    there = {one.pk: one for one in _there({attempt for _, attempt, _ in held}, devices)}
    lent = _borrows({borrow for *_, borrow in held if borrow})
    seen = _Seen(
        now=now,
        gpus=_gpus(devices),
        lane=Pulse.last(Pulse.LANE),
        claims={gpu: there.get(attempt) for gpu, attempt, _ in held},
        borrows={gpu: lent[borrow] for gpu, _, borrow in held if borrow in lent},
        sparks=of_last_hour(now),
        running=_by_device(one for one in there.values() if one.is_open),
        back=_found_back(devices, now),
        lacks=known_to(reader, devices),
    )
    return [_card(device, seen) for device in devices]


def _gpus(devices: Sequence[Device]) -> dict[int, list[GPU]]:
    """Not by prefetch_related(): a device and its GPUs would hold one another, and collecting what
    pages of a large lab leave in cycles stops every thread for a tenth of a second (ADR 0041)."""
    by_key = {device.pk: device for device in devices}
    found: dict[int, list[GPU]] = defaultdict(list)
    for gpu in GPU.objects.filter(device__in=by_key).order_by("index").defer(*_UNTOLD):
        gpu.device = by_key[gpu.device_id]
        found[gpu.device_id].append(gpu)
    return found


def _there(holding: set[UUID | None], devices: Sequence[Device]) -> QuerySet[Attempt]:
    """The open attempts of these, and those that have ended and hold a card still."""
    opened = Attempt.objects.open().filter(device__in=devices).order_by()
    keys = holding | set(opened.values_list("pk", flat=True))
    return _told().filter(pk__in=keys).order_by("number")


def _borrows(keys: set[int]) -> dict[int, Borrow]:
    """Also those that have ended since the claims were read."""
    return Borrow.objects.select_related("user").in_bulk(keys) if keys else {}


def _told() -> QuerySet[Attempt]:
    return Attempt.objects.select_related("job__project", "job__user").defer(*_HEAVY)


def _found_back(devices: Sequence[Device], now: datetime) -> dict[int, list[Attempt]]:
    """Of those that lived through the silence: ended without their host, or by it since then."""
    lately = [one for one in devices if one.back_at and now - one.back_at <= BACK_TOLD]
    if not lately:
        return {}  # as a rule
    outlived = Q(ended_at__gte=F("device__back_at"), accepted_at__lte=F("device__silent_since"))
    found = _told().filter(Q(found__isnull=False) | outlived, ended_at__isnull=False)
    return _by_device(found.filter(device__in=lately).order_by("-ended_at"))


def _by_device(attempts: Iterable[Attempt]) -> dict[int, list[Attempt]]:
    found: dict[int, list[Attempt]] = defaultdict(list)
    for one in attempts:
        found[one.device_id].append(one)
    return found


def _card(device: Device, seen: _Seen) -> Card:
    known = seen.gpus.get(device.pk, [])
    running = seen.running.get(device.pk, [])
    rows = [
        Row(
            gpu,
            gpu.use(claimed=gpu.pk in seen.claims),
            seen.claims.get(gpu.pk),
            seen.borrows.get(gpu.pk),
            seen.sparks.get(gpu.pk, ""),
        )
        for gpu in known
        if _is_shown(gpu, device, seen.claims)
    ]
    made = Counter(gpu.name for gpu in known if gpu.present)
    return Card(
        device=device,
        state=device.state(seen.now),
        badge=device_badge(device, seen.now),
        gpus=rows,
        attempts=running,
        models=[f"{count} × {name}" for name, count in made.items()],
        was_away=_was_away(device, seen.lane, seen.now),
        found=_findings(device, running, seen.back.get(device.pk, [])),
        lacks=seen.lacks.get(device.pk, []),
    )


def _was_away(device: Device, lane: Pulse | None, now: datetime) -> str:
    """For how long, if it came back lately and is there; empty: there is nothing to tell."""
    if device.back_at is None or now - device.back_at > BACK_TOLD:
        return ""
    if device.state(now) == DeviceState.DISCONNECTED or _server_was_away(device, lane):
        return ""
    return since(device.silent_since, device.back_at)


def _server_was_away(device: Device, lane: Pulse | None) -> bool:
    """Whether the silence was this server's own, which then hears all of them anew at once."""
    if lane is None:
        return False
    return device.silent_since < lane.unbroken_since <= device.back_at + UP_BEFORE_HEARD


def _findings(
    device: Device, running: Sequence[Attempt], back: Sequence[Attempt]
) -> list[Finding]:
    """Of its last return: what went on, and what did not."""
    if device.back_at is None:
        return []
    went_on = [
        Finding(attempt, _("it went on."))
        for attempt in running
        if attempt.accepted_at and attempt.accepted_at <= device.silent_since
    ]
    return went_on + [
        Finding(attempt, found_words(attempt) if attempt.found else _ended_words(attempt))
        for attempt in back
        if not attempt.found or device.back_at <= datetime.fromisoformat(attempt.found["at"])
    ]


def _ended_words(attempt: Attempt) -> str:
    words = _("it ended at %(when)s: %(how)s.")
    how = attempt.get_outcome_display()
    return words % {"when": clock_words(attempt.ended_at), "how": how}


def _is_shown(gpu: GPU, device: Device, claims: dict[int, Attempt | None]) -> bool:
    """A card that was taken out is not; one that may come back is."""
    is_held = gpu.pk in claims or bool(gpu.quarantined_at or gpu.missing_since)
    return gpu.present or is_held or device.driver_answers is False
