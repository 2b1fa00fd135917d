"""GPU servers for people's programs: those of the app below, without what is private."""

from typing import Any

from devices.models import Device
from devices.views import DeviceViewSet
from experiments import lacking


class DevicesViewSet(DeviceViewSet):
    """GPU servers, with their state and their GPUs."""

    def get_serializer_context(self) -> dict[str, Any]:
        those = Device.objects.exclude(lacks=[]).only("lacks", "python")
        return {
            **super().get_serializer_context(),
            "lacks": lacking.known_to(self.request.user, those),
        }
