"""Devices for people: the list, what managers set, and codes for new ones."""

from datetime import timedelta

from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.permissions import SAFE_METHODS, BasePermission, IsAdminUser
from rest_framework.request import Request
from rest_framework.response import Response

from devices.models import Device, EnrollmentCode
from devices.serializers import (
    DeviceSerializer,
    EnrollmentCodeSerializer,
    MadeEnrollmentCodeSerializer,
    NewEnrollmentCodeSerializer,
)
from labsite.clock import database_now


class ManagersChange(BasePermission):
    """Everybody signed in may look; managers may change."""

    message = "Only a manager may do this."

    def has_permission(self, request: Request, view) -> bool:
        user = request.user
        if not user.is_authenticated or user.pk is None:
            return False
        return request.method in SAFE_METHODS or user.is_staff


class DeviceViewSet(
    mixins.RetrieveModelMixin,
    mixins.ListModelMixin,
    mixins.UpdateModelMixin,
    viewsets.GenericViewSet,
):
    """GPU servers, with their state and their GPUs."""

    queryset = Device.objects.prefetch_related("gpus").order_by("host_id")
    serializer_class = DeviceSerializer
    permission_classes = [ManagersChange]
    lookup_field = "host_id"
    lookup_value_regex = r"[A-Za-z0-9][A-Za-z0-9._-]*"
    filterset_fields = ["draining", "is_local"]

    def get_serializer_context(self):
        return {**super().get_serializer_context(), "now": database_now()}

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def drain(self, request: Request, host_id: str) -> Response:
        """Stop new jobs; those that run go on."""
        device = self.get_object()
        device.drain()
        return Response(self.get_serializer(device).data)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, host_id: str) -> Response:
        """Take new jobs again."""
        device = self.get_object()
        device.resume()
        return Response(self.get_serializer(device).data)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def revoke(self, request: Request, host_id: str) -> Response:
        """Make its token worthless, within a second. Its jobs run on."""
        device = self.get_object()
        device.revoke(database_now())
        return Response(self.get_serializer(device).data)


class EnrollmentCodeViewSet(mixins.ListModelMixin, viewsets.GenericViewSet):
    """Codes that let new GPU servers in; a code itself is shown once, when it is made."""

    queryset = EnrollmentCode.objects.all()
    serializer_class = EnrollmentCodeSerializer
    permission_classes = [IsAdminUser]

    @extend_schema(request=NewEnrollmentCodeSerializer, responses=MadeEnrollmentCodeSerializer)
    def create(self, request: Request) -> Response:
        wish = NewEnrollmentCodeSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        code, text = EnrollmentCode.make(
            database_now(),
            by=request.user,
            uses=wish.validated_data["uses"],
            life=timedelta(minutes=wish.validated_data["minutes"]),
            device=wish.validated_data.get("device"),
        )
        return Response({**EnrollmentCodeSerializer(code).data, "code": text}, status=201)
