"""Notifications for people's programs: set up, looked at, tried and taken away.

Where one goes is never answered, but for its host.
"""

from typing import Any

from django.conf import settings
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from experiments.api.secrets import LEADS_ONLY
from experiments.models import Channel, Project
from experiments.serializers.channels import ChannelSerializer, NewChannelSerializer
from labsite.clock import database_now
from people.auth import MayWrite
from people.roles import may_manage


class ChannelViewSet(mixins.RetrieveModelMixin, mixins.ListModelMixin, viewsets.GenericViewSet):
    """Who is told where: one's own, those of projects that one leads; to managers the lab's."""

    queryset = Channel.objects.select_related("project", "made_by")
    serializer_class = ChannelSerializer
    permission_classes = [MayWrite]
    lookup_value_regex = r"[0-9]{1,18}"

    def get_queryset(self):
        return super().get_queryset().visible_to(self.request.user)

    @extend_schema(request=NewChannelSerializer, responses={201: ChannelSerializer})
    def create(self, request: Request) -> Response:
        """Be told there from now on."""
        asked = NewChannelSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        said = asked.validated_data
        made = Channel.put(
            self._of(request, said), said["kind"], said["address"], said["wants"], database_now(),
            by=request.user, key=said["key"], site=_site(request),
        )  # fmt: skip
        return Response(ChannelSerializer(made).data, status=201)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        self.get_object().take(by=request.user)
        return Response(status=204)

    @extend_schema(request=None, responses={202: ChannelSerializer})
    @action(detail=True, methods=["post"])
    def test(self, request: Request, pk: str) -> Response:
        """Have a test message sent. How that went is in the channel a moment later: `told_at`, or
        `trouble`."""
        channel = self.get_object()
        channel.ask_test(database_now())
        channel.refresh_from_db()
        return Response(ChannelSerializer(channel).data, status=202)

    def _of(self, request: Request, said: dict[str, Any]) -> Any:
        if said["of_lab"]:
            if not may_manage(request.user):
                raise PermissionDenied
            return None
        if "project" not in said:
            return request.user
        visible = Project.objects.visible_to(request.user)
        found = get_object_or_404(visible, name=said["project"])
        if not found.may_be_changed_by(request.user):
            raise PermissionDenied(LEADS_ONLY)
        return found


def _site(request: Request) -> str:
    """How links in messages begin, where the lab does not say it."""
    return settings.LAB_PUBLIC_URL or request.build_absolute_uri("/").rstrip("/")
