"""A reader of pickles that calls nothing, imports nothing and rebuilds nothing.

A pickle is a program for a small stack machine, two of whose instructions import a global and call
it: that is how a file runs code. Here both only leave a note: `Global("os", "system")`,
`Made(Global(…), ("rm …",))`. Dictionaries become pairs, since a key may be a note, or so deep that
to hash it overflows the stack. A memo is a dict, so that no number in the file makes an array.
"""

import struct
import time
from collections.abc import Callable
from typing import Any

from django.utils.translation import gettext as _

from sync.checkpoints.errors import Unreadable

MAX_STEPS = 1_000_000  # of which each makes 150 bytes at most, besides what it copies
MAX_SECONDS = 2.0
_CHECKS = 4096  # steps between two looks at the clock
#: Of a number that takes more bytes nothing can be told.
MAX_INT_BYTES = 16
MAX_TEXT_NUMBER = 64


class Note:
    """Something whose making was asked for, and was not done."""

    __slots__ = ()


class Global(Note):
    """A function or class that the file names."""

    __slots__ = ("module", "name")

    def __init__(self, module: Any, name: Any) -> None:
        self.module, self.name = str(module), str(name)

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Made(Note):
    """What a call of `what` would have been, and what was put into it afterwards."""

    __slots__ = ("args", "items", "pairs", "state", "what")

    def __init__(self, what: Any, args: Any) -> None:
        self.what, self.args = what, args
        self.state: Any = None
        self.pairs: list[tuple[Any, Any]] = []
        self.items: list[Any] = []


class Stored(Note):
    """Something that lies outside the pickle, by what names it."""

    __slots__ = ("name",)

    def __init__(self, name: Any) -> None:
        self.name = name


