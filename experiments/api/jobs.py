"""Jobs for people."""

from collections.abc import Iterable
from typing import Any

import django_filters
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from experiments import configfiles, moving, reruns, submission
from experiments.api.asking import ONCE, asked_by
from experiments.api.rights import OwnersChange
from experiments.deciding import changed_by
from experiments.models import (
    Job,
    JobEvent,
)
from experiments.serializers.jobs import EventSerializer, JobDetailSerializer, JobSerializer
from experiments.serializers.wishes import (
    MoveSerializer,
    PrioritySerializer,
    RequeueSerializer,
    RerunSerializer,
    SubmitSerializer,
)
from experiments.states import JobState
from experiments.table.columns import FIELD, known_columns, ref_of
from experiments.table.fields import Reader
from experiments.table.match import match, no_column_words, unknown_words
from experiments.table.order import ordered
from labsite.api import Pages
from labsite.clock import database_now
from labsite.errors import BadRequest


class JobFilter(django_filters.FilterSet):
    project = django_filters.CharFilter("project__name")
    user = django_filters.CharFilter("user__username")
    state = django_filters.MultipleChoiceFilter(choices=JobState.choices)
    sweep = django_filters.NumberFilter("sweep_id")
    ref = django_filters.CharFilter(method="named")
    archived = django_filters.BooleanFilter(
        "project__archived_at", lookup_expr="isnull", exclude=True
    )

    class Meta:
        model = Job
        fields = ["project", "user", "state", "sweep"]

    def named(self, jobs, name: str, ref: str):
        return jobs.named(ref)


ASKED = [
    OpenApiParameter(
        "ref", str, description="What people call a run: the beginning of its uid, "
        "project/run_003, or run_003. Of archived projects too.",
    ),
    OpenApiParameter("q", str, description="As in the tables: lr<0.01 state:failed tag:baseline."),
    OpenApiParameter(
        "ordering", str, description="A column, - in front: downwards. submitted, key:lr, "
        "last:val_loss, best:val_loss, min:val_loss, max:val_loss.",
    ),
]  # fmt: skip


class JobPages(Pages):
    """With `remarks`: what may have been meant by names that no run has."""

    def __init__(self) -> None:
        self.remarks: list[str] = []

    def get_paginated_response(self, data: Any) -> Response:
        response = super().get_paginated_response(data)
        response.data["remarks"] = self.remarks
        return response

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        made = super().get_paginated_response_schema(schema)
        made["properties"]["remarks"] = {"type": "array", "items": {"type": "string"}}
        return made


