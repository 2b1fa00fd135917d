"""The tensors and the plain values among the notes of a pickle, by the names that lead to them."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

from django.utils.translation import gettext as _

from sync.checkpoints.errors import Unreadable
from sync.checkpoints.pickles import MAX_SECONDS, Global, Made, Note, Pairs, Stored

#: So many tensors are told one by one; the others are counted.
LISTED = 2000
MAX_DEPTH = 64
MAX_STEPS = 2_000_000
MAX_NAME = 200
#: Plain values that are told, no deeper than this.
MAX_VALUES, VALUE_DEPTH = 60, 2
MAX_DIMENSIONS = 16
#: Names that say how a module keeps its parts, and not which part it is.
_INNER = {"_parameters", "_buffers", "_modules"}
ITEM_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2,
    "int8": 1, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8, "bool": 1, "complex64": 8,
    "complex128": 16, "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1, "qint8": 1, "quint8": 1, "qint32": 4,
}  # fmt: skip
_OF_STORAGE = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8", "QUInt8Storage": "quint8", "QInt32Storage": "qint32",
}  # fmt: skip
_OF_NUMPY = {
    "f8": "float64", "f4": "float32", "f2": "float16", "i8": "int64", "i4": "int32", "i2": "int16",
    "i1": "int8", "u8": "uint64", "u4": "uint32", "u2": "uint16", "u1": "uint8", "b1": "bool",
    "c8": "complex64", "c16": "complex128",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: str  # "float32"; empty: not known
    shape: tuple[int, ...]
    device: str = ""  # on which it was

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.count * ITEM_BYTES.get(self.dtype, 0)

    @property
    def shape_words(self) -> str:
        return " × ".join(map(str, self.shape)) if self.shape else "1"


@dataclass
class Group:
    """The tensors beneath one key of the outermost dictionary: the model, the optimizer."""

    name: str
    tensors: int = 0
    count: int = 0
    nbytes: int = 0


@dataclass
class Found:
    tensors: list[Tensor] = field(default_factory=list)  # the first LISTED
    groups: dict[str, Group] = field(default_factory=dict)
    values: list[tuple[str, Any]] = field(default_factory=list)

    def add(self, tensor: Tensor, *, is_known: bool) -> None:
        """`is_known`: the same numbers were met under another name, as tied weights are."""
        top, _dot, below = tensor.name.partition(".")
        group = self.groups.setdefault(top if below else "", Group(top if below else ""))
        group.tensors += 1
        if not is_known:
            group.count += tensor.count
            group.nbytes += tensor.nbytes
        if len(self.tensors) < LISTED:
            self.tensors.append(tensor)


def find(root: Any, *, deadline: float | None = None) -> Found:
    """What `root`, as pickles.read() gives it, holds.

    Raises:
        Unreadable: there is more than can be looked through.
    """
    deadline = deadline or time.monotonic() + MAX_SECONDS
    found, seen, numbers = Found(), set(), set()
    waiting: list[tuple[str, Any, Any, int]] = [("", "", root, 0)]
    for step in range(MAX_STEPS):
        if not waiting:
            return found
        if step % 4096 == 0 and time.monotonic() > deadline:
            break
        above, key, value, depth = waiting.pop()
        name = _named(above, key)
        if (tensor := tensor_of(name, value)) is not None:
            source = _numbers_of(value)
            found.add(tensor, is_known=source in numbers if source else False)
            numbers.add(source)
        elif _holds_others(value):
            if id(value) not in seen and depth < MAX_DEPTH:
                seen.add(id(value))
                waiting += reversed(list(_below(name, value, depth)))
        elif depth <= VALUE_DEPTH and name and len(found.values) < MAX_VALUES:
            _tell(found, name, value)
    raise Unreadable(_("It holds more than can be looked through in a moment."))


def _tell(found: Found, name: str, value: Any) -> None:
    if name.rpartition(".")[2].startswith("_"):
        return
    if isinstance(value, bool | int | float):
        found.values.append((name, value))
    elif isinstance(value, str) and value.isprintable():
        found.values.append((name, value if len(value) <= MAX_NAME else f"{value[:MAX_NAME]}…"))


def _holds_others(value: Any) -> bool:
    return isinstance(value, list | tuple | Pairs | Made)


def _below(name: str, value: Any, depth: int) -> Iterator[tuple[str, Any, Any, int]]:
    plain = 0
    for key, item in _items(value):
        if not isinstance(key, str | int) or isinstance(key, bool):
            continue
        if not _holds_others(item):
            plain += 1
            if depth >= VALUE_DEPTH or plain > MAX_VALUES:
                continue
        yield name, key, item, depth + 1


def _named(above: str, key: Any) -> str:
    text = str(key)[:MAX_NAME]
    if text in _INNER:
        return above
    return (f"{above}.{text}" if above else text)[-4 * MAX_NAME :]


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, list | tuple):
        yield from enumerate(value)
    elif isinstance(value, Pairs):
        yield from value.pairs
    elif isinstance(value, Made):
        yield from value.pairs
        yield from enumerate(value.items)
        state = value.state
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, Pairs):
                yield from part.pairs


# --- one tensor ----------------------------------------------------------------------------------


def tensor_of(name: str, value: Any) -> Tensor | None:
    """What `value` stands for, if that is a tensor or an array."""
    if not isinstance(value, Made) or not isinstance(value.what, Global):
        return None
    args = value.args if isinstance(value.args, tuple) else ()
    maker = _MAKERS.get(value.what.name)
    if maker is None or not value.what.module.startswith(("torch", "numpy")):
        return None
    try:
        return maker(name, args, value)
    except (IndexError, TypeError, ValueError):
        return None


def _plain(name: str, args: tuple[Any, ...], _made: Made) -> Tensor | None:
    storage, shape = args[0], _shape(args[2])
    dtype, device = _storage(storage)
    named = [one.name for one in args[6:7] if isinstance(one, Global)]  # _rebuild_tensor_v3
    return Tensor(name, named[0] if named else dtype, shape, device)


def _wrapped(name: str, args: tuple[Any, ...], _made: Made) -> Tensor | None:
    """A parameter is made of a tensor."""
    return tensor_of(name, args[0])


def _typed(name: str, args: tuple[Any, ...], _made: Made) -> Tensor | None:
    """`_rebuild_from_type_v2(function, type, args, state)`"""
    return tensor_of(name, Made(args[0], args[2]))


def _meta(name: str, args: tuple[Any, ...], _made: Made) -> Tensor | None:
    dtype = args[0].name if isinstance(args[0], Global) else ""
    return Tensor(name, dtype, _shape(args[1]), "meta")


def _array(name: str, _args: tuple[Any, ...], made: Made) -> Tensor | None:
    """numpy's `_reconstruct`, whose state is (version, shape, dtype, order, bytes)."""
    _version, shape, dtype, *_rest = made.state
    code = dtype.args[0] if isinstance(dtype, Made) and dtype.args else ""
    return Tensor(name, _OF_NUMPY.get(str(code), str(code)[:20]), _shape(shape), "numpy")


