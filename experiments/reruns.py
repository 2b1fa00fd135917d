"""A run once more with other values: what `lab rerun --set lr=0.05` asks for.

A key is set where it is named: in the text of the config, as a sweep sets it, and in the command,
where it is an argument. One that is named nowhere goes into the config, unless all that the
config says are arguments of the command (a sweep of a plain command), or there is none: then it
becomes an argument too.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from django.utils.translation import gettext as _

from experiments import arguments, sweeps
from experiments.config import JobSpec, keys_of
from experiments.errors import NotSubmitted
from experiments.grid import Grid, grid_of
from experiments.values import Wrong, node_of
from experiments.yamltree import ConfigInvalid, Mistakes, Tree


def changed(spec: JobSpec, values: Mapping[str, Any]) -> JobSpec:
    """The spec with these values, which are JSON, of dotted keys.

    Raises:
        NotSubmitted: a key cannot be set; the sentence says why.
    """
    spec = replace(spec, keys=keys_of(spec.config))
    try:
        grid = _grid(values)
        written, given = _places(spec, values)
        command = arguments.with_values(spec.command, {key: values[key] for key in given})
        spec = replace(spec, command=command, sweep=grid)
        if written:
            one = replace(spec, sweep=_grid({key: values[key] for key in written}))
            spec = next(sweeps.points_of(one, _said(spec))).spec
    except Wrong as exc:
        raise NotSubmitted(str(exc), field="set") from exc
    except ConfigInvalid as exc:
        words = exc.mistakes[0].message.removeprefix("sweep: ")
        raise NotSubmitted(words, field="set") from exc
    return replace(spec, sweep=None)


def _grid(values: Mapping[str, Any]) -> Grid:
    """Of one point: the checks of keys and values are those of a sweep."""
    if not values:
        raise Wrong(_("nothing is changed: write a key and its value"))
    mistakes = Mistakes()
    node = node_of({"grid": {key: [value] for key, value in values.items()}})
    grid = grid_of(node, Tree(mistakes))
    mistakes.raise_any()
    return grid


def _places(spec: JobSpec, values: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Which keys are written into the config, and which are given as arguments."""
    known = [key for key in values if arguments.names(spec.command, key)]
    if all(arguments.names(spec.command, key) for key in spec.keys):
        return list(values), list(values)
    in_file = [key for key in values if key not in known or _is_in(spec.keys, key)]
    return in_file, known


def _is_in(keys: Any, name: str) -> bool:
    if not isinstance(keys, Mapping):
        return False
    head, dot, rest = name.partition(".")
    return name in keys or (bool(dot) and _is_in(keys.get(head), rest))


def _said(spec: JobSpec) -> dict[str, Any]:
    """What goes before the file, and what its block may lean on: links lie in code."""
    said = {"name": spec.name, "source": spec.source}
    return {name: value for name, value in said.items() if value}
