"""Installing a service: what is written where, and which commands make it run.

Standard library only: `lab-agent install-service` and `manage.py runlab install-service` both end
here. All that happens is shown first, and with --dry-run nothing else does.
"""

import argparse
import os
import pwd
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent import host
from agent.errors import ConfigError
from agent.service import unitfiles
from agent.service.unitfiles import Service

BOOTED_WITH_SYSTEMD = Path("/run/systemd/system")


@dataclass(frozen=True)
class Choice:
    """The options of install-service."""

    of_system: bool
    user: str  # who the service runs as
    name: str
    manager: str  # "systemd", "launchd" or "cron"
    dry_run: bool
    remove: bool


@dataclass(frozen=True)
class Step:
    """A command; `remedy`: what to say if it fails and the rest goes on, None: it must not."""

    command: tuple[str, ...]
    remedy: str | None = None
    given: str | None = None  # its stdin


@dataclass(frozen=True)
class Plan:
    path: Path | None  # None: a line of the crontab
    content: bytes
    found: str | None  # what is there now
    install: tuple[Step, ...]
    before_removal: tuple[Step, ...]
    after_removal: tuple[Step, ...]
    hints: tuple[str, ...]


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("install-service").add_argument
    add("--system", dest="scope", action="store_const", const="system", help="for the machine")
    add("--user", dest="scope", action="store_const", const="user", help="for this user alone")
    add("--as-user", metavar="NAME", help="who a service of the machine runs as")
    add("--service-name", metavar="NAME", help="another name than lab-agent or lab-server")
    add("--manager", choices=list(PLANS), help="default: what this machine has")
    add("--dry-run", action="store_true", help="only show what would be done")
    add("--remove", action="store_true", help="stop the service and remove it")


