"""labrun, as scripts use it: each a process of its own."""

import csv
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from agent.cli import labrun
from agent.code import companion
from tests.agent.conftest import AgentProcess, eventually
from tests.agent.jobs import started
from tests.agent.server import FakeServer

SOURCE = Path(labrun.__file__).parent


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a script in an empty folder, with no more than a job has."""

    def start(
        text: str, *arguments: str, python: str = sys.executable, **environ: str
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [python, "-c", text, *arguments],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def ended(process: subprocess.Popen[str]) -> str:
    """What it said on stderr; its exit status was 0."""
    said, wrong = process.communicate(timeout=60)
    assert process.returncode == 0, said + wrong
    return wrong


def table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV of which every line is as wide as its header."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert {len(row) for row in rows} <= {len(header)}
    return [dict(zip(header, row, strict=True)) for row in rows]


def column(path: Path, name: str) -> list[str]:
    return [row[name] for row in table(path)]


# --- curves ---


def test_rows_are_in_the_file_as_they_were_logged(script, tmp_path):
    wrong = ended(
        script(
            "import labrun\n"
            "labrun.log({'loss': 0.1, 'train': {'acc': 1}}, step=3)\n"
            "labrun.log({'loss': float('nan'), 'grad': float('inf')})\n"
            "labrun.log({'step': 9, 'loss': None, 'note': 'words', 'done': True})\n"
        )
    )

    rows = table(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == ["3", "4", "9"]
    assert [row["loss"] for row in rows] == ["0.1", "nan", ""]
    assert [row["train/acc"] for row in rows] == ["1", "", ""]
    assert [row["grad"] for row in rows] == ["", "inf", ""]
    assert [row["done"] for row in rows] == ["", "", "1"]
    assert all(float(row["time"]) > 1e9 for row in rows)
    assert "note" not in rows[0]
    assert wrong == "labrun: 'note' is no number (str): it is left out\n"


def test_scalars_of_numpy_and_torch_are_numbers(script, tmp_path):
    pytest.importorskip("torch")

    wrong = ended(
        script(
            "import labrun, numpy, torch\n"
            "labrun.log({'a': numpy.float32(0.5), 'b': numpy.int64(2), 'c': torch.tensor(0.25),\n"
            "  'd': torch.tensor(1.5, dtype=torch.bfloat16, requires_grad=True),\n"
            "  'e': numpy.zeros(3), 'f': torch.tensor([1, 2])}, step=numpy.int64(7))\n"
        )
    )

    [row] = table(tmp_path / "metrics.csv")
    del row["time"]
    assert row == {"step": "7", "a": "0.5", "b": "2", "c": "0.25", "d": "1.5"}
    assert wrong.count("is no number") == 2


def test_a_column_that_comes_up_later_makes_the_whole_file_wider(tmp_path):
    metrics = labrun.Metrics(tmp_path / "run.csv")
    metrics.add([{"step": 1, "loss": 0.5}])
    metrics.add([{"step": 2, "val, loss": 0.25}, {"step": 3, "loss": 1.5}])
    metrics.close()

    rows = table(tmp_path / "run.csv")
    assert [row["val, loss"] for row in rows] == ["", "0.25", ""]
    assert [row["loss"] for row in rows] == ["0.5", "", "1.5"]
    assert os.listdir(tmp_path) == ["run.csv"]


def test_a_reader_never_sees_a_file_that_is_half_widened(tmp_path):
    path, metrics = tmp_path / "run.csv", labrun.Metrics(tmp_path / "run.csv")
    metrics.add([{"step": 0}])
    over = threading.Event()

    def widen() -> None:
        for number in range(200):
            metrics.add([{"step": number, f"m{number % 40}": 1.0}])
        over.set()

    writer = threading.Thread(target=widen)
    writer.start()
    while not over.is_set():
        lines = path.read_text().split("\n")[:-1]
        assert len({line.count(",") for line in lines}) == 1
    writer.join()


def test_names_that_are_none_and_columns_beyond_five_hundred_are_left_out(tmp_path, capsys):
    metrics = labrun.Metrics(tmp_path / "run.csv")
    metrics.add([{"step": 0, "a\nb": 1.0, " ": 2.0, **{f"m{n}": n for n in range(600)}}])

    [row] = table(tmp_path / "run.csv")
    assert len(row) == labrun.MOST_COLUMNS
    assert "are no columns" in capsys.readouterr().err


def test_a_disk_that_is_full_for_a_while_costs_nothing(tmp_path, monkeypatch):
    metrics, real = labrun.Metrics(tmp_path / "run.csv"), os.write

    def full(file: int, text: bytes) -> int:
        if len(text) > 3:
            return real(file, text[:3])  # what there is room for
        raise OSError(28, "No space left on device")

    metrics.add([{"step": 0, "loss": 0.5}])
    monkeypatch.setattr(os, "write", full)
    for step in (1, 2):
        with pytest.raises(OSError, match="No space"):
            metrics.add([{"step": step, "loss": 1.0, "late": 2.0}])
    monkeypatch.setattr(os, "write", real)
    metrics.add([])

    assert column(tmp_path / "run.csv", "step") == ["0", "1", "2"]
    assert not metrics.is_behind


def test_half_a_line_of_one_that_was_killed_is_cut_off(tmp_path):
    path = tmp_path / "run.csv"
    path.write_text("step,time,loss\n1,5,0.5\n2,6,0.")
    metrics = labrun.Metrics(path)
    metrics.add([{"step": 2, "time": 6, "loss": 0.75}])

    assert path.read_text() == "step,time,loss\n1,5,0.5\n2,6,0.75\n"


def test_any_number_of_threads_may_log(script, tmp_path):
    ended(
        script(
            "import labrun, threading\n"
            "def work(at):\n"
            "    for step in range(2000): labrun.log({f'm{at}': step}, step=step)\n"
            "threads = [threading.Thread(target=work, args=(at,)) for at in range(8)]\n"
            "[t.start() for t in threads]; [t.join() for t in threads]\n"
        )
    )

    rows = table(tmp_path / "metrics.csv")
    for at in range(8):
        assert [row[f"m{at}"] for row in rows if row[f"m{at}"]] == [str(n) for n in range(2000)]


# --- ends ---


def test_sigterm_ends_it_as_ever_and_no_row_is_lost(script, tmp_path):
    process = script(
        "import labrun, time\n"
        "labrun.log({'loss': 1.0})\n"
        "print('up', flush=True)\n"
        "while True: labrun.log({'loss': 2.0}); print(flush=True)\n"
    )
    assert process.stdout.readline() == "up\n"
    process.terminate()
    said = process.communicate()[0]

    assert process.returncode == -signal.SIGTERM
    assert len(table(tmp_path / "metrics.csv")) >= said.count("\n") + 1


def test_kill_9_costs_no_more_than_half_a_second_of_rows(script, tmp_path):
    process = script("import labrun, time; labrun.log({'loss': 1.0}); time.sleep(60)")
    path = tmp_path / "metrics.csv"
    eventually(lambda: path.exists() and b"\n" in path.read_bytes(), 10)
    process.kill()
    process.communicate()

    assert column(path, "loss") == ["1.0"]


def test_a_script_that_asks_is_not_ended_by_sigterm(script, tmp_path):
    process = script(
        "import labrun, time\n"
        "print(labrun.should_stop(), flush=True)\n"
        "while not labrun.should_stop(): time.sleep(0.01)\n"
        "labrun.log({'loss': 1.0}, step=5)\n"
        "labrun.checkpoint({'epoch': 5})\n"
    )
    assert process.stdout.readline() == "False\n"
    process.terminate()

    ended(process)
    assert column(tmp_path / "metrics.csv", "step") == ["5"]
    assert (tmp_path / "checkpoint.pt").exists()


def test_a_handler_of_the_scripts_own_is_still_called(script):
    process = script(
        "import labrun, os, signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'mine\\n'))\n"
        "labrun.log({'loss': 1.0})\n"
        "labrun.should_stop(); print('up', flush=True)\n"
        "while not labrun.should_stop(): time.sleep(0.01)\n"
    )
    assert process.stdout.readline() == "up\n"
    process.terminate()

    assert process.communicate(timeout=60) == ("mine\n", "")
    assert process.returncode == 0


# --- more than one process ---


def test_a_forked_worker_writes_nothing_and_dies_of_sigterm(script, tmp_path):
    ended(
        script(
            "import labrun, os, signal, time\n"
            "labrun.should_stop()\n"
            "labrun.log({'loss': 1.0})\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    labrun.log({'loss': 2.0}); labrun.flush(); time.sleep(60)\n"
            "time.sleep(0.3); os.kill(child, signal.SIGTERM)\n"
            "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM\n"
            "labrun.log({'loss': 3.0})\n"
        )
    )

    assert column(tmp_path / "metrics.csv", "loss") == ["1.0", "3.0"]


def test_a_training_in_a_forked_process_is_written_to_its_last_row(script, tmp_path):
    ended(
        script(
            "import labrun, multiprocessing\n"
            "def train(): labrun.log({'loss': 1.0})\n"
            "process = multiprocessing.get_context('fork').Process(target=train)\n"
            "process.start(); process.join()\n"
        )
    )

    assert column(tmp_path / "metrics.csv", "loss") == ["1.0"]


def test_of_a_distributed_training_rank_0_alone_writes(script, tmp_path):
    text = (
        "import labrun, os\n"
        "labrun.log({'loss': float(os.environ['RANK'])}, step=1)\n"
        "labrun.checkpoint({'rank': os.environ['RANK']})\n"
    )
    for process in [script(text, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in (1, 0, 2)]:
        assert ended(process) == ""

    assert column(tmp_path / "metrics.csv", "loss") == ["0.0"]


def test_of_two_processes_the_one_that_came_first_writes(script, tmp_path):
    environ = {"LAB_METRICS_CSV": str(tmp_path / "run.csv")}
    holder = labrun.Metrics(tmp_path / "run.csv")
    wrong = ended(script("import labrun; labrun.log({'b': 1.0})", **environ))
    holder.close()

    assert "another process writes" in wrong
    assert (tmp_path / "run.csv").read_bytes() == b""


# --- going on ---

TRAIN = (
    "import labrun, sys\n"
    "state = labrun.resume()\n"
    "print(state)\n"
    "for epoch in range(state['epoch'] + 1 if state else 0, int(sys.argv[1])):\n"
    "    labrun.log({'loss': epoch / 2}, step=epoch)\n"
    "    if epoch % 3 == 0: labrun.checkpoint({'epoch': epoch})\n"
)


def in_lab(tmp_path: Path, **more: str) -> dict[str, str]:
    files = {"LAB_METRICS_CSV": "run_001.csv", "LAB_CHECKPOINT": "run_001.pt"}
    return {name: str(tmp_path / file) for name, file in {**files, **more}.items()}


def test_a_run_goes_on_after_its_checkpoint_and_no_row_is_there_twice(script, tmp_path):
    ended(script(TRAIN, "5", **in_lab(tmp_path)))
    again = in_lab(tmp_path, LAB_RESUME_FROM="run_001.pt")
    process = script(TRAIN, "8", **again)
    said = process.stdout.readline()
    ended(process)

    assert said == "{'epoch': 3}\n"
    assert column(tmp_path / "run_001.csv", "step") == [str(step) for step in range(8)]


def test_a_state_of_torch_is_a_checkpoint_of_torch(script, tmp_path):
    torch = pytest.importorskip("torch")
    text = (
        "import labrun, torch\n"
        "state = labrun.resume()\n"
        "labrun.log({'loss': 1.0}, step=4)\n"
        "labrun.checkpoint({'w': state['w'] + 1 if state else torch.zeros(2)})\n"
    )
    ended(script(text, **in_lab(tmp_path)))
    ended(script(text, **in_lab(tmp_path, LAB_RESUME_FROM="run_001.pt")))

    saved: Any = torch.load(tmp_path / "run_001.pt", weights_only=True)
    assert saved["w"].tolist() == [1.0, 1.0]
    assert saved["labrun_step"] == 4


def test_a_state_that_an_old_torch_wrote_is_read_too(script, tmp_path):
    torch = pytest.importorskip("torch")
    state = {"w": torch.ones(2), "labrun_step": 4}
    torch.save(state, tmp_path / "run_000.pt", _use_new_zipfile_serialization=False)

    process = script(
        "import labrun\nprint(labrun.resume()['w'].tolist(), flush=True)\n",
        **in_lab(tmp_path, LAB_RESUME_FROM="run_000.pt"),
    )
    said = process.stdout.readline()
    ended(process)

    assert said == "[1.0, 1.0]\n"


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(script, tmp_path):
    environ = in_lab(tmp_path)
    ended(script("import labrun; labrun.checkpoint({'epoch': 1})", **environ))
    full = (
        "import labrun, resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "labrun.checkpoint({'epoch': 2, 'weights': bytes(1000)})\n"
    )
    before = (tmp_path / "run_001.pt").read_bytes()

    assert "the one before stays" in ended(script(full, **environ))
    assert (tmp_path / "run_001.pt").read_bytes() == before
    assert os.listdir(tmp_path) == ["run_001.pt"]


def test_a_file_of_the_scripts_own_becomes_the_checkpoint_and_stays(script, tmp_path):
    (tmp_path / "mine.ckpt").write_bytes(b"weights")
    ended(script("import labrun; labrun.checkpoint('mine.ckpt')", **in_lab(tmp_path)))

    assert (tmp_path / "run_001.pt").read_bytes() == b"weights"
    assert (tmp_path / "mine.ckpt").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("labrun.log({'loss': 1.0}, step=2)", ["0", "1", "2"]),  # it found its own way back
        ("labrun.log({'loss': 1.0}, step=0)", ["0"]),  # it begins from the beginning
        ("labrun.log({'loss': 1.0})", ["0", "1", "2", "3", "4"]),  # it counts no steps itself
        ("labrun.rewind(1); labrun.log({'loss': 1.0})", ["0", "1", "2"]),
        (
            "labrun.resume(load=False); labrun.rewind(9); labrun.log({})",
            ["0", "1", "2", "3", "10"],
        ),
    ],
)
def test_a_script_that_resumes_in_its_own_way_leaves_no_row_twice(script, tmp_path, text, steps):
    path = tmp_path / "run_001.csv"
    path.write_text("step,time,loss\n" + "".join(f"{step},1,1.5\n" for step in range(4)))

    ended(script(f"import labrun; {text}", **in_lab(tmp_path, LAB_RESUME_FROM="run_001.pt")))

    assert column(path, "step") == steps


def test_a_second_script_of_a_job_adds_to_what_the_first_wrote(script, tmp_path):
    for loss in ("1.0", "2.0"):
        ended(script(f"import labrun; labrun.log({{'loss': {loss}}})", **in_lab(tmp_path)))

    assert column(tmp_path / "run_001.csv", "loss") == ["1.0", "2.0"]


def test_by_hand_a_second_run_begins_a_new_file(script, tmp_path):
    for loss in ("1.0", "2.0"):
        ended(script(f"import labrun; labrun.log({{'loss': {loss}}})"))

    assert column(tmp_path / "metrics.csv", "loss") == ["2.0"]
    assert column(tmp_path / "metrics.csv.old", "loss") == ["1.0"]


def test_a_place_that_cannot_be_written_ends_no_training(script, tmp_path):
    (tmp_path / "file").touch()
    environ = {"LAB_METRICS_CSV": str(tmp_path / "file" / "run.csv")}

    wrong = ended(script("import labrun; labrun.log({'a': 1}); labrun.log({'a': 2})", **environ))

    assert wrong.count("cannot be written") == 1


@pytest.mark.parametrize("version", ["3.8", "3.13"])
def test_any_python_from_3_8_on_runs_it(script, tmp_path, version):
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    if not found:
        pytest.skip(f"no Python {version} on this machine")

    ended(script(TRAIN, "5", python=str(found[-1]), **in_lab(tmp_path)))
    process = script(
        TRAIN, "8", python=str(found[-1]), **in_lab(tmp_path, LAB_RESUME_FROM="run_001.pt")
    )

    ended(process)
    assert column(tmp_path / "run_001.csv", "step") == [str(step) for step in range(8)]


# --- in the lab ---


def test_a_jobs_python_finds_it_and_nothing_else_of_ours(
    server: FakeServer, agent: AgentProcess
) -> None:
    look = (
        "import importlib.util as u, labrun as run\n"
        "run.log({'loss': 0.5}, step=1)\n"
        "print(run.__file__, [u.find_spec(name) for name in ('agent', 'requests')])\n"
    )
    order = server.order(command=["/usr/bin/python3", "-S", "-c", look])
    agent.start()
    ended = server.wait_event(order["id"], "exited")

    run_dir, name = agent.run_dir(), order["run_name"]
    log = (run_dir / f"{name}.log").read_text()
    assert ended["exit_code"] == 0, log
    assert log == f"{run_dir}/.labrun/labrun.py [None, None]\n"
    assert column(run_dir / f"{name}.csv", "loss") == ["0.5"]


def test_a_job_stopped_by_its_lab_saves_and_ends_in_order(
    server: FakeServer, agent: AgentProcess
) -> None:
    wait = (
        "import labrun, time\n"
        "print(labrun.should_stop(), flush=True)\n"
        "while not labrun.should_stop(): time.sleep(0.01)\n"
        "labrun.checkpoint({'epoch': 7})\n"
    )
    order = server.order(command=[sys.executable, "-c", wait])
    agent.start()
    started(server, order)
    log = agent.run_dir() / f"{order['run_name']}.log"
    eventually(lambda: log.read_text() == "False\n")
    server.stop(order["id"])
    ended = server.wait_event(order["id"], "exited")

    assert (ended["exit_code"], ended["cause"]) == (0, "stopped")
    assert (agent.run_dir() / f"{order['run_name']}.pt").exists()


def test_a_file_of_that_name_of_the_jobs_own_comes_first(tmp_path: Path) -> None:
    assert companion.python_path(tmp_path, {}) == f"{tmp_path}/.labrun"
    assert companion.python_path(tmp_path, {"PYTHONPATH": "/mine"}) == f"/mine:{tmp_path}/.labrun"


def test_it_is_replaced_by_a_newer_one_and_a_link_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / companion.FOLDER
    folder.mkdir()
    (tmp_path / "other").write_text("kept")
    (folder / "labrun.py").symlink_to(tmp_path / "other")

    companion.lay(tmp_path, nullcontext())

    assert (folder / "labrun.py").read_bytes() == (SOURCE / "labrun.py").read_bytes()
    assert (tmp_path / "other").read_text() == "kept"
    assert os.listdir(folder) == ["labrun.py"]


def test_a_number_is_written_so_that_it_reads_back_as_the_same(tmp_path: Path) -> None:
    values = [0.1, 1e-300, math.pi, 2**70, -0.0, 123456789.123456789]
    metrics = labrun.Metrics(tmp_path / "run.csv")
    metrics.add([{"step": at, "x": value} for at, value in enumerate(values)])

    assert [float(cell) for cell in column(tmp_path / "run.csv", "x")] == list(map(float, values))