_MAKERS = {
    "_rebuild_tensor": _plain,
    "_rebuild_tensor_v2": _plain,
    "_rebuild_tensor_v3": _plain,
    "_rebuild_qtensor": _plain,
    "_rebuild_parameter": _wrapped,
    "_rebuild_parameter_with_state": _wrapped,
    "_rebuild_from_type_v2": _typed,
    "_rebuild_meta_tensor_no_storage": _meta,
    "_reconstruct": _array,
}


def _shape(value: Any) -> tuple[int, ...]:
    if isinstance(value, Made):  # torch.Size((…,))
        value = value.args[0]
    if not isinstance(value, tuple) or len(value) > MAX_DIMENSIONS:
        raise ValueError
    if not all(type(size) is int and 0 <= size < 2**62 for size in value):
        raise ValueError
    return value


def _storage(value: Any) -> tuple[str, str]:
    """dtype and device of `("storage", type, key, device, size)`."""
    name = value.name if isinstance(value, Stored) else ()
    if not isinstance(name, tuple) or len(name) < 4:
        return "", ""
    kind, device = name[1], name[3]
    dtype = _OF_STORAGE.get(kind.name, "") if isinstance(kind, Global) else ""
    return dtype, device[:20] if isinstance(device, str) else ""


def _numbers_of(value: Any) -> str:
    """What tells the numbers of one tensor from those of another; empty: nothing."""
    while isinstance(value, Made) and isinstance(value.args, tuple) and value.args:
        inner = value.args[0]
        if isinstance(inner, Stored):
            name = inner.name if isinstance(inner.name, tuple) else ()
            key = name[2] if len(name) > 2 and isinstance(name[2], str) else ""
            return f"{key}@{_text(value.args[1:3])}" if key else ""
        value = inner
    return ""


def _text(parts: tuple[Any, ...]) -> str:
    return "" if any(isinstance(part, Note) for part in parts) else repr(parts)[:200]
