"""The checks of single values of a job's options, and plain data as the same kind of tree.

Each check takes a node and returns its value, or raises Wrong with a sentence that says what to
write instead.
"""

import difflib
import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from experiments.units import duration_seconds, size_bytes
from experiments.yamltree import BOOL, FLOAT, INT, KNOWN_TAGS, MAX_DEPTH, NULL, clip, storable

MAX_TEXT_CHARACTERS = 64 * 1024
MAX_PATTERN_CHARACTERS = 255


class Wrong(Exception):
    """One value is wrong; `node` is the place, when it is narrower than the whole value."""

    def __init__(self, message: str, node: Node | None = None) -> None:
        super().__init__(message)
        self.node = node


def it() -> str:
    """What the sentences here are about, when nothing narrower has a name."""
    return pgettext("the value of an option", "it")


def text_of(node: Node, what: str = "", *, empty: bool = False) -> str:
    """A scalar as it was written: `0.10` stays `0.10`, and `yes` stays `yes`.

    Args:
        what: whose text it is, in the reader's language; the option's own if it is left out.
    """
    if node.tag not in KNOWN_TAGS:
        words = _("the tag %(tag)s has no place here: write plain text")
        raise Wrong(words % {"tag": clip(node.tag)}, node)
    about = {"what": what or it()}
    if not isinstance(node, ScalarNode):
        raise Wrong(_("%(what)s must be text, not a list or keys") % about, node)
    text = node.value
    if not empty and not text.strip():
        raise Wrong(_("%(what)s is empty") % about, node)
    if storable(text) != text:
        raise Wrong(_("%(what)s holds a character that no program can be given") % about, node)
    return _at_most(MAX_TEXT_CHARACTERS, text, about, node)


def line_of(node: Node, max_characters: int, what: str = "") -> str:
    about = {"what": what or it()}
    text = _at_most(max_characters, text_of(node, what).strip(), about, node)
    if not text.isprintable():
        raise Wrong(_("%(what)s must be one line of printable text") % about, node)
    return text


def _at_most(limit: int, text: str, about: dict[str, str], node: Node) -> str:
    if len(text) > limit:
        words = _("%(what)s has more than %(limit)d characters")
        raise Wrong(words % {**about, "limit": limit}, node)
    return text


def truth_of(node: Node) -> bool:
    text = text_of(node)
    if node.tag != BOOL or text.lower() not in ("true", "false"):
        raise Wrong(_("“%(text)s” is neither true nor false") % {"text": clip(text)}, node)
    return text.lower() == "true"


def integer_of(node: Node, low: int, high: int) -> int:
    text = text_of(node)
    if not re.fullmatch(r"0|[1-9][0-9]{0,3}", text) or not low <= int(text) <= high:
        words = _("“%(text)s” is not a whole number from %(low)d to %(high)d")
        raise Wrong(words % {"text": clip(text), "low": low, "high": high})
    return int(text)


def one_of(node: Node, known: tuple[str, ...]) -> str:
    text = text_of(node)
    if text not in known:
        near = difflib.get_close_matches(text[:60].lower(), known, n=1)
        words = _("write one of %(words)s") % {"words": ", ".join(known)}
        hint = did_you_mean(near[0]) if near else words
        raise Wrong(_("“%(text)s” is not known: %(hint)s") % {"text": clip(text), "hint": hint})
    return text


def pattern_of(node: Node) -> str:
    """A glob for paths below a folder; of those that could lead out of it none."""
    text = line_of(node, MAX_PATTERN_CHARACTERS, _("a pattern"))
    about = {"text": clip(text)}
    if text.startswith(("/", "~")) or ".." in text.split("/"):
        words = _("“%(text)s” leads elsewhere: write it from the working directory on")
        raise Wrong(words % about, node)
    if text.startswith("!") or "\\" in text:
        words = _("“%(text)s”: “!” and “\\” mean nothing here: write what is meant without them")
        raise Wrong(words % about, node)
    if any("**" in part and part != "**" for part in text.split("/")):
        words = _("“%(text)s”: ** stands for whole folders, between slashes: as in logs/**")
        raise Wrong(words % about, node)
    return text


def did_you_mean(word: str) -> str:
    return _("did you mean %(word)s?") % {"word": word}


def size_of(node: Node) -> int:
    try:
        return size_bytes(text_of(node))
    except ValueError as exc:
        raise Wrong(str(exc)) from exc


def seconds_of(node: Node, low: float, high: float, bounds: tuple[str, str]) -> float:
    """
    Args:
        bounds: low and high as people write them.
    """
    try:
        seconds = duration_seconds(text_of(node))
    except ValueError as exc:
        raise Wrong(str(exc)) from exc
    if not low <= seconds <= high:
        words = _("“%(text)s” lies outside %(low)s to %(high)s")
        least, most = bounds
        raise Wrong(words % {"text": clip(node.value), "low": least, "high": most})
    return seconds


# --- commands ---------------------------------------------------------------------------------

