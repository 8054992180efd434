"""Hostile texts, pages of other sites, planted cookies, a viewer's buttons, typed secrets."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Dialog, Page, Request, expect

from console.browser import PHONE, Visitor, browser_storage, check_width, previewed
from console.conftest import ENDED_SECONDS, PASSWORD, BrowserThread, Stack, Visit, add_person

# Markup for each possible place of a text: content, attribute, script, style, template.
MARKUP = (
    '"><img src=x onerror=alert(1)><svg onload=alert(2)>'
    "</script><script>alert(3)<b hostile>${7*7}{{7*7}}"
)
UNSEEN = "\u202e\u200b\u2066\ufeff\x1b\x07\x9b"
TURNED = "safe\u202egnp.exe\u200b\u2066\ufeff"
COLOURED = (
    "\x1b[31mred\x1b]8;;https://evil.example/\x07link\x1b]8;;\x07\x1b]52;c;ZXZpbA==\x07\x9b31m"
)
LONG = "W" * 1_500
# Hostile parts of names: names with a slash, a comma or invisible characters are refused.
NAME = '"><img src=x onerror=alert(1)><b hostile>'
SECRETS = {name: f"canary-{name}-5c1e7d" for name in ("user", "login", "rotated", "job", "own")}


@pytest.fixture(scope="module")
def hostile_pages(stack: Stack) -> list[str]:
    """Create objects with hostile texts everywhere; return the pages that show them."""
    target = f"{NAME}t"
    stack.twin("lab-4", target, {"evil": f"{NAME}l"})
    words = f"{MARKUP}{TURNED}{COLOURED}{LONG}"
    parameter = {
        "name": "p",
        "label": f"{NAME}label",
        "description": MARKUP + TURNED,
        "type": "choice",
        "choices": [MARKUP, TURNED],
        "default": MARKUP,
    }
    # printf takes the octal form of each byte, so that the safety check sees a harmless text.
    octal = "".join(f"\\{byte:03o}" for byte in words.encode())
    job = {
        "name": f"{NAME}j",
        "description": words[:2_000],
        "tags": [f"evil={NAME.replace(' ', '_').replace(',', '').replace('=', '')}"],
        "parameters": [parameter],
        "actions": [
            {"key": "say", "command": f"printf '{octal}\\n'; exit 3"},
        ],
        "targets": {"ids": [target]},
    }
    made = stack.call("POST", "/jobs", job)
    schedule = {"name": f"{NAME}s", "type": "recurring", "every": "daily", "time": "02:30"}
    scheduled = stack.call("POST", f"/jobs/{made['id']}/schedules", schedule)
    ended = stack.call("POST", f"/jobs/{made['id']}/execute", {"reason": words[:1_900]})
    stack.http.get(f"/executions/{ended['id']}/events?kinds=end", timeout=ENDED_SECONDS)
    asking = {
        "name": f"{NAME}q",
        "actions": [{"type": "approval", "message": (MARKUP + TURNED)[:500]}],
        "targets": {"ids": [target]},
    }
    second = stack.call("POST", "/jobs", asking)
    asks = stack.call("POST", f"/jobs/{second['id']}/execute", {"reason": MARKUP})["id"]
    windows = [{"name": f"{NAME}w", "dates": ["2026-12-24"]}]
    stack.call("POST", "/calendars", {"name": f"{NAME}c", "kind": "blackout", "windows": windows})
    stack.http.post("/files", params={"name": f"{NAME}f"}, content=b"x").raise_for_status()
    shown = stack.http.get("/targets", params={"name": target}).json()
    number = shown["items"][0]["id"]
    tabs = ("", "?tab=targets", "?tab=output", "?tab=groups", "?tab=timeline", "?tab=spec")
    return [
        *("/", "/executions", "/jobs", "/schedules", "/tonight", "/targets", "/approvals"),
        *("/calendars", "/files", "/audit"),
        *(f"/executions/{ended['id']}{tab}" for tab in (*tabs, "?tab=who")),
        f"/executions/{ended['id']}?tab=targets&sel=name%3A%E2%80%AEx&q=rack%3A%E2%80%AEx",
        f"/executions/{asks}",
        f"/jobs/{made['id']}",
        f"/jobs/{made['id']}/launch",
        f"/schedules/{scheduled['id']}",
        f"/targets/{number}",
        f"/launch?command={'%3Cb%20hostile%3E' * 3}&why=%E2%80%AE",
        f"/executions?q={'%3Cb%20hostile%3E'}",
        "/no/%3Cb%20hostile%3E",
    ]


def refuse_dialog(visitor: Visitor) -> None:
    """Record calls of alert()."""

    def note(dialog: Dialog) -> None:
        visitor.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    visitor.page.on("dialog", note)


def is_harmless(page: Page) -> str | None:
    """Return None if no hostile text became more than text."""
    if page.locator('img, [hostile], script:not([src]), a[href*="evil"], svg[onload]').count():
        return "a text became markup"
    text = page.locator("body").inner_text() + page.title()
    raw = sorted({f"U+{ord(one):04X}" for one in text if one in UNSEEN})
    return f"characters that turn or hide text: {raw}" if raw else None


def test_a_hostile_text_stays_a_text_on_every_page(visit: Visit, hostile_pages: list[str]) -> None:
    wrong = []
    with visit(size=PHONE, apart=True) as ada:
        refuse_dialog(ada)
        page = ada.go(hostile_pages[0])
        for path in hostile_pages:
            ada.follow(path)
            if "tab=output" in path:
                expect(page.locator(".log-text").first).to_contain_text("alert(3)")
            if (fault := is_harmless(page)) is not None:
                wrong.append(f"{path}: {fault}")
            try:
                check_width(page)
            except AssertionError as failed:
                wrong.append(str(failed))
        # The URL of a loaded page is hostile, too.
        ada.go(hostile_pages[-1])
        assert is_harmless(page) is None
        page.keyboard.press("Control+k")
        expect(page.get_by_role("combobox", name="Go to")).to_be_focused()
        page.keyboard.type("hostile")
        expect(page.get_by_role("option").filter(has_text="<b hostile>").first).to_be_visible()
        assert is_harmless(page) is None
    assert not wrong, "\n".join(wrong)


@contextmanager
def other_origin(html: str) -> Iterator[str]:
    """Serve a page on another port: another origin, but a site that gets the cookie."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


