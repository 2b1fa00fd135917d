"""The runs: some run, some wait, some have ended well or badly."""

import random
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import User

from agent import wire
from bench.screenshots.lab import written
from bench.screenshots.lab.written import CONFIG
from devices.models import GPU, Device
from experiments import submission
from experiments.dispatch import dispatch
from experiments.models import Attempt, Job
from experiments.states import Outcome
from sync.models import SyncFile

MSTAR, SSL, AERIAL, FLOW = "mstar-curriculum", "fixmatch-ssl", "det-aerial", "sar-flow"


def make(hosts: list[Device], now: datetime) -> None:
    _curriculum(hosts, now)
    _of_others(hosts, now)
    _tuned(hosts[1], now)
    _rerun_with_a_change(now)


def _curriculum(hosts: list[Device], now: datetime) -> None:
    """Two seeds that run, one of them with all that a script leaves behind and one with a long
    log; and one that failed."""
    for n in range(2):
        started(submit(MSTAR, "minjun", f"seed {n}", 2), hosts[0], now, 97 - 7 * n)
    written.leave_behind(Job.objects.get(name="seed 0"))
    written.store(Job.objects.get(name="seed 1"), "log", written.long_log())
    done = submit(MSTAR, "minjun", "smaller step", 1)
    attempt = started(done, hosts[1], now, 37)
    end(attempt, "failed", 1, now - timedelta(minutes=12))
    written.log(done, 37, failed=True)


def _of_others(hosts: list[Device], now: datetime) -> None:
    _first, second, _third, large, gone, last = hosts
    for n in range(3):
        job = submit(SSL, "seoyeon", "", 1 if n else 4)
        started(job, large if n == 0 else second, now, 155 + 11 * n)
    started(submit(AERIAL, "haeun", "", 2), gone, now, 231)
    for project, user, gpus, minutes in [
        (SSL, "seoyeon", 8, 94), (AERIAL, "haeun", 2, 41), (FLOW, "jiho", 4, 38),
        (AERIAL, "haeun", 4, 22),
    ]:  # fmt: skip
        queued_at(submit(project, user, "", gpus), now - timedelta(minutes=minutes))
    ended = submit(FLOW, "jiho", "baseline", 1)
    end(started(ended, last, now, 340), "succeeded", 0, now - timedelta(minutes=46))


def _tuned(host: Device, now: datetime) -> None:
    """Two rates with two seeds, a day or two ago; and one that is kept queued since."""
    kept = submit(MSTAR, "minjun", "with mixup", 2)
    kept.hold(True)
    queued_at(kept, now - timedelta(hours=19))
    for n in range(4):
        rate, seed = (0.003 if n % 2 else 0.001), n // 2
        config = CONFIG.replace("lr: 0.0003", f"lr: {rate}\nseed: {seed}")
        job = submit(MSTAR, "minjun", f"sweep {n}", 1, config)
        then = now - timedelta(hours=31 - 5 * n)
        end(started(job, host, then, 120 + 9 * n), "succeeded", 0, then)
        job.edit(tags=["sweep", "paper"], notes="for the table of section 4" if n else "")


def _rerun_with_a_change(now: datetime) -> None:
    config = CONFIG.replace("batch_size: 64", "batch_size: 128")
    job = submit(
        MSTAR, "minjun", "larger batch", 2, config.replace("lr: 0.0003", "lr: 0.0006"),
        Job.objects.get(name="seed 0"), source=written.snapshot("minjun", now),
    )  # fmt: skip
    queued_at(job, now - timedelta(minutes=9))


def submit(
    project: str, user: str, name: str, gpus: int,
    config: str = CONFIG, parent: Job | None = None, source: dict[str, Any] | None = None,
) -> Job:  # fmt: skip
    given = {"project": project, "name": name, "resources": {"gpus": gpus}, "source": source}
    given = {key: value for key, value in given.items() if value}
    return submission.submit(config, given, by=User.objects.get(username=user), parent=parent)


def queued_at(job: Job, when: datetime) -> None:
    Job.objects.filter(pk=job.pk).update(submitted_at=when)


def started(job: Job, device: Device, now: datetime, minutes: int) -> Attempt:
    """A try that began that long before `now`, after a short wait, and has written since."""
    begun = now - timedelta(minutes=minutes)
    job.refresh_from_db()
    if job.submitted_at > begun:
        queued_at(job, begun - timedelta(seconds=40 + 7 * job.pk % 300))
    gpus = list(device.gpus.filter(claim=None).order_by("index")[: job.gpus])
    attempt = job.assign(device, gpus, begun)
    attempt.accept(begun)
    attempt = Attempt.objects.select_related("job", "device").get(pk=attempt.pk)
    attempt.start(begun, pid=41807)
    attempt.note_environment(
        wire.Environment(
            "3.11.9", "2.5.1", "12.4", "550.54.15", "12.4", "lab",
            packages=["numpy==2.1.3", "pillow==11.0.0", f"torchvision==0.{job.pk % 2 + 19}.1"],
        )
    )  # fmt: skip
    dice = random.Random(job.uid)
    for gpu in gpus:
        _work(gpu, dice)
    written.curve(job, minutes)
    written.log(job, minutes)
    return attempt


def _work(gpu: GPU, dice: random.Random) -> None:
    gpu.utilization_percent = dice.randint(88, 99)
    gpu.memory_used_bytes = int(gpu.memory_total_bytes * dice.uniform(0.6, 0.93))
    gpu.temperature_celsius, gpu.power_watts = dice.randint(64, 79), dice.randint(280, 345)
    gpu.save()


def end(attempt: Attempt, outcome: str, code: int, when: datetime) -> None:
    attempt.job.refresh_from_db()
    attempt.end(Outcome(outcome), when, exit_code=code)
    attempt.release()
    SyncFile.objects.filter(job=attempt.job).update(synced_at=when)
    for gpu in attempt.device.gpus.filter(uuid__in=attempt.gpu_uuids):
        gpu.utilization_percent, gpu.power_watts, gpu.temperature_celsius = 0, 24, 36
        gpu.memory_used_bytes = int(0.3 * 2**30)
        gpu.save()


def dispatched(now: datetime) -> None:
    """What fits is given out, and all of it but the last has begun."""
    for attempt in dispatch(now)[:-1]:
        attempt.accept(now)
        attempt.start(now, pid=42001)
