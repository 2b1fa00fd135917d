"""`lab ls` and `lab projects`: what there is."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from agent.cli import words
from agent.cli.context import Lab, Verb
from agent.cli.show import Column

MOST_A_PAGE = 500
TABLE = [
    Column("RUN"),
    Column("UID"),
    Column("STATE", is_state=True),
    Column("NAME", spare=3),
    Column("WHO", spare=5),
    Column("WHERE", spare=4),
    Column("TOOK", right=True, spare=2),
    Column("QUEUED", right=True, spare=6),
]


def _ls_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("query", nargs="*", metavar="QUERY", help="as in the tables: 'state:running lr<0.1'")
    add("--all", action="store_true", help="everybody's runs (else your own)")
    add("--mine", action="store_true", help="your own, which is the default")
    add("--project", metavar="P", help="of one project")
    add("--archived", action="store_true", help="also of archived projects")
    add("--sort", metavar="COLUMN", help="submitted, took, key:lr, best:val_loss, …; - in front: "
        "downwards (write --sort=-took)")  # fmt: skip
    add("-c", "--column", action="append", default=[], metavar="COLUMN",
        help="show as well: a config key (model.depth) or a metric (best:val_loss)")  # fmt: skip
    add("-n", "--limit", type=int, default=50, metavar="N", help="at most so many (default: 50)")


def ls(lab: Lab) -> int:
    runs, count, remarks = _listed(lab)
    said = {"count": count, "runs": runs, "remarks": remarks}
    return lab.answer(said, lambda: _show_list(lab, runs, count, remarks))


def _listed(lab: Lab) -> tuple[list[dict[str, Any]], int, list[str]]:
    """The runs that were asked for, how many there are, and what the server remarks on them."""
    limit = max(1, lab.options.limit)
    asked: dict[str, Any] = {"q": _query(lab.options), "page_size": min(limit, MOST_A_PAGE)}
    for name, said in (("ordering", lab.options.sort), ("project", lab.options.project)):
        if said:
            asked[name] = said
    if lab.options.archived:
        asked["archived"] = "true"
    runs: list[dict[str, Any]] = []
    page = 1
    while True:
        answer = lab.api.get("/api/jobs/", **asked, page=page)
        runs += answer["results"]
        if len(runs) >= limit or not answer.get("next"):
            return runs[:limit], answer["count"], answer.get("remarks", [])
        page += 1


def _query(options: argparse.Namespace) -> str:
    return " ".join(options.query if options.all else ["user:me", *options.query])


def _show_list(
    lab: Lab, runs: Sequence[dict[str, Any]], count: int, remarks: Sequence[str]
) -> None:
    for remark in remarks:
        lab.out.note(remark)
    if not runs:
        where = "" if lab.options.all else " of yours (--all: everybody's)"
        lab.out.note(f"There is no such run{where}.")
        return
    extra = [Column(name, right=True, spare=1) for name in lab.options.column]
    rows = [_row(run) + [cell_of(run, name) for name in lab.options.column] for run in runs]
    lab.out.table([*TABLE, *extra], rows)
    if count > len(runs):
        lab.out.note(f"{len(runs)} of {count}; -n {count} shows all.")


def _row(run: Mapping[str, Any]) -> list[str]:
    return [
        f"{run['project']}/{run['run_name']}",
        str(run["uid"]),
        state_of(run),
        str(run["name"]),
        str(run["user"] or ""),
        str(run.get("device") or ""),
        words.took(run["started_at"], run["finished_at"]),
        words.ago(run["submitted_at"]),
    ]


def state_of(run: Mapping[str, Any]) -> str:
    """Of an imported run nobody knows how it ended; an older server names none."""
    return "imported" if run.get("imported_at") else str(run["state"])


def cell_of(run: Mapping[str, Any], name: str) -> str:
    """A config key's value, else a metric's."""
    side, colon, metric = name.partition(":")
    if not colon or side == "key":
        found = _key(run.get("keys"), metric if colon else name)
        if found is not None:
            return str(found)
    summary = run.get("summary") or {}
    kind = {"best": _better(metric)}.get(side, side) if colon else "last"
    found = (summary.get(kind) or {}).get(metric if colon else name)
    return "" if found is None else f"{found:.6g}" if isinstance(found, float) else str(found)


def _better(metric: str) -> str:
    """As the site has it where the project says nothing: a loss is better when it is low."""
    return "min" if any(word in metric.lower() for word in ("loss", "err")) else "max"


def _key(keys: Any, name: str) -> Any:
    """`model.depth`, also where a key has a dot itself."""
    if not isinstance(keys, Mapping):
        return None
    if name in keys:
        return keys[name]
    head, dot, rest = name.partition(".")
    return _key(keys.get(head), rest) if dot else None


PROJECTS = [
    Column("PROJECT"),
    Column("RUNS", right=True),
    Column("TITLE", spare=1),
    Column("WHO", spare=2),
    Column("ON DISK", right=True, spare=3),
    Column("", spare=4),
]


def projects(lab: Lab) -> int:
    found: list[dict[str, Any]] = []
    page = 1
    while True:
        answer = lab.api.get("/api/projects/", page=page, page_size=MOST_A_PAGE)
        found += answer["results"]
        if not answer.get("next"):
            break
        page += 1
    return lab.answer({"projects": found}, lambda: _show_projects(lab, found))


def _show_projects(lab: Lab, found: Sequence[dict[str, Any]]) -> None:
    rows = [
        [
            one["name"],
            str(one["runs"]),
            one["title"],
            one["created_by"] or "",
            words.size(one["used_bytes"]),
            "private" if one["private"] else "",
        ]
        for one in found
    ]
    lab.out.table(PROJECTS, rows)


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    """None of its own."""


VERBS = [
    Verb("ls", "list runs", _ls_arguments, ls),
    Verb("projects", "list projects", _no_arguments, projects),
]
