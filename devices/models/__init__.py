"""Machines on which an agent runs, their GPUs, and the codes that let new ones in."""

from devices.models.device import Device, DeviceState, allowance, devices_with
from devices.models.enrollment import EnrollmentCode, EnrollmentUse
from devices.models.gpu import GPU
from devices.models.identity import ServerIdentity, digest

__all__ = [
    "GPU",
    "Device",
    "DeviceState",
    "EnrollmentCode",
    "EnrollmentUse",
    "ServerIdentity",
    "allowance",
    "devices_with",
    "digest",
]
