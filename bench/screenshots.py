"""Pictures of every page: wide and narrow, light and dark, English and Korean.

    .venv/bin/python bench/screenshots.py [FOLDER] [--keep] [--only NAMES]
    .venv/bin/python bench/screenshots.py --serve

Serves a lab made up for the purpose from a temporary folder, and takes the pictures with the
system's Chromium. `--keep` writes the ones that README and guides show to docs/img. `--serve`
serves the lab until its standard input ends, and takes none: tests/browser looks at the same
pages.
"""

import argparse
import json
import math
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PASSWORD = "correct horse battery"
WIDTHS = {"1440": (1440, 900), "390": (390, 844)}
_GUIDES = {"dashboard", "run", "devices", "compare", "execute", "people"}
#: What README and the guides show, by the reader's language and the folder that it lies in.
SHOWN = {
    "en": ("img", {*_GUIDES, "runs", "sweep"}),
    "ko": ("img/ko", _GUIDES),
}
MANAGER, RESEARCHER = "yoon", "minjun"
#: A name that Chromium finds here, and the server does not know.
STRANGE_NAME = "another-name.test"
LAUNCH = ["--no-sandbox", f"--host-resolver-rules=MAP {STRANGE_NAME} 127.0.0.1"]

#: Pages by their address; login, forbidden and strange are not the manager's.
ADDRESSES = {
    "login": "/login/",
    "dashboard": "/",
    "wall": "/?wall=1",
    "devices": "/devices/",
    "filtered": "/devices/?type=A6000",
    "device": "/devices/1/?span=hour",
    "add": "/devices/add/",
    "queue": "/queue/",
    "projects": "/projects/",
    "project": "/projects/mstar-curriculum/?what=failed&older_than_days=0",
    "archived": "/projects/ablation-2025/",
    "runs": "/runs/",
    "none": "/runs/?q=nothing+is+like+that",
    "wrong": "/runs/?q=lr%3C0.1+state:faled+tag:seeds",
    "columns": "/projects/mstar-curriculum/?c=tag&c=notes&c=best:test_accuracy&c=key:lr&choose=1",
    "grouped": "/projects/mstar-curriculum/?g=key:lr&g=key:seed",
    "new": "/execute/",
    "execute": "/execute/?config=mstar/curriculum.yaml",
    "account": "/account/",
    "people": "/people/",
    "person": "/people/1/",
    "several": "/people/several/",
    "audit": "/people/audit/",
    "settings": "/projects/mstar-curriculum/settings/",
    "sweeps": "/sweeps/",
    "sweep": "/sweeps/1/",
    "missing": "/nowhere/",
    "forbidden": "/devices/add/",
}
#: The page of a run, by the words that find it.
RUNS = {
    "run": "seed 0",
    "failed": "smaller step",
    "succeeded": "sar-flow baseline",
    "unreachable": "det-aerial run_001",
    "waiting": "fixmatch-ssl 4",
    "changed": "larger batch",
}
#: Pages that one comes to by doing something.
DONE = [
    "refused", "code", "mistakes", "varied", "altered", "strange", "ticked", "compare",
    "cancelling", "editing", "file", "rerun",
]  # fmt: skip
#: What is pressed once runs are ticked; nothing: they are only ticked.
PRESSED = {"ticked": "", "compare": "compare", "cancelling": "cancel"}
PAGES = [*ADDRESSES, *RUNS, *DONE]
OF_NOBODY, OF_RESEARCHER = {"login", "refused", "strange"}, {"forbidden"}

DIFF = """\
diff --git a/train.py b/train.py
index 3b18e51..a04d9ce 100644
--- a/train.py
+++ b/train.py
@@ -41,7 +41,8 @@ def main(config):
     model = build(config.model)
     order = by_criterion(train, "fisher")
-    optimizer = Adam(model.parameters(), lr=0.0003)
+    optimizer = Adam(model.parameters(), lr=config.lr)
+    scheduler = CosineAnnealingLR(optimizer, T_max=config.epochs)
     for epoch in range(config.epochs):
         fit(model, order, optimizer)
diff --git a/models/gate.py b/models/gate.py
new file
--- /dev/null
+++ b/models/gate.py
@@ -0,0 +1,3 @@
+def gate(x):
+    \"\"\"Not <b>bold</b>: text is text.\"\"\"
+    return x.sigmoid()
"""
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
    _sweep(hosts, now)
    _projects(hosts, now)
    _oddities(hosts, now)
    _dispatched(now)
    _history(hosts, now)
    _done_by_managers(now)


