"""The process: see the package."""

import sys
import threading
from pathlib import Path

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

django.setup()

from bench.screenshots.lab import day  # noqa: E402  (models are there once Django is set up)
from bench.screenshots.lab.written import CONFIG  # noqa: E402
from devices.models import Device  # noqa: E402
from experiments.models import Pulse  # noqa: E402


def main() -> None:
    call_command("migrate", verbosity=0)
    call_command("collectstatic", verbosity=0, interactive=False)
    if "--empty" in sys.argv:
        day.first()
    else:
        folder = Path(settings.LAB_DATA_DIR) / "config/mstar"
        folder.mkdir(parents=True)
        (folder / "curriculum.yaml").write_text(CONFIG)
        day.whole(timezone.now())
    print("made", flush=True)
    ended = threading.Event()
    alive = threading.Thread(target=_keep_alive, args=[ended])
    alive.start()
    sys.stdin.read()
    ended.set()
    alive.join()


def _keep_alive(ended: threading.Event) -> None:
    """Stand in for the agents' heartbeats and for dispatch."""
    while not ended.wait(1):
        now = timezone.now()
        Device.objects.exclude(host_id="gpu-05").update(last_heartbeat_at=now, last_poll_at=now)
        Pulse.beat(Pulse.DISPATCH, now)
    connection.close()


if __name__ == "__main__":
    main()
