"""A researcher's day with a sweep: submit it, watch it, rerun the best with a change."""

import re
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.test_live import SLOW_MS, sign_in, write_config
from tests.browser.watching import complaints
from tests.e2e.lab import Lab

#: Learns best at lr 0.1.
SCRIPT = """\
import os, re

lr = float(re.search(r"^lr: (.+)$", open(os.environ["LAB_CONFIG"]).read(), re.M)[1])
with open(os.environ["LAB_METRICS_CSV"], "w") as file:
    print("epoch,test_accuracy", file=file)
    for epoch in range(1, 6):
        print(f"{epoch},{(0.5 + epoch / 10) - abs(lr - 0.1):.3f}", file=file)
"""
CONFIG = """\
lr: 0.3
lab:
  command: [python3, learn.py]
  resources: {gpus: 0}
"""


def test_a_day_with_a_sweep(page: Page, lab: Lab, password: str, source: Path):
    (source / "learn.py").write_text(SCRIPT)
    broken = complaints(page)
    sign_in(page, lab, password)

    # What it will make is seen before it is queued
    page.get_by_role("link", name="Execute").click()
    write_config(page, CONFIG)
    page.get_by_label("Project").fill("learned")
    page.get_by_label("Sweep", exact=True).fill("lr=0.1,0.9 sead=1,2")
    expect(page.locator("#preview-wide")).to_contain_text("4 runs")
    expect(page.locator("#preview-wide .notice")).to_contain_text("added to it: sead")
    page.get_by_label("Sweep", exact=True).fill("lr=0.1,0.9,0.5")
    page.get_by_label("At a time").fill("2")
    expect(page.locator("#preview-wide")).to_contain_text("3 runs")
    expect(page.locator("#turn")).to_contain_text(
        re.compile(r"3 runs, places \d+ to \d+ in the queue")
    )
    page.get_by_role("button", name="Add to queue").click()

    # It is watched without a reload
    page.wait_for_url("**/sweeps/*/")
    page.evaluate("window.notReloaded = true")
    expect(page.locator("#head")).to_contain_text("3 of 3 runs ended", timeout=SLOW_MS)
    expect(page.locator("#sweep-runs .best .figure")).to_have_text("1", timeout=SLOW_MS)
    expect(page.locator("#sweep-runs td.best")).to_contain_text("1")
    expect(page.locator("#drawn")).to_have_text("3 runs, by epoch", timeout=SLOW_MS)
    expect(page.locator("#overlay-legend li").first).to_have_text("lr=0.1")
    assert page.locator("#overlay-plot canvas").count() == 1
    assert page.evaluate("window.notReloaded")

    # The best is opened, and run again with a change that is shown first
    page.locator("#sweep-runs").get_by_role("link", name="Open run_001").click()
    page.wait_for_url("**/runs/*/")
    expect(page.locator("#config")).to_contain_text("lr: 0.1")
    expect(page.locator("#head")).to_contain_text("sweep 1: lr=0.1")
    page.get_by_role("link", name="Rerun with a change").click()
    expect(page.locator("#preview-wide")).to_contain_text("Nothing differs yet")
    write_config(page, CONFIG.replace("0.3", "0.2"))
    expect(page.locator("#preview-wide")).to_contain_text("1 difference from run_001")
    page.get_by_role("button", name="Add to queue").click()
    page.wait_for_url("**/runs/*/")
    expect(page.locator("#facts")).to_contain_text("learned / run_001", timeout=SLOW_MS)
    assert broken == []