def options() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those of add_options that stand alone, and those with a value."""
    return ("--system", "--user", "--dry-run", "--remove"), (
        "--as-user",
        "--service-name",
        "--manager",
    )


def choice(given: argparse.Namespace, name: str) -> Choice:
    """
    Raises:
        ConfigError: this user may not, or this machine cannot.
    """
    is_root = os.geteuid() == 0
    of_system = given.scope == "system" or (given.scope is None and is_root)
    if of_system and not is_root and not given.dry_run:
        raise ConfigError("A service of the machine needs root: use sudo, or --user for your own")
    own = host.unix_user()
    user = given.as_user or (os.environ.get("SUDO_USER", own) if of_system else own)
    if not of_system and user != own:
        raise ConfigError(f"A service of {user} needs root: use sudo, with --as-user {user}")
    account(user)
    service_name = (given.service_name or name).removesuffix(".service")
    return Choice(
        of_system,
        user,
        service_name,
        given.manager or _manager(),
        given.dry_run,
        given.remove,
    )


def account(user: str) -> pwd.struct_passwd:
    """
    Raises:
        ConfigError: there is no such user here.
    """
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise ConfigError(f"There is no user {user!r} on this machine: make it first") from None


def _manager() -> str:
    if sys.platform == "darwin":
        return "launchd"
    if BOOTED_WITH_SYSTEMD.is_dir():
        return "systemd"
    if shutil.which("crontab"):
        return "cron"
    raise ConfigError(
        "This machine has neither systemd nor crontab: have its own way of starting programs run "
        "the agent in the foreground, or start it with --daemon. --manager names one all the same"
    )


def is_free(service: Service, chosen: Choice) -> bool:
    """Whether nothing has its name, or it has it itself."""
    found = PLANS[chosen.manager](service, chosen).found
    return found is None or unitfiles.is_of(service, found)


def install(service: Service, chosen: Choice, say: Callable[[str], None]) -> None:
    """Write, enable and start it.

    Raises:
        ConfigError: another service has that name, or a command failed.
    """
    plan = PLANS[chosen.manager](service, chosen)
    if not is_free(service, chosen):
        raise ConfigError(
            f"{plan.path or 'The crontab'} already starts another {service.name}: choose "
            "--service-name, or remove that one first"
        )
    say(f"# {plan.path or 'crontab'}")
    say(plan.content.decode())
    _carry_out(plan.install, chosen, say, before=lambda: _write(plan))
    for hint in plan.hints:
        say(hint)


def remove(service: Service, chosen: Choice, say: Callable[[str], None]) -> None:
    """Stop it and take its file away; the agent's jobs go on.

    Raises:
        ConfigError: there is none, or a command failed.
    """
    plan = PLANS[chosen.manager](service, chosen)
    if plan.found is None or not is_free(service, chosen):
        whose = "no service" if plan.found is None else "another agent's or server's service"
        raise ConfigError(f"There is {whose} {service.name} here: {plan.path or 'crontab'}")
    _carry_out(plan.before_removal, chosen, say)
    say(f"rm {plan.path}" if plan.path else "# the line of the crontab")
    _carry_out(plan.after_removal, chosen, say, before=lambda: _delete(plan))


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return None


def _write(plan: Plan) -> None:
    if plan.path is not None:
        try:
            plan.path.parent.mkdir(parents=True, exist_ok=True)
            plan.path.write_bytes(plan.content)
        except OSError as exc:
            raise ConfigError(f"{plan.path} cannot be written: {exc.strerror}") from exc


def _delete(plan: Plan) -> None:
    if plan.path is not None:
        plan.path.unlink(missing_ok=True)


def _carry_out(
    steps: Sequence[Step],
    chosen: Choice,
    say: Callable[[str], None],
    before: Callable[[], None] = lambda: None,
) -> None:
    if not chosen.dry_run:
        before()
    for step in steps:
        say(shlex.join(step.command))
        if not chosen.dry_run:
            _run(step, say)


def _run(step: Step, say: Callable[[str], None]) -> None:
    try:
        done = subprocess.run(
            step.command, input=step.given, capture_output=True, text=True, env=environment()
        )
        wrong = done.stderr.strip() or f"exit status {done.returncode}"
        failed = done.returncode != 0
    except OSError as exc:
        wrong, failed = exc.strerror or str(exc), True
    if failed and step.remedy is None:
        raise ConfigError(f"{shlex.join(step.command)} failed: {wrong}")
    if failed:
        say(f"! That failed ({wrong}). {step.remedy}")


def environment() -> dict[str, str]:
    """For systemctl --user, which after `sudo -iu kim` does not know where kim's manager is."""
    return {"XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}", **os.environ}


# --- systemd ---


def _systemd(service: Service, chosen: Choice) -> Plan:
    control = ("systemctl",) if chosen.of_system else ("systemctl", "--user")
    unit = f"{service.name}.service"
    path = (_units(chosen) / unit).absolute()
    linger = Step(
        ("loginctl", "enable-linger", chosen.user),
        f"Without it {service.name} and its jobs end when you log out: have somebody with root "
        f"run sudo loginctl enable-linger {chosen.user}",
    )
    typed = " ".join(("sudo", *control) if chosen.of_system else control)
    journal = f"journalctl -u {unit} -f" if chosen.of_system else f"journalctl --user -u {unit} -f"
    return Plan(
        path,
        unitfiles.systemd(service, chosen.of_system).encode(),
        _text(path),
        (
            *(() if chosen.of_system else (linger,)),
            Step((*control, "daemon-reload")),
            Step((*control, "enable", unit)),
            Step((*control, "restart", unit)),
        ),
        (Step((*control, "disable", "--now", unit)),),
        (Step((*control, "daemon-reload")),),
        (
            f"Look at it:  {' '.join(control)} status {unit}; {journal}",
            f"Stop it:     {typed} stop {unit}",
            "Remove it:   the same command with --remove",
        ),
    )


