"""What endpoints take and give of projects."""

from typing import Any

from django.utils.translation import gettext as _
from rest_framework import serializers

from experiments.models import (
    Project,
)
from labsite.api import ByHand
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
