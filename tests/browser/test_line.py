"""The line to the server: cut and whole again, in a tab that rests, to a newer server."""

import re

from playwright.sync_api import Page, Route, expect

from tests.browser.test_live import SLOW_MS, sign_in
from tests.e2e.lab import Lab, wait_for
from tests.faults.proxy import FaultProxy

#: Keeps the number of each event that the page is told of, and counts what it asks for.
RECORD = """() => {
    window.told = [];
    window.asked = 0;
    document.addEventListener("lab:message", ({ detail }) => {
        if (detail.seq) window.told.push(detail.seq);
    });
    const fetch = window.fetch;
    window.fetch = (...args) => { window.asked += 1; return fetch(...args); };
}"""
HIDE = """(hidden) => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def queue_one(page: Page, lab: Lab) -> str:
    """A job, past the line that the page has."""
    cookies = {cookie["name"]: cookie["value"] for cookie in page.context.cookies()}
    answer = page.request.post(
        f"{lab.url}/api/jobs/",
        data={"project": "line", "command": ["true"], "resources": {"gpus": 0}},
        headers={"X-CSRFToken": cookies["csrftoken"]},
    )
    assert answer.status == 201, answer.text()
    return str(answer.json()["uid"])


def events_of(page: Page, lab: Lab, uid: str) -> list[int]:
    rows = page.request.get(f"{lab.url}/api/jobs/{uid}/events/").json()["results"]
    return [row["id"] for row in rows]


def test_what_happened_while_the_line_was_cut_is_told_once_and_in_order(
    page: Page, lab: Lab, password: str
):
    port = int(lab.url.rsplit(":", 1)[1])
    with FaultProxy(("127.0.0.1", port)) as proxy:
        sign_in(page, lab, password)
        page.goto(f"{proxy.url}/runs/")
        expect(page.locator("#live")).to_have_text("Live", timeout=SLOW_MS)
        page.evaluate(RECORD)

        proxy.cut()
        expect(page.locator("#live")).to_contain_text("not live since", timeout=SLOW_MS)
        uids = [queue_one(page, lab) for _ in range(3)]
        proxy.heal()

        expect(page.locator("#live")).to_have_text("Live", timeout=SLOW_MS)
        expect(page.locator(f"#j-{uids[-1]}")).to_contain_text("succeeded", timeout=SLOW_MS)
        happened = sorted(seq for uid in uids for seq in events_of(page, lab, uid))
        wait_for(lambda: happened[-1] in page.evaluate("window.told"), "the last event")
        told = page.evaluate("window.told")
        assert told == sorted(set(told)), "out of order, or twice"
        assert [seq for seq in told if seq in happened] == happened


def test_a_line_that_says_nothing_is_given_up_when_the_page_is_looked_at_again(
    page: Page, lab: Lab, password: str
):
    port = int(lab.url.rsplit(":", 1)[1])
    with FaultProxy(("127.0.0.1", port)) as proxy:
        sign_in(page, lab, password)
        page.goto(f"{proxy.url}/runs/")
        expect(page.locator("#live")).to_have_text("Live", timeout=SLOW_MS)
        proxy.fall_silent()
        proxy.heal()

        page.evaluate("() => { const now = Date.now; Date.now = () => now() + 120000; }")
        page.evaluate(HIDE, False)  # as after a laptop's sleep

        uid = queue_one(page, lab)
        expect(page.locator(f"#j-{uid}")).to_contain_text("succeeded", timeout=SLOW_MS)


def test_a_hidden_tab_rests_and_looks_when_it_is_shown(page: Page, lab: Lab, password: str):
    sign_in(page, lab, password)
    page.goto(f"{lab.url}/runs/")
    expect(page.locator("#live")).to_have_text("Live", timeout=SLOW_MS)
    page.evaluate(RECORD)

    page.evaluate(HIDE, True)
    before = page.evaluate("window.asked")
    page.evaluate("document.dispatchEvent(new CustomEvent('lab:refresh'))")
    page.evaluate(
        "document.dispatchEvent(new CustomEvent('lab:message', {detail: {kind: 'job', job: 1}}))"
    )
    assert page.evaluate("window.asked") == before

    page.evaluate(HIDE, False)
    assert page.evaluate("window.asked") > before


def test_a_newer_server_is_told_to_who_types_and_loaded_by_who_does_not(
    page: Page, lab: Lab, password: str
):
    sign_in(page, lab, password)
    page.goto(f"{lab.url}/runs/")
    expect(page.locator("#live")).to_have_text("Live", timeout=SLOW_MS)
    page.evaluate("() => { window.notReloaded = true; document.body.dataset.build = 'older'; }")
    page.locator(".top .find input").fill("half a wo")

    page.evaluate("window.dispatchEvent(new Event('offline'))")
    page.evaluate("window.dispatchEvent(new Event('online'))")

    expect(page.locator("#renewed")).to_be_visible(timeout=SLOW_MS)
    assert page.evaluate("window.notReloaded")
    page.get_by_role("button", name="Load anew").click()
    page.wait_for_function("!window.notReloaded")
    expect(page.locator("#renewed")).to_be_hidden()


def test_a_page_looks_again_after_what_is_older_than_its_question(
    page: Page, lab: Lab, password: str
):
    sign_in(page, lab, password)
    page.goto(f"{lab.url}/devices/")
    expect(page.locator("#live")).to_have_text("Live", timeout=SLOW_MS)
    page.evaluate("document.getElementById('device-list').dataset.live = 'nothing'")
    page.wait_for_timeout(2500)  # what was asked before is over, its pause too
    answered = []

    def answer(route: Route) -> None:
        answered.append(route.request.url)
        older = {"X-Older": "1"} if len(answered) == 1 else {}
        body = f"<h1>{len(answered)}</h1>"
        route.fulfill(body=body, headers={"Content-Type": "text/html", **older})

    page.route("**/devices/?part=list*", answer)
    page.evaluate("document.dispatchEvent(new CustomEvent('lab:refresh'))")

    expect(page.locator("#device-list h1")).to_have_text("2", timeout=SLOW_MS)
    page.wait_for_timeout(2500)
    assert len(answered) == 2


def test_a_second_click_on_the_way_to_the_answer_does_nothing(page: Page, lab: Lab, password: str):
    sign_in(page, lab, password)
    uid = queue_one(page, lab)
    page.goto(f"{lab.url}/runs/{uid}/")
    rerun = page.get_by_role("button", name="Rerun", exact=True)
    expect(rerun).to_be_visible(timeout=SLOW_MS)
    sent = []
    page.on("request", lambda request: request.method == "POST" and sent.append(request.url))

    rerun.evaluate("button => { button.click(); button.click(); }")
    page.wait_for_url(lambda url: uid not in url)
    assert sent == [f"{lab.url}/runs/{uid}/rerun/"]

    page.goto(f"{lab.url}/runs/{uid}/")
    rerun.click()
    page.wait_for_url(lambda url: uid not in url)
    assert len(sent) == 2


def test_a_page_whose_session_ended_keeps_what_was_typed(page: Page, lab: Lab, password: str):
    sign_in(page, lab, password)
    page.goto(f"{lab.url}/execute/")
    page.get_by_role("textbox", name="Command", exact=True).fill("echo not lost")
    page.context.clear_cookies()

    page.evaluate("document.dispatchEvent(new CustomEvent('lab:refresh'))")
    expect(page).to_have_url(re.compile("/login/"))
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/execute/")

    expect(page.get_by_role("textbox", name="Command", exact=True)).to_have_value("echo not lost")
