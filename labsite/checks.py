"""What the settings must hold beyond each value's own form. A wrong one stops the start."""

from django.conf import settings
from django.core.checks import Error, register


@register
def times_of_devices(app_configs, **kwargs) -> list[Error]:
    """A device's states follow one another: beating, healthy, stale, disconnected."""
    beat, healthy = settings.LAB_HEARTBEAT_SECONDS, settings.LAB_HEALTHY_SECONDS
    stale = settings.LAB_STALE_SECONDS
    errors = []
    if not beat < healthy:
        errors.append(
            Error(
                f"LAB_HEALTHY_SECONDS ({healthy:g}) must be more than LAB_HEARTBEAT_SECONDS "
                f"({beat:g}), or no GPU server is ever healthy.",
                id="labsite.E001",
            )
        )
    if not healthy < stale:
        errors.append(
            Error(
                f"LAB_STALE_SECONDS ({stale:g}) must be more than LAB_HEALTHY_SECONDS "
                f"({healthy:g}), or no GPU server is ever stale.",
                id="labsite.E002",
            )
        )
    return errors
