"""Curves, checkpoints and an orderly stop for a training script, in four calls.

    import labrun

    state = labrun.resume()  # None: from the beginning
    for epoch in range(state["epoch"] + 1 if state else 0, 100):
        ...
        labrun.log({"loss": loss, "val/accuracy": accuracy}, step=epoch)
        labrun.checkpoint({"epoch": epoch, "model": model.state_dict()})
        if labrun.should_stop():
            break

The lab lays this one file on the PYTHONPATH of its jobs. It needs the standard library alone, any
Python from 3.8 on, and no server: by hand it writes into the current folder. It is a writer of the
lab's documented files and nothing else (docs/labrun.md), so a run that uses it is a run like any.

Neither log nor checkpoint ends a training: what cannot be written is told on stderr.
"""

from __future__ import annotations

import atexit
import csv
import fcntl
import importlib
import io
import math
import os
import pickle
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    Row = dict[str, Any]

__all__ = ["checkpoint", "flush", "log", "resume", "rewind", "run", "should_stop"]

FLUSH_SECONDS = 0.5  # kill -9 costs the rows of so long at most
MOST_WAITING_ROWS = 50_000  # then whoever logs writes them
MOST_KEPT_ROWS = 1_000_000  # while the disk is full; those that come then are lost
MOST_COLUMNS = 500  # what the lab shows of one file
MOST_DEPTH = 3  # {"train": {"loss": 1}} is train/loss
BLOCK_BYTES = 1024 * 1024
STEP, TIME = "step", "time"
#: The key by which a checkpoint says after which step it was saved.
STEP_OF_STATE = "labrun_step"


class Metrics:
    """A CSV that one process adds rows to, and that gets wider as columns come up.

    Rows are added in whole lines. A new column is a new file by rename, in which every line is as
    wide as the header: a reader sees the old one or the new one, both right.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            BlockingIOError: another process writes it.
            OSError: it cannot be written.
        """
        self.path = path
        self._part = path.with_name(f".{path.name}.part")
        self._rows: list[Row] = []  # not in the file yet
        self._text = b""  # nor this, which is ahead of them
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _locked(path)
        self._cut_half_line()
        self._columns = self._read_header()

    @property
    def is_behind(self) -> bool:
        return bool(self._rows or self._text)

    def close(self) -> None:
        os.close(self._file)

    def add(self, rows: list[Row]) -> None:
        """
        Raises:
            OSError: the disk does not take them now; they are written with the next ones.
        """
        room = max(0, MOST_KEPT_ROWS - len(self._rows))
        if len(rows) > room:
            _warn(f"{self.path.name} cannot be written for too long: rows are lost")
        self._rows += rows[:room]
        self._write()
        self._widen()
        lines = [",".join([_cell(row.get(name)) for name in self._columns]) for row in self._rows]
        self._text = "".join([f"{line}\n" for line in lines]).encode()
        self._rows = []
        self._write()

    def cut(self, is_over: Callable[[float], bool]) -> None:
        """Take away the rows whose step is over; those that name none stay.

        Raises:
            OSError: the disk does not take it; they are all there.
        """
        self._write()
        if STEP in self._columns:
            at = self._columns.index(STEP)
            lines = self._lines()
            head = next(lines, b"")
            self._replace(head, (line for line in lines if not is_over(_step_of(line, at))))

    def last_step(self) -> float:
        """The highest; -1: there is none."""
        if STEP not in self._columns:
            return -1
        at = self._columns.index(STEP)
        steps = (_step_of(line, at) for line in self._lines())
        last = max(filter(math.isfinite, steps), default=-1.0)
        return int(last) if last.is_integer() else last

    def _write(self) -> None:
        while self._text:
            self._text = self._text[os.write(self._file, self._text) :]

    def _widen(self) -> None:
        """Have a column for whatever the rows name."""
        known = set(self._columns)
        new: dict[str, None] = {} if known else {STEP: None, TIME: None}
        for row in self._rows:
            if not row.keys() <= known:
                new.update(dict.fromkeys(name for name in row if name not in known))
        names = [name for name in new if _is_name(name)][: max(0, MOST_COLUMNS - len(known))]
        if len(names) < len(new):
            left_out = next(name for name in new if name not in names)
            _warn(f"{left_out!r} and others are no columns: more than {MOST_COLUMNS}, or no name")
        if names:
            commas = b"," * len(names) + b"\n"
            lines = self._lines()
            next(lines, None)
            wider = (line.rstrip(b"\r\n") + commas for line in lines)
            self._replace(_header(self._columns + names), wider)
            self._columns += names

    def _replace(self, head: bytes, lines: Iterable[bytes]) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._part)
        file = _locked(self._part)
        try:
            with open(os.dup(file), "wb", BLOCK_BYTES) as out:
                out.write(head)
                out.writelines(lines)
            os.replace(self._part, self.path)
        except BaseException:
            os.close(file)
            raise
        os.close(self._file)
        self._file = file

    def _lines(self) -> Iterator[bytes]:
        with open(self.path, "rb", BLOCK_BYTES) as file:
            yield from file

    def _read_header(self) -> list[str]:
        with open(self.path, "rb") as file:
            line = file.readline()
        if not line.endswith(b"\n"):
            return []
        return next(csv.reader([line.decode("utf-8-sig", "replace").rstrip("\r\n")]), [])

    def _cut_half_line(self) -> None:
        """The last line, if whoever wrote it was killed within it."""
        size = os.fstat(self._file).st_size
        end = size
        while end:
            begin = max(0, end - BLOCK_BYTES)
            block = os.pread(self._file, end - begin, begin)
            if b"\n" in block:
                end = begin + block.rindex(b"\n") + 1
                break
            end = begin
        if end < size:
            os.ftruncate(self._file, end)


