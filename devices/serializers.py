"""Form of what this app's endpoints take and give."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from devices.models import GPU, Device, DeviceState, EnrollmentCode
from devices.remarks import remarks
from labsite.api import ByHand
from labsite.clock import database_now

#: Why a card is set aside by hand.
REASON_CHARACTERS = 255


class GPUSerializer(serializers.ModelSerializer):
    class Meta:
        model = GPU
        fields = [
            "uuid", "index", "name", "present", "simulated", "memory_total_bytes",
            "memory_used_bytes", "utilization_percent", "temperature_celsius", "power_watts",
            "power_limit_watts", "graphics_clock_mhz", "memory_clock_mhz", "throttle_reasons",
            "xid_errors", "ecc_errors", "ecc_errors_lifetime", "remap_pending", "processes",
            "foreign_users", "used_elsewhere", "quarantined_at", "fault", "quarantine_reason",
        ]  # fmt: skip


class LackSerializer(serializers.Serializer):
    name = serializers.CharField()
    user = serializers.CharField(help_text="The Unix user; empty: the agent's.")
    python = serializers.CharField(help_text="Of a command: whose environment was looked in.")


class DeviceSerializer(ByHand):
    """A device; `state` is derived from the age of its last heartbeat."""

    state = serializers.SerializerMethodField()
    server_origin = serializers.CharField(source="origin", read_only=True)
    gpus = GPUSerializer(many=True, read_only=True)
    remarks = serializers.SerializerMethodField(
        help_text="What a person should know of it, in sentences."
    )
    lacks = serializers.SerializerMethodField(
        help_text="What runs required that it has not, of runs that the reader may see."
    )

    class Meta:
        model = Device
        fields = [
            "id", "host_id", "state", "server_origin", "draining", "max_jobs", "cpu_slots",
            "labels", "environment", "python", "working_directory", "last_heartbeat_at",
            "heartbeat_interval_seconds", "cpu_percent", "cpu_count", "memory_used_bytes",
            "memory_total_bytes", "disk_free_bytes", "disk_total_bytes", "versions",
            "driver_answers", "unix_user", "run_as", "source_directory", "source", "open_attempts",
            "runs_ended_attempt", "unknown_attempts", "lacks", "silent_since", "back_at",
            "created_at", "revoked_at", "gpus", "remarks",
        ]  # fmt: skip
        read_only_fields = [
            name
            for name in fields
            if name
            not in (
                "max_jobs",
                "cpu_slots",
                "labels",
                "environment",
                "python",
                "working_directory",
            )
        ]

    @extend_schema_field(serializers.ChoiceField(DeviceState.choices))
    def get_state(self, device: Device) -> str:
        return device.state(self.context.get("now") or database_now())

    @extend_schema_field(serializers.ListField(child=serializers.CharField()))
    def get_remarks(self, device: Device) -> list[str]:
        return remarks(device, self.get_lacks(device))

    @extend_schema_field(LackSerializer(many=True))
    def get_lacks(self, device: Device) -> list[dict[str, str]]:
        known: dict[int, list[dict[str, str]]] = self.context.get("lacks", {})
        return known.get(device.pk, [])

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        Device(**attrs).clean()  # DRF by itself does not ask the model
        return attrs


class QuarantineSerializer(serializers.Serializer):
    reason = serializers.CharField(
        max_length=REASON_CHARACTERS, help_text="In a few words: everybody reads it."
    )


class NewEnrollmentCodeSerializer(serializers.Serializer):
    """What a manager asks for: a code for one new device, for n, or for a known one."""

    uses = serializers.IntegerField(min_value=1, max_value=500, default=1)
    minutes = serializers.IntegerField(min_value=1, max_value=24 * 60, default=10)
    device = serializers.SlugRelatedField(
        slug_field="host_id", queryset=Device.objects.all(), required=False, allow_null=True
    )


class EnrollmentCodeSerializer(serializers.ModelSerializer):
    class Meta:
        model = EnrollmentCode
        fields = ["id", "created_at", "expires_at", "uses_left", "device"]


class MadeEnrollmentCodeSerializer(EnrollmentCodeSerializer):
    code = serializers.CharField(help_text="Shown this once; only its digest is kept.")

    class Meta(EnrollmentCodeSerializer.Meta):
        fields = [*EnrollmentCodeSerializer.Meta.fields, "code"]
