"""Hostile texts where only a browser meets them: in curves, logs and what scripts lay into a page.

What the server makes of them stands in tests/labsite/test_hostile_text.py.
"""

import json
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.test_live import SLOW_MS, sign_in
from tests.browser.watching import complaints
from tests.e2e.lab import Lab
from tests.labsite.payloads import PAYLOADS

SOME = [text for text in PAYLOADS if text.isprintable()][::7]
#: Writes them as the names of metrics and files, and into the log.
SCRIPT = """\
import csv, json, os, pathlib

texts = json.load(open("texts.json"))
folder = pathlib.Path(os.environ["LAB_RUN_DIR"], os.environ["LAB_RUN_NAME"])
folder.mkdir(parents=True, exist_ok=True)
for text in texts:
    print(text)
    (folder / (text.replace("/", "_")[:60] + ".txt")).write_text(text)
with open(os.environ["LAB_METRICS_CSV"], "w", newline="") as file:
    csv.writer(file).writerows([["epoch", *texts], *([n] + [n] * len(texts) for n in (1, 2, 3))])
"""
SUBMIT = """async (wish) => {
    const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
    const headers = {"X-CSRFToken": token, "Content-Type": "application/json"};
    const ask = async (method, url, said) => {
        const answer = await fetch(url, { method, headers, body: JSON.stringify(said) });
        if (!answer.ok) throw new Error(await answer.text());
        return answer.json();
    };
    const job = await ask("POST", "/api/jobs/", wish);
    await ask("PATCH", `/api/jobs/${job.uid}/`, { notes: wish.notes });
    await ask("PATCH", `/api/projects/${wish.project}/`, { title: wish.name });
    return job.uid;
}"""


def test_no_text_does_anything_in_a_browser(page: Page, lab: Lab, password: str, source: Path):
    (source / "texts.json").write_text(json.dumps(SOME))
    (source / "hostile.py").write_text(SCRIPT)
    broken = complaints(page)
    sign_in(page, lab, password)
    config = "".join(f"{json.dumps(text)}: {json.dumps(text)}\n" for text in SOME)
    wish = {
        "project": "hostile", "name": "".join(SOME)[:128],
        "tags": [text[:60].strip() for text in SOME[:30]],
        "notes": "\n".join(SOME), "config": config, "command": ["python3", "hostile.py"],
        "resources": {"gpus": 0}, "environment": {"TEXT": SOME[0]},
    }  # fmt: skip
    uid = page.evaluate(SUBMIT, wish)

    # The run's page: curves and their legends, the log and a search in it, files and a preview
    page.goto(f"{lab.url}/runs/{uid}/")
    expect(page.locator("#head .badge").first).to_have_text("succeeded", timeout=SLOW_MS)
    expect(page.locator("#plots figure").first).to_be_visible(timeout=SLOW_MS)
    expect(page.locator("#terminal")).to_contain_text(SOME[0], timeout=SLOW_MS)
    page.locator("#plots .plot").first.focus()
    page.keyboard.press("Home")
    page.locator(".of-chart summary").first.click()
    page.fill("#log-find", "<")
    expect(page.locator("#log-hits li").first).to_be_visible()
    page.goto(f"{page.url.partition('#')[0]}?folder=run_001/#files")
    page.locator("#files td.lead a").nth(3).click()

    # Tables, a comparison, the editor, and a change that is shown beside what it came from
    columns = "&".join(("c=notes", "c=tag", "c=name", "choose=1"))
    for path in ("/", "/queue/", "/projects/", f"/projects/hostile/?{columns}", "/runs/"):
        page.goto(lab.url + path)
        expect(page.locator("#main")).to_be_visible()
    page.goto(f"{lab.url}/compare/?runs={uid}&all=")
    expect(page.locator(".plot canvas").first).to_be_visible(timeout=SLOW_MS)
    page.goto(f"{lab.url}/execute/?from={uid}")
    expect(page.locator("#preview-wide")).to_contain_text("from run_001")
    page.goto(f"{lab.url}/runs/{uid}/edit/")
    expect(page.get_by_label("Notes")).to_have_value("\n".join(SOME))
    assert page.title().endswith("Vision Lab")
    assert broken == []
