"""YAML as a tree that knows its lines, from people who are not to be trusted with a parser.

Nothing is constructed: a tag that YAML does not know (`!!python/tuple`, `!env`) stays a name on
a node. Depth, nodes and what aliases expand to are bounded, so a hostile text costs what an
honest one of its size costs.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from experiments import yamlwords
from labsite.errors import Refused

MAX_DEPTH = 64
MAX_NODES = 200_000  # in the text, and once more for what its aliases expand to
MAX_CHARACTERS = 4 * 1024 * 1024  # of scalars, with what aliases expand to
MAX_MISTAKES = 50
MAX_NUMBER_CHARACTERS = 40  # a longer one is kept as text: its value would cost quadratic time

_TAG = "tag:yaml.org,2002:"
MERGE = f"{_TAG}merge"
NULL = f"{_TAG}null"
BOOL = f"{_TAG}bool"
INT = f"{_TAG}int"
FLOAT = f"{_TAG}float"
TIMESTAMP = f"{_TAG}timestamp"
_STANDARD = {f"{_TAG}{name}" for name in ("str", "seq", "map", "timestamp", "binary")}
KNOWN_TAGS = _STANDARD | {NULL, BOOL, INT, FLOAT, MERGE}

# What YAML allows in a text, but for the byte order mark at its beginning.
_FORBIDDEN = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
# What PostgreSQL refuses in JSON, or UTF-8 cannot say.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True)
class Mistake:
    """One thing to mend. `line` and `column` count from 1; None for what was not in a file."""

    message: str
    field: str = ""  # a path such as `lab.resources.gpus`
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        if self.line is not None:
            return _("line %(line)d, column %(column)d: %(message)s") % vars(self)
        return f"{self.field}: {self.message}" if self.field else self.message


class ConfigInvalid(Refused):
    """The config cannot be queued. The fact `errors` names every mistake and where it stands."""

    status = 400
    code = "invalid_config"

    def __init__(self, mistakes: list[Mistake]) -> None:
        errors = [
            {"line": m.line, "column": m.column, "field": m.field, "message": m.message}
            for m in mistakes
        ]
        super().__init__(_all_of(mistakes), errors=errors)
        self.mistakes = mistakes


def _all_of(mistakes: list[Mistake]) -> str:
    """The first, and how many there are besides."""
    if len(mistakes) == 1:
        return str(mistakes[0])
    n = len(mistakes) - 1
    return ngettext("%(first)s (and %(n)d more)", "%(first)s (and %(n)d more)", n) % {
        "first": mistakes[0],
        "n": n,
    }


class Mistakes:
    """Collects what is wrong, so that all of it is said at once; MAX_MISTAKES end the reading."""

    def __init__(self) -> None:
        self._all: list[Mistake] = []

    def add(self, message: str, node: Node | None = None, field: str = "") -> None:
        mark = node.start_mark if node is not None else None
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        mistake = Mistake(message, field, line, column)
        if mistake not in self._all:
            self._all.append(mistake)
        if len(self._all) >= MAX_MISTAKES:
            self.raise_any()

    def concern(self, word: str) -> bool:
        """Whether a field of that name is among them."""
        return any(mistake.field.split(".")[-1] == word for mistake in self._all)

    def raise_any(self) -> None:
        """Raises: ConfigInvalid, when anything was added."""
        if self._all:
            raise ConfigInvalid(sorted(self._all, key=lambda m: (m.line or 0, m.column or 0)))


def read(text: str) -> Node | None:
    """The tree of one YAML document; None for a text of comments only.

    Raises:
        ConfigInvalid: it is not YAML; the reader stops at the first such place.
    """
    text = text.removeprefix("\ufeff")
    if bad := _FORBIDDEN.search(text):
        raise ConfigInvalid([_forbidden(text, bad.start())])
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as exc:
        raise ConfigInvalid([_explained(exc, text)]) from exc
    except yaml.YAMLError as exc:
        raise ConfigInvalid([Mistake(yamlwords.sentence(clip(str(exc))))]) from exc
    except RecursionError as exc:  # only without libyaml
        raise ConfigInvalid([Mistake(_too_deep())]) from exc


def decode(data: bytes) -> str:
    """Raises: ConfigInvalid, naming the first place that is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        before = data[: exc.start].decode()
        line, column = _place(before, len(before))
        message = _("this is not UTF-8: save the file with the encoding UTF-8")
        raise ConfigInvalid([Mistake(message, line=line, column=column)]) from exc


