"""Pages of people: approvals, logins and keys of one's own, and repeated passwords."""

from __future__ import annotations

import re

import httpx2
import pytest
from playwright.sync_api import Page, expect

from console.browser import DESKTOP, PHONE, Visitor, check_accessibility, check_width
from console.conftest import ENDED_SECONDS, PASSWORD, Stack, Visit, add_person


def pending_approval(stack: Stack, name: str) -> int:
    """Return the id of an approval that a job of the administrator's key waits for."""
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
    visit: Visit, stack: Stack
) -> None:
    number = pending_approval(stack, "restart-database")
    with visit(person="vic") as vic:
        page = vic.go(f"/approvals/{number}")
        expect(page.get_by_text("You cannot approve this.")).to_be_visible()
        assert decisions(page) == []
        expect(page.get_by_text("<b>bold</b>")).to_be_visible()
    with visit(person="max", size=PHONE) as manager:
        page = manager.go("/approvals")
        check_width(page)
        page.get_by_role("link", name="its job asks").first.click()
        expect(page.get_by_role("heading", name=f"Approval {number}")).to_be_visible()
        expect(page.get_by_role("button", name="Approve …")).to_be_visible()
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
    visit: Visit, stack: Stack
) -> None:
    number = pending_approval(stack, "stop-everything")
    with visit() as ada:
        page = ada.go(f"/approvals/{number}")
        expect(page.get_by_text("You cannot approve this.")).to_be_visible()
        expect(page.get_by_role("button", name="Approve …")).to_be_disabled()
        expect(page.get_by_role("button", name="Override …")).to_be_enabled()
        page.get_by_role("button", name="Reject …").click()
        page.get_by_role("button", name="Reject", exact=True).click()
        expect(page.locator("h1 + .status")).to_have_text("rejected")
        assert decisions(page) == []


def log_in_elsewhere(stack: Stack, name: str) -> None:
    """Begin another session of one of PEOPLE."""
    add_person(stack, name)
    login = {"username": name, "password": PASSWORD}
    made = httpx2.post(
        f"{stack.url}/api/v1/auth/session", json=login, headers={"Origin": stack.url}
    )
    assert made.status_code == 200, made.text


def test_own_logins_and_keys_are_made_shown_once_and_ended(visit: Visit, stack: Stack) -> None:
    log_in_elsewhere(stack, "una")
    with visit(person="una", alone=True) as una:
        page = una.go("/me")
        logins = page.get_by_role("grid", name="Logins")
        expect(logins.get_by_text("this one")).to_have_count(1)
        page.get_by_role("button", name="End all others …").click()
        page.get_by_role("dialog").get_by_role("button", name="End", exact=True).click()
        expect(logins.locator(".line")).to_have_count(1)
        page.get_by_role("button", name="New key …").click()
        dialog = page.get_by_role("dialog", name="New API key")
        dialog.get_by_label("Name").fill("una-laptop")
        check_accessibility(page)
        dialog.get_by_role("button", name="Create the key").click()
        token = page.get_by_role("dialog").locator("code.secret").inner_text()
        assert token.startswith("opsc_")
        page.get_by_role("button", name="I have it").click()
        expect(page.get_by_role("grid", name="Your API keys")).to_contain_text("una-laptop")
        held = page.content() + page.evaluate("JSON.stringify([localStorage, sessionStorage])")
        assert token not in held
        me = stack.http.get("/auth/me", headers={"Authorization": f"Bearer {token}"}).json()
        assert me["person"] == "una"
        page.get_by_role("button", name="Delete …").click()
        page.get_by_role("button", name="Delete", exact=True).click()
        expect(page.get_by_text("You have no API keys.")).to_be_visible()


def test_the_password_is_asked_for_again_before_people_are_changed(
    visit: Visit, stack: Stack
) -> None:
    log_in_elsewhere(stack, "una")
    with visit(person="root") as root:
        page = root.go("/access")
        root.refusals |= {401, 403}

        def refuse_once(route: object) -> None:
            body = '{"status": 403, "code": "password_again", "detail": "x", "request_id": ""}'
            route.fulfill(  # type: ignore[attr-defined]
                status=403, content_type="application/problem+json", body=body
            )

        page.route("**/api/v1/users", refuse_once, times=1)
        page.get_by_role("button", name="New user …").click()
        form = page.get_by_role("dialog", name="New user")
        form.get_by_label("Name").fill("ned")
        form.get_by_label("Password").fill(PASSWORD)
        form.get_by_role("button", name="Add", exact=True).click()
        again = page.get_by_role("dialog", name="Confirm that it is you")
        again.get_by_label("Password of root").fill("a wrong password")
        again.get_by_label("Password of root").press("Enter")
        expect(again.get_by_role("alert")).to_contain_text("login_failed")
        check_accessibility(page)
        again.get_by_label("Password of root").fill(PASSWORD)
        again.get_by_label("Password of root").press("Enter")
        expect(page.get_by_role("grid", name="Users").get_by_text("ned")).to_be_visible()
        page.get_by_role("button", name="Actions of una").click()
        page.get_by_role("menuitem", name="Logins …").click()
        logins = page.get_by_role("dialog", name="Logins of una")
        expect(logins.locator("li").first).to_be_visible()
        refused = {"status": 403, "code": "forbidden", "detail": "Not now.", "request_id": "r-1"}
        page.route(
            "**/api/v1/auth/sessions?**",
            lambda route: route.fulfill(status=403, json=refused),
            times=1,
        )
        logins.get_by_role("button", name="End all").click()
        expect(logins.get_by_role("alert")).to_contain_text("Not now.")
        logins.get_by_role("button", name="End all").click()
        expect(logins.get_by_text("una is not logged in anywhere.")).to_be_visible()
        check_accessibility(page)


