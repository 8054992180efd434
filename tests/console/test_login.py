"""The login of the console: password, code, what stays behind it, and the way out."""

from __future__ import annotations

import pytest
from playwright.sync_api import BrowserContext, expect

from console.browser import Visitor, check_accessibility
from console.conftest import BrowserThread, Stack

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module", autouse=True)
def _ben(stack: Stack) -> None:
    grants = [{"role": "viewer"}]
    stack.call("POST", "/users", {"name": "ben", "password": PASSWORD, "grants": grants})


def _stranger(browser: BrowserThread, stack: Stack) -> tuple[BrowserContext, Visitor]:
    context = browser.browser.new_context(reduced_motion="reduce")
    visitor = Visitor(context.new_page(), stack.url, refusals={401})
    visitor.watch()
    return context, visitor


def test_a_deep_link_is_shown_after_the_login_and_the_way_out_leads_to_it(
    browser: BrowserThread, stack: Stack
) -> None:
    context, ben = _stranger(browser, stack)
    page = ben.page
    page.goto(f"{stack.url}/console/system")
    dialog = page.get_by_role("dialog", name="Log in to opsjobs")
    check_accessibility(page)
    dialog.get_by_label("Name").fill("ben")
    dialog.get_by_label("Password").fill("wrong wrong wrong")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("login_failed")
    dialog.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="System")).to_be_visible()
    (cookie,) = context.cookies()
    assert cookie.get("httpOnly") is True
    assert cookie.get("sameSite") == "Strict"
    held = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
    assert cookie.get("value", "-") not in held
    page.get_by_role("button", name="ben").click()
    page.get_by_role("menuitem", name="Log out").click()
    expect(dialog).to_be_visible()
    assert ben.wrong == []
    context.close()


def test_a_session_that_ends_is_asked_for_over_the_page(
    browser: BrowserThread, stack: Stack
) -> None:
    context, ben = _stranger(browser, stack)
    login = {"username": "ben", "password": PASSWORD}
    answer = context.request.post(
        f"{stack.url}/api/v1/auth/session", data=login, headers={"Origin": stack.url}
    )
    assert answer.ok, answer.text()
    page = ben.go("/safety")
    page.get_by_label("What would run").fill("rm -rf /")
    expect(page.get_by_text("block").first).to_be_visible()
    context.clear_cookies()
    page.get_by_label("What would run").fill("uptime")
    dialog = page.get_by_role("dialog", name="Log in to opsjobs")
    dialog.get_by_label("Name").fill("ben")
    dialog.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_text("No rule has anything to say about it.")).to_be_visible()
    expect(page.get_by_label("What would run")).to_have_value("uptime")
    assert ben.wrong == []
    context.close()


def test_a_code_in_the_address_logs_in_once_and_is_gone(
    browser: BrowserThread, stack: Stack
) -> None:
    code = stack.call("POST", "/auth/codes")["code"]
    context, ada = _stranger(browser, stack)
    page = ada.page
    page.goto(f"{stack.url}/console/#code={code}")
    expect(page.get_by_role("button", name="admin")).to_be_visible()
    expect(page).to_have_url(f"{stack.url}/console/")
    context.close()
    context, eve = _stranger(browser, stack)
    eve.page.goto(f"{stack.url}/console/#code={code}")
    expect(eve.page.get_by_role("dialog", name="Log in to opsjobs")).to_be_visible()
    assert ada.wrong + eve.wrong == []
    context.close()
