"""Executions: the list, and the page of one, from launch to cancel and retry by keyboard alone."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from console.browser import (
    PHONE,
    check_accessibility,
    check_width,
    faults,
    go_by_keys,
    previewed,
    tab_to,
)
from console.conftest import MACHINES, Gate, Stack, Visit

RUNNING, WAITING = 4, 2
HOSTILE = "<b>no</b>\u202egnp.exe"
# When the hour of a moment begins, as the page writes it.
HOUR_OF = """at => new Date(Math.floor(Date.parse(at) / 3_600_000) * 3_600_000)
  .toLocaleTimeString("en-GB").slice(0, 5)"""


@pytest.fixture(scope="module")
def job(stack: Stack) -> str:
    """Create a job that waits for a file on four machines at a time, and has run once."""
    body = {
        "name": "hold-on",
        "actions": [
            {
                "key": "hold",
                "command": "echo begun; until [ -e ${gate} ]; do sleep 0.3; done; exit 3",
            }
        ],
        "targets": {"selector": "lab=true"},
        "parameters": [{"name": "gate", "default": "/"}],
        "policy": {"max_parallel": RUNNING},
    }
    made = stack.call("POST", "/jobs", body)
    first = stack.call("POST", f"/jobs/{made['id']}/execute", {})
    stack.http.get(f"/executions/{first['id']}/events", timeout=60)
    return str(made["id"])


def hold(stack: Stack, job: str, gate: Gate | None = None) -> int:
    """Launch it so that it runs until the gate is open; return the execution's id."""
    place = str(gate.path) if gate else "/nowhere"
    body = {"parameters": {"gate": place}, "reason": HOSTILE}
    found: int = stack.call("POST", f"/jobs/{job}/execute", body)["id"]
    return found


def press(page: Page, role: str, name: str | re.Pattern[str]) -> None:
    """Reach a control by Tab and press Enter on it."""
    tab_to(page, page.get_by_role(role, name=name))  # type: ignore[arg-type]  # a role
    page.keyboard.press("Enter")


def test_launch_cancel_and_retry_by_keyboard_alone(visit: Visit, job: str) -> None:
    with visit() as ada:
        page = ada.go("/")
        go_by_keys(page, "g j", "Jobs")
        ada.settle()
        # Tab reaches one row of a table, arrow keys the others.
        tab_to(page, page.locator("[role=row][tabindex='0']"))
        row = page.get_by_role("row", name=re.compile("hold-on"))
        for number in range(int(row.get_attribute("data-index") or 0)):
            page.keyboard.press("ArrowDown")
            expect(page.locator(f"[data-index='{number + 1}']")).to_be_focused()
        expect(row).to_be_focused()
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile(f"/jobs/{job}$"))
        press(page, "link", "Launch …")
        tab_to(page, page.get_by_label("gate"))
        page.keyboard.press("Control+a")
        page.keyboard.type("/nowhere")
        tab_to(page, page.get_by_label("Reason"))
        with previewed(page, "all of them"):
            page.keyboard.type("all of them")
        expect(page.get_by_role("button", name=f"Launch on {MACHINES} targets")).to_be_enabled()
        press(page, "button", f"Launch on {MACHINES} targets")
        expect(page).to_have_url(re.compile(r"/executions/\d+$"))
        execution = page.url.rpartition("/")[2]
        heading = page.get_by_role("heading", level=1)
        expect(heading).to_contain_text("hold-on")
        expect(heading).to_be_focused()
        expect(page.get_by_role("button", name=f"{RUNNING} running")).to_be_visible()

        press(page, "button", "Cancel")
        dialog = page.get_by_role("dialog", name="Cancel?")
        expect(dialog).to_contain_text(f"{RUNNING} are running")
        expect(dialog).to_contain_text(f"{WAITING} wait")
        check_accessibility(page)
        tab_to(page, dialog.get_by_label("Reason (optional)"))
        page.keyboard.type("wrong hosts")
        press(page, "button", f"Cancel {MACHINES}")
        expect(dialog).to_be_hidden()
        proof = page.get_by_role("region", name="Proof of the cancel")
        expect(proof).to_contain_text(f"{RUNNING} killed")
        expect(proof).to_contain_text(f"{WAITING} never started")
        expect(page).to_have_title(re.compile(f"\u2013 · hold-on #{execution}"))

        page.keyboard.press(".")
        expect(page.get_by_role("menuitem", name=f"{WAITING} not started")).to_be_focused()
        page.keyboard.press("Enter")
        retry = page.get_by_role("dialog", name=f"Retry {WAITING}?")
        expect(retry).to_contain_text("version 1 of hold-on")
        check_accessibility(page)
        press(page, "button", f"Retry {WAITING}")
        lineage = page.get_by_role("navigation", name="Retries")
        expect(lineage).to_contain_text(f"#{execution}")
        expect(page).not_to_have_url(re.compile(f"/executions/{execution}$"))
        expect(heading).to_be_focused()
        press(page, "button", "Cancel")
        press(page, "button", re.compile("Cancel [0-9]"))
        expect(page.get_by_text("cancelled").first).to_be_visible()


