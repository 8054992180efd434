"""Pages of people: approvals decided and refused, own logins and keys, the password asked for again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, expect

from console.browser import PHONE, Visitor, check_accessibility, check_width
from console.conftest import BrowserThread, Stack

PASSWORD = "correct horse battery"
ROLES = {"vic": "viewer", "max": "manager", "root": "admin"}


@pytest.fixture(scope="module", autouse=True)
def _people(stack: Stack) -> None:
    for name, role in ROLES.items():
        body = {"name": name, "password": PASSWORD, "grants": [{"role": role}]}
        stack.call("POST", "/users", body)


@contextmanager
def logged_in(
    browser: BrowserThread, stack: Stack, name: str, size: tuple[int, int] = (1440, 900)
) -> Iterator[Visitor]:
    """A browser in which somebody has logged in, by a cookie."""
    context = browser.browser.new_context(
        reduced_motion="reduce", viewport={"width": size[0], "height": size[1]}
    )
    found = Visitor(context.new_page(), stack.url)
    found.watch()
    answer = context.request.post(
        f"{stack.url}/api/v1/auth/session",
        data={"username": name, "password": PASSWORD},
        headers={"Origin": stack.url},
    )
    assert answer.ok, answer.text()
    try:
        yield found
        assert found.wrong == []
    finally:
        context.close()


def asked(stack: Stack, name: str) -> int:
    """The id of an approval that a job of the administrator's key waits for."""
    body = {
        "name": name,
        "actions": [{"key": "go", "command": "echo '<b>bold</b>'"}],
        "targets": {"selector": "lab=true"},
        "policy": {"approval": {"approvers": 1}},
    }
    job = stack.call("POST", "/jobs", body)
    execution = stack.call("POST", f"/jobs/{job['id']}/execute", {})
    found = stack.call("GET", f"/approvals?execution_id={execution['id']}")["items"]
    return int(found[0]["id"])


def decisions(page: Page) -> list[str]:
    return [
        name
        for name in ("Approve …", "Reject …", "Override …")
        if page.get_by_role("button", name=name).count()
    ]


def test_an_approval_is_decided_by_who_may_and_says_why_not_to_others(
    browser: BrowserThread, stack: Stack
) -> None:
    number = asked(stack, "restart-database")
    with logged_in(browser, stack, "vic") as vic:
        page = vic.go(f"/approvals/{number}")
        expect(page.get_by_text("You cannot approve this.")).to_be_visible()
        assert decisions(page) == []
        expect(page.get_by_text("<b>bold</b>")).to_be_visible()
        check_accessibility(page)
    with logged_in(browser, stack, "max", PHONE) as manager:
        page = manager.go("/approvals")
        check_width(page)
        page.get_by_role("link", name="its job asks").first.click()
        expect(page.get_by_role("heading", name=f"Approval {number}")).to_be_visible()
        assert decisions(page) == ["Approve …", "Reject …"]
        check_accessibility(page)
        check_width(page)
        page.get_by_role("button", name="Approve …").click()
        dialog = page.get_by_role("dialog", name="Approve this?")
        expect(dialog.get_by_text("on 6 targets")).to_be_visible()
        check_accessibility(page)
        dialog.get_by_label("Reason (optional)").fill("looked at it")
        dialog.get_by_role("button", name="Approve", exact=True).click()
        expect(page.get_by_text("looked at it")).to_be_visible()
        expect(page.locator("h1 + .status")).to_have_text("approved")
    found = stack.call("GET", f"/approvals/{number}")
    assert (found["status"], found["decided_by"]) == ("approved", "max")


