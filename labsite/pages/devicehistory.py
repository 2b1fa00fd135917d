"""A GPU server's past: curves of its cards and itself, and which jobs its cards had."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import Avg, Max, Q, Sum
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from devices.models import GPU, Device, DeviceSample, GPUSample, Span, minute_of
from devices.models.sample import MIB
from experiments.models import Attempt
from experiments.models.job import run_name
from experiments.states import Outcome
from labsite.pages.access import visible

WIDTH = 1000.0
#: More tries than these are not drawn one by one.
DRAWN = 1000
NARROWEST = 1.5


@dataclass(frozen=True)
class Window:
    """A stretch of time up to now, and of which rows it is shown."""

    name: str
    label: Any
    length: timedelta
    span: Span


WINDOWS = [
    Window("hour", gettext_lazy("Hour"), timedelta(hours=1), Span.MINUTE),
    Window("day", gettext_lazy("Day"), timedelta(days=1), Span.TEN),
    Window("week", gettext_lazy("Week"), timedelta(days=7), Span.TEN),
    Window("month", gettext_lazy("Month"), timedelta(days=30), Span.HOUR),
    Window("year", gettext_lazy("Year"), timedelta(days=365), Span.HOUR),
]
#: Of a year a point a day is enough.
COARSE = {"year": 24}


def _gib(mib: float) -> float:
    return round(mib / 1024, 1)


@dataclass(frozen=True)
class Measure:
    """One that is noted of a card, and how it is shown."""

    name: str  # of GPUSample's fields
    label: Any
    unit: str
    most: float | None  # of the axis; None: as the values have it
    turn: Callable[[float], float]


MEASURES = [
    Measure("utilization_percent_mean", gettext_lazy("GPU use"), "%", 100, float),
    Measure("memory_mib_mean", gettext_lazy("VRAM"), "GiB", None, _gib),
    Measure("temperature_celsius_max", gettext_lazy("Temperature, highest"), "°C", None, float),
    Measure("power_watts_mean", gettext_lazy("Power"), "W", None, float),
]


def window_named(name: str) -> Window:
    """That one; a day where there is none of that name."""
    return next((one for one in WINDOWS if one.name == name), WINDOWS[1])


# --- curves -------------------------------------------------------------------------------------


def curves(device: Device, window: Window, now: datetime) -> dict[str, Any]:
    """What static/js/history.js draws: {"at": [seconds], "charts": [{label, unit, series}]}."""
    first, last = minute_of(now - window.length), minute_of(now)
    step = window.span * COARSE.get(window.name, 1)
    places = {at: n for n, at in enumerate(range(first - first % step, last + 1, step))}
    cards = list(device.gpus.filter(Q(present=True) | Q(quarantined_at__isnull=False)))
    found = by_place(
        GPUSample.objects.filter(gpu__in=cards, span=window.span, minute__gte=first),
        "gpu_id",
        [measure.name for measure in MEASURES],
        places,
        step,
    )
    of_host = by_place(
        DeviceSample.objects.filter(device=device, span=window.span, minute__gte=first),
        "device_id",
        ("cpu_percent_mean", "memory_mib_mean", "disk_free_mib_min"),
        places, step,
    )[device.pk]  # fmt: skip
    return {
        "at": [60 * at for at in places],
        "charts": [*of_cards(cards, found, MEASURES), *_of_host(device, of_host)],
    }


Table = dict[int, list[list[float | None]]]


def by_place(
    rows: Any, key: str, names: Sequence[str], places: dict[int, int], step: int
) -> Table:
    """By key: of each name its value at each place; None where nothing was noted."""
    found: Table = defaultdict(lambda: [[None] * len(places) for _name in names])
    for owner, minute, *values in _in_order(rows, key).values_list(key, "minute", *names):
        place = places.get(minute - minute % step)
        if place is not None:
            for column, value in zip(found[owner], values, strict=True):
                column[place] = value
    return found


def _in_order(rows: Any, key: str) -> Any:
    """Each one's by time. By time alone SQLite takes the index of that, and reads all the lab's
    rows of the window to find a few cards' (the order of the unique one is key, span, minute)."""
    return rows.order_by(key, "minute")


def of_cards(
    cards: Sequence[GPU], found: Table, measures: Sequence[Measure]
) -> list[dict[str, Any]]:
    """A chart for each measure, a line for each card; `found` has the measures in their order."""
    return [
        {
            "label": str(measure.label), "unit": measure.unit, "max": measure.most,
            "series": [
                {
                    "label": f"GPU {card.index}",
                    "values": _each(measure.turn, found[card.pk][n]),
                }
                for card in cards
            ],
        }
        for n, measure in enumerate(measures)
        if cards
    ]  # fmt: skip


def _of_host(device: Device, found: list[list[float | None]]) -> list[dict[str, Any]]:
    cpu, memory, disk = found
    total_mib = (device.memory_total_bytes or 0) / MIB
    most_gib = round(total_mib / 1024) or None
    return [
        _one(_("CPU"), "%", 100, cpu),
        _one(_("Memory"), "GiB", most_gib, _each(_gib, memory)),
        _one(_("Disk, free"), "GB", None, _each(lambda mib: round(mib * MIB / 1e9, 1), disk)),
    ]


def _one(label: str, unit: str, most: float | None, values: list[Any]) -> dict[str, Any]:
    return {
        "label": label, "unit": unit, "max": most, "series": [{"label": label, "values": values}]
    }  # fmt: skip


