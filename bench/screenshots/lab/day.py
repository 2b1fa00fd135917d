"""A whole lab in the middle of its day, and one on its first."""

from datetime import datetime, timedelta

from bench.screenshots.lab import hosts, people, projects, runs, sweeps


def whole(now: datetime) -> None:
    people.enter()
    servers = [
        hosts.host("gpu-01", "NVIDIA GeForce RTX 3090", 24, 4, now),
        hosts.host("gpu-02", "NVIDIA GeForce RTX 3090", 24, 4, now),
        hosts.host("gpu-03", "NVIDIA RTX A6000", 48, 4, now, disk_free=0.06),
        hosts.host("gpu-04", "NVIDIA H100 80GB HBM3", 80, 8, now),
        hosts.host("gpu-05", "NVIDIA RTX A6000", 48, 2, now, silent=timedelta(minutes=29)),
        hosts.host("gpu-06", "NVIDIA GeForce RTX 3090", 24, 2, now),
    ]
    runs.make(servers, now)
    sweeps.half_done(servers, now)
    projects.make(servers, now)
    hosts.ail(servers, now)
    runs.dispatched(now)
    hosts.look_back(servers, now)
    people.manage(now)


def first() -> None:
    """Nobody but the people, and nothing of theirs yet."""
    people.enter()