# A page without permission says so, and sends no request.
PLACES = [
    *("/executions", "/jobs", "/schedules", "/tonight", "/targets", "/targets/lab-1"),
    *("/dead-letters", "/approvals", "/launch", "/safety", "/system", "/audit", "/access"),
    *("/credentials", "/calendars", "/files", "/groups", "/me", "/"),
]
SOME = ["/targets", "/approvals", "/launch", "/system"]


def everywhere(somebody: Visitor, paths: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Visit all of these pages; return the text of each, and its buttons.

    A refused request fails the visit.
    """
    texts: dict[str, str] = {}
    buttons: dict[str, str] = {}
    somebody.go("/")
    for path in paths:
        page = somebody.follow(path)
        # Typing into a picker and late content would send requests, too.
        expect(page.locator("main h1")).not_to_have_count(0)
        texts[path] = page.locator("main").inner_text()
        buttons[path] = page.evaluate(BUTTONS)
    return texts, buttons


# The names of all buttons, and of elements that look like one.
BUTTONS = """[...document.querySelectorAll("main button, main a.button")].map((button) =>
  button.getAttribute("aria-label") ?? button.innerText).join("\\n")"""
NOT_OF_A_VIEWER = re.compile(
    r"^(Edit …|Delete …|Pause|New group …|New schedule …|Run now …|Test( .*)?)$", re.MULTILINE
)


def shared_job(stack: Stack) -> int:
    """Return the id of a job within every scope."""
    found = stack.call("GET", "/jobs?name=for-everybody")["items"]
    if found:
        return int(found[0]["id"])
    job = {
        "name": "for-everybody",
        "actions": [{"command": "exit 3"}],
        "tags": ["lab=true"],
        "targets": {"selector": "lab=true"},
    }
    return int(stack.call("POST", "/jobs", job)["id"])


def planned(stack: Stack, job: int) -> int:
    """Return the id of a schedule of the job."""
    found = stack.call("GET", f"/jobs/{job}/schedules")["items"]
    if found:
        return int(found[0]["id"])
    schedule = {"name": "now-and-then", "type": "cron", "cron": "0 4 * * *"}
    return int(stack.call("POST", f"/jobs/{job}/schedules", schedule)["id"])


def test_nobody_is_offered_or_asks_for_what_they_may_not_have(visit: Visit, stack: Stack) -> None:
    number = shared_job(stack)
    more = [f"/jobs/{number}", f"/jobs/{number}/launch", f"/schedules/{planned(stack, number)}"]
    with visit(person="vic") as vic:
        texts, buttons = everywhere(vic, [*PLACES, *more])
        for path, text in texts.items():
            assert not re.search(r"Launch \W|Run now|Add \W|Import \W|Pause \W|Revive", text), path
            assert not NOT_OF_A_VIEWER.search(buttons[path]), path
            assert "that you may see" not in text, path
        assert "does not hold jobs:execute" in texts["/launch"]
        assert "does not hold system:admin" in texts["/access"]
        page = vic.follow("/access")
        expect(page.get_by_text("Your role does not hold system:admin")).to_be_visible()
        check_accessibility(page)
        page = vic.follow("/files")
        expect(page.get_by_role("region", name="Upload")).to_have_count(0)
        page.get_by_role("button", name="More").click()
        expect(page.get_by_role("menuitem", name="Files")).to_be_visible()
        for name in ("Access", "Credentials", "Audit"):
            expect(page.get_by_role("menuitem", name=name)).to_have_count(0)


@pytest.mark.parametrize("places", [SOME, pytest.param(PLACES, marks=pytest.mark.long)])
def test_an_operator_with_a_scope_is_offered_what_is_within_it(
    visit: Visit, stack: Stack, places: list[str]
) -> None:
    number = shared_job(stack)
    job, schedule = f"/jobs/{number}", f"/schedules/{planned(stack, number)}"
    with visit(person="sam") as sam:
        texts, buttons = everywhere(sam, [*places, job, f"{job}/launch", schedule])
        assert "does not hold system:read without a scope" in texts["/system"]
        assert "Launch …" in texts[job]
        assert "Run now …" in texts[schedule]
        assert NOT_OF_A_VIEWER.search(buttons[schedule])


def test_people_who_only_launch_see_their_jobs_and_what_they_launched(
    visit: Visit, stack: Stack
) -> None:
    stack.run("hostname")
    number = shared_job(stack)
    with visit(person="lea", size=PHONE) as lea:
        page = lea.go("/")
        page.get_by_role("link", name="for-everybody").click()
        expect(page.get_by_role("heading", name="Launch for-everybody")).to_be_focused()
        check_width(page)
        check_accessibility(page)
        page.get_by_role("button", name="Launch on 6 targets").click()
        page.wait_for_url("**/console/executions/*")
        lea.look("light", DESKTOP)
        expect(page.locator("h1 + .status")).to_have_text("failed")
        # Retries of others are shown as a number.
        launched = page.url.rsplit("/", 1)[1].partition("?")[0]
        again = stack.call("POST", f"/executions/{launched}/retry", {"which": "failed"})["id"]
        page = lea.go(f"/executions/{launched}")
        line = page.get_by_role("navigation", name="Retries")
        expect(line).to_contain_text(f"#{again}")
        expect(line.get_by_role("link")).to_have_count(0)
        page.get_by_role("button", name="Retry", exact=True).click()
        page.get_by_role("menuitem", name="6 failed").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text(f"Retried by #{again}. You may not see the last of them")
        expect(dialog.get_by_role("link")).to_have_count(0)
        page.keyboard.press("Escape")
        lea.follow("/")
        names = page.get_by_role("navigation", name="Pages").get_by_role("link")
        assert names.all_inner_texts() == ["Now", "Executions", "Launch", "My account"]
        names.nth(1).click()
        grid = page.get_by_role("grid", name="Executions")
        expect(grid.locator(".line")).to_have_count(1)
        expect(grid).to_contain_text("lea")
        texts, _ = everywhere(lea, [*PLACES, f"/jobs/{number}", f"/jobs/{number}/launch"])
        assert "only launches jobs" in texts[f"/jobs/{number}"]
        assert "does not hold targets:read" in texts["/targets"]
        assert "take the permission commands:run" in texts["/launch"]
        assert "ad-hoc" not in texts["/"]


def test_who_launches_stored_jobs_only_is_offered_no_other_commands(
    visit: Visit, stack: Stack
) -> None:
    without_job = stack.run("exit 3")["id"]
    of_job = stack.call("POST", f"/jobs/{shared_job(stack)}/execute", {})["id"]
    stack.http.get(f"/executions/{of_job}/events", timeout=ENDED_SECONDS)
    with visit(person="cleo") as cleo:
        page = cleo.go("/launch")
        expect(page.get_by_text("Other commands take the permission commands:run")).to_be_visible()
        expect(page.get_by_role("link", name="for-everybody")).to_be_visible()
        expect(page.get_by_role("tab")).to_have_count(0)
        check_accessibility(page)
        page = cleo.follow(f"/executions/{of_job}")
        for name in ("Retry", "Run again"):
            expect(page.get_by_role("button", name=name, exact=True)).to_be_visible()
        page = cleo.follow(f"/executions/{without_job}")
        expect(page.locator("h1")).to_contain_text("exit 3")
        expect(page.locator("h1 + .status")).to_have_text("failed")
        for name in ("Retry", "Run again"):
            expect(page.get_by_role("button", name=name, exact=True)).to_have_count(0)
            expect(page.get_by_role("link", name=name, exact=True)).to_have_count(0)
        page = cleo.follow("/targets/lab-1")
        expect(page.get_by_role("heading", name="lab-1", exact=True)).to_be_visible()
        expect(page.get_by_role("link", name="Launch here")).to_have_count(0)
    with visit(person="kit") as kit:
        page = kit.go("/launch")
        expect(page.get_by_text("takes the permission targets:read")).to_be_visible()
        expect(page.get_by_label("Find a job")).to_have_count(0)
        expect(page.get_by_role("tab")).to_have_count(0)
        check_accessibility(page)
        page = kit.follow(f"/executions/{without_job}")
        expect(page.get_by_role("button", name="Retry", exact=True)).to_be_visible()
        expect(page.get_by_role("link", name="Run again", exact=True)).to_have_count(0)


def test_only_those_who_may_approve_are_called(visit: Visit, stack: Stack) -> None:
    pending_approval(stack, "call-the-manager")
    number = pending_approval(stack, "call-the-manager-again")
    with visit(person="max") as manager:
        page = manager.go("/")
        badge = page.get_by_label("wait for your approval")
        waiting = int(badge.inner_text())
        page.get_by_role("region", name="Needs you").get_by_role("link").first.click()
        expect(page.get_by_role("button", name=f"{waiting} I may approve")).to_be_visible()
        expect(page.locator(".line")).to_have_count(waiting)
        stack.call("POST", f"/approvals/{number}/reject")
        expect(page.get_by_role("button", name=f"{waiting - 1} I may approve")).to_be_visible()
    # The administrator has requested them all.
    with visit() as ada:
        page = ada.go("/")
        expect(page.get_by_role("region", name="Needs you")).not_to_contain_text("approval")
        expect(page.get_by_label("wait for your approval")).to_have_count(0)
