"""Chromium for tests: one browser on a thread of its own, and pages that record every fault."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Locator,
    Page,
    Request,
    expect,
    sync_playwright,
)

Result = TypeVar("Result")
DESKTOP = (1440, 900)
TABLET = (768, 1024)
PHONE = (390, 844)
WAIT_MS = 30_000
"""The time limit of every wait: a loaded machine is slow, and only a defect takes longer."""
expect.set_options(timeout=WAIT_MS)
# WCAG 2.2 AA, and its consequences.
_AXE = {
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    },
    "resultTypes": ["violations"],
    "preload": False,
}
# Content behind a dialog is inert, and is checked without it.
_RUN_AXE = """async (options) => {
  const part = [...document.querySelectorAll("dialog[open]")].pop() ?? document;
  return (await axe.run(part, options)).violations.map(({ id, help, nodes }) =>
    `${id}: ${help}: ${nodes.slice(0, 3).map((node) => node.html.slice(0, 200)).join(", ")}`);
}"""
_NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """The program, or None."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


class BrowserThread:
    """The browser. Its library keeps an event loop on the thread that uses it.

    No other test could work on that thread.
    """

    def __init__(self, program: str) -> None:
        self._thread = ThreadPoolExecutor(1, "browser")
        self._program = program
        self.browser: Browser = self.run(self._start)

    def run(self, work: Callable[[], Result]) -> Result:
        """Call a function on the browser's thread."""
        return self._thread.submit(work).result()

    def close(self) -> None:
        """Stop the browser."""
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
    """A page of a person, and its forbidden actions."""

    page: Page
    url: str
    wrong: list[str] = field(default_factory=list)
    """Console messages (including reports of the policy), errors, requests to other hosts."""
    refusals: set[int] = field(default_factory=set)
    """Statuses of refusals that the test provokes: the browser logs each of them to the console."""
    elsewhere: str | None = None
    """Other hosts that the page may call: the provider of a login."""
    _theme: str | None = None
    _size: tuple[int, int] | None = None

    def go(self, path: str) -> Page:
        """Open a page of the console and wait until it has loaded its content."""
        self.page.goto(f"{self.url}/console{path}")
        self.settle()
        return self.page

    def follow(self, path: str) -> Page:
        """Go to another page of the console like a link, and wait until it has loaded."""
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

    def look(self, theme: str, size: tuple[int, int]) -> None:
        """Choose a theme and the size of the window: each change causes one layout."""
        if theme != self._theme:
            self.page.emulate_media(color_scheme=theme, reduced_motion="reduce")  # type: ignore[arg-type]  # light or dark
        if size != self._size:
            self.page.set_viewport_size({"width": size[0], "height": size[1]})
        self._theme, self._size = theme, size

    @contextmanager
    def asks(self) -> Iterator[list[str]]:
        """Record the URLs that the page requests in the block; the list is complete after it."""
        found: list[str] = []

        def note(request: Request) -> None:
            found.append(request.url)

        self.page.on("request", note)
        yield found
        # Requests are reported in their order.
        last = f"{self.url}/livez"
        with self.page.expect_request(last):
            self.page.evaluate("url => void fetch(url)", last)
        self.page.remove_listener("request", note)
        found.remove(last)

    def watch(self) -> None:
        """Start to record faults."""
        self.page.on("console", self._on_console)
        self.page.on("pageerror", self._on_error)
        self.page.on("request", self._on_request)
        self.page.set_default_timeout(WAIT_MS)

    def leave(self) -> None:
        """Stop recording, and leave the page empty for another visit."""
        self.page.remove_listener("console", self._on_console)
        self.page.remove_listener("pageerror", self._on_error)
        self.page.remove_listener("request", self._on_request)
        self.page.unroute_all()
        if self.page.url.startswith(self.url):
            self.page.evaluate("localStorage.clear(), sessionStorage.clear()")
        self.page.goto("about:blank")

    def _on_error(self, error: Error) -> None:
        self.wrong.append(f"error: {error}")

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "verbose":  # advice of the browser for authors of pages
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
    """Yield a page with a session of the token's owner, in a context of its own."""
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
    """Yield a page in a context of its own, which `begin` logs in."""
    context = browser.new_context(reduced_motion="reduce")
    try:
        begin(context)
        with tab(context, url, theme=theme, size=size) as found:
            yield found
    finally:
        context.close()


@contextmanager
def tab(
    context: BrowserContext,
    url: str,
    *,
    theme: str = "light",
    size: tuple[int, int] = DESKTOP,
    page: Page | None = None,
) -> Iterator[Visitor]:
    """Visit a new page of a context, or this one, which is left empty.

    Check at the end that no fault was recorded.
    """
    found = Visitor(page or context.new_page(), url)
    try:
        found.look(theme, size)
        found.watch()
        yield found
        assert not found.wrong, found.wrong
    finally:
        found.leave()
        if page is None:
            found.page.close()


