"""What endpoints give of jobs and their tries."""

from typing import Any

from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from devices.models import DeviceState
from experiments import discreet
from experiments.contact import Contact, contact_with, sentences
from experiments.endings import endings_of
from experiments.models import (
    Attempt,
    Imported,
    Job,
    JobEvent,
    Snapshot,
)
from experiments.states import JobState, Priority
from experiments.table.tags import checked
from labsite.api import ByHand
from labsite.clock import clock_words, database_now


class ContactSerializer(serializers.Serializer):
    """With the device of an attempt that is open, when it is not as it should be."""

    device_state = serializers.ChoiceField(DeviceState.choices, source="state")
    since = serializers.DateTimeField()
    time_limit_at = serializers.DateTimeField(source="limit_at", allow_null=True)
    then = serializers.ChoiceField(JobState.choices, help_text="If it stays away.")
    then_at = serializers.DateTimeField(help_text="At the earliest.")
    words = serializers.SerializerMethodField()

    def get_words(self, contact: Contact) -> str:
        return " ".join(sentences(contact, clock_words))


class AttemptSerializer(serializers.ModelSerializer):
    device = serializers.SlugRelatedField("host_id", read_only=True)
    contact = serializers.SerializerMethodField()
    ending = serializers.SerializerMethodField(help_text="Why it ended, in a sentence.")
    packages = serializers.ListField(
        source="packages.packages", child=serializers.CharField(), default=list, read_only=True,
        help_text="name==version of each package of its Python.",
    )  # fmt: skip

    class Meta:
        model = Attempt
        fields = [
            "id", "number", "device", "source", "unix_user", "gpu_uuids", "created_at",
            "accepted_at", "started_at", "ended_at", "outcome", "ending", "exit_code", "message",
            "unconfirmed", "found", "pid", "host_variables", "environment", "packages",
            "contact",
        ]  # fmt: skip

    @extend_schema_field(ContactSerializer(allow_null=True))
    def get_contact(self, attempt: Attempt) -> dict[str, Any] | None:
        contact = contact_with(attempt, database_now()) if attempt.is_open else None
        return ContactSerializer(contact).data if contact else None

    def get_ending(self, attempt: Attempt) -> str:
        return self.context["endings"][attempt.pk]


class SnapshotSerializer(serializers.ModelSerializer):
    """The code that a job runs in; /api/code/runs/<uid>.tar has it."""

    class Meta:
        model = Snapshot
        fields = [
            "sha256", "commit", "branch", "dirty", "remote", "size_bytes", "file_count", "made_at",
        ]  # fmt: skip


class JobSerializer(ByHand):
    """A job; `uid` is its experiment_uid."""

    project = serializers.SlugRelatedField("name", read_only=True)
    run_name = serializers.CharField(read_only=True)
    user = serializers.SlugRelatedField("username", read_only=True)
    parent = serializers.SlugRelatedField("uid", read_only=True)
    priority = serializers.SerializerMethodField()
    command = serializers.SerializerMethodField(
        help_text="With stars for an option's value that looks like a secret."
    )
    waiting_reason = serializers.CharField(read_only=True)
    device = serializers.SerializerMethodField(help_text="Where its newest try was given to.")
    code = SnapshotSerializer(source="snapshot", read_only=True, allow_null=True)

    class Meta:
        model = Job
        fields = [
            "uid", "project", "run_name", "name", "user", "device", "parent", "sweep", "swept",
            "state", "waiting_reason",
            "held", "priority", "gpus", "gpu_memory_bytes", "gpu_type", "labels", "command",
            "environment", "python", "working_directory", "time_limit_seconds",
            "stop_grace_seconds", "max_attempts", "on_device_lost", "outputs", "ignore", "sync",
            "secrets", "requires",
            "source", "links", "code", "tags", "notes",
            "submitted_at", "started_at", "finished_at", "imported_at", "cancel_requested_at",
            "requeue_requested_at", "summary", "keys",
        ]  # fmt: skip
        read_only_fields = [name for name in fields if name not in ("name", "tags", "notes")]

    @extend_schema_field(serializers.ChoiceField([p.name.lower() for p in Priority]))
    def get_priority(self, job: Job) -> str:
        return job.get_priority_name()

    @extend_schema_field(serializers.ListField(child=serializers.CharField()))
    def get_command(self, job: Job) -> list[str]:
        return discreet.masked_command(job.command)

    def get_device(self, job: Job) -> str | None:
        """As with_device() has read it for a whole list; else from its tries."""
        if hasattr(job, "host_id"):
            return job.host_id
        newest = max(job.attempts.all(), key=lambda one: one.number, default=None)
        return newest.device.host_id if newest else None

    def validate_tags(self, tags: Any) -> Any:
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise serializers.ValidationError(_("Tags must be a list of texts."))
        return checked(tags)

    def update(self, job: Job, said: dict[str, Any]) -> Job:
        request = self.context.get("request")
        job.edit(by=request.user if request else None, **said)
        return job


class ImportedSerializer(serializers.ModelSerializer):
    """Where an imported run came from, and what it was called there."""

    class Meta:
        model = Imported
        fields = ["host", "folder", "name", "file_count", "size_bytes"]


class JobDetailSerializer(JobSerializer):
    imported = serializers.SerializerMethodField(help_text="Of a run that did not run here.")
    attempts = serializers.SerializerMethodField()
    warnings = serializers.SerializerMethodField(
        help_text="What should be otherwise, though it runs: a key that looks like a secret."
    )

    class Meta(JobSerializer.Meta):
        fields = [*JobSerializer.Meta.fields, "imported", "attempts", "warnings"]

    @extend_schema_field(ImportedSerializer(allow_null=True))
    def get_imported(self, job: Job) -> dict[str, Any] | None:
        return ImportedSerializer(job.imported).data if job.imported_at else None

    @extend_schema_field(serializers.ListField(child=serializers.CharField()))
    def get_warnings(self, job: Job) -> list[str]:
        return discreet.warnings_of(job.keys)

    @extend_schema_field(AttemptSerializer(many=True))
    def get_attempts(self, job: Job) -> list[dict[str, Any]]:
        tries = job.attempts.all()
        told = {**self.context, "endings": endings_of(job, tries)}
        return AttemptSerializer(tries, many=True, context=told).data


class EventSerializer(serializers.ModelSerializer):
    by = serializers.SlugRelatedField("username", read_only=True)
    attempt = serializers.SlugRelatedField("number", read_only=True)

    class Meta:
        model = JobEvent
        fields = ["id", "kind", "attempt", "from_state", "to_state", "at", "by", "data"]
