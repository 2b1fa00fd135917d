"""What is known of an attempt when it starts, and is kept with its results."""

import socket
from dataclasses import asdict
from typing import Any

from agent import packages
from agent.environment import Launch
from agent.interpreters import Interpreter
from agent.wire import AttemptOrder


def of_start(
    order: AttemptOrder, launch: Launch, driver: tuple[str | None, str | None]
) -> dict[str, Any]:
    """What is known at the start and worth keeping with the results."""
    with launch.user.rights():
        installed = installed_in(launch.interpreter)
    return {
        "host": socket.gethostname(),
        "unix_user": launch.user.name,
        "gpus": order.gpus,
        "command": launch.arguments,
        "working_directory": str(launch.directory),
        "code": _code(order),
        "python": None,
        "torch": None,
        "resumed_from": asdict(order.resume)["point"] if order.resume else None,
        "driver": driver[0],
        "cuda": driver[1],
        **installed,
    }


def installed_in(interpreter: Interpreter | None) -> dict[str, Any]:
    """What an environment holds, as its files say."""
    if interpreter is None:
        return {}
    return {
        "python": interpreter.python_version() or str(interpreter.prefix),
        "torch": interpreter.torch_version(),
        "torch_cuda": interpreter.torch_cuda(),
        "prefix": str(interpreter.prefix),
        "packages": packages.installed(interpreter.prefix),
    }


def _code(order: AttemptOrder) -> dict[str, Any] | None:
    """What names the code that it runs, where that was laid down for it."""
    said = asdict(order.source) if order.source else {}
    names = ("kind", "sha256", "url", "commit", "folder", "links")
    return {name: said[name] for name in names if said[name]} if said else None
