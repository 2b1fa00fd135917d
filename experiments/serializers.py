"""Form of what this app's endpoints take and give."""

from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from devices.models import DeviceState
from experiments import discreet
from experiments.contact import Contact, contact_with, sentences
from experiments.endings import endings_of
from experiments.models import (
    Attempt,
    Borrow,
    Channel,
    GPUClaim,
    Imported,
    Job,
    JobEvent,
    Project,
    Secret,
    Snapshot,
    Sweep,
    UnixAccount,
)
from experiments.moving import DOWN, TURN, UP, Move
from experiments.states import JobState, OnDeviceLost, Priority
from experiments.table.tags import checked
from experiments.units import duration_seconds
from labsite.api import ByHand
from labsite.clock import clock_words, database_now
from people.roles import may_manage


class ProjectSerializer(ByHand):
    """A body of work; the last fields are what its jobs use where they say nothing."""

    created_by = serializers.SlugRelatedField("username", read_only=True)
    runs = serializers.SerializerMethodField(help_text="That are not deleted.")
    limit_bytes = serializers.IntegerField(
        read_only=True, allow_null=True, help_text="Its own quota, else the lab's; null: none."
    )

    class Meta:
        model = Project
        fields = [
            "name", "title", "private", "description", "main_metric", "main_metric_goal",
            "created_at", "created_by", "runs", "archived_at", "used_bytes", "quota_bytes",
            "limit_bytes", "command", "environment", "python", "working_directory", "outputs",
            "ignore", "sync", "secrets", "requires",
        ]  # fmt: skip
        read_only_fields = ["created_at", "archived_at", "used_bytes"]

    def get_runs(self, project: Project) -> int:
        """Not its last number: imported runs bring theirs. A list has counted them."""
        counted = getattr(project, "run_count", None)
        return project.jobs.present().count() if counted is None else counted

    def validate_quota_bytes(self, quota_bytes: int | None) -> int | None:
        if not may_manage(self.context["request"].user):
            raise serializers.ValidationError(_("Only a manager may set a quota."))
        return quota_bytes

    def validate_name(self, name: str) -> str:
        """The runs' files lie in a folder of that name, here and on the GPU servers."""
        if self.instance is not None and name != self.instance.name:
            raise serializers.ValidationError(
                _("A project keeps its name; its runs' files bear it.")
            )
        Project.check_name(name)
        return name

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        project = Project(**attrs)
        project.clean()  # DRF by itself does not ask the model
        return {name: getattr(project, name) for name in attrs}


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
    outputs = serializers.ListField(child=serializers.CharField(), required=False)
    ignore = serializers.ListField(child=serializers.CharField(), required=False)
    sync = serializers.DictField(required=False)
    secrets = serializers.ListField(
        child=serializers.CharField(), required=False, help_text="Names of secrets."
    )
    requires = serializers.DictField(required=False, help_text="paths, commands")
    sweep = serializers.DictField(required=False, help_text="For /api/sweeps/: grid, list, …")
    source = serializers.DictField(
        required=False,
        help_text="The code: {kind: snapshot, sha256: …} after POST /api/code/, or "
        "{kind: git, url: …, commit: …}; and folder.",
    )
    links = serializers.DictField(required=False, help_text="Laid into the code: {path: target}.")

    def given(self) -> dict[str, Any]:
        """What was said besides the config, in the words of the `lab:` block."""
        return {
            name: value
            for name, value in self.validated_data.items()
            if name not in ("config", "config_path") and value != ""
        }


class SweepSerializer(ByHand):
    """Many runs from one config. `keys` are varied; `states` counts the newest run of each
    point."""

    project = serializers.SlugRelatedField("name", read_only=True)
    user = serializers.SlugRelatedField("username", read_only=True)
    runs = serializers.SerializerMethodField()
    states = serializers.SerializerMethodField()

    class Meta:
        model = Sweep
        fields = [
            "id", "project", "user", "name", "keys", "max_running", "submitted_at", "runs",
            "states",
        ]  # fmt: skip
        read_only_fields = ["keys", "submitted_at"]

    def get_runs(self, sweep: Sweep) -> int:
        return sum(self.context["counts"][sweep.pk].values())

    @extend_schema_field(serializers.DictField(child=serializers.IntegerField()))
    def get_states(self, sweep: Sweep) -> dict[str, int]:
        return self.context["counts"][sweep.pk]


class SecretSerializer(serializers.ModelSerializer):
    """When it was set last, and by whom; never what it is."""

    changed_by = serializers.SlugRelatedField("username", read_only=True)

    class Meta:
        model = Secret
        fields = ["name", "changed_at", "changed_by"]


class SecretValueSerializer(serializers.Serializer):
    value = serializers.CharField(
        trim_whitespace=False, help_text="One line of 8 to 4096 characters; not shown again."
    )


class ChannelSerializer(serializers.ModelSerializer):
    """Who is told of what, and how that goes; of where, only the host."""

    project = serializers.SlugRelatedField("name", read_only=True, allow_null=True)
    of_lab = serializers.BooleanField(source="is_of_lab", read_only=True)
    made_by = serializers.SlugRelatedField("username", read_only=True, allow_null=True)
    trouble = serializers.CharField(
        source="trouble_words", read_only=True, help_text="Why the last message did not arrive."
    )

    class Meta:
        model = Channel
        fields = [
            "id", "kind", "host", "wants", "project", "of_lab", "made_at", "made_by", "told_at",
            "test_asked_at", "trouble", "failing_since", "retry_at", "skipped",
        ]  # fmt: skip


