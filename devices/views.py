"""Devices for people: the list, what managers set, and codes for new ones."""

from datetime import timedelta

from django.db import transaction
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.response import Response

from devices.models import GPU, Device, EnrollmentCode
from devices.serializers import (
    DeviceSerializer,
    EnrollmentCodeSerializer,
    GPUSerializer,
    MadeEnrollmentCodeSerializer,
    NewEnrollmentCodeSerializer,
    QuarantineSerializer,
)
from labsite.clock import database_now
from people.audit import facts_of, note, recorded
from people.auth import IsManager, IsPerson
from people.roles import may_manage


class ManagersChange(IsPerson):
    """Everybody signed in may look; managers may change."""

    message = _("Only a manager may do this.")

    def has_permission(self, request: Request, view) -> bool:
        known = super().has_permission(request, view)
        return known and (request.method in SAFE_METHODS or may_manage(request.user))


class DeviceViewSet(
    mixins.RetrieveModelMixin,
    mixins.ListModelMixin,
    mixins.UpdateModelMixin,
    viewsets.GenericViewSet,
):
    """GPU servers, with their state and their GPUs. What people may know of their lacks is said by
    the app above (experiments.api.devices), which is what the address leads to."""

    queryset = Device.objects.prefetch_related("gpus").order_by("host_id")
    serializer_class = DeviceSerializer
    permission_classes = [ManagersChange]
    lookup_field = "host_id"
    lookup_value_regex = r"[A-Za-z0-9][A-Za-z0-9._-]*"
    filterset_fields = ["draining", "is_local"]

    def get_serializer_context(self):
        return {**super().get_serializer_context(), "now": database_now()}

    def perform_update(self, serializer: DeviceSerializer) -> None:
        with recorded(self.request.user, serializer.instance, "change"):
            serializer.save()

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def drain(self, request: Request, host_id: str) -> Response:
        """Stop new jobs; those that run go on."""
        device = self.get_object()
        with recorded(request.user, device, "drain"):
            device.drain()
        return Response(self.get_serializer(device).data)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, host_id: str) -> Response:
        """Take new jobs again."""
        device = self.get_object()
        with recorded(request.user, device, "resume"):
            device.resume()
        return Response(self.get_serializer(device).data)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def revoke(self, request: Request, host_id: str) -> Response:
        """Make its token worthless, within a second. Its jobs run on."""
        device = self.get_object()
        with recorded(request.user, device, "revoke"):
            device.revoke(database_now())
        return Response(self.get_serializer(device).data)


class GPUViewSet(viewsets.GenericViewSet):
    """The cards of GPU servers, of which a manager may set one aside."""

    queryset = GPU.objects.filter(device__revoked_at=None)
    serializer_class = GPUSerializer
    permission_classes = [ManagersChange]
    lookup_field = "uuid"
    lookup_value_regex = r"[A-Za-z0-9][A-Za-z0-9._:-]*"

    @extend_schema(request=QuarantineSerializer)
    @action(detail=True, methods=["post"])
    def quarantine(self, request: Request, uuid: str) -> Response:
        """Give it to nobody until somebody says otherwise. What runs on it goes on."""
        asked = QuarantineSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        gpu = self.get_object()
        with recorded(request.user, gpu, "quarantine"):
            gpu.quarantine(asked.validated_data["reason"], database_now(), by=request.user)
        return Response(self.get_serializer(gpu).data)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def release(self, request: Request, uuid: str) -> Response:
        """Use it again."""
        gpu = self.get_object()
        with recorded(request.user, gpu, "release"):
            gpu.release(by=request.user)
        return Response(self.get_serializer(gpu).data)


class EnrollmentCodeViewSet(mixins.ListModelMixin, viewsets.GenericViewSet):
    """Codes that let new GPU servers in; a code itself is shown once, when it is made."""

    queryset = EnrollmentCode.objects.all()
    serializer_class = EnrollmentCodeSerializer
    permission_classes = [IsManager]

    @extend_schema(request=NewEnrollmentCodeSerializer, responses=MadeEnrollmentCodeSerializer)
    def create(self, request: Request) -> Response:
        wish = NewEnrollmentCodeSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        with transaction.atomic():
            code, text = EnrollmentCode.make(
                database_now(),
                by=request.user,
                uses=wish.validated_data["uses"],
                life=timedelta(minutes=wish.validated_data["minutes"]),
                device=wish.validated_data.get("device"),
            )
            note(request.user, code, "make", after=facts_of(code))
        return Response({**EnrollmentCodeSerializer(code).data, "code": text}, status=201)