def _done_by_managers(now) -> None:
    from django.contrib.auth.models import User

    from devices.models import Device
    from experiments.models import Job, Member, MemberRole, Project, Secret
    from experiments.states import Priority
    from people.audit import recorded
    from people.models import ApiToken, Invite, Profile
    from people.roles import Role

    people = {user.username: user for user in User.objects.all()}
    yoon, minjun = people["yoon"], people["minjun"]
    for name, of in (("laptop", yoon), ("sweeps on gpu-01", minjun), ("notebook", minjun)):
        ApiToken.make(of, name, now, timedelta(days=90) if of == minjun else None)
    Invite.make(Role.RESEARCHER, now, by=yoon, uses=4, note="new students")
    with recorded(yoon, people["haeun"], "role"):
        Profile.set_role(people["haeun"], Role.VIEWER, by=yoon)
    device = Device.objects.get(host_id="gpu-02")
    with recorded(yoon, device, "drain"):
        device.drain()
    with recorded(yoon, device, "resume"):
        device.resume()
    job = Job.objects.queued().filter(held=False).last()
    with recorded(yoon, job, "priority"):
        job.set_priority(Priority.HIGH, by=yoon)
    Project.objects.filter(name="sar-flow").update(private=True)
    project = Project.objects.get(name="mstar-curriculum")
    for name, of in (("HF_TOKEN", yoon), ("WANDB_API_KEY", yoon), ("WANDB_API_KEY", project)):
        Secret.put(of, name, "not a real one", now - timedelta(days=3), by=yoon)
    lack = {"name": "/data/imagenet", "user": "", "python": ""}
    Device.objects.filter(host_id="gpu-01").update(
        environment={"DATA_ROOT": "/data2", "HF_HOME": "/data2/hf"}, lacks=[lack]
    )
    Member.put(project, people["jiho"], MemberRole.LEAD)
    Member.put(project, people["seoyeon"], MemberRole.WORK)
    with recorded(yoon, project, "change"):
        Project.objects.filter(pk=project.pk).update(
            main_metric="test_accuracy", title="MSTAR, from easy to hard"
        )


