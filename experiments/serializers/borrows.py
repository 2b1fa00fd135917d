"""What endpoints take and give of GPUs that somebody holds."""

from datetime import timedelta

from django.utils.translation import gettext as _
from rest_framework import serializers

from experiments.models import (
    Borrow,
    GPUClaim,
)
from experiments.units import duration_seconds
from labsite.clock import clock_words


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
