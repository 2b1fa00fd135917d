"""What GPU servers lack, as far as a person may know: what runs that they see were refused for.

A path says what a private project works on. So who does not see the run does not read it; managers
read all. Whoever shows `Device.lacks` to people asks here.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from devices.models import Device
from experiments.models import Attempt, Job
from experiments.states import Outcome
from people.roles import may_manage

Lack = dict[str, str]  # as agent.wire.Lack


def known_to(user: Any, devices: Iterable[Device]) -> dict[int, list[Lack]]:
    """By the key of each device that lacks something which this person may know of."""
    lacking = {device.pk: device for device in devices if device.lacks}
    if not lacking or may_manage(user):
        return {pk: device.lacks for pk, device in lacking.items()}
    missed: dict[int, set[tuple[str, str, str]]] = {}
    for attempt in _refused(user, lacking):
        python = attempt.job.python or lacking[attempt.device_id].python
        missed.setdefault(attempt.device_id, set()).update(_required(attempt, python))
    return {
        pk: [
            one for one in lacking[pk].lacks if (one["name"], one["user"], one["python"]) in names
        ]
        for pk, names in missed.items()
    }


def _refused(user: Any, devices: Iterable[int]) -> Iterable[Attempt]:
    """The tries there that what they required was not there for, of runs that the user sees."""
    tries = Attempt.objects.filter(device__in=devices, outcome=Outcome.LACKING)
    seen = tries.filter(job__in=Job.objects.visible_to(user).order_by()).order_by()
    told = ("device_id", "unix_user", "job__requires", "job__python")
    return seen.select_related("job").only(*told).iterator()


def _required(attempt: Attempt, python: str) -> Iterator[tuple[str, str, str]]:
    """As an agent names what is missing, and experiments.places looks for it."""
    for name in attempt.job.requires.get("paths", []):
        yield name, attempt.unix_user, ""
    for name in attempt.job.requires.get("commands", []):
        yield name, attempt.unix_user, python
