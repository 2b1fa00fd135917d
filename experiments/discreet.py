"""Config keys whose values are not for every screen: `db.password`, `wandb.api_key`.

The config itself is kept byte for byte and runs as it is; whoever sees the run may read the file.
But tables, comparisons, exports, the API's `keys` and the run's page show stars instead, to
everybody: to submitters too, whose screens others see. So do what a sweep tries of such a key, and
the words of a command that give it one. Secrets (experiments.models.secret) are
what protects a value; people are told so when they submit (`warnings_of`). See docs/adr/0034.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.utils.translation import gettext as _
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from experiments.yamltree import NULL, ConfigInvalid, read

MASK = "••••••••"
MAX_WARNINGS = 5
#: What the last word of a key is to be, whatever is written before it.
_SECRET = re.compile(
    r"(.*[_\-.]|)((api|secret|access|private)[_-]?key|password|passwd|passphrase|secret"
    r"|(auth|access)[_-]?token)",
    re.IGNORECASE,
)
_HINT = re.compile("key|passw|passphrase|secret|token", re.IGNORECASE)
_TOKEN = re.compile(r"(.*[_\-.]|)token", re.IGNORECASE)
#: `pad_token: "<pad>"` is none: long, of one piece, and of letters and digits.
_CREDENTIAL = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9_\-.+/=~:]{16,}")


def is_secret(key: str, value: Any) -> bool:
    """Whether the value of that key, of one word, looks like a secret."""
    if value is None or value == "" or isinstance(value, bool | dict | list):
        return False
    if _SECRET.fullmatch(key):
        return True
    return bool(_TOKEN.fullmatch(key) and _CREDENTIAL.fullmatch(str(value)))


def masked(keys: Mapping[str, Any]) -> dict[str, Any]:
    """An experiment's keys as they may be shown."""
    return {key: _masked(key, value) for key, value in keys.items()}


def _masked(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return masked(value)
    if isinstance(value, list):
        return [_masked(key, item) for item in value]
    return MASK if is_secret(key.rpartition(".")[2], value) else value


def masked_command(command: Sequence[str]) -> list[str]:
    """A command's words as they may be shown: of `--api-key X`, `--api-key=X` and `api_key=X`."""
    shown, option = [], ""
    for word in command:
        name, sign, value = word.partition("=")
        if sign and is_secret(name, value):
            word = f"{name}={MASK}"
        elif option and is_secret(option, word):
            word = MASK
        option = word if word.startswith("--") and not sign else ""
        shown.append(word)
    return shown


def masked_text(text: str) -> str:
    """A config's text as it may be shown; one that is not YAML is shown as it is."""
    if not _HINT.search(text):
        return text  # most: a long one need not be read
    try:
        root = read(text)
    except ConfigInvalid:
        return text
    bom = len(text) - len(text.removeprefix("\ufeff"))
    spans = [(bom + a, bom + b) for a, b in set(_spans(root, "", set()))]
    for start, end in sorted(spans, reverse=True):
        end = start + len(text[start:end].rstrip())  # a block's ends in the line after it
        text = text[:start] + MASK + text[end:]
    return text


def _spans(node: Node | None, key: str, seen: set[int]) -> Iterator[tuple[int, int]]:
    """Where the values to be masked stand. What an alias leads to stands once."""
    if node is None or id(node) in seen:
        return
    if isinstance(node, ScalarNode):
        if node.tag != NULL and is_secret(key, node.value):
            yield node.start_mark.index, node.end_mark.index
        return
    seen.add(id(node))
    if isinstance(node, MappingNode):
        for name, value in node.value:
            yield from _spans(value, name.value if isinstance(name, ScalarNode) else "", seen)
    elif isinstance(node, SequenceNode):
        for item in node.value:
            yield from _spans(item, key, seen)


def warnings_of(*keys: Mapping[str, Any]) -> list[str]:
    """A sentence for each key that should be a secret instead: of those of a config, say, and of
    those that a sweep varies (Grid.tried)."""
    words = _(
        "%(key)s looks like a secret. It is masked on pages, but stands in the run's files as it "
        "is: set it under My account and name it instead, secrets: [NAME]."
    )
    names = dict.fromkeys(name for some in keys for name in _secret_keys(some))
    return [words % {"key": name} for name in names][:MAX_WARNINGS]


def _secret_keys(keys: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in keys.items():
        if isinstance(value, dict):
            yield from _secret_keys(value, f"{above}{key}.")
        elif MASK in str(_masked(key, value)):  # which it is already in what is kept of a job
            yield f"{above}{key}"
