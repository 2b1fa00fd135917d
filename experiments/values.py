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

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from experiments.units import duration_seconds, size_bytes
from experiments.yamltree import BOOL, FLOAT, INT, KNOWN_TAGS, MAX_DEPTH, NULL, clip, storable

MAX_TEXT_CHARACTERS = 64 * 1024


class Wrong(Exception):
    """One value is wrong; `node` is the place, when it is narrower than the whole value."""

    def __init__(self, message: str, node: Node | None = None) -> None:
        super().__init__(message)
        self.node = node


def text_of(node: Node, what: str = "it", *, empty: bool = False) -> str:
    """A scalar as it was written: `0.10` stays `0.10`, and `yes` stays `yes`."""
    if node.tag not in KNOWN_TAGS:
        raise Wrong(f"the tag {clip(node.tag)} has no place here: write plain text", node)
    if not isinstance(node, ScalarNode):
        raise Wrong(f"{what} must be text, not a list or keys", node)
    text = node.value
    if len(text) > MAX_TEXT_CHARACTERS:
        raise Wrong(f"{what} has more than {MAX_TEXT_CHARACTERS} characters", node)
    if not empty and not text.strip():
        raise Wrong(f"{what} is empty", node)
    if storable(text) != text:
        raise Wrong(f"{what} holds a character that no program can be given", node)
    return text


def line_of(node: Node, what: str, max_characters: int) -> str:
    text = text_of(node, what).strip()
    if len(text) > max_characters:
        raise Wrong(f"{what} has more than {max_characters} characters", node)
    if not text.isprintable():
        raise Wrong(f"{what} must be one line of printable text", node)
    return text


def integer_of(node: Node, low: int, high: int) -> int:
    text = text_of(node)
    if not re.fullmatch(r"0|[1-9][0-9]{0,3}", text) or not low <= int(text) <= high:
        raise Wrong(f"“{clip(text)}” is not a whole number from {low} to {high}")
    return int(text)


def one_of(node: Node, known: tuple[str, ...]) -> str:
    text = text_of(node)
    if text not in known:
        near = difflib.get_close_matches(text[:60].lower(), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"write one of {', '.join(known)}"
        raise Wrong(f"“{clip(text)}” is not known: {hint}")
    return text


def size_of(node: Node) -> int:
    try:
        return size_bytes(text_of(node))
    except ValueError as exc:
        raise Wrong(str(exc)) from exc


def seconds_of(node: Node, low: float, high: float, bounds: str) -> float:
    try:
        seconds = duration_seconds(text_of(node))
    except ValueError as exc:
        raise Wrong(str(exc)) from exc
    if not low <= seconds <= high:
        raise Wrong(f"“{clip(node.value)}” lies outside {bounds}")
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
        raise Wrong(
            f"{clip(assignment[0])}… before a command is for a shell: write {assignment[1]}"
            " under environment: instead"
        )
    if syntax := _SHELL.search(_QUOTED.sub("q", text)):
        what = "several lines mean" if syntax[0] == "\n" else f"“{syntax[0].strip()}” means"
        example = "'…'" if "\n" in text or len(text) > _LONGEST_EXAMPLE else _in_yaml(text)
        raise Wrong(
            f"{what} something to a shell, and no shell reads this: write [bash, -lc, {example}]"
        )
    try:
        return shlex.split(text)
    except ValueError as exc:
        message = f"a quotation is not closed ({exc}): write a list, as in [python, train.py]"
        raise Wrong(message) from exc


def _in_yaml(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# --- environment ------------------------------------------------------------------------------

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SECRET = re.compile(
    r".*(API_?KEY|PASSWORD|PASSWD|SECRET|SECRET_KEY|ACCESS_KEY|PRIVATE_KEY|AUTH_TOKEN)"
    r"|(HF|HUGGING_FACE_HUB|GITHUB|GITLAB|GH)_TOKEN",
    re.IGNORECASE,
)
_A_FREE_PORT = "it is set to a free port, since two jobs on one host would collide"
_SET_BY_US = {
    "CUDA_VISIBLE_DEVICES": "it is set to the GPUs that the job holds",
    "CUDA_DEVICE_ORDER": "it is set together with the GPUs that the job holds",
    "MASTER_PORT": _A_FREE_PORT,
    "PET_MASTER_PORT": _A_FREE_PORT,
}


def variable_name(node: Node) -> str:
    name = node.value if isinstance(node, ScalarNode) else ""
    if not _VARIABLE.fullmatch(name):
        raise Wrong(f"“{clip(name)}” is not a name: use letters, digits and _, no digit first")
    if name.startswith("LAB_"):
        raise Wrong(f"{name}: names that begin with LAB_ are the queue's own")
    if name in _SET_BY_US:
        raise Wrong(f"{name}: leave it out; {_SET_BY_US[name]}")
    if _SECRET.fullmatch(name):
        raise Wrong(
            f"{name} looks like a secret, and a config is shown on pages and kept with the run:"
            " keep it in a file on the GPU server, where the script's library looks for it"
        )
    return name


def variable_value(name: str, node: Node) -> str:
    if node.tag == BOOL:
        raise Wrong(f'{name}: write it in quotes, as in {name}: "{node.value}"', node)
    if node.tag == NULL:
        raise Wrong(f'{name} has no value: write "" for an empty one', node)
    return text_of(node, f"the value of {name}", empty=True)


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
