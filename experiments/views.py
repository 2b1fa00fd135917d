"""Projects and jobs for people."""

import django_filters
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response

from experiments import configfiles, submission
from experiments.models import Job, JobEvent, Project
from experiments.serializers import (
    EventSerializer,
    JobDetailSerializer,
    JobSerializer,
    PrioritySerializer,
    ProjectSerializer,
    RequeueSerializer,
    SubmitSerializer,
)
from experiments.states import JobState
from labsite.clock import database_now


class People(BasePermission):
    """Whoever is signed in; not agents, whose principal has no account."""

    def has_permission(self, request: Request, view) -> bool:
        return bool(request.user.is_authenticated and request.user.pk)


class OwnersChange(People):
    """A job is changed by who submitted it, and by managers."""

    message = "This job is somebody else's; its owner or a manager may do this."

    def has_object_permission(self, request: Request, view, job: Job) -> bool:
        own = job.user_id == request.user.pk or request.user.is_staff
        return own or request.method in SAFE_METHODS


class ManagersChange(People):
    message = "Only its maker or a manager may change this."

    def has_object_permission(self, request: Request, view, project: Project) -> bool:
        own = project.created_by_id == request.user.pk or request.user.is_staff
        return own or request.method in SAFE_METHODS


class ProjectViewSet(
    mixins.CreateModelMixin,
    mixins.RetrieveModelMixin,
    mixins.UpdateModelMixin,
    mixins.ListModelMixin,
    viewsets.GenericViewSet,
):
    """Bodies of work. A project is also made by the first job that names it."""

    queryset = Project.objects.select_related("created_by")
    serializer_class = ProjectSerializer
    permission_classes = [ManagersChange]
    lookup_field = "name"
    lookup_value_regex = r"[A-Za-z0-9][A-Za-z0-9._-]*"

    def perform_create(self, serializer: ProjectSerializer) -> None:
        serializer.save(created_by=self.request.user)


class JobFilter(django_filters.FilterSet):
    project = django_filters.CharFilter("project__name")
    user = django_filters.CharFilter("user__username")
    state = django_filters.MultipleChoiceFilter(choices=JobState.choices)

    class Meta:
        model = Job
        fields = ["project", "user", "state"]


class JobViewSet(
    mixins.DestroyModelMixin,
    mixins.RetrieveModelMixin,
    mixins.UpdateModelMixin,
    mixins.ListModelMixin,
    viewsets.GenericViewSet,
):
    """Jobs: queue one, look, and wish for its end. Its state changes by the actions only."""

    queryset = Job.objects.present().select_related("project", "user", "parent")
    permission_classes = [OwnersChange]
    filterset_class = JobFilter
    lookup_field = "uid"
    lookup_value_regex = r"[0-9]{8}_[0-9a-f]+"

    def get_serializer_class(self):
        return JobSerializer if self.action == "list" else JobDetailSerializer

    @extend_schema(request=SubmitSerializer, responses={201: JobDetailSerializer})
    def create(self, request: Request) -> Response:
        """Queue a job from a YAML, a file of the config folder, or just a command."""
        wish = SubmitSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        path = wish.validated_data.get("config_path")
        text = configfiles.read(path) if path else wish.validated_data.get("config")
        job = submission.submit(text, wish.given(), by=request.user)
        return Response(JobDetailSerializer(job).data, status=201)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, uid: str) -> Response:
        """End it: at once if it waits, else when its process has stopped."""
        job = self.get_object()
        job.cancel(by=request.user)
        return self._shown(job)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def requeue(self, request: Request, uid: str) -> Response:
        """Stop what runs and put it back into the queue, at its old place."""
        job = self.get_object()
        job.requeue(by=request.user)
        return self._shown(job)

    @extend_schema(request=RequeueSerializer)
    @action(detail=True, methods=["post"])
    def give_up(self, request: Request, uid: str) -> Response:
        """Give up the try on a GPU server that cannot be reached."""
        job = self.get_object()
        wish = RequeueSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        job.give_up(requeue=wish.validated_data["requeue"], by=request.user)
        return self._shown(job)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def hold(self, request: Request, uid: str) -> Response:
        """Keep it queued, whatever is free."""
        job = self.get_object()
        job.hold(True, by=request.user)
        return self._shown(job)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def unhold(self, request: Request, uid: str) -> Response:
        job = self.get_object()
        job.hold(False, by=request.user)
        return self._shown(job)

    @extend_schema(request=PrioritySerializer)
    @action(detail=True, methods=["post"])
    def priority(self, request: Request, uid: str) -> Response:
        job = self.get_object()
        wish = PrioritySerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        job.set_priority(wish.level(), by=request.user)
        return self._shown(job)

    @extend_schema(request=None, responses={201: JobDetailSerializer})
    @action(detail=True, methods=["post"])
    def rerun(self, request: Request, uid: str) -> Response:
        """Queue the same once more, as a new job whose `parent` this is."""
        job = get_object_or_404(self.get_queryset(), uid=uid)  # anybody's
        again = submission.rerun(job, by=request.user)
        return Response(JobDetailSerializer(again).data, status=201)

    @extend_schema(request=None, responses={201: JobDetailSerializer})
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, uid: str) -> Response:
        """Queue a new job that goes on from the newest checkpoint of this one, which has ended."""
        job = get_object_or_404(self.get_queryset(), uid=uid)  # anybody's
        again = submission.rerun(job, by=request.user, resume=True)
        return Response(JobDetailSerializer(again).data, status=201)

    def perform_destroy(self, job: Job) -> None:
        job.delete_run(database_now())

    @extend_schema(responses=EventSerializer(many=True))
    @action(detail=True, methods=["get"])
    def events(self, request: Request, uid: str) -> Response:
        """What happened to it, in order."""
        rows = JobEvent.objects.filter(job__uid=uid).select_related("by", "attempt")
        return self.get_paginated_response(
            EventSerializer(self.paginate_queryset(rows), many=True).data
        )

    def _shown(self, job: Job) -> Response:
        fresh = self.get_queryset().get(pk=job.pk)
        return Response(JobDetailSerializer(fresh).data)
