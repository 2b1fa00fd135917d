"""What the command `lab` begins with: a name that no folder of a researcher's has.

Students keep an `agent.py`, a `requests.py` or a `yaml.py` beside their experiments, and say
PYTHONPATH=. in their shell. What is imported for `lab` is what was installed with it, whatever
lies there; so PYTHONPATH is left out before anything else is looked for.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def main() -> int:
    leave_out(os.environ.get("PYTHONPATH", ""))
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
