"""Projects, jobs and their tries at the lab manager's desk."""

import shlex
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext_lazy

from devices.desk import Desk, Rows
from experiments import discreet
from experiments.models import (
    Attempt,
    Borrow,
    Channel,
    GivenSecret,
    GPUClaim,
    Imported,
    Job,
    JobEvent,
    Member,
    PackageSet,
    Project,
    Secret,
    Snapshot,
    Sweep,
    UnixAccount,
)
from experiments.states import Priority
from labsite.clock import database_now
from people.audit import recorded


class MemberInline(Rows):
    """Set on the project's own settings page."""

    model = Member
    fields = readonly_fields = ("user", "role")


@admin.register(Project)
class ProjectDesk(Desk):
    list_display = (
        "name", "private", "last_run", "used", "quota_bytes", "archived_at", "created_by",
    )  # fmt: skip
    list_filter = (
        "private",
        ("archived_at", admin.EmptyFieldListFilter),
    )
    search_fields = ("name",)
    list_select_related = ("created_by",)
    inlines = (MemberInline,)
    by_hand = (
        "title", "private", "description", "main_metric", "main_metric_goal", "quota_bytes",
        "command", "environment", "python", "working_directory", "outputs", "ignore", "sync",
    )  # fmt: skip
    actions = ("archive", "unarchive")

    @admin.display(description=gettext_lazy("used"), ordering="used_bytes")
    def used(self, project: Project) -> str:
        return filesizeformat(project.used_bytes)

    @admin.action(description=gettext_lazy("Archive"))
    def archive(self, request: HttpRequest, projects) -> None:
        self.each(request, projects, lambda one: one.archive(database_now()), "archive")

    @admin.action(description=gettext_lazy("Take out of the archive"))
    def unarchive(self, request: HttpRequest, projects) -> None:
        self.each(request, projects, lambda one: one.unarchive(), "unarchive")


class AttemptInline(Rows):
    model = Attempt
    fields = readonly_fields = (
        "number", "device", "started_at", "ended_at", "outcome", "exit_code", "message",
    )  # fmt: skip


class EventInline(Rows):
    model = JobEvent
    fields = readonly_fields = ("at", "kind", "from_state", "to_state", "by", "data")


@admin.register(Job)
class JobDesk(Desk):
    list_display = ("__str__", "name", "user", "state", "priority", "gpus", "submitted_at", "uid")
    list_filter = ("state", "priority", "project")
    search_fields = ("uid", "name", "project__name", "user__username")
    list_select_related = ("project", "user")
    by_hand = ("name", "tags", "notes")
    hidden = ("config", "command", "deleted_at")
    inlines = (AttemptInline, EventInline)
    actions = (
        "cancel", "requeue", "run_elsewhere", "keep_queued", "let_go", "raise_priority",
        "lower_priority", "delete_runs",
    )  # fmt: skip

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [*super().get_readonly_fields(request, obj), "shown_command"]

    @admin.display(description=gettext_lazy("command"))
    def shown_command(self, job: Job) -> str:
        return shlex.join(discreet.masked_command(job.command))

    @admin.action(description=gettext_lazy("Cancel"))
    def cancel(self, request: HttpRequest, jobs) -> None:
        self.each(request, jobs, lambda job: job.cancel(by=request.user), "cancel")

    @admin.action(description=gettext_lazy("Requeue"))
    def requeue(self, request: HttpRequest, jobs) -> None:
        self.each(request, jobs, lambda job: job.requeue(by=request.user), "requeue")

    @admin.action(description=gettext_lazy("Give up and run elsewhere"))
    def run_elsewhere(self, request: HttpRequest, jobs) -> None:
        self.each(
            request, jobs, lambda job: job.give_up(requeue=True, by=request.user), "elsewhere"
        )

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

    @admin.action(description=gettext_lazy("Delete into the trash"))
    def delete_runs(self, request: HttpRequest, jobs) -> None:
        now = database_now()
        self.each(request, jobs, lambda job: job.delete_run(now, by=request.user), "delete")


def _shift(job: Job, by: int, user) -> None:
    level = min(max(job.priority + by, Priority.LOW), Priority.URGENT)
    job.set_priority(Priority(level), by=user)


