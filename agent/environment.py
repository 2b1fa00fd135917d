"""What a job sees: its variables, its command and where it runs (protocol §8)."""

import os
import re
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent import interpreters, lacks, uvproject, wire
from agent.code import companion
from agent.errors import StartFailed
from agent.interpreters import Interpreter
from agent.users import User
from agent.wire import AttemptOrder

_EFFECTIVE = os.access in os.supports_effective_ids  # asks for whom this thread acts as


@dataclass(frozen=True)
class Places:
    """The files of one attempt in the workspace."""

    run_dir: Path
    run_name: str
    config: Path | None
    resume_from: Path | None

    @property
    def metrics(self) -> Path:
        return self.run_dir / f"{self.run_name}.csv"

    @property
    def checkpoint(self) -> Path:
        return self.run_dir / f"{self.run_name}.pt"

    @property
    def log(self) -> Path:
        return self.run_dir / f"{self.run_name}.log"

    @property
    def metadata(self) -> Path:
        return self.run_dir / f"{self.run_name}.yaml"


@dataclass(frozen=True)
class Launch:
    """All that is needed to start the command."""

    executable: str
    arguments: list[str]
    directory: Path
    variables: dict[str, str]
    interpreter: Interpreter | None  # the one asked for, or that the command itself is
    user: User


def launch(
    order: AttemptOrder,
    places: Places,
    source: Path,
    gpu_indices: Mapping[str, int],
    user: User,
    environ: Mapping[str, str] = os.environ,
    environments: Path | None = None,
) -> Launch:
    """Turn an order into what can be started on this host. To be called with `user.rights()`.

    `source` is where commands run unless the order says otherwise, which is relative to it; of an
    attempt with code of its own that is where this lies. `gpu_indices` maps the
    UUIDs of this host's GPUs to their NVML indices; `environ` is the agent's own environment;
    in `environments` it keeps those that uv makes.

    Raises:
        StartFailed: it cannot be; the message says what to do.
        Lacking: the host has not what the job requires.
    """
    _check_secrets(order)
    directory = _directory(order, source, user)
    interpreter = _interpreter(order, environ, directory, user, environments)
    account = _account(user, environ)
    if order.python == uvproject.NAME:
        account |= uvproject.variables(environ, environments, user)
    variables = _variables(order, places, interpreter, gpu_indices, account)
    lacks.check_commands(order, variables["PATH"])
    arguments = _arguments(order, places)
    if order.python == uvproject.NAME:
        arguments = uvproject.through(order, arguments, variables["PATH"], user)
    executable = _executable(arguments[0], directory, variables["PATH"], user)
    if interpreter is None and Path(executable).name.startswith("python"):
        interpreter = Interpreter(Path(executable).parent.parent, {})
    return Launch(executable, arguments, directory, variables, interpreter, user)


def _check_secrets(order: AttemptOrder) -> None:
    missing = [name for name in order.secret_names if name not in order.secrets]
    if missing:
        raise StartFailed(
            f"The server did not hand out the secret {missing[0]}: its log says why, and an "
            "administrator puts it right"
        )


def _interpreter(
    order: AttemptOrder,
    environ: Mapping[str, str],
    directory: Path,
    user: User,
    environments: Path | None,
) -> Interpreter | None:
    if order.python == uvproject.NAME:
        is_laid = order.source is not None
        return uvproject.interpreter(directory, environments, user, is_laid=is_laid)
    return interpreters.find(order.python, environ, directory, user) if order.python else None


def _directory(order: AttemptOrder, source: Path, user: User) -> Path:
    wanted = order.working_directory or ""
    if wanted == "~" or wanted.startswith("~/"):
        wanted = str(user.home) + wanted[1:]
    directory = source / wanted
    try:
        os.stat(f"{directory}/.")  # asks for the right to enter it
    except PermissionError:
        raise StartFailed(
            f"The user {user.name!r} may not enter the working directory {directory} on this "
            "host: open it and the folders above to that user, or correct `working_directory`"
        ) from None
    except OSError:
        raise StartFailed(
            f"The working directory {directory} does not exist on this host: make it, or correct "
            "`working_directory` (or the agent's --source, which it is relative to)"
        ) from None
    return directory


