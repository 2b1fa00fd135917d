"""Secrets for people: set, listed by name, deleted. What one holds is never answered."""

from typing import Any

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext_lazy
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from experiments.models import Project, Secret
from experiments.models.secret import check_name
from experiments.serializers.secrets import SecretSerializer, SecretValueSerializer
from labsite.clock import database_now
from people.auth import MayWrite

LEADS_ONLY = gettext_lazy("Only who leads it or a manager may change this.")


class OwnSecretsView(APIView):
    """GET secrets/: the names of one's own."""

    permission_classes = [MayWrite]

    @extend_schema(responses=SecretSerializer(many=True), operation_id="secrets_list")
    def get(self, request: Request) -> Response:
        return _listed(Secret.objects.filter(user=request.user))


class OwnSecretView(APIView):
    """PUT, DELETE secrets/<name>/: one's own."""

    permission_classes = [MayWrite]

    @extend_schema(request=SecretValueSerializer, responses=SecretSerializer)
    def put(self, request: Request, name: str) -> Response:
        value = _value(request)
        made = Secret.put(request.user, name, value, database_now(), by=request.user)
        return Response(SecretSerializer(made).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, name: str) -> Response:
        _kept(name, user=request.user).take(by=request.user)
        return Response(status=204)


class ProjectSecretsView(APIView):
    """GET projects/<project>/secrets/: their names, for whoever sees the project."""

    permission_classes = [MayWrite]

    @extend_schema(responses=SecretSerializer(many=True), operation_id="projects_secrets_list")
    def get(self, request: Request, project: str) -> Response:
        return _listed(Secret.objects.filter(project=_seen(request, project)))


class ProjectSecretView(APIView):
    """PUT, DELETE projects/<project>/secrets/<name>/: by whoever leads it."""

    permission_classes = [MayWrite]

    @extend_schema(request=SecretValueSerializer, responses=SecretSerializer)
    def put(self, request: Request, project: str, name: str) -> Response:
        found = self._led(request, project)
        made = Secret.put(found, name, _value(request), database_now(), by=request.user)
        return Response(SecretSerializer(made).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, project: str, name: str) -> Response:
        found = self._led(request, project)
        _kept(name, project=found).take(by=request.user)
        return Response(status=204)

    def _led(self, request: Request, project: str) -> Project:
        found = _seen(request, project)
        if not found.may_be_changed_by(request.user):
            raise PermissionDenied(LEADS_ONLY)
        return found


def _seen(request: Request, name: str) -> Project:
    return get_object_or_404(Project.objects.visible_to(request.user), name=name)


def _kept(name: str, **of: Any) -> Secret:
    check_name(name)  # what is none may be no text for a database either
    return get_object_or_404(Secret, name=name, **of)


def _listed(secrets: QuerySet[Secret]) -> Response:
    """All of them: there are MOST at most."""
    return Response(SecretSerializer(secrets.select_related("changed_by"), many=True).data)


def _value(request: Request) -> str:
    said = SecretValueSerializer(data=request.data)
    said.is_valid(raise_exception=True)
    return str(said.validated_data["value"])
