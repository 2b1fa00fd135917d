"""The `__main__.py` of `agent.pyz`: unpacks that file, and runs the agent that was in it.

From a folder and not from the file itself: Python keeps there what it compiled, and the file may
be replaced by a newer one while this agent runs. The folder is named by the file's content, is
held by a lock as long as an agent runs from it, and goes when none does and another one starts.

`lab.pyz` keeps what is in it by the same functions (labcommand.py).

Standard library only, and nothing that a Python before 3.10 could not read: it is told what it
lacks.
"""

import fcntl
import hashlib
import os
import pwd
import runpy
import shutil
import sys
import tempfile
import time
import zipfile
import zlib
from contextlib import suppress

NEEDS = (3, 10)
CANNOT_START = 2
OPTION = "--state-dir"
STALE_SECONDS = 3600  # of what somebody began to unpack and never finished


def main() -> None:
    """Never returns: the agent says how it ended."""
    archive = os.path.dirname(os.path.abspath(__file__))
    if sys.version_info < NEEDS or sys.implementation.name != "cpython":
        found = f"{sys.implementation.name} {sys.version.split()[0]}"
        _refuse(f"this is {found}, and the agent needs CPython 3.10 or newer: name another one")
    parent = os.path.join(base_folder(sys.argv[1:]), "code")
    try:
        folder = unpacked(archive, parent)
        tidy(parent, folder)
    except OSError as exc:
        _refuse(f"{parent} cannot be written ({exc.strerror}): name another {OPTION}")
    sys.path[0] = folder
    runpy.run_module("agent", run_name="__main__")


def base_folder(arguments: list) -> str:  # type: ignore[type-arg]  # Python 3.8 reads this too
    """Where the agent keeps its state, as agent.state has it; its own parser comes later."""
    for at, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == OPTION and (value or at + 1 < len(arguments)):
            return os.path.abspath(os.path.expanduser(str(value or arguments[at + 1])))
    if os.geteuid() == 0:
        return "/var/lib/lab-agent"
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # a container that runs under a bare number
        home = os.environ.get("HOME", "/")
    return os.path.join(home, ".local/state/lab-agent")


def unpacked(archive: str, parent: str) -> str:
    """The folder that holds what is in `archive`, whole, and that nobody takes away.

    Raises:
        OSError: it cannot be made.
    """
    with open(archive, "rb") as file:
        sha256 = hashlib.sha256(file.read()).hexdigest()
    folder = os.path.join(parent, sha256[:16])
    os.makedirs(parent, mode=0o700, exist_ok=True)
    with zipfile.ZipFile(archive) as file:
        if not os.path.isdir(folder):
            _unpack(file, folder)
        _hold(folder)
        if not is_whole(file, folder):  # a power cut may have left names without their content
            file.extractall(folder)
    return folder


def _unpack(file: zipfile.ZipFile, folder: str) -> None:
    # A home may be shared by hosts that unpack at once, each with the same pid.
    part = tempfile.mkdtemp(prefix=f"{os.path.basename(folder)}.", dir=os.path.dirname(folder))
    try:
        file.extractall(part)
        os.rename(part, folder)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        if not os.path.isdir(folder):  # or somebody else was quicker
            raise


def is_whole(file: zipfile.ZipFile, folder: str) -> bool:
    try:
        for one in file.infolist():
            with open(os.path.join(folder, one.filename), "rb") as there:
                if zlib.crc32(there.read()) != one.CRC:
                    return False
    except OSError:
        return False
    return True


def _hold(folder: str) -> None:
    """Until this process ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
    except OSError:  # a network file system without locks
        os.utime(folder)


def tidy(parent: str, own: str) -> None:
    """Take away what no agent runs from."""
    for name in os.listdir(parent):
        folder = os.path.join(parent, name)
        if folder != own:
            with suppress(OSError):  # an agent runs from it, or somebody else takes it away
                _remove(folder)


def _remove(folder: str) -> None:
    """
    Raises:
        OSError: it is held.
    """
    if os.stat(folder).st_mtime > time.time() - STALE_SECONDS:
        return  # somebody may just be unpacking it
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    finally:
        os.close(handle)


def _refuse(text: str) -> None:
    sys.stderr.write(f"lab-agent: {text}\n")
    sys.exit(CANNOT_START)


if __name__ == "__main__":
    main()
