"""Whatever a script writes comes back: a real server, a real agent, a script like Lightning's."""

import os
import sys
import textwrap
from pathlib import Path
from urllib.parse import quote

from tests.faults.processes import wait_for
from tests.faults.stack import Lab, Stack

SCRIPT = textwrap.dedent(
    """
    import os, pathlib, time

    logs = pathlib.Path("lightning_logs")
    number = sum(one.name.startswith("version_") for one in logs.iterdir())
    version = logs / f"version_{number}"
    saved = version / "checkpoints"
    saved.mkdir(parents=True)
    with open(version / "metrics.csv", "w", buffering=1) as metrics:
        metrics.write("epoch,val_loss\\n")
        for epoch in range(3):
            metrics.write(f"{epoch},{1 / (epoch + 1)}\\n")
            path = saved / f"epoch={epoch}-step={epoch * 10}.ckpt"
            path.write_bytes(b"weights %d" % epoch)
            os.utime(path, (1e9 + epoch, 1e9 + epoch))
    (version / "실험 결과 (1).png").write_bytes(b"png")
    (version / "scratch.tmp2").write_bytes(b"no")
    while not pathlib.Path("go on").exists():
        time.sleep(0.02)
    with open(version / "metrics.csv", "a") as metrics:
        metrics.write("3,0.25\\n")
    """
)


def content(lab: Lab, uid: str, name: str) -> bytes | None:
    answer = lab.ask("GET", f"/api/sync/file/{uid}/{quote(name)}")
    return answer.content if answer.ok else None


def test_outputs_come_back_while_the_run_goes_on_and_after_its_end(tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "lightning_logs" / "version_0").mkdir(parents=True)
    (code / "lightning_logs" / "version_0" / "metrics.csv").write_text("of an earlier run")
    (code / "train.py").write_text(SCRIPT)
    with Stack(tmp_path) as stack:
        lab = stack.lab().start()
        stack.agent(lab, "gpu1", None, "--sync-interval", "0.1", "--max-upload", "50MB/s").start()
        uid = lab.submit(
            [sys.executable, "train.py"],
            working_directory=str(code),
            outputs=["lightning_logs/**"],
            ignore=["*.tmp2"],
            sync={"checkpoints": "last"},
        )
        lab.wait_state(uid, "running")
        version = "run_001/lightning_logs/version_1"
        early = wait_for(lambda: content(lab, uid, f"{version}/metrics.csv"), "it comes", 20)
        (code / "go on").touch()
        lab.wait_state(uid, "succeeded")
        written = {
            os.path.join("run_001", path.relative_to(code)): path.read_bytes()
            for path in (code / "lightning_logs" / "version_1").rglob("*")
            if path.is_file() and path.suffix != ".tmp2"
        }
        kept = [f"{version}/checkpoints/epoch={n}-step={10 * n}.ckpt" for n in (0, 1)]
        wanted = {name: body for name, body in written.items() if name not in kept}

        def said_to_be_there() -> set[str]:
            return {name for name in state(lab, uid)["files"] if name.startswith("run_001/")}

        wait_for(lambda: said_to_be_there() == wanted.keys(), "all has come", 30)
        wait_for(lambda: state(lab, uid)["sync_status"] == "synced", "all is synced", 30)
        wait_for(lambda: state(lab, uid)["left_out"], "a poll tells what is kept there", 30)
        said, found = state(lab, uid), said_to_be_there()
        assert early.startswith(b"epoch,val_loss\n")
        assert found == wanted.keys()
        assert {name: content(lab, uid, name) for name in found} == wanted
        assert wanted[f"{version}/metrics.csv"].endswith(b"3,0.25\n")
        assert sorted(one["name"] for one in said["left_out"]) == kept


def state(lab: Lab, uid: str) -> dict:
    return lab.get(f"/api/sync/status/{uid}")["data"]
