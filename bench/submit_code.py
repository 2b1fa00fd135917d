"""How long `lab submit` takes with a dirty repository of 20 MiB: the command's own part.

Of a process that has just started: taking the snapshot, sending what the server lacks, queueing
the job. First to a server that has none of it, then unchanged, then with one file changed; and how
many bytes of files each of them sent.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.server import ROOT, Server, running

FILES, LARGE_FILES = 1_500, 8
SMALL_BYTES, LARGE_BYTES = 6_000, 1_400_000
HOLD_SECONDS = 2.0
PROJECT = "bench"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as-command", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.as_command:
        return submit(given.as_command)
    with running(agent=False) as server, tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = repository(Path(name) / "code")
        time.sleep(2.5)  # what was written just now is read again
        seconds = []
        for what in ("nothing of it there", "unchanged", "one file changed"):
            if what == "one file changed":
                (folder / "part0" / "file0.py").write_text("x = 1\n")
            took, sent = measured(server, folder, Path(name) / "caches")
            seconds.append(took)
            print(f"{what}: {took:.2f} s, {sent / 1e6:.2f} MB of files sent", flush=True)
            if what == "unchanged" and sent:
                print("unchanged files were sent twice")
                return 1
    print(f"(to hold: {HOLD_SECONDS:.0f} s, and nothing sent twice)")
    return 0 if max(seconds) <= HOLD_SECONDS else 1


def repository(top: Path) -> Path:
    """1 500 texts, eight files of weights; a tenth is in no commit."""
    chance = random.Random(11)
    git = ["git", "-c", "user.name=k", "-c", "user.email=k@k", "-C", str(top)]
    top.mkdir()
    subprocess.run([*git, "init", "-q"], check=True)
    for number in range(LARGE_FILES):
        (top / f"weights{number}.bin").write_bytes(chance.randbytes(LARGE_BYTES))
    for number in range(FILES):
        if number == FILES * 9 // 10:
            subprocess.run([*git, "add", "."], check=True)
            subprocess.run([*git, "commit", "-qm", "most of it"], check=True)
        path = top / f"part{number % 40}" / f"file{number}.py"
        path.parent.mkdir(exist_ok=True)
        line = f"x{number} = {chance.random()}\n"
        path.write_text(line * (SMALL_BYTES // len(line)))
    return top


def measured(server: Server, folder: Path, caches: Path) -> tuple[float, int]:
    """The whole command, with the start of its Python, and the bytes of files it sent."""
    token = str(server.session.headers["Authorization"]).split()[1]
    wish = json.dumps([server.url, token, str(folder)])
    environ = {**os.environ, "XDG_CACHE_HOME": str(caches)}
    command = [sys.executable, "-m", "bench.submit_code", "--as-command", wish]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, check=True)
    return time.perf_counter() - began, int(done.stdout)


def submit(wish: str) -> int:
    from agent.cli import code
    from agent.cli.api import Api
    from agent.cli.progress import Silent

    url, token, folder = json.loads(wish)
    sent = 0

    class Counted(Api):
        def request(self, method: str, path: str, **how: Any) -> Any:
            nonlocal sent
            if path == "/api/code/files":
                sent += len(how["data"])
            return super().request(method, path, **how)

    with Counted(url, token) as api:
        source = code.source_of(argparse.Namespace(code="snapshot"), Path(folder), api, Silent())
        job = {"project": PROJECT, "command": ["true"], "source": source}
        api.request("POST", "/api/jobs/", json={**job, "resources": {"gpus": 0}})
    print(sent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
