"""What endpoints take and give of notifications: never where one goes, but for its host."""

from rest_framework import serializers

from experiments.models import (
    Channel,
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
