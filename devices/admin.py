"""GPU servers at the lab manager's desk."""

from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from devices.desk import Desk, Rows
from devices.models import GPU, Device, EnrollmentCode, EnrollmentUse, GPUEvent
from devices.remarks import remarks
from labsite.clock import database_now


class GPUInline(Rows):
    model = GPU
    fields = readonly_fields = (
        "index",
        "name",
        "present",
        "utilization_percent",
        "memory_used_bytes",
        "temperature_celsius",
        "graphics_clock_mhz",
        "simulated",
        "faulty",
    )
    show_change_link = True

    @admin.display(description=gettext_lazy("faulty"))
    def faulty(self, gpu: GPU) -> str:
        return gpu.quarantine_reason or "–"


@admin.register(Device)
class DeviceDesk(Desk):
    list_display = (
        "host_id",
        "state_now",
        "draining",
        "last_heartbeat_at",
        "open_attempts",
        "agent",
    )
    list_filter = ("draining", "is_local")
    search_fields = ("host_id",)
    by_hand = ("max_jobs", "cpu_slots", "labels", "environment", "python", "working_directory")
    hidden = (
        "token_sha256", "next_token_sha256", "heartbeat_seq", "poll_seq", "instance_id",
        "expects_word", "unknown_attempts",
    )  # fmt: skip
    readonly_fields = ("enroll_again", "to_know")
    inlines = (GPUInline,)
    actions = ("drain", "resume", "revoke")

    def get_readonly_fields(self, request: HttpRequest, obj: object = None) -> list[str]:
        return ["enroll_again", "to_know", *super().get_readonly_fields(request, obj)]

    @admin.display(description=gettext_lazy("state"))
    def state_now(self, device: Device) -> str:
        return device.state(database_now()).label

    @admin.display(description=gettext_lazy("agent"))
    def agent(self, device: Device) -> str:
        return device.versions.get("agent") or "–"

    @admin.display(description=gettext_lazy("to know"))
    def to_know(self, device: Device) -> str:
        return " ".join(remarks(device, device.lacks)) or "–"

    @admin.display(description=gettext_lazy("new token"))
    def enroll_again(self, device: Device) -> SafeString:
        """For a machine that lost its token, or whose access was revoked."""
        address = f"{reverse('device-add')}?device={device.host_id}"
        return format_html('<a href="{}">{}</a>', address, _("Make a code for this GPU server"))

    @admin.action(description=gettext_lazy("Stop new jobs"))
    def drain(self, request: HttpRequest, devices) -> None:
        self.each(request, devices, Device.drain, "drain")

    @admin.action(description=gettext_lazy("Take new jobs again"))
    def resume(self, request: HttpRequest, devices) -> None:
        self.each(request, devices, Device.resume, "resume")

    @admin.action(description=gettext_lazy("Revoke access (its jobs run on)"))
    def revoke(self, request: HttpRequest, devices) -> None:
        now = database_now()
        self.each(request, devices, lambda device: device.revoke(now), "revoke")


@admin.register(GPU)
class GPUDesk(Desk):
    list_display = ("__str__", "name", "present", "simulated", "utilization_percent", "faulty")
    list_filter = ("present", "simulated", "fault", "name", "device")
    search_fields = ("uuid", "device__host_id", "name")
    list_select_related = ("device",)
    hidden = ("errors_judged", "fault_facts")
    readonly_fields = ("faulty",)
    actions = ("quarantine", "release")

    def get_readonly_fields(self, request: HttpRequest, obj: object = None) -> list[str]:
        return ["faulty", *super().get_readonly_fields(request, obj)]

    @admin.display(description=gettext_lazy("faulty"))
    def faulty(self, gpu: GPU) -> str:
        return gpu.quarantine_reason or "–"

    @admin.action(description=gettext_lazy("Mark as faulty: give it to nobody"))
    def quarantine(self, request: HttpRequest, gpus) -> None:
        now = database_now()
        reason = _("set aside by %(user)s") % {"user": request.user}
        self.each(
            request, gpus, lambda gpu: gpu.quarantine(reason, now, by=request.user), "quarantine"
        )

    @admin.action(description=gettext_lazy("Release: it works again"))
    def release(self, request: HttpRequest, gpus) -> None:
        self.each(request, gpus, lambda gpu: gpu.release(by=request.user), "release")


@admin.register(GPUEvent)
class GPUEventDesk(Desk):
    """What was done about cards, by whom; nothing here is changed."""

    list_display = ("gpu", "kind", "at", "by", "reason")
    list_filter = ("kind", "fault")
    list_select_related = ("gpu__device", "by")


@admin.register(EnrollmentCode)
class EnrollmentCodeDesk(Desk):
    """Codes that were made; a new one is made, and shown once, by “Add a GPU server”."""

    list_display = ("__str__", "created_at", "created_by", "expires_at", "uses_left", "device")
    list_select_related = ("created_by", "device")
    hidden = ("code_sha256",)
    actions = ("end",)

    @admin.action(description=gettext_lazy("Make worthless now"))
    def end(self, request: HttpRequest, codes) -> None:
        self.each(request, codes, EnrollmentCode.end, "end")


@admin.register(EnrollmentUse)
class EnrollmentUseDesk(Desk):
    list_display = ("device", "at", "code")
    list_select_related = ("device", "code")
    hidden = ("token_sha256",)
