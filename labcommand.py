"""What the command `lab` begins with: a name that no folder of a researcher's has. It is also the
`__main__.py` of `lab.pyz` (labsite/zipapps.py).

Students keep an `agent.py`, a `requests.py` or a `yaml.py` beside their experiments, and say
PYTHONPATH=. in their shell. What is imported for `lab` is what was installed with it, whatever
lies there; so PYTHONPATH is left out before anything else is looked for.

Nothing in here that a Python before 3.10 could not read: it is told what it lacks.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))  # lab.pyz itself, of a file in it
NEEDS = (3, 10)
USAGE = 2


def main() -> int:
    if sys.version_info < NEEDS:
        found = ".".join(str(number) for number in sys.version_info[:3])
        sys.stderr.write(
            f"lab: this is Python {found}, and lab needs 3.10 or newer: activate an environment "
            f"that has one, or name it, as in: python3.12 {sys.argv[0]} --version\n"
        )
        return USAGE
    leave_out(os.environ.get("PYTHONPATH", ""))
    if os.path.isfile(HERE):
        unpack(HERE)
    from agent.cli.__main__ import main as begin

    return begin()


def leave_out(python_path: str) -> None:
    """Take its folders from sys.path, but for the one in which this file lies (a checkout)."""
    named = {os.path.abspath(folder) for folder in python_path.split(os.pathsep)}
    sys.path[:] = [
        folder
        for folder in sys.path
        if os.path.abspath(folder) not in named or os.path.abspath(folder) == HERE
    ]


def unpack(archive: str) -> None:
    """Go on from a folder of the user's caches, where Python keeps what it has compiled; where
    there can be none, from the file, which takes longer each time."""
    from agent import bootstrap

    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(caches):  # an account without a home
        return
    parent = os.path.join(caches, "lab", "pyz")
    try:
        folder = bootstrap.unpacked(archive, parent)
        bootstrap.tidy(parent, folder)
    except OSError:
        return
    sys.path[0] = folder
    del sys.modules["agent"]  # the file's


if __name__ == "__main__":
    sys.exit(main())