def _locked(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise
    except OSError:  # a network file system without locks
        pass
    return file


def _header(names: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(names)
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    return "" if value is None else repr(value)  # the shortest that reads back as the same number


def _is_name(name: str) -> bool:
    return bool(name.strip()) and name.isprintable()


def _step_of(line: bytes, at: int) -> float:
    """NaN, which is neither before nor after any other: it names none."""
    try:
        return float(line.split(b",", at + 1)[at])
    except (ValueError, IndexError):
        return float("nan")


class Run:
    """This run: what it logs, where it goes on from, and whether it is asked to end.

    Any thread may call it. Of several processes (torchrun) rank 0 alone writes. A process that
    was forked from one that writes does not.
    """

    def __init__(self) -> None:
        self._rows: deque[Row] = deque()
        self._turn = threading.Lock()  # of whoever writes
        self._metrics: Metrics | None = None
        self._is_open = False  # or it was tried
        self._is_silent = False
        self._is_rewound = False
        self._step: float = -1
        self._is_writing = False  # the main thread, which is the one that hears signals
        self._is_ending = False
        self._stop = False
        self._asks = False  # the script looks at should_stop()
        self._listens = False  # our handler has SIGTERM
        self._before: Any = signal.SIG_DFL  # which it had been
        os.register_at_fork(after_in_child=self._forked)

    def log(self, metrics: Mapping[str, Any], step: float | None = None) -> None:
        """Add a row to the run's curves.

        Args:
            metrics: name → number. NaN and infinity are kept, None is left out, a scalar of numpy
                or torch counts as its `item()`, and a mapping within as `outer/inner`. What is no
                number is left out, and told once.
            step: where the row belongs; default: the metric `step`, else one more than the last,
                of a run that goes on also of those that are in the file.
        """
        row = _row(metrics)
        if step is None:
            step = row.get(STEP)
        elif type(step) is not int:
            step = _number(step)
        if not self._is_open:
            self._open(step)
        row[STEP] = self._step = self._step + 1 if step is None else step
        row.setdefault(TIME, round(time.time(), 3))
        if not self._is_silent:
            self._rows.append(row)
            if len(self._rows) >= MOST_WAITING_ROWS:
                self.flush()

    def flush(self) -> None:
        """Write what was logged, now."""
        self._alone(self._write)

    def checkpoint(self, state: Any, step: float | None = None) -> None:
        """Replace the run's checkpoint, in one step: a reader finds the old one or the new one.

        Args:
            state: what resume() is to give back: whatever torch.save takes (pickle, in a script
                that has not imported torch). Or the path of a file, which is copied. On a full
                disk the checkpoint before stays, which is told each time.
            step: after which step it was saved; default: the last that was logged.
        """
        if _is_other_rank():
            return
        self.flush()
        place = _place("LAB_CHECKPOINT", "checkpoint.pt")
        after = self._step if step is None else _number(step)
        if isinstance(state, dict) and after is not None and after >= 0:
            state = {**state, STEP_OF_STATE: after}
        try:
            _put_in_place(state, place)
        except (OSError, RuntimeError) as exc:  # the latter is torch's word for a full disk, too
            if not isinstance(exc, OSError) and not isinstance(exc.__context__, OSError):
                raise
            sys.stderr.write(f"labrun: no checkpoint, the one before stays: {exc}\n")

    def resume(self, load: bool = True) -> Any:
        """What the run goes on from; None: nothing, it begins.

        The state that checkpoint() was given, with tensors on the CPU; rows that were logged after
        its step are taken away, as they are about to be logged again. It is unpickled, so it runs
        what whoever wrote it put in: the script of this run, or of the one that it resumes.

        Args:
            load: False gives its path instead, for a framework to load; rows stay (see rewind).
        """
        path = os.environ.get("LAB_RESUME_FROM")
        if not path:
            return None
        if not load:
            return Path(path)
        state = _load(Path(path))
        if isinstance(state, dict) and STEP_OF_STATE in state:
            self.rewind(state.pop(STEP_OF_STATE))
        return state

    def rewind(self, step: float) -> None:
        """The run goes on after `step`: take away the rows that were logged after it."""
        self._step = step
        self._is_rewound = True
        if not self._is_open:
            self._open(step)
        self.flush()
        self._alone(lambda: self._try(lambda metrics: metrics.cut(lambda found: found > step)))

    def should_stop(self) -> bool:
        """Whether the run was asked to end (SIGTERM): save a checkpoint, and return.

        Once it was called, SIGTERM ends the process no more by itself; the lab ends it after
        `stop_grace_seconds`. In a training of several processes each asks for itself.
        """
        if not self._asks:
            self._asks = True
            self._listen()
        return self._stop

    # --- below ---

    def _alone(self, act: Callable[[], None]) -> None:
        """Have one thread at a time do what touches the file. SIGTERM waits for it."""
        is_main = threading.current_thread() is threading.main_thread()
        if is_main:
            self._is_writing = True
        try:
            with self._turn:
                act()
        finally:
            if is_main:
                self._is_writing = False
        if is_main and self._is_ending:
            self._end()

    def _open(self, step: float | None) -> None:
        self._alone(lambda: None if self._is_open else self._begin(step))

    def _begin(self, step: float | None) -> None:
        self._is_silent = _is_other_rank() or not self._open_file(step)
        self._is_open = True
        if not self._is_silent:
            atexit.register(self.flush)
            if workers := sys.modules.get("multiprocessing.util"):  # whose processes skip atexit
                workers.Finalize(None, self.flush, exitpriority=0)
            threading.Thread(target=self._keep_flushing, name="labrun", daemon=True).start()
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                self._listen()

    def _open_file(self, step: float | None) -> bool:
        """`step`: of the first row; None: the script counts none itself."""
        path = _place("LAB_METRICS_CSV", "metrics.csv")
        resumes = "LAB_RESUME_FROM" in os.environ
        try:
            if not resumes and "LAB_METRICS_CSV" not in os.environ and path.exists():
                os.replace(path, path.with_name(f"{path.name}.old"))  # of a run by hand before
            self._metrics = Metrics(path)
            if resumes and not self._is_rewound:
                if step is None:
                    self._step = self._metrics.last_step()
                else:  # it has found its own way back to this step
                    self._metrics.cut(lambda found: found >= step)
        except BlockingIOError:
            _warn(f"another process writes {path}: what this one logs is left out")
        except OSError as exc:
            _warn(f"{path} cannot be written ({exc.strerror}): nothing is logged")
        return self._metrics is not None

    def _write(self) -> None:
        rows: list[Row] = []
        with suppress(IndexError):
            while True:
                rows.append(self._rows.popleft())
        if rows or (self._metrics is not None and self._metrics.is_behind):
            self._try(lambda metrics: metrics.add(rows))

    def _try(self, act: Callable[[Metrics], None]) -> None:
        try:
            if self._metrics is not None:
                act(self._metrics)
        except OSError as exc:
            _warn(f"the metrics cannot be written now ({exc.strerror}); it is tried again")

    def _keep_flushing(self) -> None:
        pause = threading.Event()
        while not pause.wait(FLUSH_SECONDS):
            self.flush()

    def _listen(self) -> None:
        if self._listens:
            return
        try:
            self._before = signal.signal(signal.SIGTERM, self._on_sigterm)
            self._listens = True
        except ValueError:  # not the main thread
            if self._asks:
                _warn("should_stop() must first be called in the main thread: it knows of nothing")

    def _on_sigterm(self, signum: int, frame: Any) -> None:
        self._stop = True
        if callable(self._before):
            self._before(signum, frame)
        elif not self._asks:
            self._is_ending = True
            if not self._is_writing:  # it does so itself when it has written
                self._end()

    def _end(self) -> None:
        """As SIGTERM would have, once all rows are in the file."""
        self._is_ending = False
        self.flush()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    def _forked(self) -> None:
        """A child of it (a worker that loads data): the file is its parent's, SIGTERM its own."""
        self._turn = threading.Lock()
        self._rows.clear()
        if self._metrics is not None:
            self._metrics.close()  # with the lock, which is its parent's alone
            self._metrics = None
            self._is_silent = True
        if self._listens:
            with suppress(ValueError):
                signal.signal(signal.SIGTERM, self._before)
            self._listens = self._asks = False


def _row(metrics: Mapping[str, Any]) -> Row:
    row: Row = {}
    for name, value in metrics.items():
        kind = type(value)
        if (kind is float or kind is int) and type(name) is str:
            row[name] = value
        else:
            _put(row, str(name), value, MOST_DEPTH)
    return row


def _put(row: Row, name: str, value: Any, depth: int) -> None:
    if isinstance(value, Mapping) and depth > 1:
        for inner, one in value.items():
            _put(row, f"{name}/{inner}", one, depth - 1)
    elif value is not None:
        number = _number(value)
        if number is None:
            _warn(f"{name!r} is no number ({type(value).__name__}): it is left out")
        else:
            row[name] = number


def _number(value: Any) -> Any:
    """An int or a float; None: it is neither."""
    if isinstance(value, (str, bytes)):
        return None
    try:
        if hasattr(value, "item"):  # of numpy, torch, jax: no need to import them
            value = value.item()
        return int(value) if isinstance(value, int) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def _place(variable: str, name: str) -> Path:
    given = os.environ.get(variable)
    return Path(given) if given else Path(os.environ.get("LAB_RUN_DIR") or ".") / name


def _is_other_rank() -> bool:
    """Whether another process of this training is the one that writes."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return bool(distributed.get_rank() != 0)
    rank = os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"
    return rank != "0"


def _put_in_place(state: Any, place: Path) -> None:
    """
    Raises:
        OSError, RuntimeError: it cannot be saved; what is there stays.
    """
    part = place.with_name(f".{place.name}.part")
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        if isinstance(state, (str, os.PathLike)):
            shutil.copyfile(state, part)
        else:
            _save(state, part)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, place)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def _save(state: Any, path: Path) -> None:
    torch = sys.modules.get("torch")
    with open(path, "wb") as file:
        if torch is not None:
            torch.save(state, file)
        else:
            pickle.dump(state, file, protocol=4)


#: With which a file of torch before 1.6, and of _use_new_zipfile_serialization=False, begins.
OLD_TORCH = 0x1950A86A20F9469CFC6C


def _load(path: Path) -> Any:
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder: have your framework load it, from labrun.resume(load=False)"
        )
    with open(path, "rb") as file:
        if file.read(2) != b"PK":  # what torch writes is a zip
            file.seek(0)
            state = pickle.load(file)  # noqa: S301 - resume() says so
            if not (type(state) is int and state == OLD_TORCH):
                return state
    torch = importlib.import_module("torch")
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except TypeError:  # before torch 1.13
        return torch.load(path, map_location="cpu")


_told: set[str] = set()


def _warn(text: str) -> None:
    if text not in _told:
        _told.add(text)
        sys.stderr.write(f"labrun: {text}\n")


run = Run()
log, checkpoint, resume = run.log, run.checkpoint, run.resume
rewind, should_stop, flush = run.rewind, run.should_stop, run.flush