class Pairs(Note):
    """A dictionary, in its order; a key may come twice, and the later counts."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[Any, Any]]) -> None:
        self.pairs = pairs


class Huge(Note):
    """A number too long to be told, or bytes that nobody needs."""

    __slots__ = ()


class Machine:
    """One pickle, read to its end. See read()."""

    def __init__(self, data: bytes, at: int, deadline: float) -> None:
        self._data, self.at, self._deadline = data, at, deadline
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # what lay on the stack at each mark
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        for step in range(MAX_STEPS):
            if step % _CHECKS == 0 and time.monotonic() > self._deadline:
                break
            code = self._data[self.at]
            self.at += 1
            if code == _STOP:
                return self._stack.pop()
            INSTRUCTIONS[code](self)
        raise Unreadable(_("It holds more than can be looked through in a moment."))

    # --- reading ---

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self._data):
            raise EOFError
        taken = self._data[self.at : end]
        self.at = end
        return taken

    def number(self, kind: str) -> Any:
        return struct.unpack(kind, self.take(struct.calcsize(kind)))[0]

    def line(self) -> str:
        end = self._data.index(b"\n", self.at)
        return self.take(end + 1 - self.at)[:-1].decode("utf-8", "replace")

    def text(self, length: int) -> str:
        return self.take(length).decode("utf-8", "replace")

    # --- the stack ---

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        return self._stack.pop()

    @property
    def top(self) -> Any:
        return self._stack[-1]

    def mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def remember(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def memoize(self) -> None:
        self.remember(len(self._memo))

    def recall(self, place: int) -> None:
        self.push(self._memo[place])


# --- what the instructions do -------------------------------------------------------------------


def _integer(data: bytes) -> Any:
    return int.from_bytes(data, "little", signed=True) if len(data) <= MAX_INT_BYTES else Huge()


def _typed_integer(text: str) -> Any:
    text = text.removesuffix("L")
    if text in ("00", "01"):  # as protocol 0 has False and True
        return text == "01"
    return int(text) if len(text) <= MAX_TEXT_NUMBER else Huge()


def _typed_float(text: str) -> float:
    return float(text[:MAX_TEXT_NUMBER])


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(items[::2], items[1::2], strict=True))


def _set_items(machine: Machine, pairs: list[tuple[Any, Any]]) -> None:
    if isinstance(machine.top, Pairs | Made):
        machine.top.pairs.extend(pairs)


def _add_items(machine: Machine, items: list[Any]) -> None:
    into = machine.top
    if isinstance(into, Made):
        into = into.items
    if isinstance(into, list):
        into.extend(items)


def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    _set_items(machine, [(key, value)])


def _append(machine: Machine) -> None:
    item = machine.pop()
    _add_items(machine, [item])


def _call(machine: Machine) -> None:
    args, what = machine.pop(), machine.pop()
    machine.push(Made(what, args))


def _call_with_names(machine: Machine) -> None:
    machine.pop()
    _call(machine)


def _build(machine: Machine) -> None:
    state = machine.pop()
    if isinstance(machine.top, Made):
        machine.top.state = state


def _global(machine: Machine) -> None:
    machine.push(Global(machine.line(), machine.line()))


def _global_of_stack(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    texts = isinstance(name, str) and isinstance(module, str)
    machine.push(Global(module, name) if texts else Huge())


def _instance(machine: Machine) -> None:
    what = Global(machine.line(), machine.line())
    machine.push(Made(what, tuple(machine.since_mark())))


def _object(machine: Machine) -> None:
    what, *args = machine.since_mark()
    machine.push(Made(what, tuple(args)))


def _tuple_of(count: int) -> Callable[[Machine], None]:
    def make(machine: Machine) -> None:
        items = [machine.pop() for _item in range(count)]
        machine.push(tuple(reversed(items)))

    return make


def _constant(value: Any) -> Callable[[Machine], None]:
    return lambda machine: machine.push(value)


def _sized(kind: str, make: Callable[[Machine, int], Any]) -> Callable[[Machine], None]:
    """What begins with its length."""
    return lambda machine: machine.push(make(machine, machine.number(kind)))


def _bytes(machine: Machine, length: int) -> bytes:
    return machine.take(length)


def _refuse(machine: Machine) -> None:
    raise ValueError


def _skip(kind: str) -> Callable[[Machine], None]:
    def skip(machine: Machine) -> None:
        machine.number(kind)

    return skip


_STOP = ord(".")
_BY_CODE: dict[bytes, Callable[[Machine], Any]] = {
    b"(": Machine.mark,
    b"0": Machine.pop,
    b"1": Machine.since_mark,
    b"2": lambda machine: machine.push(machine.top),
    b"F": lambda machine: machine.push(_typed_float(machine.line())),
    b"I": lambda machine: machine.push(_typed_integer(machine.line())),
    b"L": lambda machine: machine.push(_typed_integer(machine.line())),
    b"J": lambda machine: machine.push(machine.number("<i")),
    b"K": lambda machine: machine.push(machine.number("<B")),
    b"M": lambda machine: machine.push(machine.number("<H")),
    b"G": lambda machine: machine.push(machine.number(">d")),
    b"\x8a": lambda machine: machine.push(_integer(machine.take(machine.number("<B")))),
    b"\x8b": lambda machine: machine.push(_integer(machine.take(machine.number("<I")))),
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b")": _constant(()),
    b"P": lambda machine: machine.push(Stored(machine.line())),
    b"Q": lambda machine: machine.push(Stored(machine.pop())),
    b"S": lambda machine: machine.push(machine.line().strip("'\"")),
    b"V": lambda machine: machine.push(machine.line()),
    b"T": _sized("<I", Machine.text),
    b"U": _sized("<B", Machine.text),
    b"X": _sized("<I", Machine.text),
    b"\x8c": _sized("<B", Machine.text),
    b"\x8d": _sized("<Q", Machine.text),
    b"B": _sized("<I", _bytes),
    b"C": _sized("<B", _bytes),
    b"\x8e": _sized("<Q", _bytes),
    b"\x96": _sized("<Q", _bytes),
    b"]": lambda machine: machine.push([]),
    b"l": lambda machine: machine.push(machine.since_mark()),
    b"\x8f": lambda machine: machine.push([]),
    b"\x91": lambda machine: machine.push(machine.since_mark()),
    b"}": lambda machine: machine.push(Pairs([])),
    b"d": lambda machine: machine.push(Pairs(_pairs(machine.since_mark()))),
    b"t": lambda machine: machine.push(tuple(machine.since_mark())),
    b"\x85": _tuple_of(1),
    b"\x86": _tuple_of(2),
    b"\x87": _tuple_of(3),
    b"a": _append,
    b"e": lambda machine: _add_items(machine, machine.since_mark()),
    b"\x90": lambda machine: _add_items(machine, machine.since_mark()),
    b"s": _set_item,
    b"u": lambda machine: _set_items(machine, _pairs(machine.since_mark())),
    b"c": _global,
    b"\x93": _global_of_stack,
    b"i": _instance,
    b"o": _object,
    b"R": _call,
    b"\x81": _call,
    b"\x92": _call_with_names,
    b"b": _build,
    b"g": lambda machine: machine.recall(int(machine.line()[:20])),
    b"h": lambda machine: machine.recall(machine.number("<B")),
    b"j": lambda machine: machine.recall(machine.number("<I")),
    b"p": lambda machine: machine.remember(int(machine.line()[:20])),
    b"q": lambda machine: machine.remember(machine.number("<B")),
    b"r": lambda machine: machine.remember(machine.number("<I")),
    b"\x94": Machine.memoize,
    b"\x80": _skip("<B"),
    b"\x95": _skip("<Q"),
    b"\x97": _constant(Huge()),
    b"\x98": lambda machine: None,
}
INSTRUCTIONS: list[Callable[[Machine], Any]] = [
    _BY_CODE.get(bytes([code]), _refuse) for code in range(256)
]


def read(data: bytes, at: int = 0, *, deadline: float | None = None) -> tuple[Any, int]:
    """What the pickle that begins at `at` holds, as notes, and where it ends.

    Raises:
        Unreadable: it is no pickle, or too much of one.
    """
    machine = Machine(data, at, deadline or time.monotonic() + MAX_SECONDS)
    try:
        return machine.run(), machine.at
    except (IndexError, KeyError, ValueError, TypeError, EOFError, struct.error) as exc:
        raise Unreadable(_("It is damaged, or no pickle.")) from exc
