"""What is photographed: the pages by their names, who sees them, and how one comes to each."""

import time

from playwright.sync_api import Page

PASSWORD = "correct horse battery"
MANAGER, RESEARCHER = "yoon", "minjun"
#: A name that Chromium finds here, and the server does not know.
STRANGE_NAME = "another-name.test"

#: Pages by their address.
ADDRESSES = {
    "login": "/login/",
    "dashboard": "/",
    "wall": "/?wall=1",
    "devices": "/devices/",
    "filtered": "/devices/?type=A6000",
    "device": "/devices/1/?span=hour",
    "add": "/devices/add/",
    "queue": "/queue/",
    "projects": "/projects/",
    "project": "/projects/mstar-curriculum/?what=failed&older_than_days=0",
    "timeline": "/projects/mstar-curriculum/timeline/?span=day",
    "charts": "/projects/mstar-curriculum/charts/",
    "archived": "/projects/ablation-2025/",
    "unused": "/projects/diffusion-prior/",
    "runs": "/runs/",
    "none": "/runs/?q=nothing+is+like+that",
    "wrong": "/runs/?q=lr%3C0.1+state:faled+tag:seeds",
    "columns": "/projects/mstar-curriculum/?c=tag&c=notes&c=best:test_accuracy&c=key:lr&choose=1",
    "grouped": "/projects/mstar-curriculum/?g=key:lr&g=key:seed",
    "new": "/execute/",
    "execute": "/execute/?config=mstar/curriculum.yaml",
    "account": "/account/",
    "people": "/people/",
    "person": "/people/1/",
    "several": "/people/several/",
    "audit": "/people/audit/",
    "settings": "/projects/mstar-curriculum/settings/",
    "sweeps": "/sweeps/",
    "sweep": "/sweeps/1/",
    "sweep40": "/sweeps/2/",
    "missing": "/nowhere/",
    "forbidden": "/devices/add/",
    "mine": "/",
}
#: The page of a run, by the words that find it.
RUNS = {
    "run": "seed 0",
    "failed": "smaller step",
    "succeeded": "sar-flow baseline",
    "unreachable": "det-aerial run_001",
    "waiting": "fixmatch-ssl 4",
    "changed": "larger batch",
}
#: Pages that one comes to by doing something.
DONE = [
    "refused", "code", "mistakes", "declined", "varied", "altered", "strange", "ticked",
    "compare", "cancelling", "editing", "file", "found", "rerun", "long", "faulty", "keys",
]  # fmt: skip
#: What is pressed once runs are ticked; nothing: they are only ticked.
PRESSED = {"ticked": "", "compare": "compare", "cancelling": "cancel"}
PAGES = [*ADDRESSES, *RUNS, *DONE]
#: Of the managers' desk, whose looks are the library's.
DESK = {
    "desk": "/admin/",
    "desk-jobs": "/admin/experiments/job/",
    "desk-device": "/admin/devices/device/1/change/",
}
ALL = [*PAGES, *DESK]
#: Of a lab on its first day, which is served by itself.
OF_FIRST_DAY = {
    "first-dashboard": "/",
    "first-devices": "/devices/",
    "first-queue": "/queue/",
    "first-projects": "/projects/",
    "first-runs": "/runs/",
    "first-sweeps": "/sweeps/",
    "first-execute": "/execute/",
}
OF_NOBODY, OF_RESEARCHER = {"login", "refused", "strange"}, {"forbidden", "mine"}


def visitor_of(name: str) -> str:
    """The user's name; nobody's is empty."""
    if name in OF_NOBODY:
        return ""
    return RESEARCHER if name in OF_RESEARCHER else MANAGER


def sign_in(page: Page, url: str, user: str) -> None:
    page.goto(f"{url}/login/")
    page.fill("#u", user)
    page.fill("#p", PASSWORD)
    page.click("button.primary")
    page.wait_for_url(f"{url}/")


def visit(page: Page, url: str, name: str) -> None:
    """Go to the page of that name."""
    if address := (ADDRESSES | DESK | OF_FIRST_DAY).get(name):
        page.goto(url + address)
    elif name in RUNS:
        page.goto(f"{url}/runs/?q={RUNS[name]}")
        page.click("td.lead a")
    elif name in PRESSED:
        _tick(page, url, PRESSED[name])
    else:
        DOING[name](page, url)


