"""The environment, read once and checked. A wrong value stops the start with one sentence.

Every variable of the server stands here with its default; docs/operations.md lists them.
"""

import os
import re
import secrets
import sys
from pathlib import Path

from environs import Env, EnvError, validate

_env = Env(expand_vars=False)


def _positive(name: str, default: float) -> float:
    return _env.float(name, default, validate=validate.Range(min=0.1))


def _whole(name: str, default: int) -> int:
    return _env.int(name, default, validate=validate.Range(min=0))


def _read() -> dict:
    data_dir = Path(_env.str("LAB_DATA_DIR", "data")).expanduser().absolute()
    return {
        "DATA_DIR": data_dir,
        "DEBUG": _env.bool("LAB_DEBUG", False),
        "DATABASE_URL": _env.str("LAB_DATABASE_URL", f"sqlite:///{data_dir / 'db.sqlite3'}"),
        "REDIS_URL": _env.str("LAB_REDIS_URL", ""),
        "PUBLIC_URL": _env.str("LAB_PUBLIC_URL", "").rstrip("/"),
        "ALLOWED_HOSTS": _env.list("LAB_ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"]),
        "TIME_ZONE": _env.str("LAB_TIME_ZONE", _system_time_zone(), validate=_known_zone),
        "LAB_NAME": _env.str("LAB_NAME", "Vision Lab"),
        "SOCKET_DIR": _env.str("LAB_SOCKET_DIR", ""),
        "POOL_THREADS": _env.int("LAB_POOL_THREADS", 4, validate=validate.Range(min=1, max=64)),
        "TRUSTED_PROXIES": _env.list("LAB_TRUSTED_PROXIES", []),
        "SELF_REGISTRATION": _env.bool("LAB_SELF_REGISTRATION", False),
        "CA_FILE": _env.str("LAB_CA_FILE", ""),
        "HTTPS": _env.bool("LAB_HTTPS", False),
        "HEARTBEAT_SECONDS": _positive("LAB_HEARTBEAT_SECONDS", 1.0),
        "HEALTHY_SECONDS": _positive("LAB_HEALTHY_SECONDS", 3.0),
        "STALE_SECONDS": _positive("LAB_STALE_SECONDS", 30.0),
        "FOREIGN_MEMORY_MIB": _env.int("LAB_FOREIGN_MEMORY_MIB", 512),
        "FOREIGN_UTILIZATION_PERCENT": _env.int("LAB_FOREIGN_UTILIZATION_PERCENT", 10),
        "GIVE_UP_AFTER_SECONDS": _positive("LAB_GIVE_UP_AFTER_SECONDS", 7 * 24 * 3600),
        "HOLD_BACK_AFTER_SECONDS": _positive("LAB_HOLD_BACK_AFTER_SECONDS", 1800),
        "BORROW_GPUS": _whole("LAB_BORROW_GPUS", 2),
        "BORROW_HOURS": _positive("LAB_BORROW_HOURS", 12),
        "MAX_FILE_BYTES": _env.int("LAB_MAX_FILE_BYTES", 20 * 1024**3),
        "MAX_SWEEP_RUNS": _whole("LAB_MAX_SWEEP_RUNS", 1000),
        "DISK_RESERVE_BYTES": _whole("LAB_DISK_RESERVE_BYTES", 1024**3),
        "QUOTA_BYTES": _whole("LAB_QUOTA_BYTES", 0),
        "QUOTA_RESERVE_BYTES": _whole("LAB_QUOTA_RESERVE_BYTES", 1024**3),
        "UNUSED_CODE_BYTES": _whole("LAB_UNUSED_CODE_BYTES", 1024**3),
        "KEEP_VERSIONS": _whole("LAB_KEEP_VERSIONS", 5),
        "KEEP_UPLOADS_HOURS": _positive("LAB_KEEP_UPLOADS_HOURS", 24),
        "KEEP_GIVEN_UP_DAYS": _positive("LAB_KEEP_GIVEN_UP_DAYS", 90),
        "KEEP_TRASH_DAYS": _positive("LAB_KEEP_TRASH_DAYS", 30),
        "NOTIFY_HOSTS": _env.list("LAB_NOTIFY_HOSTS", []),
        "EMAIL_HOST": _env.str("LAB_EMAIL_HOST", ""),
        "EMAIL_PORT": _env.int("LAB_EMAIL_PORT", 587, validate=validate.Range(min=1, max=65535)),
        "EMAIL_USER": _env.str("LAB_EMAIL_USER", ""),
        "EMAIL_PASSWORD": _env.str("LAB_EMAIL_PASSWORD", ""),
        "EMAIL_SECURITY": _env.str(
            "LAB_EMAIL_SECURITY", "starttls", validate=validate.OneOf(["starttls", "tls", "none"])
        ),
        "EMAIL_FROM": _env.str("LAB_EMAIL_FROM", ""),
        "METRICS_TOKEN": _env.str("LAB_METRICS_TOKEN", "", validate=_metrics_token),
        "SECRETS_KEYS": _env.list("LAB_SECRETS_KEY", [], validate=_sealing_keys),
    }


def _system_time_zone() -> str:
    """The host's zone by name, since the lab's days begin where the lab is."""
    link = Path("/etc/localtime")
    target = str(link.resolve()) if link.is_symlink() else ""
    _, found, name = target.partition("zoneinfo/")
    return os.environ.get("TZ", "") or (name if found else "UTC")


def _sealing_keys(keys: list[str]) -> None:
    if not all(re.fullmatch(r"[A-Za-z0-9_-]{43}=", key) for key in keys):
        raise validate.ValidationError(
            "a key is 44 characters as `manage.py secretskey --print` makes them; several have"
            " commas between, the one that seals first"
        )


def _metrics_token(token: str) -> None:
    if token and not re.fullmatch(r"[\x21-\x7e]{16,256}", token):
        raise validate.ValidationError("it has 16 to 256 printable characters and no spaces")


def _known_zone(name: str) -> None:
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError) as exc:
        raise validate.ValidationError(f"{name} is not a time zone, such as Asia/Seoul") from exc


def read() -> dict:
    try:
        return _read()
    except EnvError as exc:
        sys.exit(f"The server's environment is wrong: {exc}")


def secret_key(data_dir: Path) -> str:
    """Django's secret: LAB_SECRET_KEY, else a 0600 file in the data folder, made when missing.

    A key of this process's life is returned while there is no data folder to keep it in, so
    that `manage.py check` and `makemigrations` run on a fresh clone.
    """
    if given := os.environ.get("LAB_SECRET_KEY"):
        return given
    path = data_dir / "secret_key"
    if not data_dir.is_dir():
        return secrets.token_urlsafe(48)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    except OSError as exc:
        sys.exit(
            f"The data folder {data_dir} is not writable: {exc.strerror}. Choose another one."
        )
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(48))
    return path.read_text().strip()
