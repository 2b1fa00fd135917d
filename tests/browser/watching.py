"""What a page should never do, written down while a test looks at it."""

from urllib.parse import urlsplit

from playwright.sync_api import ConsoleMessage, Dialog, Page, Request

from bench.screenshots import pages

#: The second is this server too, by a name that it does not know.
OURS = ("127.0.0.1", pages.STRANGE_NAME, None)


def complaints(page: Page) -> list[str]:
    """From now on: errors in the console (what the Content-Security-Policy refuses is one),
    exceptions, dialogs, and whatever is asked of another host."""
    found: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type == "error" and not _is_of_the_page_itself(page, message):
            found.append(message.text)

    def close(dialog: Dialog) -> None:
        found.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def ask(request: Request) -> None:
        host = urlsplit(request.url).hostname
        if host not in OURS:
            found.append(f"asked {host}")

    page.on("console", hear)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("dialog", close)
    page.on("request", ask)
    return found


def _is_of_the_page_itself(page: Page, message: ConsoleMessage) -> bool:
    """A page that says 403 or 404 is an error to the console, and meant so."""
    return message.text.startswith("Failed to load resource") and (
        message.location["url"].partition("#")[0] == page.url.partition("#")[0]
    )
