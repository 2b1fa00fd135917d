"""`lab devices`: the GPU servers, their cards, and who has them."""

import argparse
from collections.abc import Mapping
from typing import Any

from agent.cli import words
from agent.cli.context import Lab, Verb
from agent.cli.errors import CliError, Exit
from agent.cli.show import Column

TABLE = [
    Column("GPU SERVER"),
    Column("STATE", is_state=True),
    Column("GPU", right=True),
    Column("CARD", spare=2),
    Column("MEMORY", right=True, spare=1),
    Column("LOAD", right=True, spare=3),
    Column("USE"),
]


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", nargs="?", metavar="HOST", help="one GPU server only")


def devices(lab: Lab) -> int:
    found = _all(lab, "/api/devices/")
    if lab.options.device:
        found = [one for one in found if one["host_id"] == lab.options.device]
        if not found:
            raise CliError(f"There is no GPU server {lab.options.device}", Exit.NOT_FOUND)
    claims = {one["gpu"]: one for one in _all(lab, "/api/claims/")}
    for gpu in (gpu for one in found for gpu in one["gpus"]):
        gpu["claim"] = claims.get(gpu["uuid"])
    return lab.answer({"devices": found}, lambda: _show(lab, found))


def _all(lab: Lab, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    page = 1
    while True:
        answer = lab.api.get(path, page=page, page_size=500)
        found += answer["results"]
        if not answer.get("next"):
            return found
        page += 1


def _show(lab: Lab, found: list[dict[str, Any]]) -> None:
    if not found:
        lab.out.note("No GPU server is connected to this lab yet.")
        return
    rows = [row for one in found for row in _rows(one)]
    lab.out.table(TABLE, rows)
    for one in found:
        for remark in one["remarks"]:
            lab.out.note(f"{one['host_id']}: {remark}")


def _rows(device: Mapping[str, Any]) -> list[list[str]]:
    state = "draining" if device["draining"] else device["state"]
    head = [device["host_id"], state]
    cards = [gpu for gpu in device["gpus"] if gpu["present"]]
    if not cards:
        return [[*head, "", "no GPU", "", "", ""]]
    return [[*(head if at == 0 else ["", ""]), *_card(gpu)] for at, gpu in enumerate(cards)]


def _card(gpu: Mapping[str, Any]) -> list[str]:
    used, total = gpu["memory_used_bytes"], gpu["memory_total_bytes"]
    memory = f"{(used or 0) / 2**30:.1f} of {words.size(total)}" if total else ""
    load = gpu["utilization_percent"]
    return [
        str(gpu["index"]),
        gpu["name"],
        memory,
        "" if load is None else f"{load:.0f} %",
        use_of(gpu),
    ]


def use_of(gpu: Mapping[str, Any]) -> str:
    """Who has it, in a word or two."""
    faulty = gpu["quarantine_reason"] or "faulty" if gpu["quarantined_at"] else ""
    if claim := gpu["claim"]:
        return "; ".join(filter(None, [str(claim["words"]), faulty]))
    if faulty:
        return faulty
    if gpu["used_elsewhere"]:
        return "used by another lab server"
    if gpu["foreign_users"]:
        return f"outside the queue: {', '.join(gpu['foreign_users'])}"
    return "free"


VERBS = [Verb("devices", "the GPU servers, their cards, and who has them", _arguments, devices)]
