"""A newcomer's first minutes: the invitation's link, an account, a first run that is watched."""

from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.browser.test_live import CONFIG, SLOW_MS, sign_in, write_config
from tests.browser.watching import complaints
from tests.e2e.lab import Lab

PASSWORD = "correct horse battery"


def invited(page: Page, lab: Lab) -> str:
    """The link that a manager makes."""
    page.goto(f"{lab.url}/people/")
    page.get_by_role("button", name="Make a link").click()
    return page.locator(".cmd code").inner_text().strip()


def join(page: Page, link: str, name: str) -> None:
    page.goto(link)
    page.fill("#u", name)
    for field in ("#p1", "#p2"):
        page.fill(field, PASSWORD)
    page.click("main button.primary")
    page.wait_for_url("**/")
    expect(page.locator("#messages")).to_contain_text(name)


def test_a_newcomer_joins_by_a_link_and_watches_a_first_run_on_a_phone_in_korean(
    browser: Browser, page: Page, lab: Lab, password: str, source: Path
):
    (source / "go").unlink(missing_ok=True)
    sign_in(page, lab, password)
    link = invited(page, lab)
    context = browser.new_context(
        locale="ko-KR", color_scheme="dark", viewport={"width": 390, "height": 844}
    )
    phone = context.new_page()
    broken = complaints(phone)

    join(phone, link, "haru")
    assert phone.locator("html").get_attribute("lang") == "ko"
    phone.locator("section", has=phone.locator("#h-first")).get_by_role("link").click()
    write_config(phone, CONFIG)
    phone.fill("#pr", "first")
    expect(phone.locator("#preview")).to_contain_text("python3 train.py")
    phone.click("button.primary:has-text('대기열에')")
    phone.wait_for_url("**/runs/*/")
    phone.evaluate("window.notReloaded = true")
    expect(phone.locator("#head .badge").first).to_have_text("실행 중", timeout=SLOW_MS)
    expect(phone.locator("#points")).to_contain_text("2", timeout=SLOW_MS)
    (source / "go").touch()

    expect(phone.locator("#points")).to_contain_text("5", timeout=SLOW_MS)
    expect(phone.locator("#terminal")).to_contain_text("five epochs done", timeout=SLOW_MS)
    expect(phone.locator("#head .badge").first).to_have_text("성공", timeout=SLOW_MS)
    expect(phone.locator("#plots canvas").first).to_be_visible()
    assert phone.evaluate("window.notReloaded")
    phone.goto(link)
    expect(phone.locator("main")).to_contain_text("초대")  # the link let one person in
    assert broken == []
    context.close()