BODY = '{"name": "made-by-another-site"}'
# Every way in which a page sends a request to another origin without a preflight.
CROSS_SITE = """<!doctype html>
<iframe name=sink></iframe>
<form id=plain method=post enctype=text/plain target=sink action="{api}/target-groups">
<input name='{{"name": "made-by-another-site", "x": "' value='"}}'></form>
<form id=form method=post target=sink action="{api}/target-groups"><input name=name value=made-by-another-site></form>
<form id=multi method=post enctype=multipart/form-data target=sink action="{api}/files?name=made-by-another-site">
<input name=f value=x></form>
<form id=session method=post target=sink enctype=text/plain action="{api}/auth/session"><input name=a value=b></form>
"""
SEND = """async ([api, body]) => {
  const found = [];
  for (const type of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json"])
    for (const mode of ["no-cors", "cors"])
      try {
        const answer = await fetch(`${api}/target-groups`,
          { method: "POST", mode, credentials: "include", headers: { "Content-Type": type }, body });
        found.push(`${type} ${mode} ${answer.type} ${answer.status}`);
      } catch { /* not allowed to be read, or not sent */ }
  navigator.sendBeacon(`${api}/target-groups`, body);
  await fetch(`${api}/auth/logout`, { method: "POST", mode: "no-cors", credentials: "include" });
  try { await (await fetch(`${api}/auth/me`, { credentials: "include" })).text(); found.push("read /auth/me"); } catch {}
  return found;
}"""


