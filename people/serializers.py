"""Form of what this app's endpoints give."""

from rest_framework import serializers

from people.models import ApiToken
from people.roles import Role


class TokenSerializer(serializers.ModelSerializer):
    class Meta:
        model = ApiToken
        fields = ["name", "ending", "created_at", "expires_at"]


class MeSerializer(serializers.Serializer):
    username = serializers.CharField()
    name = serializers.CharField(help_text="The full name, if there is one.")
    role = serializers.ChoiceField(Role.values)
    may_submit = serializers.BooleanField()
    may_manage = serializers.BooleanField()
    token = TokenSerializer(allow_null=True, help_text="What was sent; null: a session's cookie.")
    lab_name = serializers.CharField()
    version = serializers.CharField(help_text="Of the server.")
    submits_once = serializers.BooleanField(
        help_text="Whether a submit may be sent again under its Idempotency-Key."
    )
