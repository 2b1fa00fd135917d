"""A value of a key, as an argument of a command: `--lr 0.1`, `--lr=0.1` or Hydra's `lr=0.1`.

Where the command names the key already, the value there is replaced, in the form in which it
stands; else `--lr 0.1` is put behind it. What is quoted as a config (`{config}`) is not looked
into: that is experiments.yamledit's.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.options import check_command
from experiments.yamltree import storable


def names(command: Sequence[str], key: str) -> bool:
    """Whether the key is one of the command's arguments."""
    return _place(command, key) is not None


def with_values(command: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """The command with each key's value, which is JSON.

    Raises:
        Wrong: it would be longer than a command may be.
    """
    made = list(command)
    for key, value in values.items():
        made = _with(made, key, argument(value))
    check_command(made)
    return made


def argument(value: Any) -> str:
    """`value` as one word: text as it is, but for what no program can be given; all else as JSON
    writes it."""
    return storable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _with(command: list[str], key: str, text: str) -> list[str]:
    place = _place(command, key)
    if place is None:
        return [*command, *_new(key, text)]
    at, word = place, command[place]
    if "=" in word:
        return [*command[:at], f"{word.partition('=')[0]}={text}", *command[at + 1 :]]
    rest = command[at + 1 :]
    if rest and not _is_option(rest[0]):
        rest = rest[1:]
    return [*command[:at], *_new(key, text), *rest]


def _place(command: Sequence[str], key: str) -> int | None:
    """Of the last word that sets it, which is the one that counts; None: there is none.

    The first word is the program's own.
    """
    for at in range(len(command) - 1, 0, -1):
        word = command[at]
        if word == f"--{key}" or word.startswith((f"--{key}=", f"{key}=")):
            return at
    return None


def _new(key: str, text: str) -> list[str]:
    """In one word where argparse would take the value for an option: -1e-3."""
    return [f"--{key}={text}"] if text.startswith("-") else [f"--{key}", text]


def _is_option(word: str) -> bool:
    """`-1` and `-1e-3` are values."""
    if not word.startswith("-") or word == "-":
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False
