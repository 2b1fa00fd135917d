"""What runs ran in, as their agents told: Python, torch, driver, packages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from experiments import discreet
from experiments.models import Attempt, Job, PackageSet

MOST_PACKAGE_ROWS = 200


@dataclass(frozen=True)
class Row:
    """One fact of several runs; empty where one does not have it."""

    name: str
    values: list[str]


def facts_of(attempt: Attempt | None) -> list[tuple[str, str]]:
    """(label, value) of what is known, without packages."""
    said = attempt.environment if attempt else {}
    labels = _labels() | _places()
    found = [(labels[name], _words(said, name)) for name in labels]
    return [(label, value) for label, value in found if value]


def given_to(job: Job, attempt: Attempt | None) -> list[tuple[str, str]]:
    """(label, value) of what was given to it: paths of data and variables, which the same run
    needs elsewhere too."""
    links = [f"{path} → {target}" for path, target in job.links.items()]
    hosts = (attempt.host_variables if attempt else None) or {}
    hosts = {name: value for name, value in hosts.items() if name not in job.environment}
    about = {"device": attempt.device.host_id if attempt else ""}
    found = [
        (_("Links to data"), links),
        (_("Required paths"), job.requires.get("paths", [])),
        (_("Required commands"), job.requires.get("commands", [])),
        (_("Variables"), _variables(job.environment)),
        (_("Variables of %(device)s") % about, _variables(hosts)),
        (_("Secrets"), job.secrets),
    ]
    return [(label, ", ".join(values)) for label, values in found if values]


def _variables(given: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in discreet.masked(given).items()]


def packages_of(attempt: Attempt | None) -> list[str]:
    return attempt.packages.packages if attempt and attempt.packages else []


def compared(jobs: Sequence[Job]) -> list[Row]:
    """What differs between the newest tries of these runs: facts first, then packages."""
    newest = _newest(jobs)
    tries = [newest.get(job.pk) for job in jobs]
    rows = [
        Row(label, [_words(one.environment, name) if one else "" for one in tries])
        for name, label in _labels().items()
    ]
    sets = PackageSet.objects.in_bulk({one.packages_id for one in tries if one})
    versions = [_versions(sets.get(one.packages_id) if one else None) for one in tries]
    told = [one for one in versions if one]  # of whoever told none, nothing can be said
    names = sorted({name for one in told for name in one})
    rows += [Row(name, [one.get(name, "") for one in versions]) for name in names]
    differing = [row for row in rows if _differs(row, versions)]
    return differing[: MOST_PACKAGE_ROWS + len(_labels())]


def _differs(row: Row, versions: Sequence[dict[str, str]]) -> bool:
    told = [value for value, known in zip(row.values, versions, strict=True) if known or value]
    return len(set(told)) > 1


def _newest(jobs: Sequence[Job]) -> dict[int, Attempt]:
    tries = Attempt.objects.filter(job__in=jobs).order_by("number")
    return {one.job_id: one for one in tries.only("job", "environment", "packages")}


def _versions(kept: PackageSet | None) -> dict[str, str]:
    pairs = (line.partition("==") for line in kept.packages) if kept else ()
    return {name: version for name, _equals, version in pairs}


def _words(environment: dict[str, Any], name: str) -> str:
    value = str(environment.get(name) or "")
    built_for = environment.get("torch_cuda")
    if name == "torch" and value and built_for:
        return _("%(torch)s for CUDA %(cuda)s") % {"torch": value, "cuda": built_for}
    return value


def _labels() -> dict[str, str]:
    return {
        "python": "Python",
        "torch": "torch",
        "driver": _("Driver"),
        "cuda": _("Driver's CUDA"),
        "unix_user": _("Unix user"),
    }


def _places() -> dict[str, str]:
    """Which no two hosts need have alike."""
    return {"prefix": _("Python environment"), "working_directory": _("Working directory")}
