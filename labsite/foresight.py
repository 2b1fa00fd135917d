"""What becomes of a run, for programs: one that is yet to be queued, and one that waits."""

from typing import Any

from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.authentication import SessionAuthentication
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from experiments import configfiles, discreet, reasons, submission, sweeps
from experiments.config import JobSpec
from experiments.contact import contact_with, sentences
from experiments.endings import endings_of
from experiments.models import Job
from experiments.places import read_places
from experiments.serializers.wishes import SubmitSerializer
from experiments.states import JobState
from labsite.clock import clock_words, database_now
from labsite.pages.fitting import Fit, fits_of, next_runs, product_of, turn_of
from people.auth import IsPerson, MayWrite, TokenAuthentication

SHOWN_POINTS = 5
#: How a GPU server suits, as Fit's badge has it, in a word for programs.
WHEN = {"healthy": "now", "waiting": "later", "stale": "not now", "free": "never"}


class PlaceSerializer(serializers.Serializer):
    device = serializers.CharField(source="device.host_id")
    when = serializers.SerializerMethodField(help_text="now, later, not now, never")
    words = serializers.CharField(help_text="Why, in the reader's language.")
    folder = serializers.CharField(help_text="Where the command would run; empty: the agent's.")
    python = serializers.CharField()
    user = serializers.CharField(help_text="The Unix user.")

    def get_when(self, fit: Fit) -> str:
        return WHEN[fit.badge.state]


class VariedSerializer(serializers.Serializer):
    keys = serializers.ListField(child=serializers.CharField())
    product = serializers.CharField(help_text="2 × 3")
    points = serializers.ListField(child=serializers.DictField(), help_text="The first ones.")
    added_keys = serializers.ListField(
        child=serializers.CharField(), help_text="Which the file does not name: slips, perhaps."
    )


class PreviewSerializer(serializers.Serializer):
    project = serializers.CharField()
    runs = serializers.IntegerField()
    first_run = serializers.CharField()
    last_run = serializers.CharField()
    name = serializers.CharField(allow_null=True)
    command = serializers.ListField(
        child=serializers.CharField(), help_text="Of the first run, as the GPU server gets it."
    )
    source = serializers.DictField(allow_null=True, help_text="The code; null: the host's.")
    environment = serializers.DictField()
    secrets = serializers.ListField(child=serializers.CharField(), help_text="Their names.")
    gpus = serializers.IntegerField()
    wants = serializers.CharField(help_text="What it asks for, in words.")
    priority = serializers.CharField()
    sweep = VariedSerializer(allow_null=True)
    places = PlaceSerializer(many=True)
    turn = serializers.CharField()
    turn_more = serializers.CharField()


class ForeseenSerializer(SubmitSerializer):
    """What may be asked about before its code was sent."""

    unsent = serializers.BooleanField(
        required=False, help_text="The snapshot that `source` names is yet to be sent."
    )

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in super().given().items() if name != "unsent"}


class PreviewView(APIView):
    """POST /api/jobs/preview/: what the same POST to jobs/ or sweeps/ would queue, and where it
    would run. Queues nothing."""

    authentication_classes = [SessionAuthentication, TokenAuthentication]
    permission_classes = [MayWrite]

    @extend_schema(request=ForeseenSerializer, responses=PreviewSerializer)
    def post(self, request: Request) -> Response:
        wish = ForeseenSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        said = wish.validated_data
        path = said.get("config_path")
        text = configfiles.read(path) if path else said.get("config")
        is_sent = not said.get("unsent", False)
        spec = submission.read(text, wish.given(), by=request.user, is_sent=is_sent)
        return Response(PreviewSerializer(_foreseen(spec, wish.given(), request.user)).data)


def _foreseen(spec: JobSpec, given: dict[str, Any], user: Any) -> dict[str, Any]:
    grid = spec.sweep
    count = grid.size if grid else 1
    points = list(sweeps.points_of(spec, given, SHOWN_POINTS)) if grid else []
    first = points[0].spec if points else spec
    fits = fits_of(spec, read_places(database_now()), user)
    turn = turn_of(spec, fits, count, user)
    first_run, last_run = next_runs(spec, count, user)
    return {
        "project": spec.project,
        "runs": count,
        "first_run": first_run,
        "last_run": last_run,
        "name": first.name,
        "command": discreet.masked_command(first.command),
        "source": spec.source,
        "environment": spec.environment,
        "secrets": spec.secrets,
        "gpus": spec.gpus,
        "wants": reasons.wants(vars(spec)),
        "priority": spec.priority,
        "sweep": grid
        and {
            "keys": grid.keys,
            "product": product_of(grid),
            "points": [discreet.masked(point.values) for point in points],
            "added_keys": sweeps.added_keys(spec.config, grid.keys) if spec.config else [],
        },
        "places": fits,
        "turn": turn["head"],
        "turn_more": turn["more"],
    }


class WhySerializer(serializers.Serializer):
    uid = serializers.CharField()
    state = serializers.ChoiceField(JobState.choices)
    sentences = serializers.ListField(child=serializers.CharField())
    places = PlaceSerializer(many=True, help_text="Of one that waits: each GPU server.")


class WhyView(APIView):
    """GET /api/jobs/<uid>/why/: why it waits and what each GPU server lacks; what is with the GPU
    server on which it runs; how its last try ended."""

    authentication_classes = [SessionAuthentication, TokenAuthentication]
    permission_classes = [IsPerson]

    @extend_schema(responses=WhySerializer)
    def get(self, request: Request, uid: str) -> Response:
        seen = Job.objects.visible_to(request.user).present()
        job = get_object_or_404(seen.select_related("project", "user"), uid=uid)
        waits = job.state == JobState.QUEUED
        return Response(
            WhySerializer(
                {
                    "uid": job.uid,
                    "state": job.state,
                    "sentences": [job.waiting_reason] if waits else _sentences(job),
                    "places": _places(job) if waits else [],
                }
            ).data
        )


def _places(job: Job) -> list[Fit]:
    return fits_of(submission.spec_of(job), read_places(database_now()), job.user)


def _sentences(job: Job) -> list[str]:
    """Of the newest try: how it is with its GPU server, or how it ended."""
    tries = list(job.attempts.select_related("device").order_by("number"))
    if job.imported_at:
        words = _("It was imported from %(place)s: nothing of it ran here.")
        return [words % {"place": job.imported.place}]
    if not tries:
        return [str(job.get_state_display())]
    newest = tries[-1]
    if not newest.is_open:
        return [endings_of(job, tries)[newest.pk]]
    newest.job = job
    contact = contact_with(newest, database_now())
    told = list(sentences(contact, clock_words)) if contact else []
    return [f"{job.get_state_display()}: {newest.device.host_id}", *told]
