"""Whether the system ends a user's processes at logout (logind.conf(5), KillUserProcesses)."""

import re
from pathlib import Path

FOLDERS = ["etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd"]


def ends_processes_of(user: str, root: Path = Path("/")) -> bool:
    """Whether what `user` leaves running in a session is killed when the session ends."""
    settings: dict[str, str] = {}
    for path in _files(root):
        settings.update(_settings(path))
    if settings.get("KillUserProcesses", "no").lower() not in ("yes", "true", "on", "1", "y", "t"):
        return False
    if user in settings.get("KillExcludeUsers", "root").split():
        return False
    only = settings.get("KillOnlyUsers", "").split()
    return not only or user in only


def _files(root: Path) -> list[Path]:
    """In the order in which they count, the last one most: one main file, then the drop-ins by
    name, those of /etc in place of those of the same name."""
    folders = [root / folder for folder in FOLDERS]
    main = [path for folder in folders if (path := folder / "logind.conf").is_file()]
    added: dict[str, Path] = {}
    for folder in reversed(folders):
        added.update({path.name: path for path in folder.glob("logind.conf.d/*.conf")})
    return main[:1] + [added[name] for name in sorted(added)]


def _settings(path: Path) -> dict[str, str]:
    """What a file sets. A line that is commented out shows what was compiled in, unless it is a
    drop-in's: so systemd ships its logind.conf."""
    optional = "#?" if path.name == "logind.conf" else ""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return {}
    lines = re.findall(rf"^\s*({optional}Kill\w+)\s*=\s*(.*?)\s*$", text, re.MULTILINE)
    said = {name: value for name, value in lines if not name.startswith("#")}
    return {name.removeprefix("#"): value for name, value in lines} | said
