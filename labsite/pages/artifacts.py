"""Single files of a run: looked at in a page, shown as an image, or all of them as an archive."""

from dataclasses import dataclass
from typing import BinaryIO

from django.contrib.auth.decorators import login_required
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseNotModified,
    StreamingHttpResponse,
)
from django.shortcuts import render
from django.utils.http import content_disposition_header
from django.views.decorators.http import require_safe

from experiments.models import Job
from labsite.pages.access import asked, visible_run
from labsite.pages.pictures import type_of
from labsite.pages.previews import preview
from sync import storage
from sync.archive import Archive, Entry
from sync.models import SyncFile
from sync.ranges import ranged
from sync.storage import Place

#: Of a file that somebody's script wrote and a browser opens: it runs nothing, loads nothing, and
#: stands apart from this site.
SANDBOX = "; ".join(("default-src 'none'", "style-src 'unsafe-inline'", "sandbox"))


@dataclass(frozen=True)
class Open:
    row: SyncFile
    file: BinaryIO
    size: int


@login_required
@require_safe
def look(request: HttpRequest, uid: str, name: str) -> HttpResponse:
    """A page about one file; with `part` only what it holds."""
    job = visible_run(request, uid)
    opened = _opened(job, name)
    with opened.file:
        shown = preview(name, opened.file, opened.size)
    context = {
        "job": job,
        "name": name,
        "base": name.rpartition("/")[2],
        "folder": name.rpartition("/")[0],
        "row": opened.row,
        "preview": shown,
    }
    template = "parts/preview_of.html" if "part" in request.GET else "pages/file.html"
    return render(request, template, context)


@login_required
@require_safe
def raw(request: HttpRequest, uid: str, name: str) -> HttpResponse | StreamingHttpResponse:
    """An image as such. What is no image is not served here: the API has it as a download."""
    kind = type_of(name)
    if kind is None:
        raise Http404
    opened = _opened(visible_run(request, uid), name)
    mark = f'"{opened.row.attempt}.{opened.row.generation}.{opened.size}"'
    if request.headers.get("If-None-Match") == mark:
        opened.file.close()
        return HttpResponseNotModified()
    response = ranged(opened.file, opened.size, None, name.rpartition("/")[2])
    response["Content-Type"] = kind
    response["Content-Disposition"] = "inline"
    response["Content-Security-Policy"] = SANDBOX
    response["X-Content-Type-Options"] = "nosniff"
    response["Cross-Origin-Resource-Policy"] = "same-origin"
    response["Cache-Control"] = "private, max-age=60"
    response["ETag"] = mark
    return response


@login_required
@require_safe
def archive(request: HttpRequest, uid: str) -> StreamingHttpResponse:
    """All files of the run, or of one folder of it, as a zip."""
    job = visible_run(request, uid)
    folder = asked(request, "folder").strip("/")
    rows = SyncFile.objects.results().filter(job=job).order_by("name")
    if folder:
        rows = rows.filter(name__startswith=f"{folder}/")
    called = f"{job.project.name}-{job.run_name}"
    entries = [
        Entry(f"{called}/{row.name}", Place.of(job, row.name), row.size, row.synced_at.timestamp())
        for row in rows
    ]
    made = Archive(entries)
    headers = {
        "Content-Disposition": content_disposition_header(True, f"{called}.zip"),
        "Cache-Control": "no-store",
    }
    response = StreamingHttpResponse(made, content_type="application/zip", headers=headers)
    response.parts_to_send = made
    return response


def _opened(job: Job, name: str) -> Open:
    rows = SyncFile.objects.results().filter(job=job)
    row = None if "\x00" in name else rows.filter(name=name).first()
    if row is None:
        raise Http404
    try:
        file = storage.open_file(Place.of(job, row.name))
    except FileNotFoundError:
        raise Http404 from None
    return Open(row, file, storage.readable_size(row.name, row.size, file))
