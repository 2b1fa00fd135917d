"""Projects for people."""

import django_filters
from django.db.models import Count, Q
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from experiments.api.rights import LeadsChange
from experiments.models import (
    Project,
)
from experiments.serializers.projects import ProjectSerializer
from labsite.clock import database_now
from people.audit import recorded


class ProjectFilter(django_filters.FilterSet):
    archived = django_filters.BooleanFilter("archived_at", lookup_expr="isnull", exclude=True)


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
    permission_classes = [LeadsChange]
    lookup_field = "name"
    lookup_value_regex = r"[A-Za-z0-9][A-Za-z0-9._-]*"

    filterset_class = ProjectFilter

    def get_queryset(self):
        projects = super().get_queryset().visible_to(self.request.user)
        if self.action != "list":
            return projects
        present = Count("jobs", filter=Q(jobs__deleted_at=None))
        projects = projects.annotate(run_count=present).order_by("name")
        return projects if "archived" in self.request.query_params else projects.listed()

    def perform_create(self, serializer: ProjectSerializer) -> None:
        serializer.save(created_by=self.request.user)

    def perform_update(self, serializer: ProjectSerializer) -> None:
        serializer.instance.check_writable()
        with recorded(self.request.user, serializer.instance, "change"):
            serializer.save()

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def archive(self, request: Request, name: str) -> Response:
        """Make it read-only, and leave it out of lists."""
        project = self.get_object()
        with recorded(request.user, project, "archive"):
            project.archive(database_now())
        return Response(self.get_serializer(project).data)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def unarchive(self, request: Request, name: str) -> Response:
        project = self.get_object()
        with recorded(request.user, project, "unarchive"):
            project.unarchive()
        return Response(self.get_serializer(project).data)