def log_in(context: BrowserContext, url: str, token: str) -> None:
    """Begin a session of the browser, with a code of the token's owner."""
    bearer = {"Authorization": f"Bearer {token}"}
    made = context.request.post(f"{url}/api/v1/auth/codes", headers=bearer)
    assert made.ok, made.text()
    begun = context.request.post(
        f"{url}/api/v1/auth/session",
        data={"code": made.json()["code"]},
        headers={"Origin": url},
    )
    assert begun.ok, begun.text()


# Everything that a page holds: its document with typed text, its URL, its history, its storage.
_HELD = """() => JSON.stringify([
  document.documentElement.outerHTML,
  [...document.querySelectorAll("input, textarea, select")].map((field) => field.value),
  location.href, history.state, document.title, document.cookie, localStorage, sessionStorage,
  performance.getEntriesByType("resource").map((entry) => entry.name),
])"""


def browser_storage(page: Page) -> str:
    """Return everything that a page holds and stores."""
    text: str = page.evaluate(_HELD)
    return text


def check_accessibility(page: Page) -> None:
    """Check that axe finds nothing: on the page, or in the open dialog."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    told = page.evaluate(_RUN_AXE, _AXE)
    assert not told, f"{page.url}: {told}"


def check_width(page: Page) -> None:
    """Check that no element is wider than the page."""
    wider = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert wider <= 0, f"{page.url} is {wider} px wider than the window"


Look = tuple[str, tuple[int, int]]
EVERY_LOOK: tuple[Look, ...] = (
    ("light", DESKTOP), ("dark", DESKTOP), ("light", PHONE), ("dark", PHONE),
)  # fmt: skip
_LOOKS: tuple[Look, ...] = (("light", DESKTOP), ("dark", PHONE))


def faults(
    somebody: Visitor, paths: Iterable[str], *, every: bool = False, shows: str = ""
) -> list[str]:
    """Return the faults of pages, each of which `shows` a text.

    Checked are three widths, and axe in one look each, in turn. `every`: axe in every look, and
    each page is a document of its own; otherwise it follows the one before.
    """
    found: list[str] = []

    def check(assertion: Callable[[Page], None], look: Look) -> None:
        somebody.look(*look)
        try:
            assertion(somebody.page)
        except AssertionError as failed:
            found.append(f"{look[0]}, {look[1][0]} px: {failed}")

    for number, path in enumerate(paths):
        looks = EVERY_LOOK if every else _LOOKS[number % 2 :][:1]
        somebody.look(*looks[0])
        if every or number == 0:
            somebody.go(path)
        else:
            somebody.follow(path)
        if shows:
            expect(somebody.page.get_by_text(shows).first).to_be_visible()
        for look in looks:
            check(check_accessibility, look)
        sizes = sorted((DESKTOP, TABLET, PHONE), key=lambda size: size != looks[-1][1])
        for size in sizes:
            check(check_width, (looks[-1][0], size))
        found += [f"{path}: {one}" for one in somebody.wrong]
        somebody.wrong.clear()
    return found


@contextmanager
def previewed(page: Page, words: str) -> Iterator[None]:
    """Type words in the block; after it, the launch can begin.

    Its button is disabled while a preview is requested.
    """
    with page.expect_response(lambda answer: words in (answer.request.post_data or "")):
        yield


_TYPE = """(field, [words, button]) => {
  field.value = words;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  return new Promise((done) =>
    setTimeout(() => done(document.querySelector(button).disabled)));
}"""


def rests_after(field: Locator, words: str, button: str) -> bool:
    """Return True if a button is disabled right after words were typed, before any request."""
    rests: bool = field.evaluate(_TYPE, [words, button])
    return rests


def refuse_once(somebody: Visitor, pattern: str, detail: str) -> None:
    """Answer the next request to this URL with a refusal."""
    problem = {"status": 409, "code": "conflict", "detail": detail, "request_id": "r-1"}
    somebody.refusals.add(409)
    somebody.page.route(
        pattern,
        lambda route: route.fulfill(
            status=409, json=problem, content_type="application/problem+json"
        ),
        times=1,
    )


TABS_MAX = 60
_KEYS_TRIED = 60
_KEYS_PAUSE_MS = 500


def tab_to(page: Page, wanted: Locator) -> None:
    """Press Tab until an element has the focus."""
    expect(wanted).to_be_enabled()
    for _ in range(TABS_MAX):
        if wanted.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{wanted} cannot be reached by Tab")


def go_by_keys(page: Page, keys: str, heading: str, focused: Locator | None = None) -> None:
    """Press two keys that lead to a page; again if they came too far apart.

    `focused`: the element with the focus then, if it is not the heading.
    """
    wanted = page.get_by_role("heading", name=heading, exact=True)
    before = page.evaluate("location.href")
    for _ in range(_KEYS_TRIED):
        for key in keys.split():
            page.keyboard.press(key)
        # The address changes at once; the page may take its time.
        if page.evaluate("location.href") != before:
            break
        page.wait_for_timeout(_KEYS_PAUSE_MS)
    expect(wanted).to_be_visible()
    expect(focused or wanted).to_be_focused()
