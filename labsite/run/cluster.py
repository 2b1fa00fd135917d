"""django-q2's cluster, of which every process may be killed.

Its sentinel replaces a process that died. But one that was killed had as a rule a lock of the
queue that it waited at, or that of its timer, and takes it along: a new worker waits for ever
beside a full queue, and a new monitor acknowledges nothing, so that each executed task comes
again and again. So the death of one is the end of all, and runlab starts them anew.
"""

import logging
import os
import signal
import sys
from multiprocessing.process import BaseProcess
from types import FrameType

from django_q import cluster

from labsite.run import lifeline

logger = logging.getLogger(__name__)

#: The exit status of a cluster that ended because one of its processes was killed.
MEMBER_KILLED_STATUS = 5


class WholeSentinel(cluster.Sentinel):
    """Ends, and with it the whole cluster, when one of its processes was killed."""

    def start(self) -> None:
        signal.signal(signal.SIGCHLD, self._on_death)  # is heard also while it waits for a lock
        super().start()

    def reincarnate(self, process: BaseProcess) -> None:
        self._end_if_killed(process)
        super().reincarnate(process)  # a worker that has ended by itself, after so many tasks

    def _on_death(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() == self.pid:  # its children inherit the handler
            for process in (*self.pool, self.monitor, self.pusher):
                self._end_if_killed(process)

    @staticmethod
    def _end_if_killed(process: BaseProcess | None) -> None:
        if process is not None and process.exitcode:
            logger.error("its process %s has died", process.pid)
            os._exit(MEMBER_KILLED_STATUS)  # no farewell to those that may wait for a lost lock


def run() -> None:
    """Be the cluster's first process until it is told to stop. Its processes end with one
    another, also by kill -9."""
    lifeline.pass_on()
    cluster.Sentinel = WholeSentinel
    whole = cluster.Cluster()
    whole.start()
    sentinel = whole.sentinel
    sentinel.join()
    if whole.has_stopped:
        return
    killed = sentinel.exitcode < 0 or sentinel.exitcode == MEMBER_KILLED_STATUS
    sys.exit(MEMBER_KILLED_STATUS if killed else "its sentinel has ended")
