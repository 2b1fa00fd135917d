"""Machines on which an agent runs, their GPUs, and the codes that let new ones in."""

from devices.models.device import Device, DeviceState, allowance, devices_with
from devices.models.enrollment import EnrollmentCode, EnrollmentUse
from devices.models.fault import Fault
from devices.models.gpu import GPU, GPUEvent, Use
from devices.models.identity import ServerIdentity, digest
from devices.models.sample import DeviceSample, GPUSample, Span, minute_of, moment_of

__all__ = [
    "GPU",
    "Device",
    "DeviceSample",
    "DeviceState",
    "EnrollmentCode",
    "EnrollmentUse",
    "Fault",
    "GPUEvent",
    "GPUSample",
    "ServerIdentity",
    "Span",
    "Use",
    "allowance",
    "devices_with",
    "digest",
    "minute_of",
    "moment_of",
]