def _each(turn: Callable[[float], float], values: Iterable[float | None]) -> list[float | None]:
    return [None if value is None else turn(value) for value in values]


def _keys(device: Device) -> list[int]:
    """Of its cards, to be named: by a join all cards of the lab would be looked through."""
    return list(device.gpus.values_list("pk", flat=True))


# --- in numbers ---------------------------------------------------------------------------------


def totals(device: Device, window: Window, now: datetime) -> dict[int, dict[str, Any]]:
    """By a card's key: means and peaks of the window, and how much of it a job held it."""
    first = minute_of(now - window.length)
    rows = GPUSample.objects.filter(gpu__in=_keys(device), span=window.span, minute__gte=first)
    summed = rows.order_by().values("gpu_id").annotate(
        use=Avg("utilization_percent_mean"), vram_mib=Max("memory_mib_max"),
        heat=Max("temperature_celsius_max"), power=Avg("power_watts_mean"),
        held=Sum("job_minutes"), outside=Sum("outside_minutes"),
    )  # fmt: skip
    return {
        row["gpu_id"]: {
            **row, "vram_bytes": None if row["vram_mib"] is None else row["vram_mib"] * MIB,
            "held_seconds": 60 * row["held"], "outside_seconds": 60 * row["outside"],
        }
        for row in summed
    }  # fmt: skip


# --- who had which card when --------------------------------------------------------------------


class Try(NamedTuple):
    """What a band needs of a try: a week may have hundreds of them."""

    pk: Any
    job_id: int
    gpu_uuids: list[str]
    created_at: datetime
    ended_at: datetime | None
    outcome: str
    uid: str  # of its run, as what follows
    run_number: int
    project: str
    user: str | None

    @property
    def words(self) -> str:
        return f"{self.project}/{run_name(self.run_number)}, {self.user or '–'}"


_OF_TRY = (
    "pk", "job_id", "gpu_uuids", "created_at", "ended_at", "outcome",
    "job__uid", "job__run_number", "job__project__name", "job__user__username",
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A try on a card, in a band of WIDTH."""

    uid: str  # of its run
    words: str
    x: float
    width: float
    state: str


@dataclass(frozen=True)
class Band:
    """A card and what it had, from the left to now."""

    gpu: GPU
    blocks: list[Block]
    outside: list[tuple[float, float]]  # x, width: used outside the queue


def tries_within(device: Device, user: Any, window: Window, now: datetime) -> list[Try]:
    """Those that the reader may see, the newest first."""
    begin = now - window.length
    found = Attempt.objects.filter(
        Q(ended_at=None) | Q(ended_at__gte=begin), device=device, job__deleted_at=None
    )
    rows = found.order_by("-created_at").values_list(*_OF_TRY)[:DRAWN]
    return visible((Try(*row) for row in rows), user)


def attempts_of(device: Device, tries: Sequence[Try]) -> list[Attempt]:
    """The same with all that a table tells of them, in the same order."""
    heavy = ("job__config", "job__summary", "job__keys", "job__notes", "job__resume_point")
    found = Attempt.objects.select_related("job__project", "job__user").defer(*heavy)
    known = found.in_bulk([one.pk for one in tries])
    for one in known.values():
        one.device = device  # which need not be asked for
    return [known[one.pk] for one in tries if one.pk in known]


def bands(
    device: Device,
    tries: Sequence[Try],
    totals: dict[int, dict[str, Any]],
    window: Window,
    now: datetime,
) -> list[Band]:
    """`totals`: of the same window, which tell on which cards there was anything outside."""
    begin = now - window.length
    by_card: dict[str, list[Block]] = defaultdict(list)
    for one in tries:
        block = _block(one, begin, window, now)
        for uuid in one.gpu_uuids:
            by_card[uuid].append(block)
    outside = _outside([pk for pk, of in totals.items() if of["outside"]], window, now)
    return [Band(gpu, by_card[gpu.uuid], outside[gpu.pk]) for gpu in device.gpus.order_by("index")]


def _block(one: Try, begin: datetime, window: Window, now: datetime) -> Block:
    x = _x(max(one.created_at, begin), begin, window)
    width = _x(one.ended_at or now, begin, window) - x
    states = {"": "running", Outcome.SUCCEEDED: "succeeded", Outcome.FAILED: "failed"}
    state = states.get(one.outcome, "cancelled")
    return Block(one.uid, one.words, round(x, 1), round(max(width, NARROWEST), 1), state)


def _x(moment: datetime, begin: datetime, window: Window) -> float:
    return WIDTH * ((moment - begin) / window.length)


def _outside(
    cards: Sequence[int], window: Window, now: datetime
) -> dict[int, list[tuple[float, float]]]:
    """By a card's key: from where and how wide it was used outside the queue."""
    if not cards:
        return defaultdict(list)  # as a rule
    begin = minute_of(now - window.length)
    rows = GPUSample.objects.filter(
        gpu__in=cards, span=window.span, minute__gte=begin, outside_minutes__gt=0
    )
    scale = WIDTH / (window.length.total_seconds() / 60)
    found: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for gpu, minute in _in_order(rows, "gpu_id").values_list("gpu_id", "minute"):
        x, width = (minute - begin) * scale, window.span * scale
        if found[gpu] and abs(sum(found[gpu][-1]) - x) < scale / 2:
            x, width = found[gpu][-1][0], found[gpu].pop()[1] + width
        found[gpu].append((x, width))
    return defaultdict(
        list, {gpu: [(round(x, 1), round(w, 1)) for x, w in of] for gpu, of in found.items()}
    )
