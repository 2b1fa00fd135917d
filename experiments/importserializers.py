"""Form of what is said of runs that are imported, and of the answers."""

from datetime import UTC, datetime
from typing import Any

from django.utils.translation import gettext as _
from rest_framework import serializers

from agent.wire import MAX_CONFIG_BYTES, MAX_OFFSET
from experiments import imports
from experiments.imports import Facts, Found
from experiments.options import MAX_NAME_CHARACTERS
from experiments.table.tags import checked
from labsite.clock import database_now

MAX_RUNS = 1000  # foreseen at once
MAX_MARKS = 200
MAX_FILES = 1_000_000
SHA256 = r"^[0-9a-f]{64}$"
EARLIEST = datetime(1971, 1, 1, tzinfo=UTC)
STATUSES = [imports.NEW, imports.THERE, imports.RAN, imports.DELETED]


class FoundSerializer(serializers.Serializer):
    """A run as it was found: what is needed to know it again."""

    project = serializers.CharField(max_length=128)
    run = serializers.CharField(max_length=255, help_text="What it is called there: run_003.")
    marks = serializers.ListField(
        child=serializers.RegexField(SHA256), min_length=1, max_length=MAX_MARKS,
        help_text="SHA-256 of how its files begin, at several lengths; the last tells most.",
    )  # fmt: skip
    uid = serializers.RegexField(
        r"^[0-9]{8}_[0-9a-f]{4,16}$", default="", allow_blank=True,
        help_text="The experiment_uid that its metadata names: a run of this server is not made.",
    )  # fmt: skip

    @property
    def found(self) -> Found:
        return found_of(self.validated_data)


def found_of(said: dict[str, Any]) -> Found:
    return Found(said["project"], said["run"], said["marks"], said["uid"])


class ImportSerializer(FoundSerializer):
    """POST imports/"""

    host = serializers.CharField(max_length=255, help_text="The machine it was found on.")
    folder = serializers.CharField(max_length=4096, help_text="Where it lies there.")
    started_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField()
    file_count = serializers.IntegerField(min_value=1, max_value=MAX_FILES)
    size_bytes = serializers.IntegerField(min_value=0, max_value=MAX_OFFSET)
    name = serializers.CharField(
        default="", allow_blank=True, max_length=MAX_NAME_CHARACTERS, help_text="As a job's."
    )
    tags = serializers.ListField(child=serializers.CharField(), default=list)
    config = serializers.CharField(
        default="", allow_blank=True, trim_whitespace=False, help_text="YAML, kept as it is."
    )
    again = serializers.BooleanField(
        default=False, help_text="Make it once more if it was deleted here."
    )

    def validate_name(self, name: str) -> str:
        if not name.isprintable():
            raise serializers.ValidationError(_("A name is one line of printable characters."))
        return name

    def validate_tags(self, tags: list[str]) -> list[str]:
        return checked(tags)

    def validate_config(self, config: str) -> str:
        if len(config.encode()) > MAX_CONFIG_BYTES:
            words = _("A config has %(limit)d bytes at most: leave it out, and send it as a file.")
            raise serializers.ValidationError(words % {"limit": MAX_CONFIG_BYTES})
        return config

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """A clock that is ahead makes no run of tomorrow."""
        now = database_now()
        began, ended = (min(attrs[name], now) for name in ("started_at", "finished_at"))
        if not EARLIEST <= began <= ended:
            raise serializers.ValidationError(
                {"started_at": _("A run begins after 1970, and before it ends.")}
            )
        return {**attrs, "started_at": began, "finished_at": ended}

    @property
    def facts(self) -> Facts:
        said = {name: self.validated_data[name] for name in Facts.__dataclass_fields__}
        return Facts(**{**said, "config": said["config"].encode()})


class ImportsSerializer(serializers.Serializer):
    """POST imports/preview/"""

    runs = FoundSerializer(many=True)

    def validate_runs(self, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if len(runs) > MAX_RUNS:
            words = _("At most %(n)d runs are looked at in one request.")
            raise serializers.ValidationError(words % {"n": MAX_RUNS})
        return runs

    @property
    def found(self) -> list[Found]:
        return [found_of(one) for one in self.validated_data["runs"]]


class ForeseenSerializer(serializers.Serializer):
    status = serializers.ChoiceField([*STATUSES, imports.REFUSED])
    run_name = serializers.CharField(help_text="What it is or would be called here.")
    uid = serializers.CharField(help_text="Of one that is there.")
    words = serializers.CharField(help_text="Why it is refused.")


class TakenSerializer(serializers.Serializer):
    """`uid` and `run_name` are null of one that is left deleted."""

    status = serializers.ChoiceField(STATUSES)
    uid = serializers.CharField(source="job.uid", default=None, allow_null=True)
    project = serializers.CharField(source="job.project.name", default=None, allow_null=True)
    run_name = serializers.CharField(source="job.run_name", default=None, allow_null=True)
    config_problem = serializers.CharField(
        help_text="Why its config is kept as a file only; empty: it is the run's config, or none."
    )
