"""A manager's day: a GPU server comes in by a code and is emptied, a run of somebody else's is
cancelled, somebody is invited; and the audit log tells of it."""

import re
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.browser.test_dashboard import queue_one
from tests.browser.test_live import SLOW_MS, sign_in
from tests.browser.test_newcomer import invited, join
from tests.browser.watching import complaints
from tests.e2e.lab import ROOT, Lab, environment


def enroll(command: str, folder: Path) -> None:
    """Type the command that the page shows, on a machine that only enrolls and goes away."""
    words = command.split()
    assert words[0] == "lab-agent"
    here = [sys.executable, "-m", "agent", "enroll", *words[1:], "--host-id", "gpu-new"]
    subprocess.run(
        [*here, "--state-dir", str(folder)],
        cwd=ROOT, env=environment(HOME=str(folder)), check=True, timeout=60,
    )  # fmt: skip


def test_a_managers_day(browser: Browser, page: Page, lab: Lab, password: str, tmp_path: Path):
    broken = complaints(page)
    page.emulate_media(color_scheme="dark")
    sign_in(page, lab, password)

    # A GPU server comes in by the command to copy, and the page says so by itself
    page.goto(f"{lab.url}/devices/add/")
    page.get_by_role("button", name="Make a code").click()
    enroll(page.locator(".cmd code", has_text="lab-agent").text_content(), tmp_path)
    expect(page.locator(".steps")).to_contain_text("gpu-new is here", timeout=SLOW_MS)

    # It gets no new jobs
    page.goto(f"{lab.url}/devices/")
    card = page.locator("article.device", has_text="gpu-new")
    card.get_by_role("button", name="Stop new jobs").click()
    expect(page.locator("#messages")).to_contain_text("gpu-new gets no new jobs")
    expect(card).to_contain_text("no new jobs")

    # Somebody is invited, comes in, and queues a run, which the manager cancels
    somebody = browser.new_context().new_page()
    join(somebody, invited(page, lab), "sora")
    queue_one(somebody, lab, "by mistake")
    somebody.context.close()
    page.goto(f"{lab.url}/queue/?user=sora")
    page.get_by_role("button", name=re.compile("Cancel run_")).click()
    expect(page.locator("#messages")).to_contain_text("was cancelled")

    # All of it is in the log: what, by whom, before and after
    page.goto(f"{lab.url}/people/audit/")
    rows = page.locator("table.audit tbody tr")
    for done in ("cancelled", "invit", "gpu-new"):
        expect(rows.filter(has_text=re.compile(done, re.IGNORECASE)).first).to_contain_text(
            "admin"
        )
    assert broken == []
