"""Run the measurements one after the other: `python -m bench [NAME …]`.

Ends with 0 only if every number holds.
"""

import argparse
import subprocess
import sys
from pathlib import Path

#: The short ones first; each a module of this folder with a main() of its own.
ALL = (
    "sqlite_modes", "ready", "labrun", "pyz_start", "dispatch_pass", "curves", "deltas",
    "sync_status", "arrival", "visible", "watched_files", "freeing", "whole_file", "cut_upload",
    "healing", "heartbeats", "viewers", "submit_to_start", "submit_code", "lab_ls", "idle",
    "agent_footprint", "pages", "liveness", "recovery", "false_alarms",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}")
    names = parser.parse_args().names or ALL
    if unknown := set(names) - set(ALL):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(ALL)}")
    root = Path(__file__).parents[1]
    failed = []
    for name in names:
        print(f"--- {name}", flush=True)
        if subprocess.run(
            [sys.executable, "-m", f"bench.{name}"], cwd=root, check=False
        ).returncode:
            failed.append(name)
    print(f"does not hold: {', '.join(failed)}" if failed else "all numbers hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
