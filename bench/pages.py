"""Every page of a lab of 10 000 runs, 40 GPU servers and runs with a hundred metrics: how long the
server takes, how much comes over the line, and when a browser can be used.

    .venv/bin/python -m bench.pages [--runs N] [--keep FOLDER]

Beside the demo lab there are a run with a log of 2 GB and one with a curve of 10^6 rows of eight
columns. The log's bytes are written, not feigned: a page that read all of it would show here.
"""

import argparse
import contextlib
import gzip
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

from bench.server import ROOT, Server, running

PASSWORD = "correct horse battery"
READER = "yoon"
REQUESTS = 30
WEIGHT_KB, INTERACTIVE_MS = 200.0, 1000.0
LOG_BYTES, CURVE_ROWS, CURVE_COLUMNS = 2 * 10**9, 10**6, 8
CHROMIUM = "/usr/bin/chromium"


@dataclass(frozen=True)
class Page:
    name: str
    path: str
    most_ms: float
    is_html: bool = True


#: Of `uid`: the run with the long log and the long curve.
def pages(uid: str, device: int) -> list[Page]:
    run = f"/runs/{uid}/"
    table = "/runs/?q=state:succeeded+lr<0.01&sort=-test/accuracy"
    return [
        Page("run table", "/runs/", 300),
        Page("run table, filtered and sorted", table, 300),
        Page("run table, page 40", "/runs/?page=40&sort=-submitted", 300),
        Page("dashboard", "/", 150),
        Page("dashboard on the wall", "/?wall=1", 150),
        Page("devices", "/devices/", 150),
        Page("a GPU server, a week", f"/devices/{device}/?span=week", 150),
        Page("its curves, a week", f"/devices/{device}/history/?span=week", 150, is_html=False),
        Page("queue", "/queue/", 150),
        Page("run", run, 150),
        Page("log of 2 GB, its end", f"{run}log/", 100, is_html=False),
        Page("log of 2 GB, its middle", f"{run}log/?before=1000000000", 100, is_html=False),
        Page("curve of 10^6 × 8, again", f"{run}curve/", 300, is_html=False),
    ]


COLD_CURVE_MS = 1500.0


# --- the lab ------------------------------------------------------------------------------------


