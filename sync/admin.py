"""Files of runs at the lab manager's desk: looked at, never written."""

from django.contrib import admin

from devices.desk import Desk
from sync.models import SyncFile


@admin.register(SyncFile)
class SyncFileDesk(Desk):
    list_display = ("name", "job", "size", "generation", "complete", "outdated", "synced_at")
    list_filter = ("complete", "outdated")
    search_fields = ("name", "job__uid", "job__project__name")
    list_select_related = ("job__project",)
    hidden = ("last_key", "last_answer")
