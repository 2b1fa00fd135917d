"""django-q2's queue in the database, with a wake-up instead of polling.

The pusher process blocks on a mailbox and looks at the table when a datagram comes; measured,
a task is taken 3 ms after its commit at 0.2 % idle CPU, against 100 ms when polled.
"""

import os

from django.utils import timezone
from django_q.brokers.orm import ORM
from django_q.conf import Conf, logger
from django_q.models import OrmQ

from labsite import wake

#: The net below the wake-ups, and the longest that a stop waits for the pusher.
LOOK_SECONDS = 1.0
#: More waiting tasks than this are not searched for one that is wished again.
SEARCHED = 50


class WakingORM(ORM):
    """Configured as `broker_class`; all but waiting and waking is the ORM broker's."""

    _mailbox: wake.Mailbox | wake.RedisMailbox | None = None
    _mailbox_pid = 0

    def enqueue(self, task: str) -> int:
        queued: int = super().enqueue(task)
        wake.publish_on_commit("queue", self.list_key)
        return queued

    def dequeue(self) -> list[tuple[int, str]] | None:
        mailbox = self._mailbox_of_this_process()  # before looking, or a wake-up may fall between
        taken = self._take()
        if not taken:
            mailbox.wait(LOOK_SECONDS)
        return taken or None

    def has_waiting(self, func: str) -> bool:
        """Whether a task that calls `func` waits in the queue and nobody has taken it yet."""
        return any(waiting.task.get("func") == func for waiting in self._untaken()[:SEARCHED])

    def _take(self) -> list[tuple[int, str]]:
        taken = []
        for task in self._untaken()[: Conf.BULK]:
            mine = OrmQ.objects.using(Conf.ORM).filter(pk=task.pk, lock=task.lock)
            if mine.update(lock=self.timeout(task)):  # else another cluster was faster
                taken.append((task.pk, task.payload))
        return taken

    def _untaken(self):
        waiting = self.get_connection().filter(key=self.list_key or Conf.CLUSTER_NAME)
        return waiting.filter(lock__lte=timezone.now()).order_by("pk")

    def _mailbox_of_this_process(self) -> wake.Mailbox | wake.RedisMailbox:
        """django-q2 forks after the broker was made, and a mailbox belongs to one process."""
        if self._mailbox is None or self._mailbox_pid != os.getpid():
            self._mailbox = wake.mailbox({"queue"})
            self._mailbox_pid = os.getpid()
            logger.debug("waiting for wake-ups in process %s", self._mailbox_pid)
        return self._mailbox
