"""What stands in the cells of a table of runs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from experiments.table.columns import FIELD, Ref
from experiments.table.fields import FIELDS
from experiments.table.groups import Spread
from experiments.table.values import Row
from labsite.pages.queue import Line
from labsite.templatetags.lab import ago, icon, metric, number, since, state

MOST_NOTES = 80
MOST_DECIMALS = 6
#: Longer notes are edited on a page of their own.
MOST_IN_PLACE = 1000
Words = SafeString | str


@dataclass(frozen=True)
class Cell:
    html: Words
    css: str
    label: str


def cells_of(line: Line, refs: list[Ref], values: Row) -> list[Cell]:
    return [_of_field(line, ref) if ref.kind == FIELD else _of_value(ref, values) for ref in refs]


def is_number(ref: Ref) -> bool:
    return FIELDS[ref.name].is_number if ref.kind == FIELD else ref.is_metric


def _of_field(line: Line, ref: Ref) -> Cell:
    css = {"state": "st", "notes": "all"}.get(ref.name, "n" if is_number(ref) else "nowrap")
    label = "" if ref.name in ("state", "tag", "notes") else ref.label
    return Cell(_HTML[ref.name](line), css, label)


def _of_value(ref: Ref, values: Row) -> Cell:
    value = values.get(ref)
    html = "" if value is None else metric(value) if ref.is_metric else number(value)
    is_text = not ref.is_metric and not _looks_like_number(html)
    return Cell(html, "nowrap" if is_text else "n", ref.label)


def _looks_like_number(text: str) -> bool:
    return text[:1].isdigit() or (text[:1] in ("-", ".") and text[1:2].isdigit())


def spread(value: Spread | None) -> str:
    """Mean ± deviation; of one value the value."""
    return "" if value is None else " ± ".join(rounded(value))


def rounded(value: Spread) -> list[str]:
    """The mean, and the deviation where there is one: two digits of it, and the mean as far."""
    if not value.deviation:
        return [metric(value.mean)] if value.deviation is None else [metric(value.mean), "0"]
    decimals = 1 - math.floor(math.log10(value.deviation))
    if not 0 <= decimals <= MOST_DECIMALS:
        return [number(value.mean), f"{value.deviation:.2g}"]
    return [f"{value.mean:.{decimals}f}", f"{value.deviation:.{decimals}f}"]


def _state(line: Line) -> Words:
    badge = state(line.badge)
    return format_html("{}<small>{}</small>", badge, line.note) if line.note else badge


def _tags(line: Line) -> Words:
    tags = format_html_join("", '<span class="tag">{}</span>', ((tag,) for tag in line.job.tags))
    return format_html('<span class="tags">{}</span>{}', tags, _edit(line, "tags"))


def _notes(line: Line) -> Words:
    notes = line.job.notes
    short = f"{notes[:MOST_NOTES]}…" if len(notes) > MOST_NOTES else notes
    return format_html('<span class="note">{}</span>{}', short, _edit(line, "notes"))


def _edit(line: Line, what: str) -> Words:
    if not line.may_change:
        return ""
    words = {"tags": _("Edit the tags of %(run)s"), "notes": _("Edit the notes of %(run)s")}
    value = ", ".join(line.job.tags) if what == "tags" else line.job.notes
    in_place = what if len(value) <= MOST_IN_PLACE else ""
    return format_html(
        '<a class="btn quiet icon small edit" href="{}" data-edit="{}" data-value="{}"'
        ' aria-label="{}">{}</a>',
        reverse("run-edit", args=[line.job.uid]), in_place, value[:MOST_IN_PLACE],
        words[what] % {"run": line.job.run_name}, icon("tag" if what == "tags" else "edit"),
    )  # fmt: skip


def _user(line: Line) -> Words:
    return line.job.user.username if line.job.user else "–"


def _device(line: Line) -> Words:
    if line.attempt is None:
        return ""
    host = line.attempt.device.host_id
    return f"{host}: {line.gpus}" if line.gpus else host


def _took(line: Line) -> Words:
    return since(line.job.started_at, line.job.finished_at) if line.job.started_at else ""


_HTML: dict[str, Callable[[Line], Any]] = {
    "run": lambda line: line.job.run_number,
    "state": _state,
    "name": lambda line: line.job.name,
    "tag": _tags,
    "project": lambda line: line.job.project.name,
    "user": _user,
    "device": _device,
    "took": _took,
    "submitted": lambda line: ago(line.job.submitted_at),
    "started": lambda line: ago(line.job.started_at),
    "ended": lambda line: ago(line.job.finished_at),
    "gpus": lambda line: line.job.gpus,
    "priority": lambda line: line.job.get_priority_display(),
    "notes": _notes,
    "uid": lambda line: line.job.uid,
}
