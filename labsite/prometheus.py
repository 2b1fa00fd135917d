"""GET /metrics: how the lab is just now, as Prometheus scrapes it.

For whoever bears LAB_METRICS_TOKEN or a person's own token; never open. It names GPU servers and
cards, and neither people nor projects nor runs, of which some are private. As many queries for 200
cards as for one.
"""

import hmac
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import Count, Min, Q, Sum
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import Metric
from rest_framework.exceptions import AuthenticationFailed

from devices.models import GPU, Device, DeviceState, Use
from experiments.models import Channel, GPUClaim, Job, Project, Pulse
from experiments.states import JobState
from labsite import health
from labsite.build import build_id
from labsite.clock import database_now
from labsite.zipapps import AGENT
from people.auth import TokenAuthentication
from sync import disk


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    try:
        known = _is_scraper(request) or TokenAuthentication().authenticate(request)
    except AuthenticationFailed:
        known = None
    if not known:
        words = _("Send a token: Authorization: Bearer … (docs/operations.md, section 3).")
        answer = HttpResponse(f"{words}\n", status=401, content_type="text/plain; charset=utf-8")
        answer["WWW-Authenticate"] = 'Bearer realm="metrics"'
        return answer
    return HttpResponse(text_of(families(database_now())), content_type=CONTENT_TYPE_LATEST)


def _is_scraper(request: HttpRequest) -> bool:
    scheme, _space, given = request.headers.get("Authorization", "").partition(" ")
    token = settings.LAB_METRICS_TOKEN
    is_same = hmac.compare_digest(given.strip().encode(), token.encode())
    return bool(token) and scheme.lower() == "bearer" and is_same


class Family(Metric):
    """One metric; names and units by https://prometheus.io/docs/practices/naming/."""

    def __init__(self, name: str, words: str, kind: str = "gauge") -> None:
        super().__init__(name, words, kind)

    def add(self, value: float | None, labels: dict[str, str] | None = None) -> None:
        """A sample, unless its value is None: nobody knows it."""
        if value is not None:
            ending = "_total" if self.type == "counter" else ""
            self.add_sample(f"{self.name}{ending}", labels or {}, float(value))


