"""Saying in the log that something is wrong, without saying it a thousand times."""

import logging

from agent import shim

AGAIN_SECONDS = 60.0


class Complaint:
    """One thing that may be wrong. It is said when it begins or changes, and each minute."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._text: str | None = None
        self._said_at = 0.0

    def about(self, text: str) -> None:
        if text != self._text or shim.now() - self._said_at >= AGAIN_SECONDS:
            self._logger.warning("%s", text)
            self._text = text
            self._said_at = shim.now()

    def over(self, text: str) -> bool:
        """It is well again. Return whether it was wrong before."""
        was = self._text is not None
        if was:
            self._logger.info("%s", text)
        self._text = None
        return was
