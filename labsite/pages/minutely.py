"""What is read once a minute, whoever asks: history has nothing new in between."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, ClassVar, Generic, TypeVar

from devices.models import minute_of

T = TypeVar("T")


class EachMinute(Generic[T]):
    """A function of the time whose answer is good for its minute; in this process."""

    _all: ClassVar[list["EachMinute[Any]"]] = []

    def __init__(self, read: Callable[[datetime], T]) -> None:
        self._read = read
        self._kept: tuple[int, T] | None = None
        self._all.append(self)

    def __call__(self, now: datetime) -> T:
        kept, minute = self._kept, minute_of(now)
        if kept is None or kept[0] != minute:
            kept = self._kept = (minute, self._read(now))
        return kept[1]

    @classmethod
    def forget_all(cls) -> None:
        """For tests, whose databases are others within a minute."""
        for one in cls._all:
            one._kept = None