def test_some_targets_are_cancelled_and_the_others_continue(
    visit: Visit, stack: Stack, job: str
) -> None:
    execution = hold(stack, job)
    with visit() as ada:
        page = ada.go(f"/executions/{execution}")
        expect(page.get_by_role("button", name=f"{RUNNING} running")).to_be_visible()
        page = ada.follow(f"/executions/{execution}?sel=status:running")
        page.get_by_role("button", name=f"Cancel {RUNNING} …").click()
        dialog = page.get_by_role("dialog", name="Cancel?")
        expect(dialog).to_contain_text(f"{RUNNING} are running")
        expect(dialog).to_contain_text("The other targets continue.")
        check_accessibility(page)
        dialog.get_by_role("button", name=f"Cancel {RUNNING}").click()
        proof = page.get_by_role("region", name="Proof of the cancel")
        expect(proof).to_contain_text(f"{RUNNING} killed")
        expect(page.get_by_role("button", name=f"{WAITING} running")).to_be_visible()
    stack.call("POST", f"/executions/{execution}/cancel", {})


def test_run_again_pause_and_resume(visit: Visit, stack: Stack, job: str) -> None:
    ended = stack.call("GET", f"/executions?job_id={job}&sort=id&limit=1")["items"][0]
    with visit(size=PHONE) as ada:
        page = ada.go(f"/executions/{ended['id']}")
        check_width(page)
        page.get_by_role("button", name="Run again").click()
        again = page.get_by_role("dialog")
        again.get_by_role("button", name=f"Run on {MACHINES}").click()
        expect(page).not_to_have_url(re.compile(f"/executions/{ended['id']}$"))
        expect(page.get_by_role("button", name=f"{MACHINES} failed")).to_be_visible()
        gate = stack.gate()
        ada.follow(f"/executions/{hold(stack, job, gate)}")
        page.get_by_role("button", name="Pause", exact=True).click()
        page.get_by_role("dialog").get_by_role("button", name="Pause").click()
        expect(page.get_by_text("Paused by")).to_be_visible()
        check_accessibility(page)
        page.get_by_role("button", name="Resume").first.click()
        page.get_by_role("dialog").get_by_role("button", name="Resume").click()
        expect(page.get_by_text("Paused by")).to_be_hidden()
        gate.open()
        expect(page.get_by_role("button", name=f"{MACHINES} failed")).to_be_visible()
        expect(page).to_have_title(re.compile("✕ 6 · hold-on"))


def test_a_command_is_run_again_from_the_launch_form(visit: Visit, stack: Stack) -> None:
    ended = stack.run("echo once; exit 4")
    with visit() as ada:
        page = ada.go(f"/executions/{ended['id']}")
        expect(
            page.get_by_role("heading", name=f"echo once; exit 4 #{ended['id']}")
        ).to_be_visible()
        page.keyboard.press(".")
        expect(page.get_by_role("menuitem")).to_have_count(1)
        page.keyboard.press("Escape")
        page.get_by_role("link", name="Run again").click()
        expect(page.get_by_role("textbox", name="Command")).to_have_value("echo once; exit 4")
        page.get_by_role("button", name=f"Launch on {MACHINES} targets").click()
        page.wait_for_url("**/console/executions/*")
        expect(page.get_by_role("link", name="Run again")).to_be_visible()


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)])
def test_each_part_of_the_page_is_accessible(
    visit: Visit, stack: Stack, job: str, *, every: bool
) -> None:
    ended = stack.call("GET", f"/executions?job_id={job}&sort=id&limit=1")["items"][0]
    target = stack.call("GET", f"/executions/{ended['id']}/targets")["items"][0]["target"]["name"]
    parts = (
        *("", "?tab=targets", f"?target={target}", "?tab=output"),
        *("?tab=timeline", "?tab=spec", "?tab=who"),
    )
    with visit() as ada:
        wrong = faults(ada, [f"/executions/{ended['id']}{part}" for part in parts], every=every)
        page = ada.follow(f"/executions/{ended['id']}?target={target}")
        expect(page.locator("main")).to_contain_text("begun")
    assert not wrong, "\n".join(wrong)


def test_an_approval_is_given_on_the_page(visit: Visit, stack: Stack) -> None:
    body = {
        "name": "asks-first",
        "actions": [{"command": "true"}],
        "targets": {"selector": "lab=true"},
        "policy": {"approval": {"approvers": 1}},
    }
    made = stack.call("POST", "/jobs", body)
    with visit(person="root") as ben:
        execution = stack.call("POST", f"/jobs/{made['id']}/execute", {"reason": HOSTILE})["id"]
        page = ben.go(f"/executions/{execution}")
        expect(page.locator("main")).to_contain_text("<b>no</b>")
        assert page.locator("b", has_text=re.compile("^no$")).count() == 0
        expect(page.get_by_text("Waits for an approval", exact=True)).to_be_visible()
        expect(page.get_by_role("grid", name="Targets")).to_contain_text("waits for an approval")
        page.get_by_role("button", name="Approve").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text(f"{MACHINES} targets")
        check_accessibility(page)
        dialog.get_by_role("button", name="Approve").click()
        expect(page.get_by_role("button", name=f"{MACHINES} succeeded")).to_be_visible()
        page.get_by_role("tab", name="Who").click()
        expect(page.get_by_role("tabpanel")).to_contain_text("approved by")


