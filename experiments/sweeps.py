"""From one config with a grid to its runs: what each of them receives, and all of them queued.

Each run's config is the sweep's with the swept keys set in its text and without the block
`lab.sweep`. What was edited is read again and compared with what was meant, so a file that
cannot be edited safely is refused with the line.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from django.utils.translation import gettext as _

from experiments import config, submission
from experiments.arguments import with_values
from experiments.config import JobSpec
from experiments.errors import NotSubmitted
from experiments.grid import Grid
from experiments.models import Sweep
from experiments.models.submitkey import Asked, once
from experiments.options import Options
from experiments.values import Wrong
from experiments.yamledit import Editor, set_in
from experiments.yamltree import ConfigInvalid, Mistake, decode

#: Of all configs of a sweep together.
MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Point:
    """One run of a sweep, before it is queued."""

    values: dict[str, Any]  # of the swept keys, as JSON
    spec: JobSpec


def submit(
    text: bytes | str | None,
    given: Mapping[str, Any] | None = None,
    *,
    by=None,
    asked: Asked | None = None,
) -> Sweep:
    """Queue all runs of a sweep, or none; of a request that came before, what that has queued.

    Raises:
        ConfigInvalid: with every mistake and its place.
        NotSubmitted: no project is named, or nothing is varied.
        ProjectArchived: it takes no new runs.
        NotAllowed: `by` looks only, or does not work in that project.
    """
    spec = submission.read(text, given, by=by)
    if spec.sweep is None:
        raise NotSubmitted(
            _("Nothing is varied: write sweep: {grid: {lr: [0.1, 0.01]}} under lab:, or queue it"
              " as one run."),
            field="sweep",
        )  # fmt: skip
    points, said = list(points_of(spec, given)), dict(given or {})
    return once(asked, lambda: Sweep.objects.submit(spec, points, given=said, by=by))


def points_of(
    spec: JobSpec, given: Mapping[str, Any] | None = None, at_most: int | None = None
) -> Iterator[Point]:
    """The runs that a spec with a grid makes, in order.

    Args:
        spec: as submission.read() gives it.
        given: what was said besides the file, as it was given to read().

    Raises:
        ConfigInvalid: a key cannot be set in the text of the file.
    """
    grid = spec.sweep
    assert grid is not None
    if grid.size * len(spec.config) > MAX_BYTES:
        words = _("the configs of %(n)d runs are too large together: keep data in other files")
        raise ConfigInvalid([_mistake(grid, grid.keys[0], words % {"n": grid.size})])
    editor = Editor(decode(spec.config))
    said = {name: value for name, value in (given or {}).items() if name != "sweep"}
    base = Options(command=spec.command)
    for values in islice(grid.points(), at_most):
        plain = {key: value.plain for key, value in values.items()}
        written = {key: value.text for key, value in values.items()}
        yield Point(plain, _edited(spec, editor, written, plain, said, base))


def added_keys(text: bytes, keys: Iterable[str]) -> list[str]:
    """Those of the swept keys that the file does not name: slips of the hand, perhaps."""
    editor = Editor(decode(text))
    return [key for key in keys if not editor.names(key)]


def _edited(
    spec: JobSpec,
    editor: Editor,
    written: Mapping[str, str],
    plain: Mapping[str, Any],
    said: Mapping[str, Any],
    base: Options,
) -> JobSpec:
    meant = spec.keys
    key = next(iter(plain))
    try:
        for key in plain:
            editor.names(key)
        text = editor.edited(written, without=("lab", "sweep"))
        for name, value in plain.items():
            meant = set_in(meant, tuple(name.split(".")), value)
        made = config.parse(text, given=said, defaults_of=lambda _project: base)
        command = _command(spec, plain)
    except Wrong as wrong:
        raise ConfigInvalid([_mistake(spec.sweep, key, str(wrong))]) from wrong
    except (ConfigInvalid, LookupError, ValueError) as exc:
        raise ConfigInvalid([_cannot(spec.sweep, _culprit(editor, written) or key)]) from exc
    if made.keys != meant or made.sweep is not None:
        raise ConfigInvalid([_cannot(spec.sweep, _culprit(editor, written) or key)])
    return replace(
        spec, config=made.config, keys=made.keys, name=made.name, command=command, sweep=None
    )


def _command(spec: JobSpec, values: Mapping[str, Any]) -> list[str]:
    """With the values of this run, where they are arguments. Raises: Wrong."""
    is_given = spec.sweep is not None and spec.sweep.arguments
    return with_values(spec.command, values) if is_given else spec.command


def _culprit(editor: Editor, written: Mapping[str, str]) -> str | None:
    """The first key that cannot be set by itself; None: it is not one of them alone."""
    for key, text in written.items():
        try:
            config.parse(
                editor.edited({key: text}, without=("lab", "sweep")), given={"command": ["true"]}
            )
        except ConfigInvalid:
            return key
    return None


def _cannot(grid: Grid | None, key: str) -> Mistake:
    words = _(
        "“%(key)s” cannot be set in this file without changing something else"
        " (an anchor &name, an alias *name, a merge <<): write its value out"
    )
    return _mistake(grid, key, words % {"key": key})


def _mistake(grid: Grid | None, key: str, words: str) -> Mistake:
    """At the line that names the key in the grid, where a file does."""
    place = grid.places[key].start_mark if grid else None
    line, column = (place.line + 1, place.column + 1) if place else (None, None)
    return Mistake(f"sweep: {words}", "lab.sweep", line, column)