def test_who_asked_is_told_so_and_an_approval_that_changed_is_not_given(
    browser: BrowserThread, stack: Stack
) -> None:
    number = asked(stack, "stop-everything")
    code = stack.call("POST", "/auth/codes")["code"]
    context = browser.browser.new_context(reduced_motion="reduce")
    admin = Visitor(context.new_page(), stack.url)
    admin.watch()
    admin.page.goto(f"{stack.url}/console/approvals/{number}#code={code}")
    expect(admin.page.get_by_text("You cannot approve this.")).to_be_visible()
    expect(admin.page.get_by_role("button", name="Approve …")).to_be_disabled()
    expect(admin.page.get_by_role("button", name="Override …")).to_be_enabled()
    admin.page.get_by_role("button", name="Reject …").click()
    admin.page.get_by_role("button", name="Reject", exact=True).click()
    expect(admin.page.locator("h1 + .status")).to_have_text("rejected")
    assert decisions(admin.page) == []
    assert admin.wrong == []
    context.close()


def test_own_logins_and_keys_are_made_shown_once_and_ended(
    browser: BrowserThread, stack: Stack
) -> None:
    with logged_in(browser, stack, "vic"), logged_in(browser, stack, "vic") as vic:
        page = vic.go("/me")
        logins = page.get_by_role("grid", name="Logins")
        expect(logins.get_by_text("this one")).to_have_count(1)
        page.get_by_role("button", name="End all others …").click()
        page.get_by_role("dialog").get_by_role("button", name="End", exact=True).click()
        expect(logins.locator(".line")).to_have_count(1)
        page.get_by_role("button", name="New key …").click()
        dialog = page.get_by_role("dialog", name="New API key")
        dialog.get_by_label("Name").fill("vic-laptop")
        check_accessibility(page)
        dialog.get_by_role("button", name="Make the key").click()
        token = page.get_by_role("dialog").locator("code").inner_text()
        assert token.startswith("opsc_")
        page.get_by_role("button", name="I have it").click()
        expect(page.get_by_role("grid", name="Your API keys")).to_contain_text("vic-laptop")
        held = page.content() + page.evaluate("JSON.stringify([localStorage, sessionStorage])")
        assert token not in held
        me = stack.http.get("/auth/me", headers={"Authorization": f"Bearer {token}"}).json()
        assert me["person"] == "vic"
        page.get_by_role("button", name="Delete …").click()
        page.get_by_role("button", name="Delete", exact=True).click()
        expect(page.get_by_text("None. A program that acts for you")).to_be_visible()


def test_the_password_is_asked_for_again_before_people_are_changed(
    browser: BrowserThread, stack: Stack
) -> None:
    with logged_in(browser, stack, "root") as root:
        page = root.go("/access")
        root.refusals |= {401, 403}

        def refuse_once(route: object) -> None:
            body = '{"status": 403, "code": "password_again", "detail": "x", "request_id": ""}'
            route.fulfill(  # type: ignore[attr-defined]
                status=403, content_type="application/problem+json", body=body
            )

        page.route("**/api/v1/users", refuse_once, times=1)
        page.get_by_role("button", name="Add a user …").click()
        form = page.get_by_role("dialog", name="Add a user")
        form.get_by_label("Name").fill("ned")
        form.get_by_label("Password").fill(PASSWORD)
        form.get_by_role("button", name="Add", exact=True).click()
        again = page.get_by_role("dialog", name="Is it still you?")
        again.get_by_label("Password of root").fill("a wrong password")
        page.keyboard.press("Enter")
        expect(again.get_by_role("alert")).to_contain_text("login_failed")
        check_accessibility(page)
        again.get_by_label("Password of root").fill(PASSWORD)
        page.keyboard.press("Enter")
        expect(page.get_by_role("grid", name="Users").get_by_text("ned")).to_be_visible()
        row = page.get_by_role("row", name="vic")
        row.get_by_role("button", name="Actions of vic").click()
        page.get_by_role("menuitem", name="Logins …").click()
        logins = page.get_by_role("dialog", name="Logins of vic")
        logins.get_by_role("button", name="End all").click()
        expect(logins.get_by_text("vic is not logged in anywhere.")).to_be_visible()
        check_accessibility(page)
