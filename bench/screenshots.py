"""Pictures of every page: wide and narrow, light and dark, English and Korean.

    .venv/bin/python bench/screenshots.py [FOLDER] [--keep]

Serves a lab made up for the purpose from a temporary folder, and takes the pictures with the
system's Chromium. `--keep` writes the ones the README shows to docs/img.
"""

import argparse
import math
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PASSWORD = "correct horse battery"
WIDTHS = {"1440": (1440, 900), "390": (390, 844)}
README_SHOWS = {"run": "run.png", "devices": "devices.png"}

CONFIG = """\
# Curriculum by Fisher criterion, from easy to hard
project: mstar-curriculum
agent: curriculum_mstar

model: resnet18(num_classes=10)
dataset:
  train: mstar(split=train)
  test: mstar(split=test)

epochs: 100
batch_size: 64
lr: 0.0003
optimizer: adam
scheduler: cosine_annealing(T_max=100)
loss: cross_entropy
transform:
  train: "resize(size=128) | random_horizontal_flip | to_tensor"

lab:
  command: [python, main.py, --config, '{config}']
  resources: {gpus: 2, gpu_memory: 22GiB}
  time_limit: 6h
  tags: [seeds, fisher]
"""

PEOPLE = {
    "minjun": "Kim Minjun",
    "seoyeon": "Lee Seoyeon",
    "jiho": "Park Jiho",
    "haeun": "Choi Haeun",
    "yoon": "Prof. Yoon",
}


def fill(now) -> None:
    """A lab in the middle of its day."""
    from django.contrib.auth.models import User

    for username, name in PEOPLE.items():
        first, last = name.rsplit(" ", 1)
        User.objects.create_user(
            username, password=PASSWORD, first_name=first, last_name=last,
            is_staff=username == "yoon", is_superuser=username == "yoon",
        )  # fmt: skip
    hosts = [
        _host("gpu-01", "NVIDIA GeForce RTX 3090", 24, 4, now),
        _host("gpu-02", "NVIDIA GeForce RTX 3090", 24, 4, now),
        _host("gpu-03", "NVIDIA RTX A6000", 48, 4, now, disk_free=0.06),
        _host("gpu-04", "NVIDIA H100 80GB HBM3", 80, 8, now),
        _host("gpu-05", "NVIDIA RTX A6000", 48, 2, now, silent=timedelta(minutes=29)),
        _host("gpu-06", "NVIDIA GeForce RTX 3090", 24, 2, now),
    ]
    _jobs(hosts, now)
    _oddities(hosts, now)
    _dispatched(now)


def _host(name, card, gib, cards, now, disk_free=0.4, silent=timedelta(0)):
    from devices.models import GPU, Device

    dice = random.Random(name)
    device = Device.objects.create(
        host_id=name, machine_id=name, unix_user="lab", source_directory="/home/lab/experiments",
        last_heartbeat_at=now - silent, last_poll_at=now, cpu_percent=dice.uniform(20, 65),
        cpu_count=48, memory_used_bytes=int(dice.uniform(0.3, 0.7) * 256 * 2**30),
        memory_total_bytes=256 * 2**30, disk_free_bytes=int(disk_free * 4e12),
        disk_total_bytes=int(4e12), labels={"ssd": ""} if gib < 80 else {"nvlink": ""},
        versions={"agent": "0.1.0", "driver": "570.86", "cuda": "12.8", "torch": "2.6.0"},
    )  # fmt: skip
    for index in range(cards):
        GPU.objects.create(
            uuid=f"GPU-{name}-{index}", device=device, index=index, name=card,
            memory_total_bytes=gib * 2**30, memory_used_bytes=int(0.3 * 2**30),
            utilization_percent=0, temperature_celsius=dice.randint(31, 38),
            power_watts=dice.randint(20, 28), power_limit_watts=350,
        )  # fmt: skip
    return device


def _jobs(hosts, now) -> None:
    first, second, _third, large, gone, _last = hosts
    for n in range(2):
        _running(_submit("mstar-curriculum", "minjun", f"seed {n}", 2), first, now, 97 - 7 * n)
    done = _submit("mstar-curriculum", "minjun", "smaller step", 1)
    attempt = _running(done, second, now, 37)
    _end(attempt, "failed", 1, now - timedelta(minutes=12))
    _write_log(done, failed=True)
    for n in range(3):
        job = _submit("fixmatch-ssl", "seoyeon", "", 1 if n else 4)
        _running(job, large if n == 0 else second, now, 155 + 11 * n)
    _running(_submit("det-aerial", "haeun", "", 2), gone, now, 231)
    for project, user, gpus in [
        ("fixmatch-ssl", "seoyeon", 8), ("det-aerial", "haeun", 2), ("sar-flow", "jiho", 4),
        ("det-aerial", "haeun", 4),
    ]:  # fmt: skip
        _submit(project, user, "", gpus)
    ended = _submit("sar-flow", "jiho", "baseline", 1)
    _end(_running(ended, hosts[5], now, 340), "succeeded", 0, now - timedelta(minutes=46))
    _submit("mstar-curriculum", "minjun", "with mixup", 2).hold(True)


