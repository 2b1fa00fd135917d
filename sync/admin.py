"""Files of runs at the lab manager's desk: looked at, never written."""

from django.contrib import admin
from django.http import HttpRequest
from django.utils.translation import gettext_lazy

from devices.desk import Desk
from labsite.clock import database_now
from sync.models import SyncFile, Trash, Upload


@admin.register(SyncFile)
class SyncFileDesk(Desk):
    list_display = ("name", "job", "size", "generation", "complete", "outdated", "synced_at")
    list_filter = ("complete", "outdated")
    search_fields = ("name", "job__uid", "job__project__name")
    list_select_related = ("job__project",)
    hidden = ("last_key", "last_answer", "displaced")


@admin.register(Upload)
class UploadDesk(Desk):
    list_display = ("name", "job", "size", "length", "generation", "moved_at")
    search_fields = ("name", "job__uid", "job__project__name")
    list_select_related = ("job__project",)


@admin.register(Trash)
class TrashDesk(Desk):
    """Who deleted what, and what became of it."""

    list_display = (
        "project", "what", "runs", "file_count", "size", "by", "made_at", "state", "changed_by",
    )  # fmt: skip
    list_filter = ("state", "what")
    search_fields = ("project__name", "by__username", "jobs__uid")
    list_select_related = ("project", "by", "changed_by")
    hidden = ("moved_upto",)
    actions = ("restore", "empty")

    @admin.action(description=gettext_lazy("Restore"))
    def restore(self, request: HttpRequest, rows) -> None:
        now = database_now()
        self.each(request, rows, lambda one: one.restore(now, by=request.user), "restore")

    @admin.action(description=gettext_lazy("Remove for good now"))
    def empty(self, request: HttpRequest, rows) -> None:
        now = database_now()
        self.each(request, rows, lambda one: one.empty(now, by=request.user), "empty")
