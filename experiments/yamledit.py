"""Setting keys in the text of a YAML: all that is not set stays byte for byte.

The text itself is edited, at the places that the parser names; nothing is loaded and dumped, so
comments, order, quotes and blank lines are those of the writer (docs/adr/0023). Whoever asks
reads the result again and compares: what cannot be edited so is refused, never guessed.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from experiments.grid import quoted
from experiments.values import Wrong
from experiments.yamltree import NULL, clip, read

_ALIAS = re.compile(r"\s*:\s+(\*[^\s,\[\]{}]+)")
_COMMA_AFTER = re.compile(r"\s*,[ \t]*")
_COMMA_BEFORE = re.compile(r",\s*$")

Edit = tuple[int, int, str]  # from, to, and what takes its place


@dataclass(frozen=True)
class _Slot:
    """Where a key's value stands, or in which mapping it is missing."""

    node: Node | None  # the mapping, or the null that becomes one; None: the file has none at all
    rest: tuple[str, ...] = ()  # what is missing below it; (): the value is there
    span: tuple[int, int] = (0, 0)


class Editor:
    """One YAML text; edits it any number of times, each time from the original."""

    def __init__(self, text: str) -> None:
        """Raises: ConfigInvalid, when it is not YAML."""
        self._bom = "\ufeff" if text.startswith("\ufeff") else ""
        self._text = text.removeprefix("\ufeff")
        self._newline = "\r\n" if "\r\n" in self._text else "\n"
        root = read(self._text)
        self._root = root if isinstance(root, MappingNode) else None
        self._slots: dict[str, _Slot] = {}

    def names(self, key: str) -> bool:
        """Whether the dotted key has a value of its own in the file."""
        slot = self._slot(key)
        return not slot.rest

    def edited(self, values: Mapping[str, str], *, without: Iterable[str] = ()) -> str:
        """
        Args:
            values: what is written for each dotted key.
            without: two words, a key of the file and one in its block, which is left out.

        Raises:
            Wrong: a key leads through something that holds no keys.
        """
        edits = self._removal(*without) if without else []
        missing: dict[int, tuple[_Slot, dict[str, Any]]] = {}
        for key, text in values.items():
            slot = self._slot(key)
            if slot.rest:
                _, tree = missing.setdefault(id(slot.node), (slot, {}))
                _lay(tree, slot.rest, text)
            else:
                edits.append(self._replacement(slot, text))
        edits += [self._addition(slot, tree) for slot, tree in missing.values()]
        text = self._text
        for start, end, new in sorted(edits, reverse=True):
            text = text[:start] + new + text[end:]
        return self._bom + text

    # --- finding ------------------------------------------------------------------------------

    def _slot(self, key: str) -> _Slot:
        if key not in self._slots:
            self._slots[key] = self._found(tuple(key.split(".")))
        return self._slots[key]

    def _found(self, parts: tuple[str, ...]) -> _Slot:
        node: Node | None = self._root
        left = parts
        while left:
            if isinstance(node, SequenceNode):
                node, left = self._item(node, left)
                span = self._span(node)
                continue
            pair = _own_pair(node, left)
            if pair is None:
                return _Slot(node, left)
            key_node, value, count = pair
            left = left[count:]
            span = self._span(value, key_node)
            node = value
            if left:
                self._check_descent(key_node, value)
        return _Slot(node, (), span)

    def _item(self, node: SequenceNode, left: tuple[str, ...]) -> tuple[Node, tuple[str, ...]]:
        place, rest = left[0], left[1:]
        if not place.isdecimal() or int(place) >= len(node.value):
            words = _("“%(key)s” is no place of a list here: they are counted from 0")
            raise Wrong(words % {"key": clip(place)})
        item = node.value[int(place)]
        if item.start_mark.index < node.start_mark.index:
            raise Wrong(_refers(place))
        return item, rest

    def _check_descent(self, key: Node, value: Node) -> None:
        if value.start_mark.index < key.end_mark.index:
            raise Wrong(_refers(key.value))
        if isinstance(value, ScalarNode) and value.tag != NULL:
            words = _("“%(key)s” is one value in the file, and holds no keys to vary")
            raise Wrong(words % {"key": clip(key.value)})

    def _span(self, value: Node, key: Node | None = None) -> tuple[int, int]:
        start = value.start_mark.index
        if key is not None and start < key.end_mark.index:  # an alias: its text, not its target's
            if alias := _ALIAS.match(self._text, key.end_mark.index):
                return alias.span(1)
            raise Wrong(_refers(key.value))
        return start, max(start, self._end_of(value))

    def _end_of(self, node: Node) -> int:
        """After its last visible character; comments that follow a block are not its own."""
        if not isinstance(node, ScalarNode) and not node.flow_style and node.value:
            last = node.value[-1]
            is_pair = isinstance(last, tuple)
            return self._span(last[1], last[0])[1] if is_pair else self._end_of(last)
        start, end = node.start_mark.index, node.end_mark.index
        return start + len(self._text[start:end].rstrip())

    # --- editing ------------------------------------------------------------------------------

    def _replacement(self, slot: _Slot, text: str) -> Edit:
        start, end = slot.span
        is_block = isinstance(slot.node, SequenceNode) and not slot.node.flow_style
        blank = " " if start == end or is_block else ""
        return start, end, blank + text

    def _addition(self, slot: _Slot, tree: Mapping[str, Any]) -> Edit:
        """Keys that are not there: before the first of their mapping, or as one in braces."""
        node = slot.node
        if node is None:
            return 0, 0, "".join(f"{pair}{self._newline}" for pair in _pairs(tree))
        if not isinstance(node, MappingNode):  # a key without a value: `model:`
            start = node.start_mark.index
            return start, self._end_of(node), f" {_flow(tree)}"
        if node.flow_style:
            at = self._text.index("{", node.start_mark.index) + 1
            pairs = ", ".join(_pairs(tree))
            return at, at, f"{pairs}, " if node.value else pairs
        first = node.value[0][0].start_mark
        blank = self._newline + " " * first.column
        return first.index, first.index, "".join(f"{pair}{blank}" for pair in _pairs(tree))

    def _removal(self, outer: str, inner: str) -> list[Edit]:
        block = _own_pair(self._root, (outer,))
        pair = _own_pair(block[1], (inner,)) if block else None
        if pair is None:
            return []
        key, value, _count = pair
        start, end = key.start_mark.index, self._end_of(value)
        line = self._text.rfind("\n", 0, start) + 1
        if not self._text[line:start].strip():  # a line of its own: whole lines go
            after = self._text.find("\n", end)
            return [(line, len(self._text) if after < 0 else after + 1, "")]
        if comma := _COMMA_AFTER.match(self._text, end):
            return [(start, comma.end(), "")]
        before = _COMMA_BEFORE.search(self._text[:start])
        return [(before.start() if before else start, end, "")]


