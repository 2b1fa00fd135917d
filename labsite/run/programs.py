"""The programs of `manage.py runlab`, each as it looks from inside its own process.

All that they run is imported here, before they are forked: so they share its memory, and a
program that is started again is of the same version though the files have changed since.
"""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from importlib import import_module
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.utils.module_loading import import_string

from labsite import wake
from labsite.run import cluster
from labsite.run.supervise import STOP_SECONDS, Cause, Program, Verdict
from labsite.run.web import serve

logger = logging.getLogger(__name__)

TICK_SECONDS = 2.0
#: No dispatch pass was executed for so long although it was asked for: the cluster is stuck.
#: It happens when a worker is killed while it holds the queue's lock, and never mends.
STUCK_SECONDS = 10.0
STUCK_STATUS = 3
CHANGED_STATUS = 4
#: What the local agent must not know, nor any job through it.
NOT_FOR_AGENTS = (
    "LAB_SECRET_KEY", "LAB_SECRETS_KEY", "LAB_DATABASE_URL", "LAB_REDIS_URL",
    "LAB_EMAIL_PASSWORD", "LAB_METRICS_TOKEN",
)  # fmt: skip


def load() -> None:
    """Import also what the settings name: the views, and what the cluster executes."""
    import_module(settings.ROOT_URLCONF)
    import_string(settings.LAB_DISPATCH_TASK)


def web(listener: socket.socket, certificate: tuple[Path, Path] | None, server: str) -> Program:
    """The site. `listener` stays open here, so that a restart refuses nobody."""

    def run_uvicorn() -> None:
        serve(listener, certificate)

    def run_daphne() -> None:
        os.set_inheritable(listener.fileno(), True)
        python = [sys.executable, "-m", "labsite.run.daphne", str(listener.fileno())]
        os.execv(python[0], python)  # noqa: S606

    return Program(
        "web",
        run_daphne if server == "daphne" else run_uvicorn,
        descriptors=frozenset({listener.fileno()}),
    )


def dispatch() -> Program:
    """django-q2's cluster."""
    killed = Cause("member_killed", "ended, since one of its processes was killed")
    return Program("dispatch", cluster.run, causes={cluster.MEMBER_KILLED_STATUS: killed})


def clock() -> Program:
    """Asks for a dispatch pass every TICK_SECONDS, and notices when none is executed."""
    stuck = Cause("stuck", f"no dispatch pass was executed for {STUCK_SECONDS:.0f} s")
    verdicts = {STUCK_STATUS: Verdict("dispatch", stuck)}
    return Program("clock", _keep_time, stop_stage=0, verdicts=verdicts)


def _keep_time() -> None:
    if connection.vendor == "sqlite":
        connection.settings_dict["OPTIONS"]["timeout"] = TICK_SECONDS
    with closing(wake.mailbox({"dispatched"})) as mailbox:
        _wait_until_stuck(mailbox)
    sys.exit(STUCK_STATUS)


def _wait_until_stuck(mailbox: wake.Mailbox | wake.RedisMailbox) -> None:
    now = tick_at = time.monotonic()
    stuck_at = now + STUCK_SECONDS
    while now < stuck_at:
        if now >= tick_at:
            tick_at = now + TICK_SECONDS
            if not _asked():
                stuck_at = now + STUCK_SECONDS  # without a database nobody is to blame
        heard = mailbox.wait(max(0.0, min(tick_at, stuck_at) - time.monotonic()))
        now = time.monotonic()
        if heard:
            stuck_at = now + STUCK_SECONDS


def _asked() -> bool:
    """Return whether an answer may be expected. From a locked database it may: SQLite is locked
    for long by nobody but a process that is stuck, and of ours the cluster's are the likeliest."""
    try:
        wake.queue_dispatch()
    except (DatabaseError, InterfaceError) as exc:
        if "locked" in str(exc):
            return True
        logger.warning("the database does not answer: %s", exc)
        connection.close()
        return False
    return True


def agent(command: Sequence[str], environment: dict[str, str], source: Path) -> Program:
    def run() -> None:
        os.chdir(source)
        kept = {name: os.environ[name] for name in os.environ if name not in NOT_FOR_AGENTS}
        os.execve(command[0], list(command), kept | environment)  # noqa: S606

    # It stops before the web program, to say goodbye to it. Jobs have supervisors of their own.
    return Program(
        "agent",
        run,
        stop_stage=0,
        stop_seconds=STOP_SECONDS / 2,
        orphan_signal=signal.SIGTERM,
    )


def reloader() -> Program:
    """Ends when the source has changed; the whole of runlab is then started anew."""

    def run() -> None:
        from watchfiles import PythonFilter, watch  # in this process alone

        changes = next(watch(settings.BASE_DIR, watch_filter=PythonFilter()))
        names = sorted({Path(path).name for _, path in changes})
        logger.warning("changed: %s", ", ".join(names))
        sys.exit(CHANGED_STATUS)

    changed = Verdict(None, Cause("changed", "the source has changed"))
    return Program("reloader", run, stop_stage=0, verdicts={CHANGED_STATUS: changed})