class NewChannelSerializer(serializers.Serializer):
    kind = serializers.CharField(help_text="slack, webhook, or mail where the lab has a server.")
    address = serializers.CharField(help_text="Not shown again, but for its host.")
    key = serializers.CharField(
        required=False, default="", allow_blank=True, help_text="What a webhook is signed with."
    )
    wants = serializers.ListField(
        child=serializers.CharField(),
        help_text="Of runs: succeeded, failed, cancelled. Of the lab: silent, faulty, disk.",
    )
    project = serializers.CharField(
        required=False, help_text="Of all runs of a project that one leads, not of one's own."
    )
    of_lab = serializers.BooleanField(required=False, default=False, help_text="By managers.")


class UnixAccountSerializer(serializers.ModelSerializer):
    """The Unix user that a person's jobs run as, where a GPU server runs them so."""

    user = serializers.SlugRelatedField("username", queryset=get_user_model().objects.all())

    class Meta:
        model = UnixAccount
        fields = ["user", "name"]

    def validate_user(self, user: Any) -> Any:
        if self.instance is not None and user != self.instance.user:
            raise serializers.ValidationError(_("Make another for another user."))
        return user


class ClaimSerializer(serializers.Serializer):
    """A GPU that is held."""

    gpu = serializers.CharField(source="gpu.uuid", help_text="Its UUID.")
    device = serializers.CharField(source="gpu.device.host_id")
    user = serializers.SerializerMethodField()
    run = serializers.SerializerMethodField(
        help_text="The uid; null: you do not see the run, or it is borrowed."
    )
    borrow = serializers.IntegerField(source="borrow_id", allow_null=True)
    words = serializers.SerializerMethodField(help_text="Who has it, for people.")

    def get_user(self, claim: GPUClaim) -> str | None:
        user = claim.borrow.user if claim.borrow else claim.attempt.job.user
        return user.get_username() if user else None

    def get_run(self, claim: GPUClaim) -> str | None:
        job = claim.attempt.job if claim.attempt else None
        return job.uid if job and job.pk in self.context["seen"] else None

    def get_words(self, claim: GPUClaim) -> str:
        who = self.get_user(claim) or "–"
        if claim.borrow:
            about = {"who": who, "when": clock_words(claim.borrow.until)}
            return _("%(who)s, borrowed until %(when)s") % about
        if self.get_run(claim) is None:
            return _("a private run (%(who)s)") % {"who": who}
        return f"{claim.attempt.job} ({who})"


class BorrowSerializer(serializers.ModelSerializer):
    """GPUs that a person has without a run."""

    user = serializers.SlugRelatedField("username", read_only=True)
    device = serializers.SlugRelatedField("host_id", read_only=True)

    class Meta:
        model = Borrow
        fields = ["id", "user", "device", "gpu_uuids", "made_at", "until", "ended_at"]


class NewBorrowSerializer(serializers.Serializer):
    """POST borrows/"""

    gpus = serializers.IntegerField(default=1)
    time = serializers.CharField(max_length=32, help_text="For how long: 2h, 30m.")
    device = serializers.CharField(
        required=False, max_length=128, allow_blank=True, help_text="A host_id; else any."
    )

    def validate_time(self, text: str) -> timedelta:
        try:
            return timedelta(seconds=duration_seconds(text))
        except ValueError as exc:
            raise serializers.ValidationError(str(exc)) from None
        except OverflowError:
            words = _("“%(text)s” is longer than there are days.")
            raise serializers.ValidationError(words % {"text": text}) from None


class RerunSerializer(serializers.Serializer):
    """POST jobs/<uid>/rerun and /resume"""

    set = serializers.DictField(
        required=False,
        help_text="Other values of dotted config keys or arguments: {“lr”: 0.05}.",
    )


class RequeueSerializer(serializers.Serializer):
    """POST jobs/<uid>/give_up"""

    requeue = serializers.BooleanField(default=True, help_text="Run it elsewhere; else it failed.")


class PrioritySerializer(serializers.Serializer):
    priority = serializers.ChoiceField([p.name.lower() for p in Priority])

    def level(self) -> Priority:
        return Priority[self.validated_data["priority"].upper()]


class MoveSerializer(serializers.Serializer):
    """POST jobs/<uid>/move: one of these."""

    before = serializers.CharField(required=False, help_text="The uid of one that waits.")
    after = serializers.CharField(required=False, help_text="The uid of one that waits.")
    to = serializers.ChoiceField(
        [UP, DOWN, TURN], required=False, help_text="turn: as fair share has it again."
    )

    def validate(self, attrs: dict[str, str]) -> dict[str, str]:
        if len(attrs) != 1:
            raise serializers.ValidationError(_("Say one of before, after and to."))
        return attrs

    def move(self) -> Move:
        return Move(**self.validated_data)


class EventSerializer(serializers.ModelSerializer):
    by = serializers.SlugRelatedField("username", read_only=True)
    attempt = serializers.SlugRelatedField("number", read_only=True)

    class Meta:
        model = JobEvent
        fields = ["id", "kind", "attempt", "from_state", "to_state", "at", "by", "data"]
