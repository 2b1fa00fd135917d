"""A job whose truth is known, and the check of what arrived of it.

As a script it writes numbered, checksummed rows to `$LAB_METRICS_CSV` and to its output, and
notes each in a truth file of its own once it is written. It needs the standard library only.

    python tests/faults/workload.py --truth FILE --seconds 90
"""

import argparse
import hashlib
import os
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

HEADER = b"n,crc32"
LOG_WORDS = "행"  # three bytes a character: a chunk that ends within one must do no harm
CHECKPOINT_BYTES = 300_000

Form = Callable[[int], bytes]  # a line by its number, without the newline


def row(number: int) -> bytes:
    return b"%d,%08x" % (number, zlib.crc32(b"row %d" % number))


def log_line(number: int) -> bytes:
    """Of changing length, now and then a long one."""
    filler = LOG_WORDS * (2000 if number % 97 == 0 else number % 40)
    return row(number) + b" " + filler.encode()


def checkpoint(number: int) -> bytes:
    """Incompressible, and recognised by its first line as whole or not."""
    content = b"%d\n" % number + hashlib.shake_256(b"%d" % number).digest(CHECKPOINT_BYTES)
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def faults_of(csv: bytes, written: int) -> list[str]:
    """What is wrong with `csv` as the result of a workload that wrote so many rows; in O(n)."""
    if not csv.startswith(HEADER + b"\n"):
        return ["the header is missing or torn"]
    return _faults(csv[len(HEADER) + 1 :], written, row)


def faults_of_log(log: bytes, written: int, first: int = 1) -> list[str]:
    """`first`: the number of the first line, when the rows before it were another attempt's."""
    return _faults(log, written, log_line, first)


def is_whole(content: bytes) -> bool:
    """Whether these bytes are one complete version of the checkpoint."""
    digest, _, rest = content.partition(b"\n")
    return hashlib.sha256(rest).hexdigest().encode() == digest


def enough(truth: Path) -> Path:
    """The file whose coming ends the workload that writes `truth`, in order and at once."""
    return truth.with_name(f"{truth.name}.enough")


def written_rows(truth: Path) -> int:
    """How many rows the workload has noted; a last line that is torn does not count."""
    return truth.read_bytes().count(b"\n") if truth.exists() else 0


def _faults(content: bytes, written: int, form: Form, first: int = 1) -> list[str]:
    *lines, rest = content.split(b"\n")
    found = ["the last line is torn"] if rest else []
    seen: set[int] = set()
    expected = first
    for line in lines:
        number = _number(line, form)
        if number is None:
            found.append(f"torn line {line[:40]!r} after {expected - 1}")
        elif number in seen:
            found.append(f"{number} is there twice")
        elif number < expected:
            found.append(f"{number} comes late, after {expected - 1}")
        else:
            found += [f"{lost} is lost" for lost in range(expected, number)]
            expected = number + 1
        if number is not None:
            seen.add(number)
    found += [f"{lost} is lost" for lost in range(expected, written + 1)]
    if expected - 1 > written:
        found.append(f"there are {expected - 1}, and {written} were written")
    return found


def _number(line: bytes, form: Form) -> int | None:
    digits = line.partition(b",")[0]
    if not digits.isdigit() or len(digits) > 9 or form(int(digits)) != line:
        return None
    return int(digits)


class Writer:
    """Writes rows and checkpoints where they belong, and notes in `truth` what was written."""

    def __init__(self, metrics: Path, truth: Path, checkpoint: Path) -> None:
        self._metrics = os.open(metrics, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._truth = os.open(truth, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._checkpoint = checkpoint

    def begin(self) -> None:
        _write(self._metrics, [HEADER + b"\n"])

    def write(self, number: int) -> None:
        digits, comma, rest = row(number).partition(b",")
        _write(self._metrics, [digits + comma, rest + b"\n"])
        _write(1, [log_line(number) + b"\n"])
        _write(self._truth, [b"%d\n" % number])
        os.fsync(self._truth)

    def save(self, number: int) -> None:
        unfinished = self._checkpoint.with_name(self._checkpoint.name + ".tmp")
        unfinished.write_bytes(checkpoint(number))
        unfinished.replace(self._checkpoint)


def _write(file: int, parts: Iterable[bytes]) -> None:
    for part in parts:  # a row in two writes: a reader in between finds half of it
        os.write(file, part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rows-per-second", type=float, default=20.0)
    parser.add_argument("--rows-per-checkpoint", type=int, default=100)
    args = parser.parse_args()
    metrics = Path(os.environ["LAB_METRICS_CSV"])
    writer = Writer(metrics, args.truth, Path(os.environ["LAB_CHECKPOINT"]))
    writer.begin()
    end, number = time.monotonic() + args.seconds, 0
    while time.monotonic() < end and not enough(args.truth).exists():
        number += 1
        writer.write(number)
        if number % args.rows_per_checkpoint == 0:
            writer.save(number)
        time.sleep(1 / args.rows_per_second)


if __name__ == "__main__":
    main()
