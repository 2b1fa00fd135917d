"""Curves of a run whose script writes what Lightning and SummaryWriter write."""

from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.test_live import SLOW_MS, sign_in, write_config
from tests.e2e.lab import Lab

CONFIG = "lab:\n  command: [python3, several.py]\n  resources: {gpus: 0}\n"
SCRIPT = """\
import os, pathlib, time

folder = pathlib.Path(os.environ["LAB_RUN_DIR"], os.environ["LAB_RUN_NAME"])
logs = folder / "lightning_logs" / "version_0"
logs.mkdir(parents=True)
(folder / "events.out.tfevents.1.host").write_bytes(b"no event file")
with open(logs / "metrics.csv", "w", buffering=1) as file:
    file.write("epoch,step,train/loss,val/loss,constructor\\n0,1,0.9,,7\\n0,2,0.8,,\\n0,2,,0.85,\\n")
    while not pathlib.Path("go_several").exists():
        time.sleep(0.05)
    file.write("1,3,nan,,\\n1,4,0.2,,\\n1,4,,0.3,\\n")
"""


def test_train_and_val_of_a_sparse_csv_share_a_chart_and_grow(
    page: Page, lab: Lab, password: str, source: Path
):
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    (source / "several.py").write_text(SCRIPT)
    sign_in(page, lab, password)
    page.goto(f"{lab.url}/execute/")
    write_config(page, CONFIG)
    page.get_by_label("Project").fill("several")
    page.get_by_role("button", name="Add to queue").click()
    page.wait_for_url("**/runs/*/")

    expect(page.locator("#plots .legend").first).to_contain_text("train/loss 0.8", timeout=SLOW_MS)
    expect(page.locator("#plots .legend").first).to_contain_text("val/loss 0.85")
    expect(page.locator("#plots figcaption")).to_have_text(["loss", "constructor"])
    expect(page.locator("#axis")).to_have_value("step")
    expect(page.locator("#curve-notes")).to_contain_text(
        "events.out.tfevents.: It is not readable from byte 0 on.", timeout=SLOW_MS
    )

    (source / "go_several").touch()

    expect(page.locator("#plots .legend").first).to_contain_text("train/loss 0.2", timeout=SLOW_MS)
    expect(page.locator("#plots .legend").first).to_contain_text("val/loss 0.3", timeout=SLOW_MS)
    expect(page.locator("#points")).to_have_text("6 rows")
    page.get_by_label("Horizontal").select_option("epoch")
    page.get_by_label("Smoothing").fill("60")
    expect(page.locator("#plots .uplot")).to_have_count(2)
    assert broken == []