def prepare(folder: Path, runs: int) -> tuple[str, int]:
    """Make the lab in `folder`/data; the uid of the run with the long files, and a GPU server."""
    data = folder / "data"
    data.mkdir(parents=True)
    environment = {**os.environ, "LAB_DATA_DIR": str(data)}
    demo = ["demo_data", "--runs", str(runs), "--devices", "40", "--password", PASSWORD]
    for command in (["migrate", "-v0"], demo):
        subprocess.run(
            [sys.executable, "manage.py", *command], cwd=ROOT, env=environment, check=True
        )
    fill = subprocess.run(
        [sys.executable, "-m", "bench.pages", "--fill"], cwd=ROOT, env=environment, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    uid, device = fill.stdout.split()
    return uid, int(device)


def fill() -> None:
    """In a process of its own, on the lab that the environment names."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "labsite.settings"
    import django

    django.setup()
    from devices.models import Device
    from experiments.models import Job
    from sync.models import SyncFile
    from sync.storage import Place

    job = Job.objects.filter(state="succeeded", files__isnull=False).distinct().latest("pk")
    for suffix, write in (("log", _write_log), ("csv", _write_curve)):
        name = f"{job.run_name}.{suffix}"
        path = Place.of(job, name).path
        write(path)
        row = SyncFile.objects.filter(job=job, name=name)
        row.update(size=path.stat().st_size, sha256="0" * 64, generation=2)
    print(job.uid, Device.objects.order_by("pk").values_list("pk", flat=True)[2])


def _write_log(path: Path) -> None:
    lines = (f"epoch {n} loss \x1b[1m{1 / (n + 1):.6f}\x1b[0m and so on" for n in range(80_000))
    block = ("\n".join(lines) + "\n").encode()
    with open(path, "wb") as file:
        for _ in range(LOG_BYTES // len(block) + 1):
            file.write(block)


def _write_curve(path: Path) -> None:
    import numpy as np

    steps = np.arange(CURVE_ROWS)
    columns = [np.exp(-steps / 2e5) * (1 + n) for n in range(CURVE_COLUMNS)]
    head = ",".join(["step", *(f"metric_{n}" for n in range(CURVE_COLUMNS))])
    table = np.column_stack([steps, *columns])
    with open(path, "w") as file:
        file.write(head + "\n")
        np.savetxt(file, table, fmt=["%d", *["%.6g"] * CURVE_COLUMNS], delimiter=",")


# --- measuring ----------------------------------------------------------------------------------


class Verdict:
    def __init__(self) -> None:
        self.missed: list[str] = []

    def tell(self, name: str, what: str, value: float, most: float, unit: str) -> None:
        holds = value <= most
        mark = "" if holds else "   NOT HELD"
        print(f"{name:34} {what:12} {value:8.0f} {unit:3} of {most:6.0f}{mark}", flush=True)
        if not holds:
            self.missed.append(f"{name}, {what}")


def sign_in(server: Server) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.get(f"{server.url}/login/", timeout=30)
    form = {"username": READER, "password": PASSWORD, "stay": "on"}
    form["csrfmiddlewaretoken"] = session.cookies["csrftoken"]
    answer = session.post(f"{server.url}/login/", form, timeout=30)
    if answer.url != f"{server.url}/":
        raise SystemExit(f"{READER} was not let in")
    return session


def served_ms(session: requests.Session, url: str) -> float:
    begun = time.perf_counter()
    answer = session.get(url, timeout=60)
    if answer.status_code != 200:
        raise SystemExit(f"{url}: {answer.status_code}")
    return 1000 * (time.perf_counter() - begun)


def p95(values: list[float]) -> float:
    return sorted(values)[max(0, round(0.95 * len(values)) - 1)]


def measure_server(server: Server, found: list[Page], verdict: Verdict) -> None:
    session = sign_in(server)
    curve = next(page for page in found if page.path.endswith("/curve/"))
    cold = served_ms(session, server.url + curve.path)
    verdict.tell("curve of 10^6 × 8", "cold", cold, COLD_CURVE_MS, "ms")
    for page in found:
        url = server.url + page.path
        served_ms(session, url)  # the process has loaded what it needs
        times = [served_ms(session, url) for _ in range(REQUESTS)]
        verdict.tell(page.name, "server p95", p95(times), page.most_ms, "ms")


def weight_kb(session: requests.Session, url: str) -> float:
    """HTML, styles and scripts as gzip has them: what a first visit costs."""
    html = session.get(url, timeout=60).content
    linked = re.findall(rb'(?:href|src)="(/[^"]+\.(?:css|js|svg)[^"]*)"', html)
    base = "/".join(url.split("/")[:3])
    parts = [html, *(session.get(base + one.decode(), timeout=60).content for one in linked)]
    return sum(len(gzip.compress(part)) for part in parts) / 1000


def measure_browser(server: Server, found: list[Page], verdict: Verdict) -> None:
    session = sign_in(server)
    with _browser(server, session) as interactive:
        for page in found:
            if not page.is_html:
                continue
            url = server.url + page.path
            verdict.tell(page.name, "gzip", weight_kb(session, url), WEIGHT_KB, "kB")
            times = [interactive(url) for _ in range(4)][1:]
            verdict.tell(page.name, "interactive", max(times), INTERACTIVE_MS, "ms")


@contextlib.contextmanager
def _browser(server: Server, session: requests.Session) -> Iterator[Callable[[str], float]]:
    """A function that opens a page and says after how many ms its scripts had run."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        cookies = [
            {"name": cookie.name, "value": cookie.value or "", "url": server.url}
            for cookie in session.cookies
        ]
        context.add_cookies(cookies)
        tab = context.new_page()

        def interactive(url: str) -> float:
            tab.goto(url, wait_until="load")
            told = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
            return float(tab.evaluate(told))

        yield interactive
        browser.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--keep", type=Path, help="make the lab there, and leave it")
    parser.add_argument("--fill", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill:
        fill()
        return 0
    verdict = Verdict()
    with contextlib.ExitStack() as stack:
        fresh = tempfile.TemporaryDirectory(prefix="bench-pages-")
        folder = options.keep or Path(stack.enter_context(fresh))
        uid, device = prepare(folder, options.runs)
        with running(agent=False, prepared=folder) as server:
            found = pages(uid, device)
            measure_server(server, found, verdict)
            measure_browser(server, found, verdict)
    print(f"not held: {'; '.join(verdict.missed)}" if verdict.missed else "every bound holds")
    return 1 if verdict.missed else 0


if __name__ == "__main__":
    sys.exit(main())
