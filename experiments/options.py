"""What may be said of a job, by its file, a form, its project or its device; and its checks.

The same words and the same checks serve the `lab:` block of a YAML file, the body of an API
request, and the defaults that a project or a device holds.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from django.utils.translation import gettext as _
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from agent.wire import Checkpoints, OnDeviceLost, is_name
from experiments import codesource
from experiments.grid import Grid, grid_of
from experiments.values import (
    Wrong,
    did_you_mean,
    integer_of,
    it,
    line_of,
    node_of,
    one_of,
    pattern_of,
    seconds_of,
    secret_name,
    size_of,
    split_command,
    text_of,
    variable_name,
    variable_value,
)
from experiments.yamltree import NULL, Mistakes, Tree, clip

PRIORITIES = ("urgent", "high", "normal", "low")
MAX_GPUS = 64
MAX_WORDS = 1024
MAX_COMMAND_BYTES = 64 * 1024
MAX_ENVIRONMENT = 256
MAX_ENVIRONMENT_BYTES = 64 * 1024
MAX_TAGS = 32
MAX_TAG_CHARACTERS = 64
MAX_NAME_CHARACTERS = 128
MAX_PATH_CHARACTERS = 1024  # as the database holds
MAX_ATTEMPTS = 100
MAX_PATTERNS = 64
MAX_LINKS = 64
MAX_SECRETS = 32
MAX_REQUIRED = 16  # paths, and as many commands
MAX_REQUIRED_CHARACTERS = 512
MAX_STOP_GRACE_SECONDS = 3600.0
MAX_TIME_LIMIT_SECONDS = 366 * 86_400.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """All that may be said of a job. None: nothing was said, and the next layer is asked."""

    project: str | None = None
    name: str | None = None
    command: list[str] | None = None
    environment: dict[str, str] | None = None
    python: str | None = None
    working_directory: str | None = None
    gpus: int | None = None
    gpu_memory_bytes: int | None = None
    gpu_type: str | None = None
    labels: dict[str, str] | None = None
    priority: str | None = None
    time_limit_seconds: float | None = None
    stop_grace_seconds: float | None = None
    max_attempts: int | None = None
    on_device_lost: str | None = None
    tags: list[str] | None = None
    outputs: list[str] | None = None
    ignore: list[str] | None = None
    sync: dict[str, Any] | None = None  # checkpoints, max_file_bytes
    secrets: list[str] | None = None  # names only
    requires: dict[str, list[str]] | None = None  # paths, commands
    sweep: Grid | None = None
    source: dict[str, Any] | None = None  # kind and what it needs: experiments.codesource
    links: dict[str, str] | None = None  # laid into that: {path: target}


def layered(*layers: Options) -> Options:
    """One from many: the first layer that says something wins (job, then project, then device).

    Environments, labels, what is said of the sync and what is required are laid together, name by
    name.
    """
    chosen: dict[str, Any] = {}
    for option in fields(Options):
        said = [value for layer in layers if (value := getattr(layer, option.name)) is not None]
        if option.name in ("environment", "labels", "sync", "links", "requires") and said:
            chosen[option.name] = {k: v for value in reversed(said) for k, v in value.items()}
        elif said:
            chosen[option.name] = said[0]
    return Options(**chosen)


def options_of(data: Mapping[str, Any]) -> Options:
    """The options that plain data says (an API's body, a project's stored defaults).

    Raises:
        ConfigInvalid: every mistake, each with its field.
    """
    mistakes = Mistakes()
    options = read_options(data, mistakes)
    mistakes.raise_any()
    return options


def read_options(data: Mapping[str, Any], mistakes: Mistakes) -> Options:
    """As options_of, noting mistakes instead of raising. Fields that were wrong are None."""
    return read_block(node_of(data), Tree(mistakes), mistakes, path="")


def read_block(node: Node, tree: Tree, mistakes: Mistakes, path: str = "lab.") -> Options:
    """The options that a `lab:` block says. What is wrong is noted and left out."""
    said = _Reader(tree, mistakes, path).block(node, KEYS)
    resources = said.pop("resources", {})
    return Options(**said, **resources)


class _Reader:
    """Reads one block; what is wrong in it is noted and left out."""

    def __init__(self, tree: Tree, mistakes: Mistakes, path: str) -> None:
        self._tree = tree
        self._mistakes = mistakes
        self._path = path  # of the block being read, as `lab.resources.`

    def block(self, node: Node, known: "Mapping[str, _Field]") -> dict[str, Any]:
        """The mapping's values by their option's name, those without a value left out."""
        said: dict[str, Any] = {}
        if not isinstance(node, MappingNode):
            place = self._path.rstrip(".")
            words = _("%(what)s must hold keys and values") % {"what": place or it()}
            self._mistakes.add(words, node, place)
            return said
        for key, value in self._tree.pairs(node):
            word = key.value if isinstance(key, ScalarNode) else "?"
            if word not in known:
                self._note(_unknown(word, known), key, clip(word))
            elif value.tag != NULL:
                with self._noting(word, value):
                    said[known[word].option] = known[word].check(self, value)
        return said

    @contextmanager
    def _noting(self, word: str, node: Node) -> Iterator[None]:
        try:
            yield
        except Wrong as wrong:
            self._note(f"{word}: {wrong}", wrong.node or node, word)

    def _note(self, message: str, node: Node, word: str) -> None:
        self._mistakes.add(message, node, f"{self._path}{word}")

    # --- one check a kind of value ------------------------------------------------------------

    def resources(self, node: Node) -> dict[str, Any]:
        inner = _Reader(self._tree, self._mistakes, f"{self._path}resources.")
        said = inner.block(node, RESOURCES)
        for word in ("gpu_memory", "gpu_type"):
            if said.get("gpus") == 0 and RESOURCES[word].option in said:
                words = _("%(word)s is asked for, and gpus is 0: leave one out")
                inner._note(words % {"word": word}, node, word)
        return said

    def sync(self, node: Node) -> dict[str, Any]:
        return _Reader(self._tree, self._mistakes, f"{self._path}sync.").block(node, SYNC)

    def source(self, node: Node) -> dict[str, Any]:
        said = _Reader(self._tree, self._mistakes, f"{self._path}source.").block(node, SOURCE)
        if any(self._mistakes.concern(word) for word in SOURCE):
            return said  # what is wrong has been said, and would be missed now
        return codesource.checked(said)

    def kind(self, node: Node) -> str:
        return one_of(node, codesource.KINDS)

    def sha256(self, node: Node) -> str:
        return codesource.sha256(text_of(node))

    def url(self, node: Node) -> str:
        return codesource.url(line_of(node, MAX_PATH_CHARACTERS))

    def commit(self, node: Node) -> str:
        return codesource.commit(text_of(node))

    def folder(self, node: Node) -> str:
        return codesource.folder(text_of(node, empty=True))

    def links(self, node: Node) -> dict[str, str]:
        if not isinstance(node, MappingNode):
            raise Wrong(_("write names and where they lead, as in {data: /data/imagenet}"))
        pairs = _at_most(MAX_LINKS, self._tree.pairs(node), _("links"))
        return codesource.links(
            {text_of(key): line_of(value, MAX_PATH_CHARACTERS) for key, value in pairs}
        )

    def sweep(self, node: Node) -> Grid:
        return grid_of(node, self._tree)

    def checkpoints(self, node: Node) -> str:
        return one_of(node, tuple(member.value for member in Checkpoints))

    def outputs(self, node: Node) -> list[str]:
        return _patterns(node, _("write a list, as in [lightning_logs/**, runs/**]"))

    def ignore(self, node: Node) -> list[str]:
        return _patterns(node, _("write a list, as in ['*.tmp', wandb/**/media]"))

    def command(self, node: Node) -> list[str]:
        if isinstance(node, SequenceNode):
            _at_most(MAX_WORDS, node.value, _("words"))
            words = [text_of(item, _("a word of the command"), empty=True) for item in node.value]
        else:
            words = split_command(text_of(node))
        if not words or not words[0].strip():
            raise Wrong(_("it is empty: write what to run, as in [python, train.py]"))
        check_command(words)
        return words

    def environment(self, node: Node) -> dict[str, str]:
        if not isinstance(node, MappingNode):
            raise Wrong(_("write names and values, as in {SEED: 1}"))
        made: dict[str, str] = {}
        for key, value in _at_most(MAX_ENVIRONMENT, self._tree.pairs(node), _("variables")):
            with self._noting("environment", key):
                name = variable_name(key)
                made[name] = variable_value(name, value)
        if sum(len(f"{k}={v}".encode()) for k, v in made.items()) > MAX_ENVIRONMENT_BYTES:
            too_long = _("it is longer than %(limit)d bytes: use a file")
            raise Wrong(too_long % {"limit": MAX_ENVIRONMENT_BYTES})
        return made

    def labels(self, node: Node) -> dict[str, str]:
        if not isinstance(node, MappingNode):
            raise Wrong(_("write names and values, as in {room: b104}"))
        return {
            line_of(key, MAX_TAG_CHARACTERS, _("a label")): line_of(
                value, MAX_TAG_CHARACTERS, _("a label's value")
            )
            for key, value in _at_most(MAX_TAGS, self._tree.pairs(node), _("labels"))
        }

    def tags(self, node: Node) -> list[str]:
        if not isinstance(node, SequenceNode):
            raise Wrong(_("write a list, as in [baseline, resnet50]"))
        items = _at_most(MAX_TAGS, node.value, _("tags"))
        return list(dict.fromkeys(line_of(item, MAX_TAG_CHARACTERS, _("a tag")) for item in items))

    def project(self, node: Node) -> str:
        text = text_of(node)
        if not is_name(text):
            words = _(
                "“%(text)s” cannot be a folder's name: use up to 128 letters, digits,"
                " dots, _ and -, a letter or digit first"
            )
            raise Wrong(words % {"text": clip(text)})
        return text

    def name(self, node: Node) -> str:
        return line_of(node, MAX_NAME_CHARACTERS)

    def secrets(self, node: Node) -> list[str]:
        if not isinstance(node, SequenceNode):
            raise Wrong(_("write a list of names, as in [HF_TOKEN, WANDB_API_KEY]"))
        items = _at_most(MAX_SECRETS, node.value, _("secrets"))
        return list(dict.fromkeys(secret_name(item) for item in items))

    def requires(self, node: Node) -> dict[str, list[str]]:
        return _Reader(self._tree, self._mistakes, f"{self._path}requires.").block(node, REQUIRES)

    def paths(self, node: Node) -> list[str]:
        return _required(node, _("write a list, as in [/data/imagenet]"), _required_path)

    def commands(self, node: Node) -> list[str]:
        return _required(node, _("write a list, as in [ffmpeg]"), _required_command)

    def path(self, node: Node) -> str:
        return line_of(node, MAX_PATH_CHARACTERS)

    def size(self, node: Node) -> int:
        return size_of(node)

    def gpus(self, node: Node) -> int:
        return integer_of(node, 0, MAX_GPUS)

    def attempts(self, node: Node) -> int:
        return integer_of(node, 1, MAX_ATTEMPTS)

    def priority(self, node: Node) -> str:
        return one_of(node, PRIORITIES)

    def on_device_lost(self, node: Node) -> str:
        return one_of(node, tuple(member.value for member in OnDeviceLost))

    def time_limit(self, node: Node) -> float:
        return seconds_of(node, 1.0, MAX_TIME_LIMIT_SECONDS, ("1s", "366d"))

    def stop_grace(self, node: Node) -> float:
        return seconds_of(node, 0.0, MAX_STOP_GRACE_SECONDS, ("0s", "1h"))


@dataclass(frozen=True)
class _Field:
    option: str  # of Options
    check: Callable[[_Reader, Node], Any]


RESOURCES = {
    "gpus": _Field("gpus", _Reader.gpus),
    "gpu_memory": _Field("gpu_memory_bytes", _Reader.size),
    "gpu_type": _Field("gpu_type", _Reader.name),
    "labels": _Field("labels", _Reader.labels),
}
REQUIRES = {
    "paths": _Field("paths", _Reader.paths),
    "commands": _Field("commands", _Reader.commands),
}
SYNC = {
    "checkpoints": _Field("checkpoints", _Reader.checkpoints),
    "max_file": _Field("max_file_bytes", _Reader.size),
}
SOURCE = {
    "kind": _Field("kind", _Reader.kind),
    "sha256": _Field("sha256", _Reader.sha256),
    "url": _Field("url", _Reader.url),
    "commit": _Field("commit", _Reader.commit),
    "folder": _Field("folder", _Reader.folder),
}
KEYS = {
    "project": _Field("project", _Reader.project),
    "name": _Field("name", _Reader.name),
    "command": _Field("command", _Reader.command),
    "environment": _Field("environment", _Reader.environment),
    "python": _Field("python", _Reader.path),
    "working_directory": _Field("working_directory", _Reader.path),
    "resources": _Field("resources", _Reader.resources),
    "priority": _Field("priority", _Reader.priority),
    "time_limit": _Field("time_limit_seconds", _Reader.time_limit),
    "stop_grace": _Field("stop_grace_seconds", _Reader.stop_grace),
    "max_attempts": _Field("max_attempts", _Reader.attempts),
    "on_device_lost": _Field("on_device_lost", _Reader.on_device_lost),
    "tags": _Field("tags", _Reader.tags),
    "outputs": _Field("outputs", _Reader.outputs),
    "ignore": _Field("ignore", _Reader.ignore),
    "sync": _Field("sync", _Reader.sync),
    "secrets": _Field("secrets", _Reader.secrets),
    "requires": _Field("requires", _Reader.requires),
    "sweep": _Field("sweep", _Reader.sweep),
    "source": _Field("source", _Reader.source),
    "links": _Field("links", _Reader.links),
}
# What other queues call these.
_SYNONYMS = {
    "cmd": "command",
    "run": "command",
    "script": "command",
    "env": "environment",
    "cwd": "working_directory",
    "workdir": "working_directory",
    "timeout": "time_limit",
    "walltime": "time_limit",
    "retries": "max_attempts",
    "gpu": "gpus",
    "num_gpus": "gpus",
    "vram": "gpu_memory",
    "artifacts": "outputs",
    "exclude": "ignore",
    "secret": "secrets",
    "needs": "requires",
    "matrix": "sweep",
    "code": "source",
    "symlinks": "links",
}


def _patterns(node: Node, example: str) -> list[str]:
    if not isinstance(node, SequenceNode):
        raise Wrong(example)
    items = _at_most(MAX_PATTERNS, node.value, _("patterns"))
    return list(dict.fromkeys(pattern_of(item) for item in items))


def _required(node: Node, example: str, check: Callable[[str], str]) -> list[str]:
    if not isinstance(node, SequenceNode):
        raise Wrong(example)
    items = _at_most(MAX_REQUIRED, node.value, _("entries"))
    texts = [line_of(item, MAX_REQUIRED_CHARACTERS) for item in items]
    return list(dict.fromkeys(check(text) for text in texts))


def _required_path(text: str) -> str:
    if not text.startswith(("/", "~/")):
        words = _("“%(path)s” begins with neither / nor ~/: write where it lies on GPU servers")
        raise Wrong(words % {"path": clip(text)})
    return text


def _required_command(text: str) -> str:
    if "/" in text or " " in text:
        words = _("“%(name)s” is no command's name: write one such as ffmpeg, and files as paths")
        raise Wrong(words % {"name": clip(text)})
    return text


def check_command(words: list[str]) -> None:
    """
    Raises:
        Wrong: it is longer than a GPU server takes.
    """
    if sum(len(word.encode()) for word in words) > MAX_COMMAND_BYTES:
        too_long = _("it is longer than %(limit)d bytes: put it into a script")
        raise Wrong(too_long % {"limit": MAX_COMMAND_BYTES})


def _at_most(limit: int, items: list[Any], what: str) -> list[Any]:
    if len(items) > limit:
        words = _("%(n)d %(what)s are more than %(limit)d")
        raise Wrong(words % {"n": len(items), "what": what, "limit": limit})
    return items


def _unknown(word: str, known: Mapping[str, _Field]) -> str:
    meant = _SYNONYMS.get(word, word)
    about = {"word": clip(word), "meant": meant}
    if meant in RESOURCES and known is KEYS:
        words = _("“%(word)s” belongs under resources: write resources: {%(meant)s: …}")
        return words % about
    if meant in KEYS and known is RESOURCES:
        return _("“%(word)s” belongs one level up, directly under lab: as %(meant)s") % about
    near = [meant] if meant in known else difflib.get_close_matches(word[:60], known, n=1)
    all_of_them = _("known are %(words)s") % {"words": ", ".join(known)}
    hint = did_you_mean(near[0]) if near else all_of_them
    return _("“%(word)s” is not one of the lab's keys: %(hint)s") % {**about, "hint": hint}
