"""Runs: every project's in one table."""

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from labsite.pages.runtable import choices, table_of


@login_required
@require_safe
def runs(request: HttpRequest) -> HttpResponse:
    """One's own first; `q` finds by words and comparisons (experiments.table.query)."""
    table = table_of(request)
    if "part" in request.GET:
        return render(request, "parts/runtable.html", {"table": table})
    return render(request, "pages/runs.html", {"table": table, **choices(table, request.user)})