@extend_schema_view(list=extend_schema(parameters=ASKED))
class JobViewSet(
    mixins.DestroyModelMixin,
    mixins.RetrieveModelMixin,
    mixins.UpdateModelMixin,
    mixins.ListModelMixin,
    viewsets.GenericViewSet,
):
    """Jobs: queue one, look, and wish for its end. Its state changes by the actions only."""

    queryset = Job.objects.present().select_related("project", "user", "parent", "snapshot")
    permission_classes = [OwnersChange]
    filterset_class = JobFilter
    pagination_class = JobPages
    lookup_field = "uid"
    lookup_value_regex = r"[0-9]{8}_[0-9a-f]+"

    def get_queryset(self):
        jobs = super().get_queryset().visible_to(self.request.user)
        if self.action != "list":
            return jobs.prefetch_related("attempts__device", "attempts__packages")
        jobs = jobs.with_device()
        asked = {"project", "archived", "ref"} & set(self.request.query_params)
        return jobs if asked else jobs.listed()

    def filter_queryset(self, queryset):
        jobs = super().filter_queryset(queryset)
        text = self.request.query_params.get("q", "") if self.action == "list" else ""
        if not text:
            return jobs
        found = match(text, self._reader())
        self._remark(name.text for name in found.unknown)
        return jobs.filter(found.condition)

    def _remark(self, unknown: Iterable[str]) -> None:
        """Names that no run has: what asks for them finds nothing, which may be a slip."""
        self.paginator.remarks += [unknown_words(one, self.request.user, None) for one in unknown]

    def paginate_queryset(self, queryset):
        """By a column the page's rows alone are read: a database would sort them whole."""
        word = self.request.query_params.get("ordering", "")
        if self.action != "list" or not word:
            return super().paginate_queryset(queryset)
        pks = super().paginate_queryset(self._ordered(queryset, word))
        rows = queryset.in_bulk(pks)
        return [rows[pk] for pk in pks if pk in rows]

    def _ordered(self, jobs, word: str) -> list[int]:
        ref = ref_of(word.removeprefix("-"))
        if ref is None:
            raise BadRequest(no_column_words(word.removeprefix("-"), self.request.user))
        known = known_columns([ref.name], self.request.user, None)
        if ref.kind != FIELD and not ref.ids(known):
            self._remark([ref.name])
        return ordered(jobs, ref, self._reader(), known, descending=word.startswith("-"))

    def _reader(self) -> Reader:
        return Reader(self.request.user, database_now())

    def get_serializer_class(self):
        return JobSerializer if self.action == "list" else JobDetailSerializer

    @extend_schema(
        request=SubmitSerializer, responses={201: JobDetailSerializer}, parameters=[ONCE]
    )
    def create(self, request: Request) -> Response:
        """Queue a job from a YAML, a file of the config folder, or just a command."""
        asked = asked_by(request)
        if asked and (before := asked.before()):
            return self._made(get_object_or_404(self.get_queryset(), pk=before.pk))
        wish = SubmitSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        path = wish.validated_data.get("config_path")
        text = configfiles.read(path) if path else wish.validated_data.get("config")
        return self._made(submission.submit(text, wish.given(), by=request.user, asked=asked))

    @staticmethod
    def _made(job: Job) -> Response:
        return Response(JobDetailSerializer(job).data, status=201)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, uid: str) -> Response:
        """End it: at once if it waits, else when its process has stopped."""
        job = self.get_object()
        with changed_by(request.user, job, "cancel"):
            job.cancel(by=request.user)
        return self._shown(job)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def requeue(self, request: Request, uid: str) -> Response:
        """Stop what runs and put it back into the queue, at its old place."""
        job = self.get_object()
        with changed_by(request.user, job, "requeue"):
            job.requeue(by=request.user)
        return self._shown(job)

    @extend_schema(request=RequeueSerializer)
    @action(detail=True, methods=["post"])
    def give_up(self, request: Request, uid: str) -> Response:
        """Give up the try on a GPU server that cannot be reached."""
        job = self.get_object()
        wish = RequeueSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        with changed_by(request.user, job, "give_up"):
            job.give_up(requeue=wish.validated_data["requeue"], by=request.user)
        return self._shown(job)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def hold(self, request: Request, uid: str) -> Response:
        """Keep it queued, whatever is free."""
        job = self.get_object()
        with changed_by(request.user, job, "hold"):
            job.hold(True, by=request.user)
        return self._shown(job)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def unhold(self, request: Request, uid: str) -> Response:
        job = self.get_object()
        with changed_by(request.user, job, "unhold"):
            job.hold(False, by=request.user)
        return self._shown(job)

    @extend_schema(request=PrioritySerializer)
    @action(detail=True, methods=["post"])
    def priority(self, request: Request, uid: str) -> Response:
        job = self.get_object()
        wish = PrioritySerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        with changed_by(request.user, job, "priority"):
            job.set_priority(wish.level(), by=request.user)
        return self._shown(job)

    @extend_schema(request=MoveSerializer)
    @action(detail=True, methods=["post"])
    def move(self, request: Request, uid: str) -> Response:
        """Its place in the queue: before or after another that waits, or one up or down.

        Submitters order what is theirs; a manager lays any run before others, which holds until
        `{"to": "turn"}` gives it back to fair share.
        """
        job = self.get_object()
        wish = MoveSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        moving.move(job, wish.move(), by=request.user)
        return self._shown(job)

    @extend_schema(
        request=RerunSerializer, responses={201: JobDetailSerializer}, parameters=[ONCE]
    )
    @action(detail=True, methods=["post"])
    def rerun(self, request: Request, uid: str) -> Response:
        """Queue the same once more, as a new job whose `parent` this is; with `set`, with other
        values of config keys or arguments."""
        return self._again(request, uid, resume=False)

    @extend_schema(
        request=RerunSerializer, responses={201: JobDetailSerializer}, parameters=[ONCE]
    )
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, uid: str) -> Response:
        """Queue a new job that goes on from the newest checkpoint of this one, which has ended."""
        return self._again(request, uid, resume=True)

    def _again(self, request: Request, uid: str, *, resume: bool) -> Response:
        job = get_object_or_404(self.get_queryset(), uid=uid)  # anybody's
        asked = asked_by(request)
        if asked and (before := asked.before()):
            return self._made(get_object_or_404(self.get_queryset(), pk=before.pk))
        wish = RerunSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        values = wish.validated_data.get("set", {})
        spec = submission.again_of(job, by=request.user)
        spec = reruns.changed(spec, values) if values else spec
        again = submission.rerun(job, by=request.user, resume=resume, spec=spec, asked=asked)
        return self._made(again)

    def perform_destroy(self, job: Job) -> None:
        """Leave a tombstone; its files can be restored for a while."""
        with changed_by(self.request.user, job, "delete"):
            job.delete_run(database_now(), by=self.request.user)

    def perform_update(self, serializer: JobSerializer) -> None:
        with changed_by(self.request.user, serializer.instance, "change"):
            serializer.save()

    @extend_schema(responses=EventSerializer(many=True))
    @action(detail=True, methods=["get"])
    def events(self, request: Request, uid: str) -> Response:
        """What happened to it, in order."""
        job = self.get_object()
        rows = JobEvent.objects.filter(job=job).select_related("by", "attempt")
        return self.get_paginated_response(
            EventSerializer(self.paginate_queryset(rows), many=True).data
        )

    def _shown(self, job: Job) -> Response:
        fresh = self.get_queryset().get(pk=job.pk)
        return Response(JobDetailSerializer(fresh).data)
