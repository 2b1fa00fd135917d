"""What a researcher sees: submit on the Execute page, and watch curve and log move."""

from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.browser.watching import complaints
from tests.e2e.lab import Lab, wait_for

CONFIG = "lr: 0.1\nepochs: 5\nlab:\n  command: [python3, train.py]\n  resources: {gpus: 0}\n"
SLOW_MS = 30_000


def sign_in(page: Page, lab: Lab, password: str) -> None:
    page.goto(lab.url)
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{lab.url}/")
    page.goto(f"{lab.url}/devices/")


def write_config(page: Page, text: str) -> None:
    expect(page.locator(".CodeMirror")).to_be_visible()
    page.evaluate("text => document.querySelector('.CodeMirror').CodeMirror.setValue(text)", text)


def test_a_run_is_submitted_and_its_curve_and_log_move_without_a_reload(
    page: Page, lab: Lab, password: str, source: Path
):
    broken = complaints(page)
    sign_in(page, lab, password)
    expect(page.locator("#live")).to_have_text("Live", timeout=SLOW_MS)
    expect(page.locator("#device-list")).to_contain_text("healthy", timeout=SLOW_MS)

    page.get_by_role("link", name="Execute").click()
    write_config(page, CONFIG)
    page.get_by_label("Project").fill("digits")
    expect(page.locator("#preview")).to_contain_text("python3 train.py")
    expect(page.locator("#preview")).to_contain_text(str(source))
    page.get_by_role("button", name="Add to queue").click()
    page.wait_for_url("**/runs/*/")
    page.evaluate("window.notReloaded = true")

    expect(page.locator("#head .badge").first).to_have_text("running", timeout=SLOW_MS)
    expect(page.locator("#points")).to_have_text("2 rows", timeout=SLOW_MS)
    expect(page.locator("#terminal")).to_contain_text("two epochs <b>done</b>", timeout=SLOW_MS)
    expect(page.locator("#terminal .a-g")).to_have_text("two epochs")

    (source / "go").touch()

    expect(page.locator("#points")).to_have_text("5 rows", timeout=SLOW_MS)
    expect(page.locator("#terminal")).to_contain_text("five epochs done", timeout=SLOW_MS)
    expect(page.locator("#head .badge").first).to_have_text("succeeded", timeout=SLOW_MS)
    expect(page.locator(".chart .legend").first).to_contain_text("train_loss 0.1")
    expect(page.locator("#files")).to_contain_text("synced", timeout=SLOW_MS)
    expect(page).to_have_title("succeeded · run_001 · Vision Lab")
    assert page.evaluate("window.notReloaded")
    assert broken == []


def test_a_mistake_is_shown_at_its_line_before_anything_is_submitted(
    page: Page, lab: Lab, password: str
):
    sign_in(page, lab, password)
    page.goto(f"{lab.url}/execute/")

    write_config(page, "lr: 0.1\nlab:\n  comand: [python3]\n")

    expect(page.locator(".cm-mistake-line")).to_contain_text("comand")
    expect(page.locator(".cm-say").first).to_be_visible()
    expect(page.locator("#verdict")).to_contain_text("to mend")


def test_a_lost_line_is_said_and_found_again(page: Page, lab: Lab, password: str):
    sign_in(page, lab, password)
    expect(page.locator("#live")).to_have_text("Live", timeout=SLOW_MS)
    page.evaluate(
        """() => {
            const live = document.getElementById("live");
            window.said = [];
            new MutationObserver(() => window.said.push(live.textContent.trim()))
                .observe(live, {subtree: true, childList: true, characterData: true});
        }"""
    )

    lab.program("web").kill()

    says_it = "window.said.some((words) => /^not live since \\d\\d:\\d\\d$/.test(words))"
    wait_for(lambda: page.evaluate(says_it), "the page to say it")
    expect(page.locator("#live")).to_have_text("Live", timeout=SLOW_MS)
    expect(page.locator("#device-list")).to_contain_text("healthy", timeout=SLOW_MS)


def test_without_a_script_a_run_is_submitted_and_read_all_the_same(
    browser: Browser, lab: Lab, password: str, source: Path
):
    page = browser.new_context(java_script_enabled=False).new_page()
    sign_in(page, lab, password)
    page.goto(f"{lab.url}/execute/")
    page.get_by_label("Project").fill("plain")
    page.get_by_label("GPUs").fill("0")
    page.get_by_role("textbox", name="Command", exact=True).fill("echo written without a script")
    page.get_by_role("button", name="Add to queue").click()
    page.wait_for_url("**/runs/*/")  # a reload must not meet a page that is being left

    def shows_the_log() -> bool:
        page.goto(page.url)
        return "written without a script" in page.locator("#terminal").inner_text()

    wait_for(shows_the_log, "the log on the page")
    expect(page.get_by_role("heading", level=1)).to_contain_text("run_001")


def test_a_dispatch_that_is_killed_is_told_on_the_page_without_a_reload(
    page: Page, lab: Lab, password: str
):
    sign_in(page, lab, password)
    page.goto(f"{lab.url}/runs/")
    expect(page.locator("#live")).to_have_text("Live", timeout=SLOW_MS)
    expect(page.locator(".serving")).to_be_empty()
    page.evaluate("window.notReloaded = true")

    lab.program("dispatch").kill()

    told = page.locator(".serving")
    expect(told).to_contain_text("Giving out runs was started again at", timeout=SLOW_MS)
    expect(told).to_contain_text("because it was killed (SIGKILL)")
    assert page.evaluate("window.notReloaded")
    page.goto(f"{lab.url}/devices/")
    expect(page.locator(".programs")).to_contain_text("started again 1 time")
