"""In what a run that is being written differs from the one that it started from."""

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from django.utils.translation import gettext as _

from experiments import discreet
from experiments.config import JobSpec
from experiments.models import Job
from experiments.submission import spec_of
from labsite.pages.starting import words_of

CONTEXT_LINES = 2
MAX_LINES = 400
MAX_VALUE_CHARACTERS = 120


@dataclass(frozen=True)
class Difference:
    """One key; None: it is not there."""

    key: str
    was: str | None
    now: str | None


@dataclass(frozen=True)
class Line:
    """One line of both texts: `op` is "+", "−" or empty; "…" for lines that are left out."""

    op: str
    text: str


def differences(job: Job, spec: JobSpec) -> list[Difference]:
    """The keys whose values differ, the experiment's own first; a swept one says so."""
    before, after = flat(job.keys), flat(discreet.masked(spec.keys))
    for key, values in _swept(spec).items():
        after[key] = values
    found = [
        Difference(key, before.get(key), after.get(key))
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]
    asked_before, asked_now = _asked(spec_of(job)), _asked(spec)
    found += [
        Difference(f"lab: {name}", asked_before[name] or None, asked_now[name] or None)
        for name in asked_before
        if asked_before[name] != asked_now[name]
    ]
    return found


def _asked(spec: JobSpec) -> dict[str, str]:
    return words_of(replace(spec, command=discreet.masked_command(spec.command)))


def lines(before: str, after: str) -> list[Line]:
    """Both texts line by line, with what is the same left out but for its edges."""
    found: list[Line] = []
    old, new = before.splitlines(), after.splitlines()
    for group in difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(
        CONTEXT_LINES
    ):
        if found:
            found.append(Line("…", ""))
        for tag, a, b, c, d in group:
            if tag == "equal":
                found += [Line("", text) for text in old[a:b]]
                continue
            found += [Line("−", text) for text in old[a:b]]
            found += [Line("+", text) for text in new[c:d]]
    return found[:MAX_LINES]


def flat(keys: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """{dotted key: its value as text}, in the order of the file."""
    return dict(_flat(keys, above))


def _flat(keys: Mapping[str, Any], above: str) -> Iterator[tuple[str, str]]:
    for key, value in keys.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", shown(value)


def shown(value: Any) -> str:
    """A value as one writes it, on one line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[:MAX_VALUE_CHARACTERS]}…"


def _swept(spec: JobSpec) -> dict[str, str]:
    if spec.sweep is None:
        return {}
    words, tried = _("%(values)s (varied)"), discreet.masked(spec.sweep.tried())
    return {
        key: words % {"values": ", ".join(dict.fromkeys(map(shown, values)))}
        for key, values in tried.items()
    }
