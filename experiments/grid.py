"""What a sweep varies: `lab.sweep:` of a config, or the same words from a form or the API.

    sweep:
      grid: {lr: [0.1, 0.01], model.depth: [18, 50]}   every combination
      list: [{optimizer: sgd, momentum: 0.9}, {optimizer: adam}]   settings that belong together
      seeds: [0, 1, 2]                                 short for a key `seed` of the grid
      max_running: 4                                   at most so many at a time
      arguments: true                                  the values are arguments of the command too

Where several stand, each entry of the list meets each point of the grid.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from experiments.values import Wrong, did_you_mean, integer_of, line_of, truth_of
from experiments.yamltree import BOOL, FLOAT, INT, KNOWN_TAGS, NULL, TIMESTAMP, Tree, clip

SEED = "seed"
WORDS = ("grid", "list", "seeds", "max_running", "arguments")
MAX_KEYS = 32
MAX_KEY_CHARACTERS = 255
MAX_RUNNING = 9999
#: Text that YAML reads as text wherever it stands, also within brackets, but for its own words.
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./+@-]*")
_YAMLS_OWN = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_EXPONENT = re.compile(r"([-+]?(?:\d+(?:\.\d*)?|\.\d+))[eE]([-+]?)(\d+)")


@dataclass(frozen=True)
class Value:
    """One value of a key."""

    text: str  # as it is written into the YAML, on one line
    plain: Any  # as JSON


@dataclass(frozen=True)
class Grid:
    """All that a sweep tries."""

    rows: tuple[dict[str, Value], ...]  # of `list:`; one empty one where there is none
    axes: dict[str, tuple[Value, ...]]  # of `grid:` and `seeds:`
    max_running: int | None
    places: dict[str, Node]  # where each key is named first
    arguments: bool = False  # as arguments of the command as well (experiments.arguments)

    @property
    def keys(self) -> list[str]:
        """The dotted keys in the order in which they were written."""
        return list(self.places)

    @property
    def size(self) -> int:
        return len(self.rows) * math.prod(map(len, self.axes.values()))

    def tried(self) -> dict[str, list[Any]]:
        """All that each key is given, as JSON, in its order."""
        values: dict[str, dict[str, Value]] = {}
        for row in self.rows:
            for key, value in row.items():
                values.setdefault(key, {})[value.text] = value
        for key, axis in self.axes.items():
            values[key] = {value.text: value for value in axis}
        return {key: [value.plain for value in some.values()] for key, some in values.items()}

    def points(self) -> Iterator[dict[str, Value]]:
        """Each run's values by their keys; the key that was written last changes first."""
        for row in self.rows:
            for chosen in product(*self.axes.values()):
                yield {**row, **dict(zip(self.axes, chosen, strict=True))}


def grid_of(node: Node, tree: Tree) -> Grid:
    """
    Raises:
        Wrong: the first thing that is wrong, with its place.
    """
    said = _words_of(node, tree)
    rows = _rows(said["list"], tree) if "list" in said else [{}]
    places: dict[str, Node] = {}
    for row in rows:
        places.update((key, place) for key, (place, _value) in row.items() if key not in places)
    axes: dict[str, tuple[Value, ...]] = {}
    for key, place, values in _axes(said, tree):
        if key in places:
            raise Wrong(_("“%(key)s” is varied twice: keep one of them") % {"key": key}, place)
        places[key], axes[key] = place, values
    most = integer_of(said["max_running"], 1, MAX_RUNNING) if "max_running" in said else None
    _check_nesting(places)
    plain_rows = tuple({key: value for key, (_place, value) in row.items()} for row in rows)
    arguments = "arguments" in said and truth_of(said["arguments"])
    grid = Grid(plain_rows, axes, most, places, arguments)
    _check_size(grid, node)
    return grid


def _words_of(node: Node, tree: Tree) -> dict[str, Node]:
    if not isinstance(node, MappingNode):
        raise Wrong(_("write what is varied, as in {grid: {lr: [0.1, 0.01]}}"), node)
    said: dict[str, Node] = {}
    for key, value in tree.pairs(node):
        word = key.value if isinstance(key, ScalarNode) else "?"
        if word not in WORDS:
            raise Wrong(_unknown(word), key)
        if value.tag != NULL:
            said[word] = value
    if not said.keys() - {"max_running", "arguments"}:
        raise Wrong(_("it is empty: write what is varied, as in {grid: {lr: [0.1, 0.01]}}"), node)
    return said


def _unknown(word: str) -> str:
    about = {"word": clip(word), "words": ", ".join(WORDS)}
    if word in ("seed", "random_seed"):
        return _("“%(word)s” is not known here: %(hint)s") % {
            **about, "hint": did_you_mean("seeds")
        }  # fmt: skip
    return (
        _("“%(word)s” is not known here: write one of %(words)s, and your own keys under grid:")
        % about
    )


