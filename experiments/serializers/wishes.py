"""What people ask of jobs: to be queued, again, and otherwise."""

from typing import Any

from django.utils.translation import gettext as _
from rest_framework import serializers

from experiments.moving import DOWN, TURN, UP, Move
from experiments.states import OnDeviceLost, Priority


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
