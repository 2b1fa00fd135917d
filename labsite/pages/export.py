"""All runs that match, or their groups, as CSV and as a LaTeX table."""

from collections.abc import Iterator
from datetime import datetime

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.utils.http import content_disposition_header
from django.utils.translation import pgettext
from django.views.decorators.http import require_safe

from experiments.errors import QueryWrong
from experiments.models import Job, Project
from experiments.table.columns import FIELD, Ref
from experiments.table.groups import Group, Spread
from experiments.table.values import Row, values_of
from labsite.pages.access import asked
from labsite.pages.asking import asked_by
from labsite.pages.cellhtml import is_number, rounded
from labsite.pages.queue import Line, lines
from labsite.pages.runtable import UNSHOWN, Found, find
from labsite.pages.written import csv_lines, latex_table, latex_text
from labsite.templatetags.lab import number

AT_ONCE = 500
#: A table for a paper; all of it is for a spreadsheet.
MOST_LATEX_ROWS = 500
PLUS_MINUS = r" \pm "
#: What names a run stands before the chosen columns.
NAMING = ("project", "run", "uid", "name")


def _found(request: HttpRequest) -> Found:
    name = asked(request, "project")
    visible = Project.objects.visible_to(request.user)
    project = get_object_or_404(visible, name=name) if name else None
    return find(asked_by(request, project), request.user)


def _refused(wrong: QueryWrong) -> HttpResponse:
    """The table itself shows the place."""
    return HttpResponse(str(wrong), status=wrong.status, content_type="text/plain; charset=utf-8")


@login_required
@require_safe
def csv(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    found = _found(request)
    if found.wrong:
        return _refused(found.wrong)
    rows = _group_rows(found) if found.asked.groups else _run_rows(found, request)
    response = StreamingHttpResponse(csv_lines(rows), content_type="text/csv; charset=utf-8")
    project = found.asked.project
    name = f"{project.name if project else 'runs'}.csv"
    response["Content-Disposition"] = content_disposition_header(True, name)
    return response


@login_required
@require_safe
def latex(request: HttpRequest) -> HttpResponse:
    found = _found(request)
    if found.wrong:
        return _refused(found.wrong)
    text = _latex_groups(found) if found.asked.groups else _latex_runs(found, request)
    return HttpResponse(text, content_type="text/plain; charset=utf-8")


# --- runs ---------------------------------------------------------------------------------------


def _run_rows(found: Found, request: HttpRequest) -> Iterator[list[object]]:
    refs = [ref for ref in found.asked.columns if ref.kind != FIELD or ref.name not in NAMING]
    yield [*NAMING, *(ref.word for ref in refs)]
    for line, values in _pieces(found.pks(), found, request):
        job = line.job
        naming = [job.project.name, job.run_name, job.uid, job.name]
        yield [*naming, *(_raw(line, ref, values, found.reader.now) for ref in refs)]


def _pieces(pks: list[int], found: Found, request: HttpRequest) -> Iterator[tuple[Line, Row]]:
    """Each run with its values; so many at once, whatever they are together."""
    for start in range(0, len(pks), AT_ONCE):
        some = pks[start : start + AT_ONCE]
        jobs = Job.objects.filter(pk__in=some).select_related("project", "user").defer(*UNSHOWN)
        by_pk = {one.job.pk: one for one in lines(jobs, request.user, found.reader.now, AT_ONCE)}
        values = values_of(some, found.asked.columns, found.known)
        yield from ((by_pk[pk], values[pk]) for pk in some if pk in by_pk)


def _raw(line: Line, ref: Ref, values: Row, now: datetime) -> object:
    """For programs: seconds, times with their zone, states as the API names them."""
    if ref.kind != FIELD:
        return values.get(ref, "")
    job = line.job
    fields = {
        "state": job.state,
        "tag": ", ".join(job.tags),
        "user": job.user.username if job.user else "",
        "device": line.attempt.device.host_id if line.attempt else "",
        "took": _seconds(job.started_at, job.finished_at or now),
        "submitted": _moment(job.submitted_at),
        "started": _moment(job.started_at),
        "ended": _moment(job.finished_at),
        "gpus": job.gpus,
        "priority": job.get_priority_name(),
        "notes": job.notes,
    }
    return fields[ref.name]


def _seconds(since: datetime | None, until: datetime) -> object:
    return "" if since is None else round((until - since).total_seconds())


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat(timespec="seconds")


def _latex_runs(found: Found, request: HttpRequest) -> str:
    refs = [ref for ref in found.asked.columns if ref != Ref(FIELD, "run")]
    headers = [(pgettext("heading", "Run"), False), *((ref.label, is_number(ref)) for ref in refs)]
    rows = []
    for line, values in _pieces(found.pks()[:MOST_LATEX_ROWS], found, request):
        cells = [_raw_or_name(line, ref, values, found.reader.now) for ref in refs]
        rows.append([latex_text(line.job.run_name), *(latex_text(_short(cell)) for cell in cells)])
    return latex_table(headers, rows)


def _raw_or_name(line: Line, ref: Ref, values: Row, now: datetime) -> object:
    named = {"project": line.job.project.name, "uid": line.job.uid, "name": line.job.name}
    is_named = ref.kind == FIELD and ref.name in named
    return named[ref.name] if is_named else _raw(line, ref, values, now)


def _short(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)


# --- groups -------------------------------------------------------------------------------------


def _metrics(found: Found) -> list[Ref]:
    return [ref for ref in found.asked.columns if ref.is_metric]


def _group_rows(found: Found) -> Iterator[list[object]]:
    metrics = _metrics(found)
    sides = [f"{ref.word} {side}" for ref in metrics for side in ("mean", "std")]
    yield [*(ref.word for ref in found.asked.groups), "runs", *sides]
    for group in found.groups():
        yield [*_values(group), group.runs, *(_sides(group, metrics))]


def _values(group: Group) -> list[object]:
    return ["" if value is None else value for value in group.values]


def _sides(group: Group, metrics: list[Ref]) -> Iterator[object]:
    for ref in metrics:
        spread = group.spreads.get(ref)
        yield "" if spread is None else spread.mean
        yield "" if spread is None or spread.deviation is None else spread.deviation


def _latex_groups(found: Found) -> str:
    metrics = _metrics(found)
    headers = [
        *((ref.label, False) for ref in found.asked.groups),
        (pgettext("heading", "Runs"), True),
        *((ref.label, True) for ref in metrics),
    ]
    rows = [
        [
            *(latex_text(str(value)) for value in _values(group)),
            str(group.runs),
            *(_latex_spread(group.spreads.get(ref)) for ref in metrics),
        ]
        for group in found.groups()[:MOST_LATEX_ROWS]
    ]
    return latex_table(headers, rows)


def _latex_spread(spread: Spread | None) -> str:
    return "" if spread is None else f"${PLUS_MINUS.join(rounded(spread))}$"