def _submit(project, user, name, gpus):
    from django.contrib.auth.models import User

    from experiments import submission

    given = {"project": project, "name": name or None, "resources": {"gpus": gpus}}
    given = {key: value for key, value in given.items() if value}
    return submission.submit(CONFIG, given, by=User.objects.get(username=user))


def _running(job, device, now, minutes):
    from experiments.models import Attempt

    gpus = list(device.gpus.filter(claim=None).order_by("index")[: job.gpus])
    begun = now - timedelta(minutes=minutes)
    attempt = job.assign(device, gpus, begun)
    attempt.accept(begun)
    attempt = Attempt.objects.select_related("job", "device").get(pk=attempt.pk)
    attempt.start(begun, pid=41807)
    dice = random.Random(job.uid)
    for gpu in gpus:
        gpu.utilization_percent = dice.randint(88, 99)
        gpu.memory_used_bytes = int(gpu.memory_total_bytes * dice.uniform(0.6, 0.93))
        gpu.temperature_celsius, gpu.power_watts = dice.randint(64, 79), dice.randint(280, 345)
        gpu.save()
    _write_curve(job, minutes)
    _write_log(job)
    return attempt


def _end(attempt, outcome, code, when) -> None:
    from experiments.states import Outcome

    attempt.job.refresh_from_db()
    attempt.end(Outcome(outcome), when, exit_code=code)
    attempt.release()
    for gpu in attempt.device.gpus.filter(uuid__in=attempt.gpu_uuids):
        gpu.utilization_percent, gpu.power_watts, gpu.temperature_celsius = 0, 24, 36
        gpu.memory_used_bytes = int(0.3 * 2**30)
        gpu.save()


def _dispatched(now) -> None:
    """What fits is given out, and all of it but the last has begun."""
    from experiments.dispatch import dispatch

    for attempt in dispatch(now)[:-1]:
        attempt.accept(now)
        attempt.start(now, pid=42001)


def _oddities(hosts, now) -> None:
    card = hosts[2].gpus.get(index=3)
    card.utilization_percent, card.memory_used_bytes = 64, int(11.2 * 2**30)
    card.processes = [
        {"pid": 41807, "user": "siwoo", "memory_bytes": 11 * 2**30, "attempt_id": None}
    ]
    card.save()
    hosts[2].gpus.get(index=2).quarantine("Xid 79: fell off the bus", now)
    hosts[5].drain()


def _store(job, suffix: str, text: str) -> None:
    """As sync does it."""
    from sync import storage, summary
    from sync.models import SyncFile

    name, data = f"{job.run_name}.{suffix}", text.encode()
    storage.write_at(storage.Place.of(job, name), 0, data)
    row, _made = SyncFile.objects.update_or_create(
        job=job, name=name, attempt=1, generation=1,
        defaults={"size": len(data), "synced_at": job.submitted_at},
    )  # fmt: skip
    if suffix == "csv":
        summary.update(job, row)


def _write_curve(job, minutes) -> None:
    dice = random.Random(job.uid)
    rows = ["epoch,train_loss,test_loss,test_accuracy,lr"]
    for epoch in range(1, 1 + max(8, min(100, int(minutes * 0.64)))):
        fall = math.exp(-epoch / 22)
        spike = 0.3 if epoch == 41 else 0
        rows.append(
            f"{epoch},{2.2 * fall + 0.1 + dice.gauss(0, 0.03) + spike:.5f},"
            f"{2.1 * fall + 0.2 + dice.gauss(0, 0.02):.5f},"
            f"{0.95 - 0.7 * fall + dice.gauss(0, 0.006):.5f},"
            f"{3e-4 * (1 + math.cos(math.pi * epoch / 100)) / 2:.3e}"
        )
    _store(job, "csv", "\n".join(rows) + "\n")


