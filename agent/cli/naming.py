"""Which run is meant: `20261130_1a2b`, the beginning of one, `digits/run_003` or `run_003`."""

import re
from typing import Any
from urllib.parse import quote

from agent.cli.api import Api
from agent.cli.errors import CliError, Exit

MOST_NAMED = 6
_REF = re.compile(r"[0-9]{1,8}(_[0-9a-f]*)?|([A-Za-z0-9][A-Za-z0-9._-]*/)?run_[0-9]+")


def title(run: dict[str, Any]) -> str:
    """`digits/run_003`"""
    return f"{run['project']}/{run['run_name']}"


def path_of(run: dict[str, Any], verb: str = "") -> str:
    """Its address in the API."""
    tail = f"{verb}/" if verb else ""
    return f"/api/jobs/{quote(str(run['uid']))}/{tail}"


def find(api: Api, ref: str) -> dict[str, Any]:
    """The run, as lists show it.

    Raises:
        CliError: there is none, or it may be several.
    """
    if not _REF.fullmatch(ref):
        raise CliError(
            f"{ref!r} names no run: write its identifier (20261130_1a2b), the beginning of it, "
            "or project/run_003"
        )
    page = api.get("/api/jobs/", ref=ref, page_size=MOST_NAMED)
    runs = [run for run in page["results"] if _is_meant(run, ref)]
    if not runs:
        raise CliError(f"There is no run {ref}, or you do not see it", Exit.NOT_FOUND)
    if len(runs) > 1:
        names = ", ".join(f"{run['uid']} ({title(run)})" for run in runs[: MOST_NAMED - 1])
        more = ", …" if len(runs) >= MOST_NAMED else ""
        raise CliError(f"{ref} may be several: {names}{more}")
    found: dict[str, Any] = runs[0]
    return found


def _is_meant(run: dict[str, Any], ref: str) -> bool:
    """An older server does not know how to look for it, and answers with any."""
    if "run_" in ref:
        number = ref.rpartition("run_")[2]
        same = int(number) == int(str(run["run_name"]).removeprefix("run_"))
        return same and ("/" not in ref or ref.split("/")[0] == run["project"])
    return str(run["uid"]).startswith(ref)


def find_whole(api: Api, ref: str) -> dict[str, Any]:
    """The run with its tries."""
    whole: dict[str, Any] = api.get(path_of(find(api, ref)))
    return whole