class _Told:
    """What generate_latest() takes for a registry: families with samples."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return (family for family in self._families if family.samples)


def text_of(families: Iterable[Family]) -> str:
    return generate_latest(_Told(families)).decode()


def families(now: datetime) -> list[Family]:
    devices = list(Device.objects.real())
    return [
        *_build(),
        *_jobs(now),
        *_devices(devices, now),
        *_gpus(devices, now),
        *_server(now),
    ]


# --- one after the other ------------------------------------------------------------------------


def _build() -> Iterable[Family]:
    build = Family("lab_build_info", "The server's version, as labels; always 1.")
    build.add(1, {"version": AGENT.version, "build": build_id()})
    yield build


def _jobs(now: datetime) -> Iterable[Family]:
    jobs = Job.objects.present().real()
    counts = dict(jobs.order_by().values_list("state").annotate(n=Count("pk")))
    by_state = Family("lab_jobs", "Runs that are not deleted, by their state.")
    for state in JobState:
        by_state.add(counts.get(state.value, 0), {"state": state.value})
    let_go = Q(held=False)
    queue = jobs.queued().aggregate(
        kept=Count("pk", Q(held=True)), waiting=Count("pk", let_go),
        first=Min("submitted_at", filter=let_go),
    )  # fmt: skip
    waiting = Family("lab_queue_jobs", "Runs that wait for GPUs, those kept queued left out.")
    waiting.add(queue["waiting"])
    held = Family("lab_queue_held_jobs", "Runs that are kept queued by hand.")
    held.add(queue["kept"])
    oldest = Family("lab_queue_oldest_age_seconds", "Since the longest waiting one was queued.")
    oldest.add(_age(queue["first"], now) or 0)
    return [by_state, waiting, held, oldest]


def _devices(devices: Sequence[Device], now: datetime) -> Iterable[Family]:
    states = Counter(device.state(now) for device in devices)
    by_state = Family("lab_devices", "GPU servers, by how they are heard.")
    for state in DeviceState:
        by_state.add(states[state], {"state": state.value})
    each: list[tuple[Family, Callable[[Device], float | None]]] = [
        (
            Family("lab_device_heartbeat_age_seconds", "Since it was last heard from."),
            lambda one: _age(one.last_heartbeat_at, now),
        ),
        (
            Family("lab_device_draining", "1: it gets no new jobs."),
            lambda one: one.draining,
        ),
        (
            Family("lab_device_running_jobs", "Runs that were given to it and have not ended."),
            lambda one: one.open_attempts,
        ),
        *((Family(f"lab_device_{name}", words), _field(name)) for name, words in OF_DEVICE),
    ]
    for family, value in each:
        for device in devices:
            family.add(value(device), {"host_id": device.host_id})
    return [by_state, *(family for family, _value in each)]


#: Fields of a device, and of a GPU, that are metrics by their names.
OF_DEVICE = (
    ("memory_used_bytes", "Main memory in use, as last heard."),
    ("memory_total_bytes", "Main memory that there is."),
    ("disk_free_bytes", "Free on the disk of its workspace, as last heard."),
    ("disk_total_bytes", "Size of that disk."),
)
OF_GPU = (
    ("memory_used_bytes", "Memory in use."),
    ("memory_total_bytes", "Memory that there is."),
    ("temperature_celsius", "Temperature."),
    ("power_watts", "Power that it draws."),
    ("power_limit_watts", "Power that it may draw."),
)


def _gpus(devices: Sequence[Device], now: datetime) -> Iterable[Family]:
    """What a card does always; its readings only while its server is heard."""
    by_key = {device.pk: device for device in devices}
    claimed = set(GPUClaim.objects.values_list("gpu_id", flat=True))
    cards = list(GPU.objects.filter(device__in=by_key).order_by("device", "index"))
    uses: Counter[Use] = Counter()
    faulty = Family("lab_gpu_faulty", "1: it is given to nobody until somebody clears it.")
    busy = Family("lab_gpu_utilization_ratio", "Of the last sample, 0 to 1.")
    read = [(Family(f"lab_gpu_{name}", words), _field(name)) for name, words in OF_GPU]
    for card in cards:
        card.device = by_key[card.device_id]
        uses[card.use(claimed=card.pk in claimed)] += 1
        labels = _labels_of(card)
        faulty.add(card.quarantined_at is not None, labels)
        if card.present and card.device.state(now) != DeviceState.DISCONNECTED:
            use = card.utilization_percent
            busy.add(None if use is None else use / 100, labels)
            for family, value in read:
                family.add(value(card), labels)
    by_use = Family("lab_gpus", "Cards, by what they do.")
    for kind in Use:
        by_use.add(uses[kind], {"use": kind.value})
    return [by_use, faulty, busy, *(family for family, _value in read)]


def _labels_of(card: GPU) -> dict[str, str]:
    host = card.device.host_id
    return {"host_id": host, "index": str(card.index), "uuid": card.uuid, "model": card.name}


def _server(now: datetime) -> Iterable[Family]:
    free_bytes, size_bytes = disk.free_and_total()
    used = Project.objects.filter(is_demo=False).aggregate(used=Sum("used_bytes"))["used"]
    is_silent = health.dispatch(now).silent_since is not None
    pulses = dict(Pulse.objects.values_list("name", "at"))
    failing = Channel.objects.filter(failing_since__isnull=False).count()
    single = [
        ("lab_files_bytes", "Files of runs here, those in the trash left out.", used or 0),
        ("lab_disk_free_bytes", "Free on the disk of this server's files.", free_bytes),
        ("lab_disk_size_bytes", "Size of that disk.", size_bytes),
        ("lab_dispatch_up", "1: queued runs are given out; 0: for too long none was.",
         not is_silent),
        ("lab_dispatch_age_seconds", "Since the queue was last looked at.",
         _age(pulses.get(Pulse.DISPATCH), now)),
        ("lab_lane_age_seconds", "Since heartbeats were last answered.",
         _age(pulses.get(Pulse.LANE), now)),
        ("lab_notifications_failing", "Notifications whose last message did not arrive.",
         failing),
    ]  # fmt: skip
    found = [Family(name, words) for name, words, _value in single]
    for family, (_name, _words, value) in zip(found, single, strict=True):
        family.add(value)
    restarts = Family("lab_program_restarts", "Of runlab's programs.", "counter")
    for program in health.programs():
        restarts.add(program.restarts, {"program": program.name})
    return [*found, restarts]


def _age(moment: datetime | None, now: datetime) -> float | None:
    return None if moment is None else max(0.0, (now - moment).total_seconds())


def _field(name: str) -> Callable[[Any], float | None]:
    return lambda row: getattr(row, name)
