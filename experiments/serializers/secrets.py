"""What endpoints take and give of secrets: never what one holds."""

from rest_framework import serializers

from experiments.models import (
    Secret,
)


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