def _refused(page: Page, url: str) -> None:
    page.goto(f"{url}/login/")
    page.fill("#u", f"nobody{time.time_ns()}")  # who guesses five times has to wait
    page.fill("#p", "wrong")
    page.click("button.primary")


def _code(page: Page, url: str) -> None:
    page.goto(f"{url}/devices/add/")
    page.click("main button.primary")


def _mistakes(page: Page, url: str) -> None:
    page.goto(f"{url}/execute/")
    text = "lr: 0.1\nlab:\n  comand: [python, train.py]\n  time_limit: 120\n"
    page.evaluate("t => document.querySelector('.CodeMirror').CodeMirror.setValue(t)", text)
    page.wait_for_selector(".cm-say")


def _declined(page: Page, url: str) -> None:
    page.goto(f"{url}/execute/")
    page.fill("[name=gpus]", "64")
    page.fill("[name=command]", "python train.py")
    page.click("#new .submit button.primary")
    page.wait_for_load_state()


def _varied(page: Page, url: str) -> None:
    page.goto(f"{url}/execute/?config=mstar/curriculum.yaml")
    page.fill("#sw", "lr=0.001,0.0003 optimiser=adam,sgd seed=1..3")
    page.fill("#mr", "4")
    page.wait_for_selector("#preview-wide .notice")


def _altered(page: Page, url: str) -> None:
    page.goto(f"{url}/runs/?q=smaller step")
    page.click("td.lead a")
    page.click("#head a[href*='/execute/?from=']")
    page.wait_for_selector(".CodeMirror")
    page.evaluate(
        """() => {
            const editor = document.querySelector(".CodeMirror").CodeMirror;
            const text = editor.getValue().replace("lr: 0.0003", "lr: 0.0001");
            editor.setValue(text.replace("batch_size: 64", "batch_size: 32"));
        }"""
    )
    page.wait_for_selector("#preview-wide .differs")


def _editing(page: Page, url: str) -> None:
    page.goto(f"{url}/projects/mstar-curriculum/?q=sweep&c=tag&c=notes")
    page.locator("[data-edit]").first.click()


def _file(page: Page, url: str) -> None:
    visit(page, url, "run")
    page.click("#files td.lead a >> nth=0")
    page.wait_for_url("**folder=**")
    page.click("#files td.lead a >> text=epoch_060")


def _found(page: Page, url: str) -> None:
    """Words sought in a long log, at the second of their places."""
    page.goto(f"{url}/runs/?q=seed 1")
    page.click("td.lead a")
    page.wait_for_selector("#follow[data-ready]")
    page.fill("#log-find", "gradient norm")
    page.press("#log-find", "Enter")
    page.wait_for_selector("#terminal .hit")
    page.press("#log-find", "Enter")


def _rerun(page: Page, url: str) -> None:
    visit(page, url, "failed")
    page.click(".failed .next .btn")


def _faulty(page: Page, url: str) -> None:
    page.goto(f"{url}/devices/")
    page.click(".notice[data-state=faulty] .list a")


def _keys(page: Page, url: str) -> None:
    page.goto(f"{url}/queue/")
    page.keyboard.press("?")


def _long(page: Page, url: str) -> None:
    """Names as long as names may be."""
    page.goto(f"{url}/projects/ablation-2025/?q=long")
    page.click("td.lead a")


def _strange(page: Page, url: str) -> None:
    page.goto(url.replace("127.0.0.1", STRANGE_NAME))


#: What is done on the way to a page.
DOING = {
    "refused": _refused, "code": _code, "mistakes": _mistakes, "varied": _varied,
    "declined": _declined, "found": _found, "long": _long,
    "faulty": _faulty, "keys": _keys,
    "altered": _altered, "editing": _editing, "strange": _strange, "file": _file,
    "rerun": _rerun,
}  # fmt: skip


def _tick(page: Page, url: str, press: str) -> None:
    page.goto(f"{url}/projects/mstar-curriculum/?q=state:running,succeeded")
    for box in page.locator("input[name=run]").all():
        box.check()
    if press:
        page.click(f"button[value={press}]")
        page.wait_for_url("**/compare/**" if press == "compare" else "**/act/")