def test_a_page_of_another_site_changes_and_reads_nothing(visit: Visit, stack: Stack) -> None:
    api = f"{stack.url}/api/v1"
    html = CROSS_SITE.format(api=api)
    with visit(person="rita", alone=True) as rita, other_origin(html) as site:
        rita.page.goto(site)
        rita.wrong.clear()
        found = rita.page.evaluate(SEND, [api, BODY])
        assert all(" opaque 0" in one for one in found), found
        for form in ("plain", "form", "multi", "session"):
            # Not the response to the beacon, which may still be on its way.
            with rita.page.expect_response(
                lambda answer: answer.request.is_navigation_request()
            ) as posted:
                rita.page.evaluate("id => document.getElementById(id).submit()", form)
            # Without the check of the origin, the cookie would have let it in: the browser sends
            # it, as a request without one is 401. The login reads no such body, whoever sends it.
            wanted = (415, 422) if form == "session" else (403,)
            assert posted.value.status in wanted, form
        rita.page.goto(f"{stack.url}/console/")
        expect(rita.page.get_by_role("button", name="rita")).to_be_visible()
        rita.wrong.clear()
    for noun in ("target-groups", "files"):
        named = stack.call("GET", f"/{noun}?name=made-by-another-site")["items"]
        assert named == [], noun


def test_no_site_frames_the_console_or_opens_it_within_reach(visit: Visit, stack: Stack) -> None:
    html = f'<!doctype html><iframe src="{stack.url}/console/jobs"></iframe>'
    with visit(person="rita", alone=True) as rita, other_origin(html) as site:
        page = rita.page
        with page.expect_console_message(lambda message: "frame-ancestors" in message.text):
            page.goto(site)
        expect(page.locator("iframe")).to_be_attached()
        page.wait_for_load_state("load")
        (frame,) = page.frames[1:]
        assert not frame.url.startswith(stack.url) or "main" not in frame.content()
        with page.expect_popup() as popup:
            page.evaluate("url => { window.opened = window.open(url) }", f"{stack.url}/console/")
        popup.value.wait_for_url(f"{stack.url}/console/")
        # The browser tells the page that has opened it a moment later.
        page.wait_for_function("window.opened.closed")
        assert popup.value.evaluate("window.opener") is None
        rita.wrong.clear()


def test_a_planted_cookie_is_no_login_and_does_not_stay_one(
    browser: BrowserThread, stack: Stack
) -> None:
    add_person(stack, "rita")
    context = browser.browser.new_context(reduced_motion="reduce")
    planted = "opss_planted-by-somebody-else-0123456789abcdef"
    context.add_cookies([{"name": "opsjobs", "value": planted, "url": stack.url}])
    rita = Visitor(context.new_page(), stack.url, refusals={401})
    rita.watch()
    page = rita.page
    page.goto(f"{stack.url}/console/")
    dialog = page.get_by_role("dialog", name="Log in to opsjobs")
    dialog.get_by_label("Name").fill("rita")
    dialog.get_by_label("Password").fill(PASSWORD)
    dialog.get_by_label("Password").press("Enter")
    expect(dialog).to_be_hidden()
    (cookie,) = context.cookies()
    assert cookie.get("value") != planted
    headers = {"Cookie": f"opsjobs={planted}"}
    assert stack.http.get("/auth/me", headers={**headers, "Authorization": ""}).status_code == 401
    assert rita.wrong == []
    context.close()


# Requests with a body that change nothing.
ASKING = re.compile(
    r"/(preview|validate|resolve|check|dry[_-]run)$|/auth/(session|confirm|logout)$"
)
# They change objects of the viewer, or open something with a page of its own.
PASSED_OVER = re.compile(r"Log out|End all|End …|Delete …|Change the password|New key")
BUTTONS_MAX = 40


def pressed(page: Page) -> list[str]:
    """Press every button of a page, and those of the dialogs that they open; return their names."""
    done: list[str] = []
    address = page.url
    for _ in range(BUTTONS_MAX):
        buttons = page.locator("main button:visible:enabled, dialog[open] button:visible:enabled")
        names = [name.strip() for name in buttons.all_inner_texts()]
        fresh = [
            n for n, name in enumerate(names) if name not in done and not PASSED_OVER.search(name)
        ]
        if not fresh:
            if page.locator("dialog[open]").count() == 0:
                break
            page.keyboard.press("Escape")
            continue
        done.append(names[fresh[0]])
        buttons.nth(fresh[0]).click()
        if page.url.partition("?")[0] != address.partition("?")[0]:
            page.goto(address)
            page.locator("main#page > *").first.wait_for()
    return done


