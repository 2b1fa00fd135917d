"""What scripts leave behind: curves, logs, images, checkpoints, and the code that they are."""

import hashlib
import io
import json
import math
import random
import struct
import zlib
from collections.abc import Callable
from datetime import datetime

from django.contrib.auth.models import User
from django.utils import timezone

from agent.code.manifest import File, Manifest, head
from experiments.models import Job
from sync import storage, summary
from sync.code import taking
from sync.models import SyncFile

#: Red, green and blue of a pixel by its column and row.
Colour = Callable[[int, int], tuple[int, int, int]]
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


OUT_OF_MEMORY = [
    "Traceback (most recent call last):",
    '  File "/home/lab/experiments/main.py", line 212, in <module>',
    "    trainer.fit(model, loader)",
    '  File "/home/lab/experiments/trainer.py", line 88, in fit',
    "    loss.backward()",
    "\x1b[31mtorch.OutOfMemoryError\x1b[0m: CUDA out of memory. Tried to allocate "
    "2.50 GiB. GPU 0 has a total capacity of 23.69 GiB of which 1.06 GiB is free. "
    "Including non-PyTorch memory, this process has 22.62 GiB memory in use.",
]


def snapshot(user: str, now: datetime) -> dict[str, str]:
    """Code as `lab submit` sends it, with changes that are in no commit."""
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


def store(job: Job, suffix: str, text: str) -> None:
    """As sync does it."""
    row = _put(job, f"{job.run_name}.{suffix}", text.encode())
    if suffix == "csv":
        summary.update(job, row)


def _put(job: Job, name: str, data: bytes) -> SyncFile:
    storage.write_at(storage.Place.of(job, name), 0, data)
    row, _made = SyncFile.objects.update_or_create(
        job=job, name=name, attempt=1, generation=1,
        defaults={"size": len(data), "synced_at": timezone.now()},
    )  # fmt: skip
    return row


def leave_behind(job: Job) -> None:
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


def _png(side: int, colour: Colour) -> bytes:
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


def long_log() -> str:
    return "".join(
        f"\x1b[43m WARN \x1b[0m gradient norm of step {n} is \x1b[38;5;196mlarge\x1b[0m\n"
        if n % 1000 == 0
        else f"\x1b[2m[{n // 3600 % 24:02d}:{n // 60 % 60:02d}:{n % 60:02d}]\x1b[0m step {n} "
        f"\x1b[32mtrain_loss\x1b[0m {2 / (1 + n / 3000):.4f}, see https://lab.test/{n}\n"
        for n in range(1, 20_001)
    )


def _epochs(minutes: int) -> int:
    return max(8, min(100, int(minutes * 0.64)))


def _luck(job: Job) -> tuple[random.Random, float, float]:
    """The dice, how fast it learns, and how far from the best it stays: alike in every lab."""
    dice = random.Random(f"{job.project.name} {job.run_number}")
    return dice, dice.uniform(12, 40) if job.swept else dice.uniform(15, 27), dice.uniform(0, 0.04)


def curve(job: Job, minutes: int) -> None:
    dice, pace, short = _luck(job)
    rows = ["epoch,train_loss,test_loss,test_accuracy,lr"]
    for epoch in range(1, 1 + _epochs(minutes)):
        fall = math.exp(-epoch / pace)
        spike = 0.3 if epoch == 41 else 0
        rows.append(
            f"{epoch},{2.2 * fall + 0.1 + abs(dice.gauss(0, 0.03)) + spike:.5f},"
            f"{2.1 * fall + 0.2 + short + dice.gauss(0, 0.02):.5f},"
            f"{0.95 - short - 0.7 * fall + dice.gauss(0, 0.006):.5f},"
            f"{3e-4 * (1 + math.cos(math.pi * epoch / 100)) / 2:.3e}"
        )
    store(job, "csv", "\n".join(rows) + "\n")


def log(job: Job, minutes: int, *, failed: bool = False) -> None:
    _dice, pace, _short = _luck(job)
    lines = []
    for epoch in range(1, 1 + _epochs(minutes)):
        bar = "\r".join(f"epoch {epoch} {n:3d}%|{'█' * (n // 5):20}|" for n in range(0, 101, 2))
        lines.append(bar)
        lines.append(
            f"\x1b[2m[14:{epoch % 60:02d}:41]\x1b[0m \x1b[32mepoch {epoch}\x1b[0m  "
            f"train_loss \x1b[1m{2.2 * math.exp(-epoch / pace) + 0.1:.4f}\x1b[0m"
        )
        if epoch % 10 == 0:
            lines.append(f"\x1b[34mcheckpoint\x1b[0m epoch_{epoch:03d}.pt  128.4 MB  0.7 s")
    store(job, "log", "\n".join([*lines, *(OUT_OF_MEMORY if failed else [])]) + "\n")