_QUOTED = re.compile(r"'[^']*'|\"(?:[^\"\\$`]|\\.)*\"")
_SHELL = re.compile(r"[|&;<>()$`*?\n]|(?:^|\s)~")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=")
_LONGEST_EXAMPLE = 200


def split_command(text: str) -> list[str]:
    """The words of a command line that means the same with a shell and without.

    Raises:
        Wrong: it needs a shell (pipes, variables, wildcards, several lines, `A=1 command`).
    """
    text = text.strip()
    if assignment := _ASSIGNMENT.match(text):
        words = _(
            "%(assignment)s… before a command is for a shell: write %(name)s under environment:"
            " instead"
        )
        raise Wrong(words % {"assignment": clip(assignment[0]), "name": assignment[1]})
    if syntax := _SHELL.search(_QUOTED.sub("q", text)):
        raise Wrong(_for_a_shell(text, syntax[0]))
    try:
        return shlex.split(text)
    except ValueError as exc:
        message = _("a quotation is not closed: write a list, as in [python, train.py]")
        raise Wrong(message) from exc


def _for_a_shell(text: str, syntax: str) -> str:
    example = "'…'" if "\n" in text or len(text) > _LONGEST_EXAMPLE else _in_yaml(text)
    if syntax == "\n":
        words = _(
            "several lines mean something to a shell, and no shell reads this:"
            " write [bash, -lc, %(example)s]"
        )
    else:
        words = _(
            "“%(sign)s” means something to a shell, and no shell reads this:"
            " write [bash, -lc, %(example)s]"
        )
    return words % {"sign": syntax.strip(), "example": example}


def _in_yaml(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# --- environment ------------------------------------------------------------------------------

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SECRET = re.compile(
    r".*(API_?KEY|PASSWORD|PASSWD|SECRET|SECRET_KEY|ACCESS_KEY|PRIVATE_KEY|AUTH_TOKEN)"
    r"|(HF|HUGGING_FACE_HUB|GITHUB|GITLAB|GH)_TOKEN",
    re.IGNORECASE,
)
_A_FREE_PORT = gettext_lazy("it is set to a free port, since two jobs on one host would collide")
_SET_BY_US = {
    "CUDA_VISIBLE_DEVICES": gettext_lazy("it is set to the GPUs that the job holds"),
    "CUDA_DEVICE_ORDER": gettext_lazy("it is set together with the GPUs that the job holds"),
    "MASTER_PORT": _A_FREE_PORT,
    "PET_MASTER_PORT": _A_FREE_PORT,
}


def variable_name(node: Node) -> str:
    """Of a variable whose value everybody may read."""
    name = secret_name(node)
    if _SECRET.fullmatch(name):
        words = _(
            "%(name)s looks like a secret, and a config is shown on pages and kept with the run:"
            " set it under My account, and name it here: secrets: [%(name)s]"
        )
        raise Wrong(words % {"name": name})
    return name


def secret_name(node: Node) -> str:
    """Of a variable whose value is kept as a secret; the job says no more than its name."""
    name = node.value if isinstance(node, ScalarNode) else ""
    if not _VARIABLE.fullmatch(name):
        words = _("“%(name)s” is not a name: use letters, digits and _, no digit first")
        raise Wrong(words % {"name": clip(name)})
    if name.startswith("LAB_"):
        words = _("%(name)s: names that begin with LAB_ are the queue's own")
        raise Wrong(words % {"name": name})
    if name in _SET_BY_US:
        words = _("%(name)s: leave it out; %(why)s")
        raise Wrong(words % {"name": name, "why": _SET_BY_US[name]})
    return name


def variable_value(name: str, node: Node) -> str:
    if node.tag == BOOL:
        words = _('%(name)s: write it in quotes, as in %(name)s: "%(value)s"')
        raise Wrong(words % {"name": name, "value": node.value}, node)
    if node.tag == NULL:
        raise Wrong(_('%(name)s has no value: write "" for an empty one') % {"name": name}, node)
    return text_of(node, _("the value of %(name)s") % {"name": name}, empty=True)


# --- plain data as a tree ---------------------------------------------------------------------


def node_of(data: Any, depth: int = 0) -> Node:
    """JSON as nodes without marks, so that a request passes the same checks as a file."""
    if depth > MAX_DEPTH:
        return ScalarNode("!too-deep", "")
    if isinstance(data, Mapping):
        pairs = [(node_of(str(key)), node_of(value, depth + 1)) for key, value in data.items()]
        return MappingNode("tag:yaml.org,2002:map", pairs)
    if isinstance(data, list | tuple):
        return SequenceNode("tag:yaml.org,2002:seq", [node_of(item, depth + 1) for item in data])
    if data is None:
        return ScalarNode(NULL, "")
    if isinstance(data, bool):
        return ScalarNode(BOOL, json.dumps(data))
    if isinstance(data, int | float):
        return ScalarNode(INT if isinstance(data, int) else FLOAT, str(data))
    return ScalarNode("tag:yaml.org,2002:str", str(data))
