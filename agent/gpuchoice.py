"""Which of this host's GPUs an agent offers: `--gpus 0,1`, `--gpus GPU-5f3a`, `--gpus none`."""

import logging
from collections.abc import Sequence

from agent.complaint import Complaint
from agent.errors import ConfigError
from agent.wire import GPUReading

logger = logging.getLogger(__name__)

ALL, NONE = "all", "none"
MIN_PREFIX = 5  # of a UUID: "GPU-" would name all of them


class GPUChoice:
    """Keeps the cards that were named. By default all are."""

    def __init__(self, text: str = ALL) -> None:
        """
        Raises:
            ConfigError: it names no card in a form that we know.
        """
        words = [word.strip() for word in text.split(",") if word.strip()]
        if words not in ([ALL], [NONE]) and not (words and all(map(_names_a_card, words))):
            raise ConfigError(
                f"--gpus {text!r} is not understood: write indices as nvidia-smi shows them "
                "(0,1), UUIDs or their beginnings (GPU-5f3a), none, or all"
            )
        self._words = words
        #: UUIDs of the cards here that are not offered: the server is not to take them for lost.
        self.left_out: list[str] = []
        self._complaint = Complaint(logger)

    def of(self, readings: Sequence[GPUReading]) -> list[GPUReading]:
        """Those that were named. Complains of names that no card here has."""
        chosen = self._chosen(readings)
        self.left_out = [r.uuid for r in readings if r not in chosen]
        return chosen

    def _chosen(self, readings: Sequence[GPUReading]) -> list[GPUReading]:
        if self._words == [ALL]:
            return list(readings)
        if self._words == [NONE]:
            return []
        absent = [word for word in self._words if not any(_is(word, r) for r in readings)]
        if absent:
            here = ", ".join(f"{r.index} {r.uuid}" for r in readings) or "none"
            self._complaint.about(f"--gpus names {', '.join(absent)}; the cards here: {here}")
        else:
            self._complaint.over("all cards that --gpus names are here")
        return [r for r in readings if any(_is(word, r) for word in self._words)]


def _names_a_card(word: str) -> bool:
    return word.isdecimal() or len(word) >= MIN_PREFIX


def _is(word: str, reading: GPUReading) -> bool:
    if word.isdecimal():
        return int(word) == reading.index
    return reading.uuid.lower().startswith(word.lower())