def _arguments(order: AttemptOrder, places: Places) -> list[str]:
    """Only these three are replaced: other braces belong to the command."""
    values = {"{run_dir}": str(places.run_dir), "{run_name}": order.run_name}
    if places.config is not None:
        values["{config}"] = str(places.config)
    elif any("{config}" in part for part in order.command):
        raise StartFailed("The command names {config}, but this job has no config file: add one")
    if not order.command:
        raise StartFailed("The job has no command: give it one, such as [python, train.py]")
    names = re.compile("|".join(map(re.escape, values)))
    return [names.sub(lambda match: values[match[0]], part) for part in order.command]


def _executable(command: str, directory: Path, path: str, user: User) -> str:
    if "/" in command:
        found = shutil.which(str(directory / command))
        where = f"{directory / command} does not exist or is not executable on this host"
    else:
        found = shutil.which(command, path=path)
        where = f"There is no {command!r} on this host's PATH ({path})"
    if found is not None and not os.access(found, os.X_OK, effective_ids=_EFFECTIVE):
        found, where = None, f"The user {user.name!r} may not run {found} on this host"
    if found is None:
        raise StartFailed(f"{where}: install it there, name it by its full path, or set `python`")
    return found


def _variables(
    order: AttemptOrder,
    places: Places,
    interpreter: Interpreter | None,
    gpu_indices: Mapping[str, int],
    account: Mapping[str, str],
) -> dict[str, str]:
    made = {**account, **order.environment, **order.secrets}
    if interpreter is not None:
        made.update(interpreter.variables)
        made["PATH"] = f"{interpreter.bin}{os.pathsep}{made['PATH']}"
    made.update(_lab(order, places))
    made.update(_gpus(order, gpu_indices))
    made.update(PYTHONUNBUFFERED="1", PYTHONPATH=companion.python_path(places.run_dir, made))
    port = str(_free_port())  # two torchrun jobs on one host collide otherwise
    made.update(MASTER_PORT=port, PET_MASTER_PORT=port)
    return made


def _account(user: User, environ: Mapping[str, str]) -> dict[str, str]:
    """What a login would set."""
    return {
        "HOME": str(user.home),
        "USER": user.name,
        "SHELL": user.shell or environ.get("SHELL", "/bin/sh"),
        "LANG": environ.get("LANG", "C.UTF-8"),
        "PATH": interpreters.own_path(environ, sys.prefix, sys.base_prefix),
    }


def _lab(order: AttemptOrder, places: Places) -> dict[str, str]:
    made = {
        "LAB_RUN_DIR": str(places.run_dir),
        "LAB_RUN_NAME": order.run_name,
        "LAB_METRICS_CSV": str(places.metrics),
        "LAB_CHECKPOINT": str(places.checkpoint),
        "LAB_PROJECT": order.project,
        "LAB_EXPERIMENT_UID": order.experiment_uid,
        "LAB_ATTEMPT": str(order.number),
        "LAB_ATTEMPT_ID": order.id,  # by which the agent knows a process as the job's
    }
    if places.config is not None:
        made["LAB_CONFIG"] = str(places.config)
    if places.resume_from is not None:
        made["LAB_RESUME_FROM"] = str(places.resume_from)
    return made


def _gpus(order: AttemptOrder, gpu_indices: Mapping[str, int]) -> dict[str, str]:
    missing = [uuid for uuid in order.gpus if uuid not in gpu_indices]
    if missing:
        raise StartFailed(
            f"The GPU {missing[0]} is not on this host any more: see nvidia-smi -L there"
        )
    indices = ",".join(str(gpu_indices[uuid]) for uuid in order.gpus)
    visible = indices if order.gpu_ids == "index" else ",".join(order.gpus)
    if any(uuid.startswith(wire.SIMULATED) for uuid in order.gpus):
        visible = ""  # there is no such card: let the job see none, rather than another
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": visible,
        "LAB_GPU_INDICES": indices,
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