def _units(chosen: Choice) -> Path:
    if chosen.of_system:
        return Path("/etc/systemd/system")
    config = os.environ.get("XDG_CONFIG_HOME") or Path(account(chosen.user).pw_dir) / ".config"
    return Path(config) / "systemd" / "user"


# --- launchd ---

_AGENTS = "Library/LaunchAgents"


def _launchd(service: Service, chosen: Choice) -> Plan:
    home = Path(account(chosen.user).pw_dir)
    folder = Path("/Library/LaunchDaemons") if chosen.of_system else home / _AGENTS
    path = folder / f"{service.label}.plist"
    domain = "system" if chosen.of_system else f"gui/{account(chosen.user).pw_uid}"
    target = f"{domain}/{service.label}"
    out = Step(("launchctl", "bootout", target), "It did not run, which is as well.")
    sudo = "sudo " if chosen.of_system else ""
    return Plan(
        path,
        unitfiles.launchd(service, chosen.of_system),
        _text(path),
        (
            *((out,) if path.exists() else ()),
            Step(("launchctl", "bootstrap", domain, str(path))),
        ),
        (out,),
        (),
        (
            f"Look at it:  {sudo}launchctl print {target}",
            f"Stop it:     {sudo}launchctl bootout {target}",
            "Remove it:   the same command with --remove",
        ),
    )


# --- cron ---


def _cron(service: Service, chosen: Choice) -> Plan:
    own = chosen.user == host.unix_user()
    table = ("crontab",) if own else ("crontab", "-u", chosen.user)
    lines = _crontab(table)
    mark = unitfiles.crontab_mark(service)
    others = "".join(f"{line}\n" for line in lines if not line.endswith(mark))
    ours = [line for line in lines if line.endswith(mark)]
    new = unitfiles.crontab(service)
    start = ("sh", "-c", unitfiles.shell(service))
    return Plan(
        None,
        new.encode(),
        "\n".join(ours) or None,
        (
            Step((*table, "-"), given=others + new),
            Step(start if own else ("runuser", "-u", chosen.user, "--", *start)),
        ),
        (Step((*table, "-"), given=others),),
        (),
        (
            "Look at it:  crontab -l; it is started at each boot, and not again if it ends",
            "Remove it:   the same command with --remove; what runs now, runs on",
        ),
    )


def _crontab(table: tuple[str, ...]) -> list[str]:
    try:
        return subprocess.run([*table, "-l"], capture_output=True, text=True).stdout.splitlines()
    except OSError:  # no cron here, but somebody wants to see the line
        return []


PLANS: dict[str, Callable[[Service, Choice], Plan]] = {
    "systemd": _systemd,
    "launchd": _launchd,
    "cron": _cron,
}


def is_service(unit: str) -> bool:
    """Whether it is systemd's or launchd's name of one."""
    return unit.endswith(".service") or unit.startswith(unitfiles.LABELS)


def start_command(unit: str, of_system: bool) -> tuple[str, ...]:
    """What starts a service that stop_command() has stopped."""
    if not unit.endswith(".service"):
        folder = Path("/Library/LaunchDaemons") if of_system else host.home() / _AGENTS
        domain = "system" if of_system else f"gui/{os.getuid()}"
        return ("launchctl", "bootstrap", domain, str(folder / f"{unit}.plist"))
    control = ("systemctl",) if of_system else ("systemctl", "--user")
    return (*control, "start", unit)


def restart_command(unit: str, of_system: bool) -> tuple[str, ...]:
    """What ends a service of systemd in order, and starts it again."""
    return ("systemctl", *(() if of_system else ("--user",)), "restart", unit)


def stop_command(unit: str, of_system: bool) -> tuple[str, ...]:
    """What stops a service so that it stays stopped, for `lab-agent --stop`."""
    if not unit.endswith(".service"):
        domain = "system" if of_system else f"gui/{os.getuid()}"
        return ("launchctl", "bootout", f"{domain}/{unit}")
    control = ("systemctl",) if of_system else ("systemctl", "--user")
    return (*control, "stop", unit)
