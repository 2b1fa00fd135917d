"""A job's config: the researcher's YAML, kept byte for byte, and what the lab reads in it.

    spec = parse(text, given={"project": "digits"}, defaults_of=project_defaults)

The experiment's own keys pass through untouched. The lab's stand in one optional block `lab:`;
docs/config.md describes it. What is said in several places: form or API, then file, then
project, then device. The device's part is laid beneath by whoever chooses the device.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from django.utils.translation import gettext as _
from yaml.nodes import MappingNode, Node, ScalarNode

from agent.wire import MAX_CONFIG_BYTES, STOP_GRACE_SECONDS, Checkpoints, is_name
from experiments import codesource
from experiments.grid import Grid
from experiments.options import (
    MAX_NAME_CHARACTERS,
    Options,
    layered,
    options_of,
    read_block,
    read_options,
)
from experiments.values import Wrong
from experiments.yamltree import NULL, ConfigInvalid, Mistake, Mistakes, Tree, decode, read

BUILT_IN = Options(
    gpus=1,
    priority="normal",
    stop_grace_seconds=STOP_GRACE_SECONDS,
    max_attempts=3,
    on_device_lost="wait",
    sync={"checkpoints": Checkpoints.ALL.value, "max_file_bytes": 20 * 10**9},
)

#: What a job has where nobody said anything.
EMPTY: dict[str, Callable[[], Any]] = {
    "environment": dict,
    "labels": dict,
    "tags": list,
    "outputs": list,
    "ignore": list,
    "links": dict,
    "secrets": list,
    "requires": dict,
}


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """All that is known of a job before it is queued."""

    config: bytes  # the file as it came; empty: a job without YAML
    keys: dict[str, Any]  # the experiment's own, as JSON: for tables, never for running
    project: str | None
    name: str | None
    command: list[str]  # the agent replaces {config} {run_dir} {run_name}; other braces stay
    environment: dict[str, str]
    python: str | None  # None: the device's
    working_directory: str | None  # None: the device's
    gpus: int
    gpu_memory_bytes: int | None
    gpu_type: str | None
    labels: dict[str, str]
    priority: str  # urgent, high, normal, low
    time_limit_seconds: float | None
    stop_grace_seconds: float
    max_attempts: int
    on_device_lost: str  # wait, requeue
    tags: list[str]
    outputs: list[str]  # globs below the working directory: what comes to the server besides
    ignore: list[str]
    sync: dict[str, Any]  # as agent.wire.SyncPolicy
    secrets: list[str]  # names: what they hold is never in a spec
    requires: dict[str, list[str]]  # as agent.wire.Requires
    sweep: Grid | None = None  # what is varied; None: it is one job
    source: dict[str, Any] | None = None  # the code to run in; None: what lies on the GPU server
    links: dict[str, str] = field(default_factory=dict)  # laid into it


def no_defaults(project: str | None) -> Options:
    return Options()


def parse(
    text: bytes | str | None,
    *,
    given: Mapping[str, Any] | None = None,
    defaults_of: Callable[[str | None], Options] = no_defaults,
) -> JobSpec:
    """Read a config and what came with it.

    Args:
        text: the YAML as it was sent; None or blank for a job that has none.
        given: what form or API say besides, in the words of the `lab:` block
            (`{"project": "digits", "resources": {"gpus": 2}}`); it goes before the file.
        defaults_of: the project's defaults by its name, asked once the name is known.

    Raises:
        ConfigInvalid: with every mistake, each with its line or its field.
    """
    config = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text or b""
    config = config if config.strip() else b""
    mistakes = Mistakes()
    keys, said = _read_file(config, mistakes)
    asked = layered(read_options(given or {}, mistakes), said)
    defaults = defaults_of(asked.project)
    if asked.source is not None:  # a project's folder is one of a GPU server
        defaults = replace(defaults, working_directory=None)
    options = layered(asked, defaults, BUILT_IN)
    _check_command(options, bool(config), mistakes)
    _check_code(options, mistakes)
    mistakes.raise_any()
    return _spec(config, keys, options)


def keys_of(config: bytes) -> dict[str, Any]:
    """The experiment's own keys of a config that was queued, as its text has them: of what looks
    like a secret a job itself keeps stars (experiments.discreet)."""
    return _read_file(config, Mistakes())[0]


def _read_file(config: bytes, mistakes: Mistakes) -> tuple[dict[str, Any], Options]:
    if len(config) > MAX_CONFIG_BYTES:
        words = _("the config has %(n)d bytes, and at most %(limit)d are taken")
        raise ConfigInvalid([Mistake(words % {"n": len(config), "limit": MAX_CONFIG_BYTES})])
    root = read(decode(config))
    if root is None or root.tag == NULL:
        return {}, Options()
    if not isinstance(root, MappingNode):
        mistakes.add(_("a config holds keys and values, as in “lr: 0.1”"), root)
        mistakes.raise_any()
    tree = Tree(mistakes)
    tree.find_duplicates(root)
    pairs = tree.pairs(root)
    lab = next((value for key, value in pairs if _is_lab(key)), None)
    own = MappingNode(root.tag, [pair for pair in pairs if not _is_lab(pair[0])], root.start_mark)
    keys = tree.plain(own)
    if lab is None or lab.tag == NULL:
        return keys, _named_by(keys)
    return keys, layered(read_block(lab, tree, mistakes), _named_by(keys))


def _is_lab(key: Node) -> bool:
    return isinstance(key, ScalarNode) and key.value == "lab"


def _named_by(keys: Mapping[str, Any]) -> Options:
    """Project and name from the experiment's own keys, where they can be such."""
    project, name = keys.get("project"), keys.get("name")
    named = isinstance(name, str) and name.isprintable() and name.strip()
    return Options(
        project=project if isinstance(project, str) and is_name(project) else None,
        name=name if named and len(name) <= MAX_NAME_CHARACTERS else None,
    )


def _check_command(options: Options, has_config: bool, mistakes: Mistakes) -> None:
    if mistakes.concern("command") or mistakes.concern("lab"):
        return  # what is wrong there has been said
    if options.command is None:
        mistakes.add(
            _(
                "there is no command: write one under lab: in the file"
                " (command: [python, train.py, --config, '{config}']), give one with the job,"
                " or set the project's default command"
            ),
            field="command",
        )
    elif not has_config and any("{config}" in word for word in options.command):
        mistakes.add(
            _("the command names {config}, and there is no YAML: add one, or leave {config} out"),
            field="command",
        )


def _check_code(options: Options, mistakes: Mistakes) -> None:
    if options.source is not None and options.working_directory is not None:
        try:
            codesource.folder(options.working_directory)
        except Wrong as wrong:
            mistakes.add(f"working_directory: {wrong}", field="working_directory")
    if options.links and options.source is None and not mistakes.concern("source"):
        mistakes.add(
            _(
                "links are laid into a snapshot or a commit, and this job runs in a folder of the"
                " GPU server: submit it with its code (lab submit), or leave links out"
            ),
            field="links",
        )


def _spec(config: bytes, keys: dict[str, Any], options: Options) -> JobSpec:
    values = dict(vars(options))
    for name, empty in EMPTY.items():
        if values[name] is None:
            values[name] = empty()
    if options.gpus == 0:  # a project's default for GPU jobs says nothing of this one
        values |= {"gpu_memory_bytes": None, "gpu_type": None}
    return JobSpec(config=config, keys=keys, **values)


__all__ = [
    "BUILT_IN",
    "ConfigInvalid",
    "JobSpec",
    "Mistake",
    "Options",
    "keys_of",
    "layered",
    "options_of",
    "parse",
]