@admin.register(Sweep)
class SweepDesk(Desk):
    list_display = ("__str__", "project", "name", "user", "max_running", "submitted_at")
    list_filter = ("project",)
    search_fields = ("name", "project__name", "user__username")
    list_select_related = ("project", "user")
    by_hand = ("name", "max_running")
    hidden = ("config", "given")
    actions = ("cancel", "keep_queued", "let_go")

    @admin.action(description=gettext_lazy("Cancel"))
    def cancel(self, request: HttpRequest, sweeps) -> None:
        for sweep in sweeps:  # each in several transactions
            told = recorded(request.user, sweep, "cancel")
            self.done(request, sweep.cancel(by=request.user, told=told))

    @admin.action(description=gettext_lazy("Keep queued"))
    def keep_queued(self, request: HttpRequest, sweeps) -> None:
        self.each(request, sweeps, lambda sweep: sweep.hold(True, by=request.user), "hold")

    @admin.action(description=gettext_lazy("Let go"))
    def let_go(self, request: HttpRequest, sweeps) -> None:
        self.each(request, sweeps, lambda sweep: sweep.hold(False, by=request.user), "unhold")


@admin.register(Attempt)
class AttemptDesk(Desk):
    list_display = (
        "__str__", "device", "started_at", "ended_at", "outcome", "exit_code", "unconfirmed",
        "found",
    )  # fmt: skip
    list_filter = ("outcome", "unconfirmed", "device")
    search_fields = ("job__uid", "id")
    list_select_related = ("job__project", "device", "packages")
    hidden = ("resume", "files_advertised", "files_left_out", "files_to_come")


@admin.register(GPUClaim)
class GPUClaimDesk(Desk):
    list_display = ("gpu", "holder")
    list_select_related = (
        "gpu__device", "attempt__job__project", "borrow__user", "borrow__device",
    )  # fmt: skip
    actions = ("release",)

    @admin.action(description=gettext_lazy("Release: nothing runs on it any more"))
    def release(self, request: HttpRequest, claims) -> None:
        rows = claims.select_related(
            "attempt__job__project", "borrow__user", "borrow__device", "gpu"
        )
        self.each(request, rows, _release, "release")


def _release(claim: GPUClaim) -> None:
    if claim.borrow is not None:
        claim.borrow.end(database_now())
    else:
        claim.attempt.release([claim.gpu.uuid])


@admin.register(Borrow)
class BorrowDesk(Desk):
    list_display = ("__str__", "made_at", "until", "ended_at")
    list_filter = ("device",)
    search_fields = ("user__username",)
    list_select_related = ("user", "device")


@admin.register(Member)
class MemberDesk(Desk):
    list_display = ("project", "user", "role")
    search_fields = ("project__name", "user__username")
    list_select_related = ("project", "user")


@admin.register(UnixAccount)
class UnixAccountDesk(Desk):
    """Who runs as whom; set on the user's own page."""

    list_display = ("user", "name")
    search_fields = ("user__username", "name")
    list_select_related = ("user",)


@admin.register(Secret)
class SecretDesk(Desk):
    """Which there are: what one holds is for no desk either."""

    list_display = ("name", "user", "project", "changed_at", "changed_by")
    search_fields = ("name", "user__username", "project__name")
    list_select_related = ("user", "project", "changed_by")
    hidden = ("sealed",)


@admin.register(GivenSecret)
class GivenSecretDesk(Desk):
    list_display = ("name", "attempt")
    search_fields = ("name", "attempt__job__uid")
    list_select_related = ("attempt__job__project",)
    hidden = ("sealed",)


@admin.register(Channel)
class ChannelDesk(Desk):
    """Who is told, and how that goes; where, only by its host."""

    list_display = ("kind", "host", "user", "project", "told_at", "failing_since", "made_by")
    list_filter = ("kind",)
    search_fields = ("host", "user__username", "project__name")
    list_select_related = ("user", "project", "made_by")
    hidden = ("sealed", "uid", "busy_by")


@admin.register(Snapshot)
class SnapshotDesk(Desk):
    list_display = ("__str__", "made_at", "commit", "dirty", "file_count", "size_bytes")
    search_fields = ("sha256", "commit", "branch")


@admin.register(PackageSet)
class PackageSetDesk(Desk):
    list_display = ("sha256",)
    search_fields = ("sha256",)


@admin.register(Imported)
class ImportedDesk(Desk):
    list_display = ("job", "host", "folder", "name", "file_count", "size_bytes")
    search_fields = ("host", "folder", "job__uid")
    list_select_related = ("job__project",)


@admin.register(JobEvent)
class JobEventDesk(Desk):
    list_display = ("at", "job", "kind", "from_state", "to_state", "by")
    list_filter = ("kind",)
    search_fields = ("job__uid",)
    list_select_related = ("job__project", "by")
