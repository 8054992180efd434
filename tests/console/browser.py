"""Chromium for tests: one browser on a thread of its own, and pages that nothing escapes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    sync_playwright,
)

Result = TypeVar("Result")
DESKTOP = (1440, 900)
TABLET = (768, 1024)
PHONE = (390, 844)
WAIT_MS = 10_000
# WCAG 2.2 AA, and what follows from it.
_AXE = {
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    },
    "resultTypes": ["violations"],
}
_NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """The program, or None."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


class BrowserThread:
    """The browser. Its library keeps an event loop on the thread that uses it, which no other test could bear."""

    def __init__(self, program: str) -> None:
        self._thread = ThreadPoolExecutor(1, "browser")
        self._program = program
        self.browser: Browser = self.run(self._start)

    def run(self, work: Callable[[], Result]) -> Result:
        """Do something on the browser's thread."""
        return self._thread.submit(work).result()

    def close(self) -> None:
        """End it."""
        self.run(self._stop)
        self._thread.shutdown()

    def _start(self) -> Browser:
        self._playwright = sync_playwright().start()
        return self._playwright.chromium.launch(
            executable_path=self._program, args=["--no-sandbox", "--disable-gpu"]
        )

    def _stop(self) -> None:
        self.browser.close()
        self._playwright.stop()


@dataclass
class Visitor:
    """A page of somebody, and all that it did which no page may do."""

    page: Page
    url: str
    wrong: list[str] = field(default_factory=list)
    """Messages of the console (reports of the policy are such), errors, requests to elsewhere."""
    refusals: set[int] = field(default_factory=set)
    """Statuses of refusals that the test provokes: the browser writes each to the console."""
    elsewhere: str | None = None
    """Where else the page may ask: the provider of a login."""

    def go(self, path: str) -> Page:
        """Open a page of the console and wait until it has loaded what it shows."""
        self.page.goto(f"{self.url}/console{path}")
        self.settle()
        return self.page

    def follow(self, path: str) -> Page:
        """Go to another page of the console as a link does, and wait until it has loaded."""
        self.page.evaluate(
            "path => { history.pushState(null, '', path); dispatchEvent(new Event('popstate')); }",
            f"/console{path}",
        )
        self.settle()
        return self.page

    def settle(self) -> None:
        """Wait until nothing is loading."""
        self.page.locator("main#page > *").first.wait_for()
        self.page.locator(".loading").first.wait_for(state="detached")

    def watch(self) -> None:
        """Begin to note what is wrong."""
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("request", self._on_request)
        self.page.set_default_timeout(WAIT_MS)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "verbose":  # an advice of the browser to whoever writes pages
            return
        provoked = any(f"status of {status}" in message.text for status in self.refusals)
        if not provoked:
            self.wrong.append(f"console: {message.type}: {message.text}")

    def _on_request(self, request: Request) -> None:
        allowed = (f"{self.url}/", "data:", "blob:", *([self.elsewhere] if self.elsewhere else []))
        if not request.url.startswith(allowed):
            self.wrong.append(f"request to elsewhere: {request.url}")


@contextmanager
def visitor(
    browser: Browser,
    url: str,
    token: str,
    *,
    theme: str = "light",
    size: tuple[int, int] = DESKTOP,
) -> Iterator[Visitor]:
    """A page with a session of the token's owner."""
    begin = partial(log_in, url=url, token=token)
    with opened(browser, url, begin, theme=theme, size=size) as found:
        yield found


@contextmanager
def opened(
    browser: Browser,
    url: str,
    begin: Callable[[BrowserContext], None],
    *,
    theme: str = "light",
    size: tuple[int, int] = DESKTOP,
) -> Iterator[Visitor]:
    """A page in a context of its own, which `begin` logs in. Nothing wrong may have happened at the end."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=theme,  # type: ignore[arg-type]  # light or dark
        reduced_motion="reduce",
    )
    try:
        begin(context)
        found = Visitor(context.new_page(), url)
        found.watch()
        yield found
        assert not found.wrong, found.wrong
    finally:
        context.close()


def log_in(context: BrowserContext, url: str, token: str) -> None:
    """Begin a session of the browser, with a code that the token's owner makes."""
    bearer = {"Authorization": f"Bearer {token}"}
    made = context.request.post(f"{url}/api/v1/auth/codes", headers=bearer)
    assert made.ok, made.text()
    begun = context.request.post(
        f"{url}/api/v1/auth/session",
        data={"code": made.json()["code"]},
        headers={"Origin": url},
    )
    assert begun.ok, begun.text()


# All that a page holds: its document with what is typed, its address, its history, its storage.
_HELD = """() => JSON.stringify([
  document.documentElement.outerHTML,
  [...document.querySelectorAll("input, textarea, select")].map((field) => field.value),
  location.href, history.state, document.title, document.cookie, localStorage, sessionStorage,
  performance.getEntriesByType("resource").map((entry) => entry.name),
])"""


def held(page: Page) -> str:
    """Return all that a page holds and keeps."""
    text: str = page.evaluate(_HELD)
    return text


def check_accessibility(page: Page) -> None:
    """Assert that axe finds nothing."""
    found = Axe().run(page, options=_AXE).response["violations"]
    told = [
        f"{one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes'][:3]]}"
        for one in found
    ]
    assert not told, f"{page.url}: {told}"


def check_width(page: Page) -> None:
    """Assert that nothing sticks out to the right."""
    wider = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert wider <= 0, f"{page.url} is {wider} px wider than the window"
