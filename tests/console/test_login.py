"""The login of the console: password, code, protected pages, and logout."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import BrowserContext, Route, expect

from console.browser import Visitor, check_accessibility
from console.conftest import BrowserThread, Stack
from kit.openid_provider import Provider

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
    expect(dialog).to_be_visible()
    check_accessibility(page)
    dialog.get_by_label("Name").fill("ben")
    dialog.get_by_label("Password").fill("wrong wrong wrong")
    dialog.get_by_label("Password").press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("login_failed")
    dialog.get_by_label("Password").fill(PASSWORD)
    dialog.get_by_label("Password").press("Enter")
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
    dialog.get_by_label("Password").press("Enter")
    expect(page.get_by_text("No rule matches.")).to_be_visible()
    expect(page.get_by_label("What would run")).to_have_value("uptime")
    assert ben.wrong == []
    context.close()


def test_a_code_in_the_address_logs_in_once_and_is_gone(
    browser: BrowserThread, stack: Stack
) -> None:
    code = stack.call("POST", "/auth/codes")["code"]
    context, ada = _stranger(browser, stack)
    page = ada.page
    page.goto(f"{stack.url}/console/jobs?q=a#code={code}")
    expect(page.get_by_role("button", name="admin")).to_be_visible()
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
    expect(page).to_have_url(f"{stack.url}/console/jobs?q=a")
    context.clear_cookies()
    page.goto("about:blank")
    page.goto(f"{stack.url}/console/#code={code}")
    expect(page.get_by_role("dialog", name="Log in to opsjobs")).to_be_visible()
    assert ada.wrong == []
    context.close()


def test_single_sign_on_leads_to_the_asked_page_confirms_and_logs_out(
    browser: BrowserThread, stack: Stack, provider: Provider
) -> None:
    context, ada = _stranger(browser, stack)
    ada.refusals |= {403}
    ada.elsewhere = provider.url
    page = ada.page
    page.goto(f"{stack.url}/console/targets?q=lab")
    dialog = page.get_by_role("dialog", name="Log in to opsjobs")
    provider.error = "access_denied"
    dialog.get_by_role("link", name="Log in with Example ID").click()
    expect(dialog.get_by_role("alert")).to_contain_text("The login was refused there")
    expect(dialog.get_by_role("alert")).to_contain_text("oidc_denied")
    expect(page).to_have_url(f"{stack.url}/console/targets?q=lab")
    check_accessibility(page)
    provider.error = None
    dialog.get_by_role("link", name="Log in with Example ID").click()
    page.get_by_label("Who are you?").fill("ada")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Targets")).to_be_visible()
    expect(page).to_have_url(f"{stack.url}/console/targets?q=lab")
    ada.follow("/me")
    expect(page.get_by_text("ada@example.org")).to_be_visible()
    check_accessibility(page)
    _confirm_in_another_tab(ada)
    page.get_by_role("button", name="ada.l", exact=True).click()
    page.get_by_role("menuitem", name="Log out").click()
    leave = page.get_by_role("dialog", name="Logged out of opsjobs")
    expect(leave).to_be_visible()
    check_accessibility(page)
    leave.get_by_role("link", name="Log out there, too").click()
    page.get_by_role("link", name="Back").click()
    expect(page).to_have_url(f"{stack.url}/console/")
    expect(dialog).to_be_visible()
    assert ada.wrong == []
    context.close()


def _confirm_in_another_tab(ada: Visitor) -> None:
    """Typed text stays while the provider asks for the login again."""
    page = ada.follow("/access")

    def refuse_once(route: Route) -> None:
        body = '{"status": 403, "code": "password_again", "detail": "x", "request_id": ""}'
        route.fulfill(status=403, content_type="application/problem+json", body=body)

    page.route("**/api/v1/users", refuse_once, times=1)
    page.get_by_role("button", name="New user …").click()
    form = page.get_by_role("dialog", name="New user")
    form.get_by_label("Name").fill("gus")
    form.get_by_label("Password").fill(PASSWORD)
    form.get_by_role("button", name="Add", exact=True).click()
    proof = page.get_by_role("dialog", name="Confirm that it is you")
    expect(proof.get_by_role("link", name="Log in again")).to_be_visible()
    check_accessibility(page)
    with page.context.expect_page() as opened:
        proof.get_by_role("link", name="Log in again").click()
    tab = opened.value
    tab.get_by_label("Who are you?").fill("ada")
    tab.get_by_role("button", name="Sign in").click()
    expect(proof).to_be_hidden()
    expect(page.get_by_role("grid", name="Users").get_by_text("gus")).to_be_visible()
    page.get_by_role("tab", name="Single sign-on").click()
    people = page.get_by_role("grid", name="People of the single sign-on")
    expect(people).to_contain_text("Ada Lovelace")
    check_accessibility(page)
    people.get_by_role("button", name=re.compile("logins? of ada.l")).click()
    logins = page.get_by_role("dialog", name="Logins of ada.l")
    expect(logins.locator("li").first).to_contain_text("Browser")
    logins.get_by_role("button", name="Close").click()
