"""The frame of all pages: keys, palette, help, theme, links that do not exist, events."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from console.browser import PHONE, check_accessibility, check_width, go_by_keys
from console.conftest import Stack, Visit

HOSTILE = "<img src=x onerror=alert(1)>\u202egnp.exe\u200b\x1b[31m"


def test_the_root_leads_to_the_console_and_an_unknown_page_says_so(visit: Visit) -> None:
    with visit() as ada:
        ada.page.goto(ada.url)
        expect(ada.page).to_have_url(f"{ada.url}/console/")
        page = ada.go("/no/such/page")
        expect(page.get_by_text("There is no page /no/such/page.")).to_be_visible()
        expect(page).to_have_title("Not found · opsjobs")
        check_accessibility(page)
        page.get_by_role("link", name="Back to Now").click()
        expect(page.get_by_role("heading", name="Running", exact=False)).to_be_visible()
        page.go_back()
        expect(page.get_by_text("There is no page")).to_be_visible()


def test_keys_open_help_and_palette_and_storage_holds_taste_alone(
    visit: Visit, stack: Stack
) -> None:
    with visit() as ada:
        page = ada.go("/")
        page.keyboard.press("?")
        dialog = page.get_by_role("dialog", name="Keyboard shortcuts")
        expect(dialog.get_by_text("Go to anything")).to_be_visible()
        check_accessibility(page)
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        page.keyboard.press("Control+k")
        box = page.get_by_role("combobox", name="Go to")
        expect(box).to_be_focused()
        page.keyboard.type("theme dark")
        check_accessibility(page)
        page.keyboard.press("Enter")
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        page.reload()
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        ada.settle()
        page.keyboard.press("?")
        dialog.get_by_label("Single-key shortcuts are on").uncheck()
        dialog.get_by_role("button", name="Close").click()
        page.keyboard.press("?")
        expect(dialog).to_be_hidden()
        page.keyboard.press("Control+k")
        expect(box).to_be_visible()
        assert page.evaluate("Object.keys(localStorage)") == ["opsjobs.taste"]
        held = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
        assert stack.token not in held


def test_the_menus_work_by_keyboard_and_on_a_phone(visit: Visit) -> None:
    with visit(size=PHONE) as ada:
        page = ada.go("/")
        button = page.get_by_role("button", name="Pages")
        button.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("menuitem", name="Now")).to_be_focused()
        check_accessibility(page)
        check_width(page)
        page.keyboard.press("Escape")
        expect(page.get_by_role("menuitem", name="Now")).to_be_hidden()
        expect(button).to_be_focused()


def test_a_page_that_is_opened_has_the_focus_at_its_heading(visit: Visit, stack: Stack) -> None:
    stack.run("hostname")
    with visit() as ada:
        page = ada.go("/")
        go_by_keys(page, "g t", "Targets")
        ada.settle()
        name = page.locator(".line a").first.inner_text()
        page.keyboard.press("j")
        expect(page.locator(".line").first).to_be_focused()
        page.keyboard.press("Enter")
        # It comes after the target has been loaded.
        expect(page.get_by_role("heading", name=name, exact=True)).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Copy", exact=True)).to_be_focused()
        page.go_back()
        expect(page.get_by_role("heading", name="Targets", exact=True)).to_be_focused()
        # A filter and a tab are the same page.
        page.keyboard.press("/")
        expect(page.get_by_role("combobox", name="Filter targets")).to_be_focused()
        page.keyboard.type("lab-2")
        expect(page.locator(".line")).to_have_count(1)
        expect(page.get_by_role("combobox", name="Filter targets")).to_be_focused()


def test_now_follows_what_happens(visit: Visit, stack: Stack) -> None:
    gate = stack.gate()
    with visit() as ada:
        page = ada.go("/")
        made = stack.launch(f"{gate.wait}; exit 4")
        link = page.get_by_role("link", name=re.compile(f"#{made['id']}$"))
        running = page.get_by_role("region", name="Running")
        ended = page.get_by_role("region", name="Ended")
        expect(running.filter(has=link)).to_be_visible()
        gate.open()
        expect(ended.filter(has=link)).to_be_visible()
        expect(ended.filter(has=link).get_by_text("6 of 6 failed").first).to_be_visible()


def test_names_of_others_are_text(visit: Visit, stack: Stack) -> None:
    job = {
        "name": "hostile",
        "actions": [{"type": "approval", "message": HOSTILE}],
        "targets": {"selector": "lab=true"},
    }
    made = stack.call("POST", "/jobs", job)
    stack.call("POST", f"/jobs/{made['id']}/execute", {})
    with visit(person="max") as manager:
        page = manager.go("/")
        shown = page.get_by_role("region", name="Needs you")
        expect(shown).to_contain_text("<img src=x onerror=alert(1)>")
        expect(shown).to_contain_text("U+202E")
        expect(shown).not_to_contain_text("\u202e")
        assert page.locator("img").count() == 0


def test_a_service_that_is_away_is_said_and_tried_again(visit: Visit) -> None:
    with visit() as ada:
        page = ada.go("/")
        ada.refusals |= {503}
        refused = {
            "type": "about:blank", "title": "Service Unavailable", "status": 503,
            "detail": "PostgreSQL does not answer.", "code": "database_away", "request_id": "r-1",
        }  # fmt: skip
        page.route(
            "**/api/v1/executions?**",
            lambda route: route.fulfill(status=503, json=refused, headers={"Retry-After": "1"}),
        )
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        alert = page.get_by_role("alert").first
        expect(alert).to_contain_text("PostgreSQL does not answer.")
        expect(alert).to_contain_text("database_away")
        expect(alert).to_contain_text("r-1")
        expect(page.get_by_text("as of").first).to_be_visible()
        check_accessibility(page)
        page.unroute_all()
        expect(page.get_by_role("alert")).to_have_count(0)


def test_a_hidden_tab_asks_nothing(visit: Visit) -> None:
    with visit(alone=True) as ada:
        ada.page.clock.install()
        page = ada.go("/")
        with ada.asks() as asked:
            page.clock.run_for(31_000)
        expect(page.get_by_role("region", name="Needs you").locator("li, p").first).to_be_visible()
        assert any("/executions?" in url for url in asked)
        page.evaluate(
            "Object.defineProperty(document, 'hidden', {get: () => true, configurable: true});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        page.clock.run_for(5_000)  # what an event has called for just before
        with ada.asks() as asked:
            page.clock.run_for(120_000)
        assert asked == []
