"""The made-up lab on a server of its own, in a folder that is gone afterwards."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def served(*, is_empty: bool = False, folder: Path | None = None) -> Iterator[str]:
    """The address of a lab in the middle of its day; or of one on its first, with people and
    nothing else.

    Args:
        folder: its data folder, in which a first start may have made tables and static files;
            None: a temporary one.
    """
    with (
        tempfile.TemporaryDirectory(prefix="lab-shots-") if folder is None
        else nullcontext(str(folder)) as data,
        _made_up(_environment(data), is_empty),
        _server(_environment(data)) as url,
    ):  # fmt: skip
        yield url


def _environment(data: str) -> dict[str, str]:
    given = {
        "LAB_DATA_DIR": data, "LAB_TIME_ZONE": "Asia/Seoul", "PYTHONPATH": str(ROOT),
        "DJANGO_SETTINGS_MODULE": "labsite.settings",
    }  # fmt: skip
    return {key: value for key, value in os.environ.items() if key != "LAB_DATABASE_URL"} | given


@contextmanager
def _made_up(environment: dict[str, str], is_empty: bool) -> Iterator[None]:
    """A process makes the lab up, and then stands in for its agents until its input ends."""
    command = [sys.executable, "-m", "bench.screenshots.lab", *["--empty"] * is_empty]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit("the lab could not be made up")
        yield


@contextmanager
def _server(environment: dict[str, str]) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "labsite.asgi:application", "--port", str(port)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _wait_for(port: int) -> None:
    for _ in range(900):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit("the server did not start")
