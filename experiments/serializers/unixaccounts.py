"""Who runs as which Unix user."""

from typing import Any

from django.contrib.auth import get_user_model
from django.utils.translation import gettext as _
from rest_framework import serializers

from experiments.models import (
    UnixAccount,
)


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
