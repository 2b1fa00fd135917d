"""How long until a killed part answers again and the job has got over it: `tests.faults.matrix`
without outages, each part killed at each moment of a job's life, as often as `--kills` says.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.matrix import CELLS, Matrix, recoveries, report, spread
from tests.faults.victims import draw

P99_SECONDS = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=2 * len(CELLS))
    parser.add_argument("--stacks", type=int, default=3, help="labs side by side")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=15.0, help="begin no kill after these")
    options = parser.parse_args()
    kills = [draw(options.seed, number, CELLS, {0.0: 1}) for number in range(options.kills)]
    end = time.monotonic() + options.minutes * 60
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        results = list(Matrix(Path(folder), kills, options.stacks, end).results())
    print(report(results))
    median, p99, longest = spread(recoveries(results))
    print(f"recovery from kill -9, {len(results)} kills: median {median:.1f} s, ", end="")
    print(f"p99 {p99:.1f} s, longest {longest:.1f} s (to hold: p99 {P99_SECONDS:.0f} s)")
    well = len(results) == len(kills) and not any(result["faults"] for result in results)
    return 0 if well and p99 <= P99_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
