"""What keeps secrets unreadable at rest: Fernet, with keys that the database does not hold.

The first key seals, each of them opens, so that a key is changed while everything runs
(`manage.py secretskey`). They stand in LAB_SECRETS_KEY, else one a line in the file `secrets_key`
of the data folder, mode 0600, made when the first secret is kept. Nothing is held in memory
between two calls: a key that was changed counts from the next call on, in every process.

Whoever writes what is sealed, anew or as a copy, calls hold_keys() in its transaction first. So
who changes the key (lock_keys()) sees what the old one sealed, before that one is dropped.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.db import connection
from django.utils.translation import gettext as _

from experiments.errors import SecretsLocked

#: Of PostgreSQL, shared by all who write what is sealed.
_ADVISORY_LOCK = 0x5EA1


def seal(text: str) -> str:
    """
    Raises:
        SecretsLocked: there is no key, and none may be made.
    """
    return _box().encrypt(text.encode()).decode()


def unseal(token: str) -> str:
    """
    Raises:
        SecretsLocked: none of the keys opens it.
    """
    try:
        return _box().decrypt(token).decode()
    except InvalidToken:
        raise SecretsLocked(_words()) from None


def resealed(token: str) -> str:
    """The same, by the first key.

    Raises:
        SecretsLocked: as unseal().
    """
    try:
        return _box().rotate(token.encode()).decode()
    except InvalidToken:
        raise SecretsLocked(_words()) from None


def has_key() -> bool:
    return bool(_keys())


def make_first_key() -> None:
    """Unless there is one by now: of two who keep the first secret at once both seal by one."""
    with _alone():
        if not has_key():
            _write([_new_key()])


def make_key() -> None:
    """A new key, laid before those that there are in the file."""
    with _alone():
        _write([_new_key(), *_keys()])


def drop_old_keys() -> None:
    """Keep the first key of the file alone: whatever others have sealed is lost."""
    if not settings.LAB_SECRETS_KEYS:
        with _alone():
            _write(_keys()[:1])


def hold_keys() -> None:
    """Until the end of this transaction no key is dropped that there is now."""
    _lock("pg_advisory_xact_lock_shared")


def lock_keys() -> None:
    """Until the end of this transaction nobody else writes what is sealed; what was written before
    is seen in it."""
    _lock("pg_advisory_xact_lock")


def _lock(function: str) -> None:
    """SQLite has one writer at a time, from a transaction's beginning to its end."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {function}(%s)", [_ADVISORY_LOCK])


def _box() -> MultiFernet:
    try:
        return MultiFernet([Fernet(key) for key in _keys()])
    except ValueError:  # no key, or a line that is none
        raise SecretsLocked(_words()) from None


def _keys() -> list[str]:
    if settings.LAB_SECRETS_KEYS:
        return list(settings.LAB_SECRETS_KEYS)
    try:
        text = _file().read_text()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError):
        raise SecretsLocked(_words()) from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _new_key() -> str:
    return Fernet.generate_key().decode()


@contextmanager
def _alone() -> Iterator[None]:
    """Within the block nobody else changes the file."""
    lock = os.open(_file().with_name(f".{_file().name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _give(lock)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _write(keys: list[str]) -> None:
    """On the disk before it returns: what is sealed from then on could not be opened without."""
    part = _file().with_name(f".{_file().name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        _give(descriptor)
        file.write("".join(f"{key}\n" for key in keys))
        file.flush()
        os.fsync(file.fileno())
    part.rename(_file())
    folder = os.open(_file().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _give(descriptor: int) -> None:
    """To the server's user: root runs commands, and the server reads what they left."""
    if os.geteuid() == 0:
        there = [path.stat() for path in (_file(), _file().parent) if path.exists()]
        owner = next((one for one in there if one.st_uid), there[-1])
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _file() -> Path:
    return Path(settings.LAB_SECRETS_KEY_FILE)


def _words() -> str:
    return _(
        "The server cannot open the secrets that it keeps: the key that sealed them is missing "
        "or another one. Put the file secrets_key back into the data folder (or LAB_SECRETS_KEY), "
        "or drop the secrets with manage.py secretskey --forget and have them set again."
    )