def _write_log(job, *, failed: bool = False) -> None:
    lines = []
    for epoch in range(1, 64):
        bar = "\r".join(f"epoch {epoch} {n:3d}%|{'█' * (n // 5):20}|" for n in range(0, 101, 2))
        lines.append(bar)
        lines.append(
            f"\x1b[2m[14:{epoch % 60:02d}:41]\x1b[0m \x1b[32mepoch {epoch}\x1b[0m  "
            f"train_loss \x1b[1m{2.2 * math.exp(-epoch / 22) + 0.1:.4f}\x1b[0m"
        )
        if epoch % 10 == 0:
            lines.append(f"\x1b[34mcheckpoint\x1b[0m epoch_{epoch:03d}.pt  128.4 MB  0.7 s")
    if failed:
        lines += [
            "Traceback (most recent call last):",
            '  File "/home/lab/experiments/main.py", line 212, in <module>',
            "    trainer.fit(model, loader)",
            '  File "/home/lab/experiments/trainer.py", line 88, in fit',
            "    loss.backward()",
            "\x1b[31mtorch.OutOfMemoryError\x1b[0m: CUDA out of memory. Tried to get 2.5 GiB.",
        ]
    _store(job, "log", "\n".join(lines) + "\n")


def keep_alive(stop: threading.Event) -> None:
    """Stand in for the agents' heartbeats and for dispatch."""
    from django.db import connection
    from django.utils import timezone

    from devices.models import Device
    from experiments.models import Pulse

    while not stop.wait(1):
        now = timezone.now()
        Device.objects.exclude(host_id="gpu-05").update(last_heartbeat_at=now, last_poll_at=now)
        Pulse.beat(Pulse.DISPATCH, now)
    connection.close()


def take(url: str, folder: Path, only: str) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        for width, (w, h) in WIDTHS.items():
            for theme in ("light", "dark"):
                for language in ("en", "ko"):
                    page = browser.new_page(
                        viewport={"width": w, "height": h}, color_scheme=theme, locale=language
                    )
                    page.on("console", lambda message: print("console:", message.text))
                    _tour(page, url, folder, f"{width}-{theme}-{language}", only)
                    page.close()
        browser.close()


def _tour(page, url: str, folder: Path, mark: str, only: str) -> None:
    def shoot(name: str) -> None:
        if name in only.split(",") or not only:
            page.wait_for_timeout(700)
            page.screenshot(path=folder / f"{name}-{mark}.png", full_page=True)
        if mark == "1440-light-en" and name in README_SHOWS:
            page.screenshot(path=folder / README_SHOWS[name])  # as a reader sees it at first

    page.goto(f"{url}/login/")
    shoot("login")
    page.fill("#u", "yoon")
    page.fill("#p", PASSWORD)
    page.click("button.primary")
    page.wait_for_url("**/devices/")
    shoot("devices")
    page.goto(f"{url}/queue/")
    shoot("queue")
    page.goto(f"{url}/runs/")
    shoot("runs")
    for name, words in [
        ("run", "seed 0"), ("failed", "smaller step"), ("unreachable", "det-aerial run_001"),
        ("waiting", "fixmatch-ssl 4"),
    ]:  # fmt: skip
        page.goto(f"{url}/runs/?q={words}")
        page.click("td.lead a")
        shoot(name)
    page.goto(f"{url}/execute/?config=mstar/curriculum.yaml")
    shoot("execute")
    page.goto(f"{url}/nowhere/")
    shoot("missing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("screenshots"))
    parser.add_argument("--keep", action="store_true", help="renew docs/img")
    parser.add_argument("--only", default="", help="names of pages, with commas")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lab-shots-") as data:
        os.environ |= {"LAB_DATA_DIR": data, "DJANGO_SETTINGS_MODULE": "labsite.settings"}
        os.environ |= {"LAB_TIME_ZONE": "Asia/Seoul", "DJANGO_ALLOW_ASYNC_UNSAFE": "true"}
        _serve_and_take(Path(data), options)
    if options.keep:
        for name in README_SHOWS.values():
            shutil.copy(options.folder / name, ROOT / "docs/img" / name)


def _serve_and_take(data: Path, options: argparse.Namespace) -> None:
    sys.path.insert(0, str(ROOT))
    import django

    django.setup()
    from django.core.management import call_command
    from django.utils import timezone

    call_command("migrate", verbosity=0)
    call_command("collectstatic", verbosity=0, interactive=False)
    (data / "config/mstar").mkdir(parents=True)
    (data / "config/mstar/curriculum.yaml").write_text(CONFIG)
    fill(timezone.now())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "labsite.asgi:application", "--port", str(port)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    stop = threading.Event()
    threading.Thread(target=keep_alive, args=[stop], daemon=True).start()
    try:
        _wait_for(port)
        take(f"http://127.0.0.1:{port}", options.folder, options.only)
    finally:
        stop.set()
        server.terminate()
        server.wait()


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    main()
