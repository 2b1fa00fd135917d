"""Why a run failed: the last traceback of its log, and what its words mean."""

from io import BytesIO
from types import SimpleNamespace

import pytest

from labsite.pages.failures import failure_of
from labsite.pages.runfiles import Part
from labsite.pages.tracebacks import last_traceback

FRAMES = """\
Traceback (most recent call last):
  File "/home/lab/main.py", line 212, in <module>
    trainer.fit(model)
  File "/opt/env/lib/python3.11/site-packages/torch/nn/modules/module.py", line 1511, in _call
    return forward_call(*args)
           ^^^^^^^^^^^^^^^^^^^
"""
OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total "
    "capacity of 23.69 GiB of which 1.06 GiB is free. Process 4711 has 3.10 GiB memory in use. "
    "Including non-PyTorch memory, this process has 19.50 GiB memory in use.\n"
)
OLD_OOM = (
    "RuntimeError: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 7.80 GiB total "
    "capacity; 6.31 GiB already allocated; 17.62 MiB free; 6.34 GiB reserved in total)\n"
)


def failure(log: str, exit_code: int = 1):
    data = log.encode()
    job = SimpleNamespace(tries=[SimpleNamespace(exit_code=exit_code)])
    return failure_of(job, Part(BytesIO(data), len(data), "1.1"))


def test_the_error_and_the_innermost_frame_of_ones_own_code():
    found = failure("epoch 1\n" + FRAMES + OOM).traceback

    assert found.exception.startswith("torch.OutOfMemoryError: CUDA out of memory")
    assert [(frame.line, frame.is_library) for frame in found.frames] == [
        (212, False),
        (1511, True),
    ]
    assert (found.own.file, found.own.source) == ("/home/lab/main.py", "trainer.fit(model)")


@pytest.mark.parametrize(
    ("message", "facts"),
    [
        (OOM, ["2.50 GiB", "19.50 GiB", "1.06 GiB", "23.69 GiB", "3.10 GiB"]),
        (OLD_OOM, ["20.00 MiB", "6.31 GiB", "17.62 MiB", "7.80 GiB"]),
    ],
)
def test_a_full_gpu_tells_what_was_asked_held_and_free(message, facts):
    assert [figure for _, figure in failure(FRAMES + message).facts] == facts


def test_of_an_error_while_another_was_handled_the_last_counts():
    log = FRAMES + "KeyError: 'lr'\n\nDuring handling of the above exception, another exception "
    log += "occurred:\n\n" + FRAMES + "ValueError: no lr\n  in the config\n\nbye\n"

    found = failure(log).traceback

    assert (found.exception, found.more) == ("ValueError: no lr", ["  in the config"])


def test_of_a_launcher_and_its_child_the_child_counts():
    child = "".join(f"[rank1]: {line}\n" for line in (FRAMES + "ValueError: bad\n").splitlines())
    parent = FRAMES + "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n"

    assert failure(child + parent).traceback.exception == "ValueError: bad"
    assert "ChildFailedError" in failure(parent).traceback.exception


@pytest.mark.parametrize("log", ["", "no error\n", FRAMES, FRAMES + "printed [1] in between\n"])
def test_where_there_is_no_whole_traceback_the_last_lines_are_shown(log):
    found = failure(log)

    assert found.traceback is None
    assert ("data-n" in found.last_lines) == bool(log)


def test_the_place_in_the_log_is_where_the_traceback_begins():
    log = "빈 줄\n\n" + FRAMES + "ValueError: x\n"

    assert log.encode()[failure(log).offset :].startswith(b"Traceback")


def test_of_a_long_log_only_the_tail_is_read():
    log = FRAMES + "OldError: x\n" + "line\n" * 60_000 + FRAMES + "NewError: y\n"

    found = failure(log)

    assert found.traceback.exception == "NewError: y"
    assert log.encode()[found.offset :].startswith(b"Traceback")


@pytest.mark.parametrize(
    ("said", "advised"),
    [
        ("ModuleNotFoundError: No module named 'timm.models'", "“timm”"),
        ("OSError: [Errno 28] No space left on device", "disk of the GPU server was full"),
        ("ncclSystemError: System call failed", "NCCL_DEBUG=INFO"),
        ("RuntimeError: DataLoader worker (pid 5) is killed by signal: Killed.", "main memory"),
        ("RuntimeError: CUDA error: device-side assert triggered", "CUDA_LAUNCH_BLOCKING=1"),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/d/100%s'", "“/d/100%s”"),
        ("main.py: error: unrecognized arguments: --lr 5%", "--lr 5%"),
        ("RuntimeError: Error(s) in loading state_dict for Net:", "another model"),
        ("error: Failed to parse `uv.lock`\n  cause: TOML parse error", "with “uv lock”"),
        ("error: Failed to download `six==1.17.0`", "could not fetch “six==1.17.0”"),
        ("error: No interpreter found for Python >=3.99 in managed", "no Python >=3.99 for uv"),
    ],
)
def test_what_the_words_of_a_log_mean(said, advised):
    assert advised in " ".join(failure(f"some\n{said}\n").advice)


def test_a_process_that_was_killed_without_a_word_gets_a_hint():
    assert "memory" in failure("epoch 3\n", exit_code=-9).advice[0]
    assert failure("epoch 3\n", exit_code=1).advice == []


@pytest.mark.parametrize(
    "text",
    [
        "Traceback (most recent call last):",
        'Traceback (most recent call last):\n  File "x", line 999999999999999999999, in f\n',
        "x" * 100_000 + "Traceback (most recent call last):\n",
        "Traceback (most recent call last):\n" * 5000,
        "\x00\x1b[31m\ufffd\n\r\r\r",
    ],
)
def test_no_log_breaks_it(text):
    found = last_traceback(text.split("\n"))

    assert failure(text) is not None
    assert found is None or found.frames or found.exception