def _own_pair(node: Node | None, left: tuple[str, ...]) -> tuple[Node, Node, int] | None:
    """Key, value and how many of the parts the key is made of: `model.depth` may be one key."""
    if not isinstance(node, MappingNode):
        return None
    own = {key.value: (key, value) for key, value in node.value if isinstance(key, ScalarNode)}
    for count in range(len(left), 0, -1):
        if found := own.get(".".join(left[:count])):
            return *found, count
    return None


def set_in(keys: Any, parts: tuple[str, ...], value: Any) -> Any:
    """Plain data with the value at that place, found as the editor finds it."""
    if not parts:
        return value
    if isinstance(keys, list):
        place = int(parts[0])
        return [*keys[:place], set_in(keys[place], parts[1:], value), *keys[place + 1 :]]
    known = keys if isinstance(keys, dict) else {}
    for count in range(len(parts), 0, -1):
        name = ".".join(parts[:count])
        if name in known:
            return {**known, name: set_in(known[name], parts[count:], value)}
    return {**known, parts[0]: set_in(None, parts[1:], value)}


def _refers(key: str) -> str:
    words = _("“%(key)s” refers to another place of the file (*name): write it out to vary it")
    return words % {"key": clip(key)}


def _lay(tree: dict[str, Any], parts: tuple[str, ...], text: str) -> None:
    for part in parts[:-1]:
        tree = tree.setdefault(part, {})
    tree[parts[-1]] = text


def _pairs(tree: Mapping[str, Any]) -> list[str]:
    return [f"{quoted(key)}: {_flow(value)}" for key, value in tree.items()]


def _flow(value: Any) -> str:
    return f"{{{', '.join(_pairs(value))}}}" if isinstance(value, Mapping) else str(value)
