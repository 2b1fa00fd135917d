"""Times, sizes and states as people read them."""

import re
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from django import template
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from experiments.models import Job
from labsite.clock import clock_words
from labsite.pages.states import Badge
from labsite.precedence import give_way

register = template.Library()

MINUTE, HOUR, DAY = 60, 3600, 86400
#: Stands in an address where a run's uid does.
_ANY_UID = "UID"
#: Stands where there is no figure.
_NONE = "–"


@register.filter
def duration(seconds: float | timedelta | None) -> str:
    """Two units at most, on one line: "14 s", "38 min", "1 h 27 min", "3 d 4 h"."""
    if seconds is None:
        return ""
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    return _unbroken(_duration(max(0, int(seconds))))


def _duration(whole: int) -> str:
    if whole < MINUTE:
        return _("%(s)d s") % {"s": whole}
    if whole < HOUR:
        return _("%(min)d min") % {"min": whole // MINUTE}
    if whole < DAY:
        parts = {"h": whole // HOUR, "min": whole % HOUR // MINUTE}
        return (_("%(h)d h %(min)d min") if parts["min"] else _("%(h)d h")) % parts
    parts = {"d": whole // DAY, "h": whole % DAY // HOUR}
    return (_("%(d)d d %(h)d h") if parts["h"] else _("%(d)d d")) % parts


def _unbroken(words: str) -> str:
    return words.replace(" ", "\xa0")


@register.filter
def ago(moment: datetime | None) -> str | SafeString:
    """How long ago, with the exact time a hover or a tap away; the page's script counts on."""
    if moment is None:
        return ""
    words = _("%(duration)s ago") % {"duration": duration(timezone.now() - moment)}
    return _time(moment, words, "ago")


@register.filter
def clock(moment: datetime | None) -> str | SafeString:
    """The time of day, with the date where it is not today."""
    if not moment:  # None, or what a template makes of nothing
        return ""
    return _time(moment, clock_words(moment), "clock")


@register.filter
def exact_clock(moment: datetime | None) -> str | SafeString:
    """The time of day to the second, for what is over within seconds."""
    if not moment:
        return ""
    words = f"{clock_words(moment)}:{timezone.localtime(moment):%S}"
    return _time(moment, words, "clock")


def _time(moment: datetime, words: str, kind: str) -> SafeString:
    local = timezone.localtime(moment)
    exact = f"{local:%Y-%m-%d %H:%M:%S} {timezone.get_current_timezone_name()}"
    return format_html(
        '<time datetime="{}" data-time="{}" title="{}">{}</time>',
        moment.isoformat(timespec="seconds"), kind, exact, words,
    )  # fmt: skip


@register.filter
def since(moment: datetime | None, until: datetime | None = None) -> str:
    """The time between two moments; until now where there is no second one."""
    return "" if moment is None else duration((until or timezone.now()) - moment)


@register.filter
def size(count: float | None) -> str:
    """Decimal units, as disks and networks are counted: "2.1 MB"."""
    if count is None:
        return ""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return _unbroken(f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}")
        value /= 1000
    return _unbroken(f"{value:.1f} TB")


@register.filter
def gib(count: float | None) -> str:
    """Memory in GiB, without the unit: whole from 10 on where it is whole."""
    if count is None:
        return ""
    value = count / 2**30
    return f"{value:.0f}" if abs(value - round(value)) < 0.05 else f"{value:.1f}"


@register.filter
def unlocalized(value: float) -> str:
    """A number of an SVG, with a point in every language."""
    return f"{value:g}"


@register.filter
def by_words(command: str) -> SafeString:
    """A command that goes on to the next line between two words, and not at a hyphen in one."""
    words = re.findall(r"(\S+)(\s*)", command)
    return format_html_join("", '<span class="word">{}</span>{}', words)


@register.filter
def pairs(values: dict[str, Any]) -> str:
    """`lr=0.1, seed=2`, in the order of the names."""
    return ", ".join(f"{key}={value}" for key, value in sorted(values.items()))


@register.filter
def at(items: list[Any], place: int) -> Any:
    """The item at that place, counted from 0."""
    return items[place]


@register.filter
def percent_of(part: float | None, whole: float | None) -> int | None:
    if part is None or not whole:
        return None
    return round(100 * part / whole)


@register.filter
def number(value: Any) -> str:
    """A metric's value: four significant digits, and whole numbers whole."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    return str(value) if isinstance(value, int) else f"{value:.4g}"


@register.filter
def metric(value: Any) -> str:
    """As `number`, with as many decimals as its neighbours in a column have: "0.9440". Learning
    rates and their like stay short."""
    is_plain = isinstance(value, float) and 0.01 <= abs(value) < 1000 and value % 1
    return f"{value:#.4g}" if is_plain else number(value)


@register.filter
def count(value: int) -> str:
    """How many, for large numbers: "11.2 M"."""
    for unit, size_of in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= 10 * size_of or (value >= size_of and size_of > 1000):
            return _unbroken(f"{value / size_of:.4g} {unit}")
    return str(value)


@register.simple_tag
def icon(name: str, kind: str = "") -> SafeString:
    """One of the sprite's symbols; the words beside it say what it means."""
    css = f"i {kind}".strip()
    return format_html(
        '<svg class="{}" aria-hidden="true"><use href="#{}"></use></svg>', css, name
    )


@register.simple_tag
def state(badge: Badge, *, ground: bool = False) -> SafeString:
    """Colour, shape and word; with a ground in headers."""
    return format_html(
        '<span class="state{}" data-state="{}">{}{}</span>',
        " badge" if ground else "",
        badge.state,
        icon(badge.icon, "pulse" if badge.pulse else ""),
        badge.word,
    )


@register.simple_tag
def gauge(percent: float | None) -> SafeString:
    """How full a cell of the map is; the number stands in it."""
    height = min(100, max(0, percent or 0))
    return format_html(
        '<svg class="fill" viewBox="0 0 10 100" preserveAspectRatio="none" aria-hidden="true">'
        '<rect y="{}" width="10" height="{}"></rect></svg>',
        f"{100 - height:g}",
        f"{height:g}",
    )


@register.simple_tag
def spark(path: str, kind: str = "") -> SafeString:
    """A curve of the last hour, drawn by labsite.pages.sparks; empty: there is none."""
    return format_html(
        '<svg class="spark {}" viewBox="0 0 60 20" preserveAspectRatio="none" aria-hidden="true">'
        '<path d="{}"></path></svg>',
        kind,
        path,
    )


@register.simple_tag
def bar(percent: float | None, kind: str = "") -> SafeString:
    """A gauge; the number stands beside it in text."""
    width = min(100, max(0, percent or 0))
    return format_html(
        '<svg class="bar {}" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">'
        '<rect width="{}" height="1"></rect></svg>',
        kind,
        f"{width:g}",
    )


@register.simple_tag
def days(counts: list[int]) -> SafeString:
    """A line of counts, oldest first; the figure beside it says what they add up to."""
    top, last = max(*counts, 1), max(len(counts) - 1, 1)
    points = [
        f"{100 * at / last:.1f},{20 - 18 * count / top:.1f}" for at, count in enumerate(counts)
    ]
    line = "M" + "L".join(points)
    return format_html(
        '<svg class="spark alive" viewBox="0 0 100 20" preserveAspectRatio="none" '
        'aria-hidden="true"><path class="area" d="{}L100,20L0,20Z"/><path d="{}"/></svg>',
        line,
        line,
    )


@cache
def _around_uid() -> list[str]:
    """What stands before and after the uid in the address of a run; it is the same all along."""
    return reverse("run", args=[_ANY_UID]).split(_ANY_UID)


@register.simple_tag
def gpu_figures(row: Any, is_old: bool) -> SafeString:
    """The first cells of a card's row (labsite.pages.hostcards.Row). A lab has hundreds of cards
    on one page: this is written here and not resolved name by name in a template.

    Args:
        is_old: its server is not heard of now, so its curve is not drawn as of now.
    """
    gpu = row.gpu
    return format_html(
        '<td class="n"><a href="{}" aria-label="{}">{}</a></td><td class="util n meas">{}</td>'
        '<td class="vram n meas">{}</td><td class="n meas" data-u="°C">{}</td>'
        '<td class="n meas" data-u="W">{}</td>',
        reverse("gpu", args=[gpu.pk]), gpu, gpu.index, _use_cell(row, is_old), _vram_cell(row),
        _whole(gpu.temperature_celsius), _whole(gpu.power_watts),
    )  # fmt: skip


def _use_cell(row: Any, is_old: bool) -> SafeString:
    percent = row.gpu.utilization_percent
    if percent is None:
        return format_html('<span class="dim">{}</span>', _NONE)
    kind = "alive" if row.use == "job" and not is_old else ""
    drawn = spark(row.spark, kind) if row.spark else bar(percent, kind)
    return format_html("{} %{}", _whole(percent), drawn)


def _vram_cell(row: Any) -> SafeString:
    used, total = row.gpu.memory_used_bytes, gib(row.gpu.memory_total_bytes)
    if used is None:
        return format_html('<span class="dim">{}</span>', total or _NONE)
    of = format_html('<span class="dim">/ {}<span class="u"> GiB</span></span>', total)
    return format_html("{} {}{}", gib(used), of, bar(row.vram_percent))


def _whole(value: float | None) -> str:
    """Rounded as `floatformat:0` does."""
    return _NONE if value is None else str(int(value + (0.5 if value >= 0 else -0.5)))


@register.simple_tag
def blocks(tries: list[Any]) -> SafeString:
    """What a card had (labsite.pages.devicehistory.Block), in a band of 1000 × 10. There are
    hundreds of them on a page."""
    before, after = _around_uid()
    return format_html_join(
        "",
        '<a href="{}{}{}" data-state="{}" aria-label="{}"><title>{}</title>'
        '<rect x="{}" y="0" width="{}" height="10"></rect></a>',
        (
            (before, one.uid, after, one.state, one.words, one.words, f"{one.x:g}",
             f"{one.width:g}")
            for one in tries
        ),
    )  # fmt: skip


@register.simple_tag
def timeline_bars(bars: list[Any]) -> SafeString:
    """What a GPU server had (labsite.pages.timeline.Bar). There are hundreds of them on a page.
    Each is an SVG of its own, which cuts off the words that do not fit."""
    return format_html_join(
        "",
        '<a href="{}" data-state="{}" aria-label="{}"><title>{}</title>'
        '<svg x="{}%" y="{}" width="{}%" height="20"><rect width="100%" height="20" rx="3"></rect>'
        "{}</svg></a>",
        (
            (one.address, one.badge.state, one.words, one.words, f"{one.x:g}", one.y,
             f"{one.width:g}", _in_bar(one))
            for one in bars
        ),
    )  # fmt: skip


def _in_bar(one: Any) -> SafeString | str:
    if not one.shown_icon:
        return ""
    return format_html(
        '<use href="#{}" x="4" y="4" width="12" height="12"></use><text x="21" y="14">{}</text>',
        one.shown_icon,
        one.shown_words,
    )


# --- runs, whoever reads ------------------------------------------------------------------------


@register.simple_tag(takes_context=True)
def is_seen(context: template.Context, job: Job) -> bool:
    """Whether the reader may be told what this run is."""
    sight = context.get("sight")
    return sight is not None and sight.sees(job)


@register.simple_tag(name="give_way")
def tag_give_way() -> str:
    """In the loop of a long page: heartbeats go first."""
    give_way()
    return ""


@register.simple_tag(takes_context=True)
def run_link(context: template.Context, job: Job, words: str = "") -> str | SafeString:
    """A link to the run; of a private project that the reader does not see, only that it is one.

    Args:
        words: what is shown of it; nothing: its project and its name.
    """
    if not is_seen(context, job):
        return _("a private run")
    name = f"{job.project.name} / {job.run_name}"
    before, after = _around_uid()
    return format_html(
        '<a href="{}{}{}" aria-label="{}">{}</a>', before, job.uid, after, name, words or name
    )