def test_a_viewer_sees_and_counts_what_is_theirs(visit: Visit, stack: Stack, job: str) -> None:
    target = {"name": "far-away", "host": "192.0.2.1", "labels": {"team": "far"}, "zone": "far"}
    stack.call("POST", "/targets", target)
    run = {"actions": [{"command": "true"}], "targets": {"ids": ["far-away"]}}
    theirs = stack.call("POST", "/run", run)["id"]
    ours = stack.call("GET", f"/executions?job_id={job}&sort=id&limit=1")["items"][0]["id"]
    key = {"name": "eve", "grants": [{"role": "viewer", "scope": "team=far"}]}
    token = stack.call("POST", "/api-keys", key)["token"]
    with visit(token=token) as eve:
        page = eve.go("/executions")
        rows = page.get_by_role("row", name=re.compile("#"))
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text(f"true #{theirs}")
        page = eve.follow(f"/executions/{theirs}")
        expect(page.get_by_text("No worker can take it")).to_be_visible()
        for verb in ("Cancel", "Retry", "Run again", "Pause"):
            expect(page.get_by_role("button", name=verb, exact=True)).to_have_count(0)
        eve.refusals |= {404}
        page = eve.follow(f"/executions/{ours}")
        expect(page.get_by_role("alert")).to_contain_text("not_found")
        expect(page.locator("main")).not_to_contain_text("hold-on")


def test_the_list_filters_and_says_what_to_drop(visit: Visit, stack: Stack, job: str) -> None:
    with visit() as ada:
        page = ada.go("/executions?q=job:hold-on")
        expect(page.get_by_role("row", name=re.compile("hold-on")).first).to_be_visible()
        field = page.get_by_role("combobox", name="Filter executions")
        field.fill("job:hold-on status:rejected")
        expect(page.get_by_text("No executions fit this filter.")).to_be_visible()
        page.get_by_role("button", name="Without status:rejected").click()
        expect(page.get_by_role("row", name=re.compile("hold-on")).first).to_be_visible()
        hours = page.get_by_role("group", name="Ended executions by the hour")
        # Not the last one: a new hour may have begun since.
        first = stack.call("GET", f"/executions?job_id={job}&sort=id&limit=1")["items"][0]
        begin = page.evaluate(HOUR_OF, first["finished_at"])
        hours.get_by_role("button", name=re.compile(f"^{begin} to ")).last.click()
        expect(page).to_have_url(re.compile("after"))
        expect(page.get_by_role("row", name=re.compile("hold-on")).first).to_be_visible()
        page.go_back()
        expect(field).to_have_value("job:hold-on")


def test_a_hidden_tab_asks_once_a_minute(visit: Visit, stack: Stack, job: str) -> None:
    execution = hold(stack, job)
    with visit(alone=True) as ada:
        page = ada.page
        page.clock.install()
        ada.go(f"/executions/{execution}")
        expect(page.get_by_role("button", name=f"{RUNNING} running")).to_be_visible()
        page.evaluate(
            "Object.defineProperty(document, 'hidden', { configurable: true, get: () => true });"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        page.clock.run_for(5_000)  # what an event has called for just before
        with ada.asks() as asked:
            page.clock.run_for(125_000)
        assert asked == [f"{ada.url}/api/v1/executions/{execution}"] * 2
    stack.call("POST", f"/executions/{execution}/cancel", {})


def test_columns_that_cannot_be_read_are_said_and_tried_again(
    visit: Visit, stack: Stack, job: str
) -> None:
    ended = stack.call("GET", f"/executions?job_id={job}&sort=id&limit=1")["items"][0]["id"]
    with visit() as ada:
        ada.refusals |= {503}
        refused = {
            "type": "about:blank", "title": "Service Unavailable", "status": 503,
            "detail": "PostgreSQL does not answer.", "code": "database_away", "request_id": "r-1",
        }  # fmt: skip
        ada.page.route(
            "**/matrix",
            lambda route: route.fulfill(status=503, json=refused, headers={"Retry-After": "1"}),
            times=1,
        )
        page = ada.go(f"/executions/{ended}?tab=targets")
        expect(page.get_by_role("button", name=f"{MACHINES} failed")).to_be_visible()
        expect(page.get_by_role("grid", name="Targets")).to_be_visible()
        expect(page.get_by_role("alert")).to_have_count(0)
