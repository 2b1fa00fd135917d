"""JSON to frozen dataclasses and back, by their type hints. Standard library only.

What a value may be beyond its type stands in the hint: `Annotated[int, Range(0, 100)]`. A
decoder is made once for each type. agent.wire, whose messages these are, passes all of it on.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from types import UnionType
from typing import Annotated, Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints


class Malformed(ValueError):
    """A message does not have the form it must have. `field` is a path such as `gpus[0].uuid`."""

    def __init__(self, field_path: str, problem: str) -> None:
        super().__init__(f"{field_path}: {problem}" if field_path else problem)
        self.field = field_path
        self.problem = problem


# What a value may be, beyond its type.


@dataclass(frozen=True)
class Range:
    low: float
    high: float


@dataclass(frozen=True)
class Text:
    max_length: int
    pattern: str = ""


@dataclass(frozen=True)
class Items:
    max_count: int


@dataclass(frozen=True)
class Else:
    """What a word counts as that this side does not know: a newer one may have more of them."""

    value: Any


_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # not the text of one, as in \\u0000

T = TypeVar("T")
_Check = Callable[[Any, str], Any]


def loads(body: bytes | str) -> Any:
    """Parse JSON strictly: UTF-8, no NaN or infinity, no NUL, no half character, bounded depth.

    Raises:
        Malformed: it is none of that.
    """
    try:
        text = body.decode() if isinstance(body, bytes) else body
        if "\\u0000" in text and _ESCAPED_NUL.search(text):
            raise Malformed("", "a NUL character is not allowed")
        data = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
        if "\\ud" in text or "\\uD" in text:  # half of a pair cannot be written anywhere
            json.dumps(data, ensure_ascii=False).encode()
        return data
    except (ValueError, RecursionError) as exc:
        if isinstance(exc, Malformed):
            raise
        raise Malformed("", f"not JSON: {exc}") from exc


def dumps(message: Any) -> bytes:
    """A message as JSON, without spaces."""
    return json.dumps(  # vars: as asdict(), without copying everything first
        message, default=vars, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def decode(cls: type[T], data: Any) -> T:
    """Make a `cls` of parsed JSON. Unknown fields are ignored.

    Raises:
        Malformed: a field is missing, has another type, or lies outside its limits.
    """
    hint: Any = cls
    made: T = _decoder(hint)(data, "")
    return made


def _no_constant(text: str) -> NoReturn:
    raise Malformed("", f"{text[:40]} is not allowed: numbers must be finite")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_constant(text)


@cache
def _decoder(hint: Any) -> _Check:
    """The check for one type hint, made once."""
    origin = get_origin(hint)
    if origin is Annotated:
        inner, limit = get_args(hint)
        if isinstance(limit, Else):
            return _enum(inner, limit)
        return _limited(_decoder(inner), limit)
    if origin in (Union, UnionType):
        return _optional(hint)
    if origin is list:
        return _list(_decoder(get_args(hint)[0]))
    if origin is dict:
        return _dict(_decoder(get_args(hint)[1]))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum(hint)
    if is_dataclass(hint):
        return _dataclass(hint)
    return _PLAIN[hint]


def _typed(want: tuple[type, ...], name: str) -> _Check:
    def check(value: Any, path: str) -> Any:
        if not isinstance(value, want) or (isinstance(value, bool) and bool not in want):
            raise Malformed(path, f"must be {name}, not {type(value).__name__}")
        return value

    return check


def _number(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise Malformed(path, "must be a finite number")
    return value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


_PLAIN: dict[Any, _Check] = {
    str: _typed((str,), "a string"),
    int: _typed((int,), "an integer"),
    bool: _typed((bool,), "true or false"),
    float: _number,
    Any: lambda value, path: value,
}


def _limited(inner: _Check, limit: Any) -> _Check:
    within = _LIMITS[type(limit)]

    def check(value: Any, path: str) -> Any:
        value = inner(value, path)
        within(limit, value, path)
        return value

    return check


def _in_range(limit: Range, value: float, path: str) -> None:
    if not limit.low <= value <= limit.high:
        raise Malformed(path, f"must lie between {limit.low:g} and {limit.high:g}")


def _in_form(limit: Text, value: str, path: str) -> None:
    if len(value) > limit.max_length:
        raise Malformed(path, f"must have at most {limit.max_length} characters")
    if limit.pattern and re.fullmatch(limit.pattern, value) is None:
        raise Malformed(path, f"must match {limit.pattern}")


def _in_number(limit: Items, value: list[Any], path: str) -> None:
    if len(value) > limit.max_count:
        raise Malformed(path, f"must have at most {limit.max_count} items")


_LIMITS: dict[type, Callable[[Any, Any, str], None]] = {
    Range: _in_range,
    Text: _in_form,
    Items: _in_number,
}


def _optional(hint: Any) -> _Check:
    [inner] = [_decoder(arg) for arg in get_args(hint) if arg is not type(None)]
    return lambda value, path: None if value is None else inner(value, path)


def _list(item: _Check) -> _Check:
    def check(value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise Malformed(path, "must be a list")
        return [item(one, f"{path}[{index}]") for index, one in enumerate(value)]

    return check


def _dict(item: _Check) -> _Check:
    def check(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise Malformed(path, "must be an object")
        return {key: item(one, f"{path}.{key}") for key, one in value.items()}

    return check


def _enum(cls: type[Enum], unknown: Else | None = None) -> _Check:
    known = {member.value: member for member in cls}

    def check(value: Any, path: str) -> Any:
        if isinstance(value, str) and value in known:
            return known[value]
        if isinstance(value, str) and unknown is not None:
            return unknown.value
        raise Malformed(path, f"must be one of {', '.join(known)}")

    return check


def _dataclass(cls: Any) -> _Check:
    hints = get_type_hints(cls, include_extras=True)
    checks = [
        (f.name, _decoder(hints[f.name]), f.default is MISSING and f.default_factory is MISSING)
        for f in fields(cls)
    ]

    def check(value: Any, path: str) -> Any:
        if not isinstance(value, Mapping):
            raise Malformed(path, "must be an object")
        prefix = f"{path}." if path else ""
        given = {}
        for name, item, required in checks:
            if name in value:
                given[name] = item(value[name], prefix + name)
            elif required:
                raise Malformed(prefix + name, "is missing")
        return cls(**given)

    return check