def _host(name, card, gib, cards, now, disk_free=0.4, silent=timedelta(0)):
    from devices.models import GPU, Device

    dice = random.Random(name)
    behind = name == "gpu-05"  # somebody forgot `git pull` there
    code = {"commit": ("9e41c07b52" if behind else "a37bcfd021") + 30 * "0", "branch": "main"}
    code |= {"dirty": behind, "source_hash": "51d0" if behind else "77aa"}
    device = Device.objects.create(
        host_id=name, machine_id=name, unix_user="lab", source_directory="/home/lab/experiments",
        last_heartbeat_at=now - silent, last_poll_at=now, cpu_percent=dice.uniform(20, 65),
        cpu_count=48, memory_used_bytes=int(dice.uniform(0.3, 0.7) * 256 * 2**30),
        memory_total_bytes=256 * 2**30, disk_free_bytes=int(disk_free * 4e12),
        disk_total_bytes=int(4e12), labels={"ssd": ""} if gib < 80 else {"nvlink": ""},
        source=code,
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
    from experiments.models import Job

    first, second, _third, large, gone, _last = hosts
    for n in range(2):
        _running(_submit("mstar-curriculum", "minjun", f"seed {n}", 2), first, now, 97 - 7 * n)
    _leave_behind(Job.objects.get(name="seed 0"))
    _store(Job.objects.get(name="seed 1"), "log", _long_log())
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
    for n in range(4):
        config = CONFIG.replace("lr: 0.0003", f"lr: {0.003 if n % 2 else 0.001}\nseed: {n // 2}")
        ended = _submit("mstar-curriculum", "minjun", f"sweep {n}", 1, config)
        _end(_running(ended, second, now, 120 + 9 * n), "succeeded", 0, now)
        ended.edit(tags=["sweep", "paper"], notes="for the table of section 4" if n else "")
    changed = CONFIG.replace("batch_size: 64", "batch_size: 128").replace(
        "lr: 0.0003", "lr: 0.0006"
    )
    _submit(
        "mstar-curriculum", "minjun", "larger batch", 2, changed, Job.objects.get(name="seed 0"),
        source=_snapshot("minjun", now),
    )  # fmt: skip


def _snapshot(user, now) -> dict[str, str]:
    """Code as `lab submit` sends it, with changes that are in no commit."""
    import hashlib
    import io

    from django.contrib.auth.models import User

    from agent.manifest import File, Manifest, head
    from sync.code import taking

    files = {
        "train.py": b"lr = 0.0006\n" * 180, "models/resnet.py": b"width = 64\n" * 400,
        "models/__init__.py": b"", "configs/curriculum.yaml": CONFIG.encode(),
        "scripts/run.sh": b"#!/bin/sh\n", "README.md": b"# MSTAR\n" * 30,
    }  # fmt: skip
    named = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    held = Manifest(
        {path: File(named[path], len(content)) for path, content in files.items()},
        {"data": "/data/mstar"}, "a37bcfd0214f5d5b9f7e0c1d", "curriculum", dirty=True,
        remote="https://git.example.org/minjun/mstar", diff=DIFF,
    )  # fmt: skip
    frames = b"".join(head(named[path], len(files[path])) + files[path] for path in files)
    by = User.objects.get(username=user)
    taking.take_files(io.BytesIO(frames), len(frames), packed=False, by=by, now=now)
    return {"kind": "snapshot", "sha256": taking.take_manifest(held.dump(), by=by, now=now).sha256}


def _sweep(hosts, now) -> None:
    """One in the middle of its work: some ended, one failed, some run, the others wait."""
    from django.contrib.auth.models import User

    from experiments import sweeps

    minjun = User.objects.get(username="minjun")
    wish = {
        "project": "digits", "name": "rate and width", "resources": {"gpus": 1},
        "sweep": {"grid": {"lr": [0.1, 0.03, 0.01, 0.003], "batch_size": [32, 64, 128]}},
    }  # fmt: skip
    wish["sweep"]["max_running"] = 2
    made = sweeps.submit(CONFIG, wish, by=minjun)
    for n, job in enumerate(made.jobs.order_by("pk")[:8]):
        attempt = _running(job, hosts[2] if n > 5 else hosts[5], now, 80 - 9 * n)
        if n < 6:
            _end(attempt, "failed" if n == 2 else "succeeded", n == 2, now - timedelta(minutes=5))


def _submit(project, user, name, gpus, config=None, parent=None, source=None):
    from django.contrib.auth.models import User

    from experiments import submission

    given = {"project": project, "name": name or None, "resources": {"gpus": gpus}}
    given["source"] = source
    given = {key: value for key, value in given.items() if value}
    by = User.objects.get(username=user)
    return submission.submit(config or CONFIG, given, by=by, parent=parent)


def _running(job, device, now, minutes):
    from agent import wire
    from experiments.models import Attempt

    gpus = list(device.gpus.filter(claim=None).order_by("index")[: job.gpus])
    begun = now - timedelta(minutes=minutes)
    attempt = job.assign(device, gpus, begun)
    attempt.accept(begun)
    attempt = Attempt.objects.select_related("job", "device").get(pk=attempt.pk)
    attempt.start(begun, pid=41807)
    attempt.note_environment(
        wire.Environment(
            "3.11.9", "2.5.1", "12.4", "550.54.15", "12.4", "lab",
            ["numpy==2.1.3", "pillow==11.0.0", f"torchvision==0.{job.pk % 2 + 19}.1"],
        )
    )  # fmt: skip
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


def _history(hosts, now) -> None:
    """The last hour of each card and host, and a day of the lab."""
    from devices.models import DeviceSample, GPUSample, minute_of
    from experiments.models import LabSample

    last, dice = minute_of(now), random.Random(7)
    DeviceSample.objects.bulk_create(
        DeviceSample(
            device=device, minute=minute, cpu_percent_mean=dice.randint(20, 60),
            memory_mib_mean=90_000 + dice.randint(0, 9000), disk_free_mib_min=1_500_000,
        )
        for device in hosts
        for minute in range(last - 59, last + 1)
    )  # fmt: skip
    rows = []
    for card in [card for device in hosts for card in device.gpus.all()]:
        for minute in range(last - 59, last + 1):
            use = max(0, min(100, round(card.utilization_percent + dice.gauss(0, 3))))
            memory = card.memory_used_bytes // 2**20
            rows.append(
                GPUSample(
                    gpu=card, minute=minute, utilization_percent_min=use,
                    utilization_percent_mean=use, utilization_percent_max=use,
                    memory_mib_mean=memory, memory_mib_max=memory, job_minutes=use > 50,
                    temperature_celsius_mean=card.temperature_celsius,
                    temperature_celsius_max=card.temperature_celsius,
                    power_watts_mean=card.power_watts, power_watts_max=card.power_watts,
                )
            )  # fmt: skip
    GPUSample.objects.bulk_create(rows)
    LabSample.objects.bulk_create(
        LabSample(
            minute=minute, gpus=24, busy=round(13 + 6 * math.sin(minute / 170)), outside=1,
            faulty=1, unreachable=2, utilization_percent=91, running=9, waiting=5,
        )
        for minute in range(last - 1439, last + 1)
    )  # fmt: skip


def _projects(hosts, now) -> None:
    """One that is nearly full, one in the archive with something in its trash, and a disk that
    fills up."""
    from experiments.models import Job, Project
    from sync import disk, tasks
    from sync.models import DiskSample, SyncFile, Trash

    for name, tag in (("ablation-2025", "no flip"), ("ablation-2025", "no mixup")):
        attempt = _running(_submit(name, "jiho", tag, 1), hosts[5], now, 90)
        _end(attempt, "succeeded", 0, now - timedelta(days=20))
    SyncFile.objects.filter(job__project__name="mstar-curriculum").update(
        complete=True, sha256="0" * 64
    )
    Job.objects.get(project__name="ablation-2025", run_number=2).delete_run(now)
    tasks.tidy()
    Trash.objects.update(made_at=now - timedelta(days=3))
    tasks.recount()
    Project.objects.filter(name="mstar-curriculum").update(
        quota_bytes=500 * 10**9, used_bytes=462 * 10**9
    )
    Project.objects.get(name="ablation-2025").archive(now - timedelta(days=2))
    DiskSample.objects.all().delete()
    free, total = disk.free_and_total()
    for hours in range(1, 14 * 24):
        at = now - timedelta(hours=hours)
        DiskSample.objects.create(
            at=at, free_bytes=free + int(free * hours / 24 / 9), total_bytes=total
        )


def _store(job, suffix: str, text: str) -> None:
    """As sync does it."""
    from sync import summary

    row = _put(job, f"{job.run_name}.{suffix}", text.encode())
    if suffix == "csv":
        summary.update(job, row)


def _put(job, name: str, data: bytes):
    from sync import storage
    from sync.models import SyncFile

    storage.write_at(storage.Place.of(job, name), 0, data)
    row, _made = SyncFile.objects.update_or_create(
        job=job, name=name, attempt=1, generation=1,
        defaults={"size": len(data), "synced_at": job.submitted_at},
    )  # fmt: skip
    return row


def _leave_behind(job) -> None:
    """Images by step, checkpoints, and what else a script writes."""
    folder = job.run_name
    for step in range(0, 1000, 100):
        for name, seed in (("generated", 4), ("real", 0)):
            image = _png(32, lambda x, y, t=step + seed: (x * 8 + t // 4, y * 8, x * y // 16 + t))
            _put(job, f"{folder}/samples/{name}_{step:05d}.png", image)
    shapes = {"conv1.weight": (64, 3, 7, 7), "bn1.weight": (64,), "fc.weight": (10, 512)}
    for epoch in (50, 60):
        _put(job, f"{folder}/epoch_{epoch:03d}.safetensors", _tensors(shapes, epoch))
    _put(job, f"{folder}/broken.pt", b"half of a checkpoint")
    _put(job, f"{folder}/report.json", b'{"accuracy": 0.9433, "classes": {"T72": 0.971}}')


def _png(side: int, colour) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    rows = (
        b"\0" + bytes(part % 256 for x in range(side) for part in colour(x, y))
        for y in range(side)
    )
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def _tensors(shapes: dict[str, tuple[int, ...]], epoch: int) -> bytes:
    """As safetensors has it."""
    header: dict = {"__metadata__": {"epoch": str(epoch), "test_accuracy": "0.9433"}}
    at = 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(at)


def _long_log() -> str:
    return "".join(
        f"\x1b[43m WARN \x1b[0m gradient norm of step {n} is \x1b[38;5;196mlarge\x1b[0m\n"
        if n % 1000 == 0
        else f"\x1b[2m[{n // 3600 % 24:02d}:{n // 60 % 60:02d}:{n % 60:02d}]\x1b[0m step {n} "
        f"\x1b[32mtrain_loss\x1b[0m {2 / (1 + n / 3000):.4f}, see https://lab.test/{n}\n"
        for n in range(1, 20_001)
    )


def _write_curve(job, minutes) -> None:
    dice = random.Random(job.uid)
    pace = dice.uniform(12, 40) if job.swept else 22
    rows = ["epoch,train_loss,test_loss,test_accuracy,lr"]
    for epoch in range(1, 1 + max(8, min(100, int(minutes * 0.64)))):
        fall = math.exp(-epoch / pace)
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
            "\x1b[31mtorch.OutOfMemoryError\x1b[0m: CUDA out of memory. Tried to allocate "
            "2.50 GiB. GPU 0 has a total capacity of 23.69 GiB of which 1.06 GiB is free. "
            "Including non-PyTorch memory, this process has 22.62 GiB memory in use.",
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


def sign_in(page, url: str, user: str) -> None:
    page.goto(f"{url}/login/")
    page.fill("#u", user)
    page.fill("#p", PASSWORD)
    page.click("button.primary")
    page.wait_for_url(f"{url}/")


def visit(page, url: str, name: str) -> None:
    """Go to the page of that name, one of PAGES."""
    if name in ADDRESSES:
        page.goto(url + ADDRESSES[name])
    elif name in RUNS:
        page.goto(f"{url}/runs/?q={RUNS[name]}")
        page.click("td.lead a")
    elif name in PRESSED:
        _tick(page, url, PRESSED[name])
    else:
        DOING[name](page, url)


def _refused(page, url: str) -> None:
    page.goto(f"{url}/login/")
    page.fill("#u", f"nobody{time.time_ns()}")  # who guesses five times has to wait
    page.fill("#p", "wrong")
    page.click("button.primary")


def _code(page, url: str) -> None:
    page.goto(f"{url}/devices/add/")
    page.click("main button.primary")


def _mistakes(page, url: str) -> None:
    page.goto(f"{url}/execute/")
    text = "lr: 0.1\nlab:\n  comand: [python, train.py]\n  time_limit: 120\n"
    page.evaluate("t => document.querySelector('.CodeMirror').CodeMirror.setValue(t)", text)
    page.wait_for_selector(".cm-say")


def _varied(page, url: str) -> None:
    page.goto(f"{url}/execute/?config=mstar/curriculum.yaml")
    page.fill("#sw", "lr=0.001,0.0003 optimiser=adam,sgd seed=1..3")
    page.fill("#mr", "4")
    page.wait_for_selector("#preview-wide .notice")


def _altered(page, url: str) -> None:
    page.goto(f"{url}/runs/?q=smaller step")
    page.click("td.lead a")
    page.click("#head a[href*='/execute/?from=']")
    page.wait_for_selector(".CodeMirror")
    page.evaluate(
        """() => {
            const editor = document.querySelector(".CodeMirror").CodeMirror;
            const text = editor.getValue().replace("lr: 0.0003", "lr: 0.0001");
            editor.setValue(text.replace("batch_size: 64", "batch_size: 32"));
        }"""
    )
    page.wait_for_selector("#preview-wide .differs")


def _editing(page, url: str) -> None:
    page.goto(f"{url}/projects/mstar-curriculum/?q=sweep&c=tag&c=notes")
    page.locator("[data-edit]").first.click()


def _file(page, url: str) -> None:
    visit(page, url, "run")
    page.click("#files td.lead a >> nth=0")
    page.wait_for_url("**folder=**")
    page.click("#files td.lead a >> text=epoch_060")


def _rerun(page, url: str) -> None:
    visit(page, url, "failed")
    page.click(".failed .next .btn")


def _strange(page, url: str) -> None:
    page.goto(url.replace("127.0.0.1", STRANGE_NAME))


#: What is done on the way to a page.
DOING = {
    "refused": _refused, "code": _code, "mistakes": _mistakes, "varied": _varied,
    "altered": _altered, "editing": _editing, "strange": _strange, "file": _file,
    "rerun": _rerun,
}  # fmt: skip


def _tick(page, url: str, press: str) -> None:
    page.goto(f"{url}/projects/mstar-curriculum/?q=state:running,succeeded")
    for box in page.locator("input[name=run]").all():
        box.check()
    if press:
        page.click(f"button[value={press}]")
        page.wait_for_url("**/compare/**" if press == "compare" else "**/act/")


def take(url: str, folder: Path, only: str) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=LAUNCH)
        for w, h in WIDTHS.values():
            for theme in ("light", "dark"):
                for language in ("en", "ko"):
                    given = {"viewport": {"width": w, "height": h}, "color_scheme": theme}
                    _tour(browser, {**given, "locale": language}, url, folder, only)
        browser.close()


def _tour(browser, given, url: str, folder: Path, only: str) -> None:
    wanted = only.split(",") if only else PAGES
    mark = f"{given['viewport']['width']}-{given['color_scheme']}-{given['locale']}"
    for user, names in {
        None: [name for name in PAGES if name in OF_NOBODY],
        RESEARCHER: [name for name in PAGES if name in OF_RESEARCHER],
        MANAGER: [name for name in PAGES if name not in OF_NOBODY | OF_RESEARCHER],
    }.items():
        page = browser.new_page(**given)
        page.on("console", lambda message: print("console:", message.text))
        if user:
            sign_in(page, url, user)
        for name in names:
            if name in wanted:
                visit(page, url, name)
                _shoot(page, folder, name, mark)
        page.close()


def _shoot(page, folder: Path, name: str, mark: str) -> None:
    page.wait_for_timeout(700)
    page.screenshot(path=folder / f"{name}-{mark}.png", full_page=True)
    for language, (place, names) in SHOWN.items():
        if mark == f"1440-light-{language}" and name in names:  # as a reader sees it at first
            page.screenshot(path=folder / place / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("screenshots"))
    parser.add_argument("--keep", action="store_true", help="renew docs/img")
    parser.add_argument("--only", default="", help="names of pages, with commas")
    parser.add_argument("--serve", action="store_true", help="take none, serve till stdin ends")
    options = parser.parse_args()
    with _served() as url:
        if options.serve:
            print(url, flush=True)
            sys.stdin.read()
            return
        options.folder.mkdir(parents=True, exist_ok=True)
        take(url, options.folder, options.only)
    if options.keep:
        shutil.copytree(options.folder / "img", ROOT / "docs/img", dirs_exist_ok=True)


@contextmanager
def _served() -> Iterator[str]:
    """The address of a lab on a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="lab-shots-") as data:
        os.environ |= {"LAB_DATA_DIR": data, "DJANGO_SETTINGS_MODULE": "labsite.settings"}
        os.environ |= {"LAB_TIME_ZONE": "Asia/Seoul", "DJANGO_ALLOW_ASYNC_UNSAFE": "true"}
        _make(Path(data))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "labsite.asgi:application", "--port", str(port)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stop = threading.Event()
        alive = threading.Thread(target=keep_alive, args=[stop], daemon=True)
        alive.start()
        try:
            _wait_for(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            stop.set()
            server.terminate()
            server.wait()
            alive.join()


def _make(data: Path) -> None:
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


def _wait_for(port: int) -> None:
    for _ in range(900):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    main()