@pytest.mark.long
def test_no_button_that_a_viewer_is_shown_changes_or_is_refused(
    visit: Visit, stack: Stack, hostile_pages: list[str]
) -> None:
    wrong: list[str] = []
    names: set[str] = set()
    with visit(role="viewer", apart=True) as vic:

        def note(request: Request) -> None:
            path = request.url.partition("?")[0]
            if (
                "/api/v1/" in path
                and request.method not in ("GET", "HEAD")
                and not ASKING.search(path)
            ):
                wrong.append(f"{vic.page.url}: {request.method} {path}")

        vic.page.on("request", note)
        for path in (
            *hostile_pages,
            "/dead-letters",
            "/safety",
            "/system",
            "/me",
            "/targets/lab-1",
        ):
            names.update(pressed(vic.go(path)))
            wrong += [f"{path}: {one}" for one in vic.wrong]
            vic.wrong.clear()
    assert not wrong, "\n".join(wrong)
    assert len(names) > 15, names


def test_a_secret_that_was_typed_is_nowhere_afterwards(visit: Visit, stack: Stack) -> None:
    job = {
        "name": "takes-a-secret",
        "actions": [{"command": "true"}],
        "targets": {"ids": ["lab-3"]},
        "parameters": [{"name": "token", "type": "secret", "required": True}],
    }
    number = stack.call("POST", "/jobs", job)["id"]

    def check(page: Page) -> None:
        kept = browser_storage(page)
        assert [name for name, text in SECRETS.items() if text in kept] == []
        assert PASSWORD not in kept

    with visit(person="pam", alone=True) as pam:
        page = pam.go("/access")
        page.get_by_role("button", name="New user").click()
        dialog = page.get_by_role("dialog", name="New user")
        dialog.get_by_label("Name").fill("tom")
        dialog.get_by_label("Password").fill(SECRETS["user"])
        dialog.get_by_role("button", name="Add", exact=True).click()
        expect(dialog).to_be_hidden()
        check(page)

        page = pam.follow("/credentials")
        page.get_by_role("button", name="New credential").click()
        dialog = page.get_by_role("dialog", name="New credential")
        dialog.get_by_label("Name").fill("canary-login")
        dialog.get_by_label("Type").select_option("password")
        dialog.get_by_label("Logs in as").fill("deploy")
        dialog.get_by_label("Password").fill(SECRETS["login"])
        dialog.get_by_role("button", name="Add").click()
        expect(dialog).to_be_hidden()
        check(page)
        page.get_by_role("row", name="canary-login").click()
        page.get_by_role("button", name="New secret").click()
        dialog = page.get_by_role("dialog", name="New secret for canary-login")
        dialog.get_by_label("Password").fill(SECRETS["rotated"])
        dialog.get_by_role("button", name="Replace").click()
        expect(dialog).to_be_hidden()
        check(page)

        page = pam.follow(f"/jobs/{number}/launch")
        with previewed(page, SECRETS["job"]):
            page.get_by_label("token").fill(SECRETS["job"])
        button = page.get_by_role("button", name="Launch on 1 target")
        expect(button).to_be_enabled()
        assert SECRETS["job"] not in page.url + page.locator("html").inner_html()
        button.click()
        page.wait_for_url("**/console/executions/*")
        pam.settle()
        check(page)
        page.get_by_role("tab", name="What ran").click()
        expect(page.get_by_text("***").first).to_be_visible()
        check(page)

        page = pam.follow("/me")
        page.get_by_label("Current password").fill(PASSWORD)
        page.get_by_label("New password").fill(SECRETS["own"])
        pam.refusals = {401}
        page.get_by_role("button", name="Change the password").click()
        again = page.get_by_role("dialog", name="Log in to opsjobs")
        expect(again).to_be_visible()
        again.get_by_label("Name").fill("pam")
        again.get_by_label("Password").fill(SECRETS["own"])
        again.get_by_label("Password").press("Enter")
        expect(again).to_be_hidden()
        check(page)