class Tree:
    """Reads values out of nodes, within one budget for all that aliases expand to."""

    def __init__(self, mistakes: Mistakes) -> None:
        self._mistakes = mistakes
        self._nodes_left = MAX_NODES
        self._characters_left = MAX_CHARACTERS

    def pairs(self, node: MappingNode) -> list[tuple[Node, Node]]:
        """Keys and values, merge keys (`<<`) laid beneath the mapping's own."""
        merged: dict[tuple[str, str], tuple[Node, Node]] = {}
        for key, value in self._merged_first(node, 0):
            merged[_identity(key)] = (key, value)
        return list(merged.values())

    def plain(self, node: Node, depth: int = 0) -> Any:
        """The node as JSON's own types. What JSON cannot say (dates, NaN, tags) is its text."""
        self._spend(node, depth)
        if isinstance(node, ScalarNode):
            return _scalar(node)
        if isinstance(node, SequenceNode):
            return [self.plain(item, depth + 1) for item in node.value]
        return {
            self._key(key, depth): self.plain(value, depth + 1) for key, value in self.pairs(node)
        }

    def find_duplicates(self, root: Node) -> None:
        """Note each key that stands twice in one mapping: YAML would drop the first in silence."""
        seen: set[int] = set()
        waiting = [root]
        while waiting:
            node = waiting.pop()
            if id(node) in seen or isinstance(node, ScalarNode):
                continue
            seen.add(id(node))
            if isinstance(node, MappingNode):
                self._note_duplicates(node)
                waiting += [part for pair in node.value for part in pair]
            else:
                waiting += node.value

    def _note_duplicates(self, node: MappingNode) -> None:
        first: dict[tuple[str, str], Node] = {}
        for key, _value in node.value:
            if not isinstance(key, ScalarNode) or key.tag == MERGE:
                continue
            earlier = first.setdefault(_identity(key), key)
            if earlier is not key and key.start_mark and earlier.start_mark:
                words = _("“%(key)s” stands here and on line %(line)d: keep one of them")
                line = earlier.start_mark.line + 1
                self._mistakes.add(words % {"key": clip(key.value), "line": line}, key)

    def _merged_first(self, node: MappingNode, depth: int) -> Iterator[tuple[Node, Node]]:
        own = []
        for key, value in node.value:
            self._spend(node, depth)
            if key.tag == MERGE:
                # Of several mappings the first wins, so it is laid down last.
                sources = value.value[::-1] if isinstance(value, SequenceNode) else [value]
                for source in sources:
                    if isinstance(source, MappingNode):
                        yield from self._merged_first(source, depth + 1)
            else:
                own.append((key, value))
        yield from own

    def _key(self, node: Node, depth: int) -> str:
        value = self.plain(node, depth + 1)
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    def _spend(self, node: Node, depth: int) -> None:
        self._nodes_left -= 1
        if isinstance(node, ScalarNode):
            self._characters_left -= len(node.value)
        if depth > MAX_DEPTH:
            self._give_up(_too_deep(), node)
        if min(self._nodes_left, self._characters_left) < 0:
            self._give_up(_("the aliases (*name) expand to far too much"), node)

    def _give_up(self, message: str, node: Node) -> None:
        self._mistakes.add(message, node)
        self._mistakes.raise_any()


def clip(text: str, limit: int = 60) -> str:
    """Text of a stranger, short and on one line, for a sentence."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}…"


def storable(text: str) -> str:
    """`text` without what a database's JSON cannot hold."""
    return _UNSTORABLE.sub("\ufffd", text)


def _too_deep() -> str:
    return _("nested deeper than %(levels)d levels (or an alias that contains itself)") % {
        "levels": MAX_DEPTH
    }


_BaseLoader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _TooMuch(yaml.MarkedYAMLError):
    """One of our own bounds; its problem is a sentence already."""


class _Loader(_BaseLoader):
    """A loader that is only asked for nodes. The composer calls these two around each of them."""

    depth = 0
    count = 0

    def descend_resolver(self, parent: Node | None, index: Any) -> None:
        self.depth += 1
        self.count += 1
        mark = parent.start_mark if parent is not None else None
        if self.depth > MAX_DEPTH:
            raise _TooMuch(problem=_too_deep(), problem_mark=mark)
        if self.count > MAX_NODES:
            problem = _("more than %(limit)d values: keep data in a file of its own")
            raise _TooMuch(problem=problem % {"limit": MAX_NODES}, problem_mark=mark)

    def ascend_resolver(self) -> None:
        self.depth -= 1


# YAML 1.1 reads `1e-3` as text, and so do scripts with PyYAML; people and tables mean a number.
_Loader.add_implicit_resolver(
    FLOAT,
    re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)

_BOOLS = yaml.SafeLoader.bool_values
_CONSTRUCTOR = yaml.constructor.SafeConstructor()


def _scalar(node: ScalarNode) -> Any:
    text = storable(node.value)
    if node.tag == NULL:
        return None
    if node.tag == BOOL:
        return _BOOLS.get(text.lower(), text)
    if node.tag not in (INT, FLOAT) or len(text) > MAX_NUMBER_CHARACTERS:
        return text
    return _number(node, text)


def _number(node: ScalarNode, text: str) -> int | float | str:
    try:
        if node.tag == INT:
            number = _CONSTRUCTOR.construct_yaml_int(node)
            return number if abs(number) < 2**63 else text
        value = _CONSTRUCTOR.construct_yaml_float(node)
    except (ValueError, IndexError, OverflowError):  # an explicit `!!int` on what is none
        return text
    return value if math.isfinite(value) else text


def _identity(key: Node) -> tuple[str, str]:
    """Two keys are one if YAML would read them as one. Complex keys are each their own."""
    if isinstance(key, ScalarNode):
        return key.tag, key.value
    return key.tag, f"#{id(key)}"


def _forbidden(text: str, at: int) -> Mistake:
    line, column = _place(text, at)
    code = ord(text[at])
    what = _("a NUL character") if code == 0 else _("the character U+%(code)04X") % {"code": code}
    message = _("%(what)s is not allowed in YAML: was a binary file chosen?") % {"what": what}
    return Mistake(message, line=line, column=column)


def _place(text: str, at: int) -> tuple[int, int]:
    before = text[:at].replace("\r\n", "\n").replace("\r", "\n")
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _explained(exc: yaml.MarkedYAMLError, text: str) -> Mistake:
    mark = exc.problem_mark or exc.context_mark
    if mark is None:
        return Mistake(_sentence(exc, ""))
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    return Mistake(_sentence(exc, line), line=mark.line + 1, column=mark.column + 1)


def _sentence(exc: yaml.MarkedYAMLError, line: str) -> str:
    """What is wrong on that line."""
    if isinstance(exc, _TooMuch):
        return str(exc.problem)
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return _("the line begins with a tab: YAML indents with spaces only")
    problem = exc.problem or ""
    if "but found another document" in problem:
        return _("a second document begins here (---): keep one in a config")
    return yamlwords.sentence(problem, exc.context or "")
