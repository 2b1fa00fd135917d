"""Times, sizes and states as people read them."""

from datetime import datetime, timedelta
from typing import Any

from django import template
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from labsite.pages.states import Badge

register = template.Library()

MINUTE, HOUR, DAY = 60, 3600, 86400


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
    if moment is None:
        return ""
    return _time(moment, clock_words(moment), "clock")


def clock_words(moment: datetime) -> str:
    local = timezone.localtime(moment)
    if local.date() == timezone.localdate():
        return date_format(local, "H:i")
    return date_format(local, _("M j, H:i"))


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
def bar(percent: float | None, kind: str = "") -> SafeString:
    """A gauge; the number stands beside it in text."""
    width = min(100, max(0, percent or 0))
    return format_html(
        '<svg class="bar {}" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">'
        '<rect width="{}" height="1"></rect></svg>',
        kind,
        f"{width:g}",
    )
