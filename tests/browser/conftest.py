"""A real Chromium, and a whole server with an agent for it to look at."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from bench.screenshots import pages
from bench.screenshots.browser import LAUNCH
from tests import ready
from tests.e2e.lab import ROOT, Lab, environment

#: The first, which has no windows, opens a page for a quarter of the others' work.
NAMES = ["chromium-headless-shell", "chromium", "chromium-browser"]
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)

#: Shows two rows, waits until the test has seen them, and shows the rest.
SCRIPT = """\
import csv, os, pathlib, time

def write(rows):
    with open(os.environ["LAB_METRICS_CSV"], "a", newline="") as file:
        csv.writer(file).writerows(rows)

write([["epoch", "train_loss", "test_accuracy"], [1, 0.9, 0.5], [2, 0.5, 0.7]])
print("\\x1b[32mtwo epochs\\x1b[0m <b>done</b>", flush=True)
while not pathlib.Path("go").exists():
    time.sleep(0.05)
write([[3, 0.3, 0.8], [4, 0.2, 0.9], [5, 0.1, 0.97]])
print("five epochs done", flush=True)
"""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These come last (in each worker, since `make test` keeps the order): from the first of them
    on, Playwright's loop runs in this thread, and Django speaks to no database from such a one."""
    missing = pytest.mark.skip(reason="no Chromium here: install the package chromium")
    ours = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    for item in ours:
        item.add_marker(pytest.mark.browser)
        if CHROMIUM is None:
            item.add_marker(missing)
    items[:] = [item for item in items if item not in ours] + ours


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, Any]:
    return {"executable_path": CHROMIUM, "args": LAUNCH}


@pytest.fixture(scope="session")
def base_url() -> str:
    """The plugin's own is of a kind that this pytest warns of."""
    return ""


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which jobs run."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "train.py").write_text(SCRIPT)
    return folder


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Iterator[Lab]:
    """One server for all of these tests, with an agent on this machine."""
    data_dir = tmp_path_factory.mktemp("lab") / "data"
    lab = Lab(data_dir, "--agent", "--source", str(source)).start()
    yield lab
    lab.interrupt()


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the lab that bench/screenshots makes up. It ends with its standard input,
    and so with these tests."""
    data_dir = tmp_path_factory.mktemp("made_up") / "data"
    ready.lay(data_dir)
    with subprocess.Popen(
        [sys.executable, "-m", "bench.screenshots", "--serve", "--on", str(data_dir)],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


@pytest.fixture(scope="session")
def visitors(browser: Browser, made_up: str) -> dict[str, Any]:
    """What a browser keeps of somebody who is signed in, by the name of the user."""
    kept: dict[str, Any] = {"": None}
    for user in (pages.MANAGER, pages.RESEARCHER):
        context = browser.new_context()
        pages.sign_in(context.new_page(), made_up, user)
        kept[user] = context.storage_state()
        context.close()
    return kept


@pytest.fixture(scope="session")
def password(lab: Lab) -> str:
    """The administrator's, as the first start left it where no terminal was."""
    return (lab.data_dir / "admin-password.txt").read_text().split()[-1]
