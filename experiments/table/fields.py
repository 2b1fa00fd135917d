"""What every run has: how a query compares it, and how a table orders by it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import (
    DurationField,
    ExpressionWrapper,
    F,
    OuterRef,
    Q,
    Subquery,
    Value,
)
from django.db.models.functions import Coalesce, Lower
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext_lazy

from experiments.errors import QueryWrong
from experiments.models import Attempt
from experiments.states import ENDED, LIVE, JobState, Priority
from experiments.table.conditions import Compare, HasTag
from experiments.table.query import Text
from experiments.units import duration_seconds
from labsite.clock import day_begins, lab_date

#: Of a query's operators those of the database's lookups.
ORDERS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
EQUALS = (":", "=")
#: Beside the states: it did not run here, so that nobody knows how it ended.
IMPORTED = "imported"
MAX_DIGITS = 9


@dataclass(frozen=True)
class Reader:
    """Who asks, and when."""

    user: Any
    now: datetime


Condition = Callable[[str, Text, Reader], Q]


@dataclass(frozen=True)
class Field:
    name: str
    label: str | Promise
    condition: Condition  # of one operator ("!=" comes as ":" turned round) and one value
    order: Callable[[Reader], Any] | None = None  # an expression; None: it orders nothing
    is_number: bool = False


# --- conditions ---------------------------------------------------------------------------------


def _text(path: str) -> Condition:
    def condition(operator: str, value: Text, reader: Reader) -> Q:
        lookup = "icontains" if operator == "~" else "iexact"
        return Q(**{f"{path}__{lookup}": _worded(operator, value)})

    return condition


def _worded(operator: str, value: Text) -> str:
    if operator in ORDERS:
        words = _("“%(operator)s” compares numbers and times: write : or ~ here.")
        raise _wrong(words % {"operator": operator}, value)
    return value.text


def _user(operator: str, value: Text, reader: Reader) -> Q:
    if _worded(operator, value) == "me" and operator != "~":
        return Q(user=reader.user)
    return _text("user__username")(operator, value, reader)


def _device(operator: str, value: Text, reader: Reader) -> Q:
    """Any of its tries was there."""
    lookup = "icontains" if operator == "~" else "iexact"
    tries = Attempt.objects.filter(**{f"device__host_id__{lookup}": _worded(operator, value)})
    return Q(pk__in=tries.values("job_id"))


_STATES: dict[str, tuple[str, ...]] = {
    **{state.value: (state.value,) for state in JobState},
    "waiting": (JobState.QUEUED,),
    "starting": (JobState.ASSIGNED,),
    "live": LIVE,
    "ended": ENDED,
}


def _state(operator: str, value: Text, reader: Reader) -> Q:
    said = _worded(operator, value).casefold()
    if said in (IMPORTED, str(gettext_lazy("imported")).casefold()):
        return Q(imported_at__isnull=False)
    in_words = {str(state.label).casefold(): (state.value,) for state in JobState}
    states = _STATES.get(said) or in_words.get(said)
    if states is None:
        words = _("There is no state “%(text)s”: write one of %(states)s.")
        names = (name for name in _STATES if name not in ("queued", "assigned"))
        known = ", ".join([*names, IMPORTED])
        raise _wrong(words % {"text": value.text, "states": known}, value)
    return Q(state__in=states)


def _priority(operator: str, value: Text, reader: Reader) -> Q:
    name = value.text.upper()
    if name not in Priority.__members__:
        words = _("There is no priority “%(text)s”: write one of %(names)s.")
        names = ", ".join(level.name.lower() for level in Priority)
        raise _wrong(words % {"text": value.text, "names": names}, value)
    return Q(**{f"priority__{ORDERS.get(operator, 'exact')}": Priority[name]})


def _whole(path: str) -> Condition:
    def condition(operator: str, value: Text, reader: Reader) -> Q:
        digits = value.text.removeprefix("run_")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS):
            raise _wrong(_("“%(text)s” is not a whole number.") % {"text": value.text}, value)
        return Q(**{f"{path}__{ORDERS.get(operator, 'exact')}": int(digits)})

    return condition


def _time(path: str) -> Condition:
    def condition(operator: str, value: Text, reader: Reader) -> Q:
        begin, end = _moment(value, reader)
        if operator in (">", "<="):
            return Q(**{f"{path}__{'gte' if operator == '>' else 'lt'}": end})
        if operator in (">=", "<"):
            return Q(**{f"{path}__{ORDERS[operator]}": begin})
        return Q(**{f"{path}__gte": begin, f"{path}__lt": max(end, begin)})

    return condition


_DAY = timedelta(days=1)


def _moment(value: Text, reader: Reader) -> tuple[datetime, datetime]:
    """Where what is written begins and ends: a day, a moment, or so long ago (`3d`).

    A day is the lab's, so that a link finds the same runs for everybody; a time of day is that of
    the reader's clock, as pages show it.
    """
    today = lab_date(reader.now)
    named = {"today": today, "yesterday": today - _DAY}
    try:
        day = named.get(value.text) or parse_date(value.text)
        if day is not None:
            return day_begins(day), day_begins(day + _DAY)
        moment = parse_datetime(value.text)
        if moment is not None:
            if timezone.is_naive(moment):
                moment = timezone.make_aware(moment)
            moment = moment.astimezone(UTC)  # or the database would, and fail in the year 1
            return moment, moment
        ago = reader.now - timedelta(seconds=duration_seconds(value.text))
    except (ValueError, OverflowError):
        words = _("“%(text)s” is not a time: write 2026-11-30, today, or 3d for three days ago.")
        raise _wrong(words % {"text": value.text}, value) from None
    return ago, ago


def _took(operator: str, value: Text, reader: Reader) -> Q:
    try:
        length = timedelta(seconds=duration_seconds(value.text))
    except (ValueError, OverflowError):
        words = _("“%(text)s” is not a duration: write 90s, 30m, 2h or 1d.")
        raise _wrong(words % {"text": value.text}, value) from None
    if operator not in ORDERS:
        raise _wrong(_("A duration is compared by <, <=, > or >=."), value)
    return Q(Compare(duration(reader), operator, length))


def _tag(operator: str, value: Text, reader: Reader) -> Q:
    pattern = _worded(operator, value)
    for sign in "\\%_":
        pattern = pattern.replace(sign, f"\\{sign}")
    return Q(HasTag(f"%{pattern}%" if operator == "~" else pattern))


def _wrong(sentence: str, value: Text) -> QueryWrong:
    return QueryWrong(sentence, value.position, value.length)


# --- orders -------------------------------------------------------------------------------------


def duration(reader: Reader) -> ExpressionWrapper:
    """How long it took; one that runs, until now."""
    until = Coalesce("finished_at", Value(reader.now))
    return ExpressionWrapper(until - F("started_at"), output_field=DurationField())


def _path(path: str) -> Callable[[Reader], Any]:
    return lambda reader: F(path)


def _folded(path: str) -> Callable[[Reader], Any]:
    return lambda reader: Lower(path)


def _newest_host(reader: Reader) -> Subquery:
    tries = Attempt.objects.filter(job=OuterRef("pk")).order_by("-number")
    return Subquery(tries.values("device__host_id")[:1])


FIELDS = {
    field.name: field
    for field in (
        Field("run", gettext_lazy("Run"), _whole("run_number"), _path("run_number"), True),
        Field("state", gettext_lazy("State"), _state, _path("state")),
        Field("name", gettext_lazy("Name"), _text("name"), _folded("name")),
        Field("tag", gettext_lazy("Tags"), _tag),
        Field("project", gettext_lazy("Project"), _text("project__name"), _path("project__name")),
        Field("user", gettext_lazy("Who"), _user, _path("user__username")),
        Field("device", gettext_lazy("Where"), _device, _newest_host),
        Field("took", pgettext_lazy("duration", "Took"), _took, duration, True),
        Field("submitted", gettext_lazy("Queued"), _time("submitted_at"), _path("pk"), True),
        Field("started", gettext_lazy("Started"), _time("started_at"), _path("started_at"), True),
        Field("ended", gettext_lazy("Ended"), _time("finished_at"), _path("finished_at"), True),
        Field("gpus", gettext_lazy("GPUs"), _whole("gpus"), _path("gpus"), True),
        Field("priority", gettext_lazy("Priority"), _priority, _path("priority")),
        Field("notes", gettext_lazy("Notes"), _text("notes"), _folded("notes")),
        Field("uid", gettext_lazy("Identifier"), _text("uid"), _path("uid")),
    )
}
#: What else they may be called in a query.
ALIASES = {"tags": "tag", "who": "user", "made": "submitted", "queued": "submitted"}
ALIASES |= {"finished": "ended", "where": "device", "host": "device", "note": "notes"}


def field_named(name: str) -> Field | None:
    folded = name.casefold()
    return FIELDS.get(ALIASES.get(folded, folded))
