"""What endpoints give of sweeps."""

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from experiments.models import (
    Sweep,
)
from labsite.api import ByHand


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
