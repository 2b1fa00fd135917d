"""Whether the cards of an ended attempt are free again."""

from agent import shim, wire
from agent.gpus import GPUWatch
from agent.wire import GPUProcess, GPUReading, HeldGPU

LOOK_SECONDS = 1.0
PROCESSES_NAMED = 16  # wire.HeldGPU.processes

#: What a driver may keep of a card after its last process, beyond what was in use before.
SLACK_BYTES = 256 * 1024**2


def still_held(
    reading: GPUReading, attempt_id: str, before_bytes: int | None
) -> list[GPUProcess] | None:
    """Whether a card's memory is back after an attempt: None, or who may be holding it.

    Memory of others' processes, which may have come meanwhile, is not ours to wait for.
    """
    ours = [p for p in reading.processes if p.attempt_id == attempt_id]
    if ours:
        return ours
    if reading.memory_used_bytes is None or before_bytes is None:
        return None
    others = sum(p.memory_bytes or 0 for p in reading.processes)
    unexplained = reading.memory_used_bytes - others
    return reading.processes if unexplained > before_bytes + SLACK_BYTES else None


class Release:
    """Looks at the cards of one attempt, from its end until their memory is back.

    A card that has fallen off the bus holds up none of the others: after GONE_SECONDS it counts as
    given back, and that it is faulty is for the heartbeat to tell.
    """

    def __init__(
        self, attempt_id: str, uuids: list[str], before_bytes: dict[str, int], gpus: GPUWatch
    ) -> None:
        """`before_bytes` were in use on each card before the attempt was started."""
        self._attempt_id = attempt_id
        self._uuids = uuids
        self._before = before_bytes
        self._gpus = gpus
        self._began = shim.now()
        self._missing_since: dict[str, float] = {}
        self._seen: object = None
        self.has_news = False  # whether the last look saw something else than the one before

    def look(self) -> list[HeldGPU] | None:
        """Those that are not free again; None: the driver does not answer."""
        held = self._look() if self._uuids else []
        seen = (held is None, [one.uuid for one in held or []], self.is_overdue)
        self.has_news, self._seen = seen != self._seen, seen
        return held

    def _look(self) -> list[HeldGPU] | None:
        now = shim.now()
        readings = self._gpus.newer(now, LOOK_SECONDS)
        if not readings:  # of no card at all: that tells of the driver, not of these
            return None
        cards = {reading.uuid: reading for reading in readings}
        held = [self._held(uuid, cards.get(uuid), now) for uuid in self._uuids]
        return [one for one in held if one is not None]

    @property
    def is_overdue(self) -> bool:
        return shim.now() - self._began >= wire.RELEASE_SECONDS

    def _held(self, uuid: str, card: GPUReading | None, now: float) -> HeldGPU | None:
        seconds = now - self._began
        if card is None:
            missing_since = self._missing_since.setdefault(uuid, now)
            return None if now - missing_since >= wire.GONE_SECONDS else HeldGPU(uuid, seconds)
        self._missing_since.pop(uuid, None)
        holders = still_held(card, self._attempt_id, self._before.get(uuid))
        if holders is None:
            return None
        return HeldGPU(uuid, seconds, card.memory_used_bytes, holders[:PROCESSES_NAMED])


def words(held: list[HeldGPU] | None) -> str:
    """For the log: which cards, and who holds them."""
    if held is None:
        return "the GPU driver does not answer"
    return "; ".join(
        f"GPU {one.uuid} still holds memory (processes: {_pids(one.processes)})" for one in held
    )


def _pids(processes: list[GPUProcess]) -> str:
    return ", ".join(str(process.pid) for process in processes) or "none that NVML shows"
