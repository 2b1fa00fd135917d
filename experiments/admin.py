"""Projects, jobs and their tries at the lab manager's desk."""

from django.contrib import admin
from django.http import HttpRequest
from django.utils.translation import gettext_lazy
from unfold.admin import TabularInline

from devices.desk import Desk
from experiments.models import Attempt, GPUClaim, Job, JobEvent, Project
from experiments.states import Priority


@admin.register(Project)
class ProjectDesk(Desk):
    list_display = ("name", "last_run", "created_by", "created_at")
    search_fields = ("name",)
    list_select_related = ("created_by",)
    by_hand = ("description", "command", "environment", "python", "working_directory")


class AttemptInline(TabularInline):
    model = Attempt
    fields = readonly_fields = (
        "number", "device", "started_at", "ended_at", "outcome", "exit_code", "message",
    )  # fmt: skip
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


class EventInline(TabularInline):
    model = JobEvent
    fields = readonly_fields = ("at", "kind", "from_state", "to_state", "by", "data")
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


@admin.register(Job)
class JobDesk(Desk):
    list_display = ("__str__", "name", "user", "state", "priority", "gpus", "submitted_at", "uid")
    list_filter = ("state", "priority", "project")
    search_fields = ("uid", "name", "project__name", "user__username")
    list_select_related = ("project", "user")
    by_hand = ("name", "tags", "notes")
    hidden = ("config", "deleted_at")
    inlines = (AttemptInline, EventInline)
    actions = ("cancel", "requeue", "keep_queued", "let_go", "raise_priority", "lower_priority")

    @admin.action(description=gettext_lazy("Cancel"))
    def cancel(self, request: HttpRequest, jobs) -> None:
        self.each(request, jobs, lambda job: job.cancel(by=request.user), "cancel")

    @admin.action(description=gettext_lazy("Requeue"))
    def requeue(self, request: HttpRequest, jobs) -> None:
        self.each(request, jobs, lambda job: job.requeue(by=request.user), "requeue")

    @admin.action(description=gettext_lazy("Keep queued"))
    def keep_queued(self, request: HttpRequest, jobs) -> None:
        self.each(request, jobs, lambda job: job.hold(True, by=request.user), "hold")

    @admin.action(description=gettext_lazy("Let go"))
    def let_go(self, request: HttpRequest, jobs) -> None:
        self.each(request, jobs, lambda job: job.hold(False, by=request.user), "unhold")

    @admin.action(description=gettext_lazy("Raise the priority by one"))
    def raise_priority(self, request: HttpRequest, jobs) -> None:
        self.each(request, jobs, lambda job: _shift(job, 1, request.user), "priority")

    @admin.action(description=gettext_lazy("Lower the priority by one"))
    def lower_priority(self, request: HttpRequest, jobs) -> None:
        self.each(request, jobs, lambda job: _shift(job, -1, request.user), "priority")


def _shift(job: Job, by: int, user) -> None:
    level = min(max(job.priority + by, Priority.LOW), Priority.URGENT)
    job.set_priority(Priority(level), by=user)


@admin.register(Attempt)
class AttemptDesk(Desk):
    list_display = ("__str__", "device", "started_at", "ended_at", "outcome", "exit_code")
    list_filter = ("outcome", "device")
    search_fields = ("job__uid", "id")
    list_select_related = ("job__project", "device")
    hidden = ("resume", "files_advertised")


@admin.register(GPUClaim)
class GPUClaimDesk(Desk):
    list_display = ("gpu", "attempt")
    list_select_related = ("gpu__device", "attempt__job__project")
    actions = ("release",)

    @admin.action(description=gettext_lazy("Release: nothing runs on it any more"))
    def release(self, request: HttpRequest, claims) -> None:
        rows = claims.select_related("attempt__job__project", "gpu")
        self.each(request, rows, lambda claim: claim.attempt.release([claim.gpu.uuid]), "release")


@admin.register(JobEvent)
class JobEventDesk(Desk):
    list_display = ("at", "job", "kind", "from_state", "to_state", "by")
    list_filter = ("kind",)
    search_fields = ("job__uid",)
    list_select_related = ("job__project", "by")