def _axes(said: Mapping[str, Node], tree: Tree) -> Iterator[tuple[str, Node, tuple[Value, ...]]]:
    if "grid" in said:
        if not isinstance(said["grid"], MappingNode):
            raise Wrong(_("grid: write keys with lists, as in {lr: [0.1, 0.01]}"), said["grid"])
        pairs = tree.pairs(said["grid"])
        if not pairs:
            raise Wrong(_("grid: it is empty: write keys with lists"), said["grid"])
        for key, values in pairs:
            yield _key(key), key, _values(_key(key), values, tree)
    if "seeds" in said:
        yield SEED, said["seeds"], _values("seeds", said["seeds"], tree)


def _values(key: str, node: Node, tree: Tree) -> tuple[Value, ...]:
    about = {"key": clip(key)}
    if not isinstance(node, SequenceNode):
        raise Wrong(_("%(key)s: write a list of values, as in [0.1, 0.01]") % about, node)
    if not node.value:
        raise Wrong(_("%(key)s: the list is empty: write values, or leave it out") % about, node)
    seen: set[str] = set()
    values = []
    for item in node.value:
        value = value_of(item, tree)
        if _identity(value) in seen:
            words = _("%(key)s: %(value)s stands twice: keep one of them")
            raise Wrong(words % {**about, "value": clip(value.text)}, item)
        seen.add(_identity(value))
        values.append(value)
    return tuple(values)


def _rows(node: Node, tree: Tree) -> list[dict[str, tuple[Node, Value]]]:
    if not isinstance(node, SequenceNode) or not node.value:
        raise Wrong(_("list: write entries with keys and values, as in [{lr: 0.1}]"), node)
    seen: set[str] = set()
    rows = []
    for item in node.value:
        if not isinstance(item, MappingNode) or not item.value:
            raise Wrong(_("list: an entry is keys with values, as in {lr: 0.1}"), item)
        pairs = tree.pairs(item)
        row = {_key(key): (key, value_of(value, tree)) for key, value in pairs}
        identity = repr(sorted((key, _identity(value)) for key, (_n, value) in row.items()))
        if identity in seen:
            raise Wrong(_("list: this entry stands twice: keep one of them"), item)
        seen.add(identity)
        rows.append(row)
    return rows


def _key(node: Node) -> str:
    key = line_of(node, MAX_KEY_CHARACTERS, _("a key"))
    about = {"key": clip(key)}
    if not all(key.split(".")):
        raise Wrong(_("“%(key)s” has an empty part: write it as model.depth") % about, node)
    if key.split(".")[0] == "lab":
        raise Wrong(_("“%(key)s”: what the lab reads is the same for all runs") % about, node)
    if key == "project":
        raise Wrong(_("“%(key)s”: all runs of a sweep are of one project") % about, node)
    return key


def _check_nesting(places: Mapping[str, Node]) -> None:
    for key, place in places.items():
        parts = key.split(".")
        for count in range(1, len(parts)):
            if (outer := ".".join(parts[:count])) in places:
                words = _("“%(key)s” lies within “%(outer)s”, which is varied too: keep one")
                raise Wrong(words % {"key": key, "outer": outer}, place)


def _check_size(grid: Grid, node: Node) -> None:
    if len(grid.places) > MAX_KEYS:
        words = _("%(n)d keys are varied, and at most %(limit)d may be")
        raise Wrong(words % {"n": len(grid.places), "limit": MAX_KEYS}, node)
    limit = settings.LAB_MAX_SWEEP_RUNS
    if grid.size > limit:
        words = _("this makes %(n)d runs, and at most %(limit)d are taken: leave some values out")
        raise Wrong(words % {"n": grid.size, "limit": limit}, node)


def value_of(node: Node, tree: Tree) -> Value:
    plain = tree.plain(node)  # first: it bounds what aliases expand to
    return Value(_written(node), plain)


def _written(node: Node) -> str:
    """In flow style, on one line, without anchors."""
    if isinstance(node, SequenceNode):
        return f"[{', '.join(map(_written, node.value))}]"
    if isinstance(node, MappingNode):
        pairs = (f"{_written(key)}: {_written(value)}" for key, value in node.value)
        return f"{{{', '.join(pairs)}}}"
    if node.tag not in KNOWN_TAGS:
        words = _("the tag %(tag)s has no place here: write plain text")
        raise Wrong(words % {"tag": clip(node.tag)}, node)
    if node.tag == NULL:
        return "null"
    if node.tag in (BOOL, INT) or (node.tag == TIMESTAMP and not node.style):
        return node.value
    return _float(node.value) if node.tag == FLOAT else quoted(node.value, as_is=not node.style)


def _float(text: str) -> str:
    """So that every reader sees the number: PyYAML reads 1e-3 and 1.0e5 as text."""
    if not (match := _EXPONENT.fullmatch(text)):
        return text
    mantissa, sign, exponent = match.groups()
    return f"{mantissa}{'' if '.' in mantissa else '.0'}e{sign or '+'}{exponent}"


def quoted(text: str, *, as_is: bool = True) -> str:
    """Text as YAML, without quotes where it reads the same and `as_is` allows it."""
    if as_is and _PLAIN.fullmatch(text) and text.lower() not in _YAMLS_OWN:
        return text
    return json.dumps(text, ensure_ascii=False)


def _identity(value: Value) -> str:
    return json.dumps(value.plain, sort_keys=True)
