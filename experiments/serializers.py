"""Form of what this app's endpoints take and give."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from experiments.models import Attempt, Job, JobEvent, Project
from experiments.states import OnDeviceLost, Priority
from labsite.api import ByHand


class ProjectSerializer(ByHand):
    """A body of work; the last fields are what its jobs use where they say nothing."""

    created_by = serializers.SlugRelatedField("username", read_only=True)
    runs = serializers.IntegerField(source="last_run", read_only=True)

    class Meta:
        model = Project
        fields = [
            "name", "description", "created_at", "created_by", "runs", "command", "environment",
            "python", "working_directory",
        ]  # fmt: skip
        read_only_fields = ["created_at"]

    def validate_name(self, name: str) -> str:
        """The runs' files lie in a folder of that name, here and on the GPU servers."""
        if self.instance is not None and name != self.instance.name:
            raise serializers.ValidationError("A project keeps its name; its runs' files bear it.")
        Project.check_name(name)
        return name

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        project = Project(**attrs)
        project.clean()  # DRF by itself does not ask the model
        return {name: getattr(project, name) for name in attrs}


class AttemptSerializer(serializers.ModelSerializer):
    device = serializers.SlugRelatedField("host_id", read_only=True)

    class Meta:
        model = Attempt
        fields = [
            "id", "number", "device", "gpu_uuids", "created_at", "accepted_at", "started_at",
            "ended_at", "outcome", "exit_code", "message", "unconfirmed", "pid",
        ]  # fmt: skip


class JobSerializer(ByHand):
    """A job; `uid` is its experiment_uid."""

    project = serializers.SlugRelatedField("name", read_only=True)
    run_name = serializers.CharField(read_only=True)
    user = serializers.SlugRelatedField("username", read_only=True)
    parent = serializers.SlugRelatedField("uid", read_only=True)
    priority = serializers.SerializerMethodField()
    waiting_reason = serializers.CharField(read_only=True)

    class Meta:
        model = Job
        fields = [
            "uid", "project", "run_name", "name", "user", "parent", "state", "waiting_reason",
            "held", "priority", "gpus", "gpu_memory_bytes", "gpu_type", "labels", "command",
            "environment", "python", "working_directory", "time_limit_seconds",
            "stop_grace_seconds", "max_attempts", "on_device_lost", "tags", "notes",
            "submitted_at", "started_at", "finished_at", "cancel_requested_at",
            "requeue_requested_at", "summary", "keys",
        ]  # fmt: skip
        read_only_fields = [name for name in fields if name not in ("name", "tags", "notes")]

    @extend_schema_field(serializers.ChoiceField([p.name.lower() for p in Priority]))
    def get_priority(self, job: Job) -> str:
        return job.get_priority_name()

    def validate_tags(self, tags: Any) -> Any:
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise serializers.ValidationError("Tags must be a list of texts.")
        return tags


class JobDetailSerializer(JobSerializer):
    attempts = AttemptSerializer(many=True, read_only=True)

    class Meta(JobSerializer.Meta):
        fields = [*JobSerializer.Meta.fields, "attempts"]


class SubmitSerializer(serializers.Serializer):
    """What is queued. All may stand in the YAML's `lab:` block instead; what is said here wins.

    A job needs no YAML: a command and a project are enough.
    """

    config = serializers.CharField(
        required=False, allow_blank=True, trim_whitespace=False, help_text="YAML, kept as it is."
    )
    config_path = serializers.CharField(
        required=False, help_text="Instead: a file beneath the server's config folder."
    )
    project = serializers.CharField(required=False, allow_blank=True)
    name = serializers.CharField(required=False, allow_blank=True)
    command = serializers.JSONField(required=False, help_text="A list of arguments.")
    environment = serializers.DictField(required=False)
    python = serializers.CharField(required=False, allow_blank=True)
    working_directory = serializers.CharField(required=False, allow_blank=True)
    resources = serializers.DictField(required=False)
    priority = serializers.ChoiceField([p.name.lower() for p in Priority], required=False)
    time_limit = serializers.CharField(required=False, allow_blank=True)
    stop_grace = serializers.CharField(required=False, allow_blank=True)
    max_attempts = serializers.IntegerField(required=False)
    on_device_lost = serializers.ChoiceField(OnDeviceLost.choices, required=False)
    tags = serializers.ListField(child=serializers.CharField(), required=False)

    def given(self) -> dict[str, Any]:
        """What was said besides the config, in the words of the `lab:` block."""
        return {
            name: value
            for name, value in self.validated_data.items()
            if name not in ("config", "config_path") and value != ""
        }


class RequeueSerializer(serializers.Serializer):
    """POST jobs/<uid>/give_up"""

    requeue = serializers.BooleanField(default=True, help_text="Run it elsewhere; else it failed.")


class PrioritySerializer(serializers.Serializer):
    priority = serializers.ChoiceField([p.name.lower() for p in Priority])

    def level(self) -> Priority:
        return Priority[self.validated_data["priority"].upper()]


class EventSerializer(serializers.ModelSerializer):
    by = serializers.SlugRelatedField("username", read_only=True)
    attempt = serializers.SlugRelatedField("number", read_only=True)

    class Meta:
        model = JobEvent
        fields = ["id", "kind", "attempt", "from_state", "to_state", "at", "by", "data"]
