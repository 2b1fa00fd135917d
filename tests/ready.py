"""A data folder as a first start leaves it, but for its people and keys: made once for all tests.

A first start makes some hundred tables, one change of theirs after the other, which takes longer
than most tests. What is copied here is made by the same code; each server still looks whether its
database is of its version, and makes its keys and its administrator.
"""

import atexit
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Names the folder to whoever is started from here: the workers of one run share it.
_SHARED = "LABSITE_TESTS_READY"
_MAKE = """\
import django
django.setup()
from labsite.run import firststart
firststart.folders()
firststart.database()
firststart.static_files()
"""


def shared() -> Path:
    """The folder of this run of tests; who names it first removes it in the end."""
    if _SHARED not in os.environ:
        os.environ[_SHARED] = tempfile.mkdtemp(prefix="labsite-ready-")
        atexit.register(shutil.rmtree, os.environ[_SHARED], ignore_errors=True)
    return Path(os.environ[_SHARED])


def lay(data_dir: Path) -> None:
    """Put it where nothing is yet; a folder that is there is left alone."""
    if data_dir.exists():
        return
    folder = shared()
    made = folder / "data"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            _make(made)
    shutil.copytree(made, data_dir)


def _make(made: Path) -> None:
    begun = made.with_name("begun")
    begun.mkdir(mode=0o700)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LAB_")}
    settings = {"DJANGO_SETTINGS_MODULE": "labsite.settings", "LAB_DATA_DIR": str(begun)}
    command = [sys.executable, "-c", _MAKE]
    subprocess.run(command, cwd=ROOT, env=kept | settings, umask=0o077, check=True)
    (begun / "secret_key").unlink()
    begun.rename(made)
