"""A run's name, tags and notes, written by hand: in a table's place, or on a page of their own."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from experiments.models import Job
from experiments.table.tags import tags_of, typed
from labsite.errors import Refused
from labsite.pages.access import back_of, require_change

MAX_NOTES = 10_000


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def edit(request: HttpRequest, uid: str) -> HttpResponse:
    """Of `tags`, `notes` and `name` those that are sent are written."""
    jobs = Job.objects.visible_to(request.user).present().select_related("project")
    job = get_object_or_404(jobs, uid=uid)
    require_change(request.user, job)
    back = back_of(request, reverse("run", args=[job.uid]))
    if request.method == "POST":
        try:
            fields = _fields(request)
        except Refused as refused:
            messages.error(request, str(refused))
        else:
            job.edit(by=request.user, **fields)
            return redirect(back)
    context = {"job": job, "tags": typed(job.tags), "back": back}
    return render(request, "pages/run_edit.html", context)


def _fields(request: HttpRequest) -> dict[str, object]:
    """
    Raises:
        TagsWrong
    """
    said = {name: text.replace("\x00", "") for name, text in request.POST.items()}
    fields: dict[str, object] = {}
    if "tags" in said:
        fields["tags"] = tags_of(said["tags"])
    if "notes" in said:
        fields["notes"] = said["notes"].replace("\r\n", "\n").strip()[:MAX_NOTES]
    if "name" in said:
        fields["name"] = " ".join(said["name"].split())[:255]
    return fields
