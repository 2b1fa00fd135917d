"""What is made ready before anything is served: the lock, the database, static files, an admin.

Each step is quick when there is nothing to do, since this stands in the way of every start.
What cannot be made ready ends the start with a sentence that says what to do.
"""

import fcntl
import hashlib
import importlib.metadata
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

#: Whose migrations tell a newer version; other packages' may come and go.
OURS = {"devices", "experiments", "labsite", "people", "sync"}
ADMIN = "admin"
PASSWORD_FILE = "admin-password.txt"  # noqa: S105  a file's name


@dataclass(frozen=True)
class NewAdmin:
    name: str
    password: str


def lock(data_dir: Path) -> TextIO:
    """Hold the data folder for this process: two servers on one would both restart the other.

    The lock lasts while the returned file is open, and ends with the process however it ends.
    """
    (data_dir / "run").mkdir(mode=0o700, exist_ok=True)
    file = (data_dir / "run" / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        sys.exit(
            f"A server already runs on the data folder {data_dir}: {file.read().strip()}.\n"
            "Stop that one first, or choose another --data-dir."
        )
    return file


def hold(lock_file: TextIO, url: str) -> None:
    """Write into the lock who holds it, for whoever comes second."""
    lock_file.truncate(0)
    lock_file.write(f"process {os.getpid()}, {url}")
    lock_file.flush()


def folders() -> None:
    """Those of the data folder that hold what people and agents bring."""
    for folder in (settings.LAB_LOGS_DIR, settings.LAB_CONFIG_DIR, settings.LAB_SPOOL_DIR):
        folder.mkdir(exist_ok=True)


def database() -> None:
    """Bring the database's form up to this version's."""
    try:
        executor = MigrationExecutor(connection)
        _refuse_newer(executor)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            call_command("migrate", verbosity=0, interactive=False)
    except DatabaseError as exc:
        sys.exit(f"The database cannot be used: {str(exc).strip()}\n{_where()}")


def _refuse_newer(executor: MigrationExecutor) -> None:
    known = executor.loader.disk_migrations
    replaced = {key for migration in known.values() for key in migration.replaces}
    applied = executor.loader.applied_migrations
    newer = [key for key in applied if key[0] in OURS and key not in known and key not in replaced]
    if newer:
        sys.exit(
            f"The database comes from a newer version of the server, with {'.'.join(newer[0])}.\n"
            "Install that version, or restore the backup made before the upgrade."
        )


def _where() -> str:
    if connection.vendor == "sqlite":
        return f"It is the file {settings.DATABASES['default']['NAME']}."
    return "LAB_DATABASE_URL says where it is."


def static_files() -> None:
    """Collect the static files when they or a package that brings some have changed."""
    stamp = Path(settings.STATIC_ROOT) / ".collected"
    wanted = _static_mark()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    call_command("collectstatic", verbosity=0, interactive=False)
    stamp.write_text(wanted)


def _static_mark() -> str:
    mark = hashlib.sha256()
    for package in ("django", "django-unfold", "djangorestframework", "drf-spectacular-sidecar"):
        mark.update(f"{package} {importlib.metadata.version(package)}\n".encode())
    for folder in settings.STATICFILES_DIRS:
        for path in sorted(Path(folder).rglob("*")):
            found = path.stat()
            mark.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    return mark.hexdigest()


def admin() -> NewAdmin | None:
    """The first administrator, with a password made here; None when there is one already."""
    users = get_user_model().objects
    if users.filter(is_superuser=True).exists():
        return None
    made = NewAdmin(ADMIN, secrets.token_urlsafe(12))
    users.create_superuser(made.name, password=made.password)
    return made


def show_password(made: NewAdmin, data_dir: Path) -> str:
    """A sentence for the one who starts the server. The password goes to a terminal, or else
    into a file of mode 0600: never into a log."""
    if sys.stdout.isatty():
        return f"Log in as {made.name} with the password {made.password} and change it there."
    path = data_dir / PASSWORD_FILE
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(made.password + "\n")
    return (
        f"Log in as {made.name} with the password in {path}, change it there, and delete the file."
    )
