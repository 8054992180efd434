"""Launching by keyboard and by form: previews, copied commands, targets, schedules."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

from playwright.sync_api import Page, expect

from console.browser import (
    PHONE,
    check_accessibility,
    check_width,
    go_by_keys,
    previewed,
    refuse_once,
    rests_after,
    tab_to,
)
from console.conftest import Stack, Visit

PATCH = {
    "name": "restart-service",
    "actions": [{"type": "command", "command": "echo ${service} ${level}"}],
    "targets": {"selector": "lab=true"},
    "parameters": [
        {"name": "service", "label": "Service", "required": True, "pattern": "[a-z-]+"},
        {"name": "level", "type": "choice", "choices": ["low", "high"], "default": "low"},
        {"name": "token", "type": "secret"},
    ],
}


def copied(page: Page, item: str) -> str:
    """Return what the menu Copy puts into the clipboard."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy", exact=True).click()
    page.get_by_role("menuitem", name=item, exact=True).click()
    expect(page.get_by_text(f"Copied: {item.lower()}")).to_be_visible()
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def job(stack: Stack, body: dict[str, Any]) -> int:
    """Return the id of a job of this name; create it if necessary."""
    found = stack.call("GET", f"/jobs?name={body['name']}")["items"]
    made = found[0] if found else stack.call("POST", "/jobs", body)
    return int(made["id"])


def test_a_command_is_launched_and_its_execution_cancelled_and_retried_by_keyboard_alone(
    visit: Visit, stack: Stack
) -> None:
    with visit() as ada:
        page = ada.go("/")
        go_by_keys(page, "g l", "Launch", page.get_by_role("textbox", name="Command"))
        page.keyboard.type("sleep 301")
        tab_to(page, page.get_by_role("combobox", name="Labels"))
        page.keyboard.type("lab=true")
        tab_to(page, page.get_by_role("combobox", name="Except"))
        page.keyboard.type("lab-2")
        expect(page.get_by_text("1 left out")).to_be_visible()
        button = page.get_by_role("button", name="Launch on 5 targets")
        expect(button).to_be_enabled()
        check_accessibility(page)
        tab_to(page, button)
        page.keyboard.press("Enter")
        heading = page.get_by_role("heading", level=1)
        expect(heading).to_contain_text("sleep 301")
        expect(heading).to_be_focused()
        first = page.url
        launched = stack.call("GET", f"/executions/{first.rsplit('/', 1)[1].partition('?')[0]}")
        assert launched["total_targets"] == 5
        tab_to(page, page.get_by_role("button", name="Cancel", exact=True))
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        tab_to(page, dialog.get_by_role("button", name="Cancel 5"))
        page.keyboard.press("Enter")
        expect(page.locator("h1 + .status")).to_have_text("cancelled")
        # The actions of a page have a key of their own.
        page.keyboard.press(".")
        expect(page.get_by_role("menuitem").first).to_be_focused()
        page.keyboard.press("Enter")
        tab_to(page, dialog.get_by_role("button", name="Retry 5"))
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "/executions/" in url and url != first)
        expect(heading).to_be_focused()
        made = page.url.rsplit("/", 1)[1].partition("?")[0]
    stack.call("POST", f"/executions/{made}/cancel")


def test_the_copied_command_launches_the_same_and_unknown_targets_are_said(
    visit: Visit, stack: Stack
) -> None:
    with visit() as ada:
        page = ada.go("/launch?command=echo+%22it%27s%22&l=lab%3Dtrue&x=lab-1%2Clab-2&why=ticket+1")
        expect(page.get_by_role("button", name="Launch on 4 targets")).to_be_enabled()
        line = copied(page, "Command")
        # A preview of other targets is invalid at once, before there is a new one.
        names = page.get_by_role("combobox", name="Except")
        assert rests_after(names, "", "button.launch-button")
        page = ada.follow("/launch?command=uptime")
        expect(page.get_by_text("Select targets.")).to_be_visible()
        ada.refusals.add(422)
        page.get_by_role("combobox", name="Targets").fill("lab-1,web-9")
        expect(page.get_by_text("There is no target 'web-9'.").first).to_be_visible()
        expect(page.get_by_text("1 target", exact=True)).to_be_visible()
        expect(page.get_by_role("button", name="Launch")).to_be_disabled()
    program = f"{sys.executable} -m opsjobs"
    assert line.startswith("opsjobs run ")
    done = subprocess.run(
        ["/bin/sh", "-c", line.replace("opsjobs", program, 1)],
        env={"OPSJOBS_DATA_DIR": str(stack.service.data), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("it's") == 4
    last = stack.call("GET", "/executions?limit=1")["items"][0]
    assert (last["reason"], last["total_targets"]) == ("ticket 1", 4)


def test_a_blocked_command_is_launched_only_by_an_override_with_a_reason(visit: Visit) -> None:
    blocked = "/launch?command=mkfs.ext4+/dev/none&t=lab-1"
    with visit(role="operator") as ben:
        page = ben.go(blocked)
        expect(page.get_by_text("The safety check blocks it. Change it.")).to_be_visible()
        button = page.get_by_role("button", name="Launch on 1 target")
        expect(button).to_be_disabled()
        # Jobs that only need an approval are confirmed, and not overridden.
        page = ben.go("/launch?command=ruby+-e+%27puts+1%27&t=lab-1&why=ticket+7")
        button.click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Type 1 to confirm").fill("1")
        refuse_once(ben, "**/api/v1/run", "Not now.")
        with page.expect_request("**/api/v1/run") as sent:
            dialog.get_by_role("button", name="Launch on 1 target").click()
        expect(dialog.get_by_role("alert")).to_contain_text("Not now.")
        body = sent.value.post_data_json
        assert ("override_safety" in body, body["reason"]) == (False, "ticket 7")
    with visit() as ada:
        page = ada.go(f"{blocked}&why=ticket+7")
        page.get_by_role("button", name="Override and launch …").click()
        dialog = page.get_by_role("dialog")
        launch = dialog.get_by_role("button", name="Launch on 1 target")
        dialog.get_by_label("Type 1 to confirm").fill("1")
        reason = dialog.get_by_label("Reason")
        expect(reason).to_have_value("ticket 7")
        reason.clear()
        expect(launch).to_be_disabled()
        reason.fill("a new disk")
        refuse_once(ada, "**/api/v1/run", "Not now.")
        with page.expect_request("**/api/v1/run") as sent:
            launch.click()
        expect(dialog.get_by_role("alert")).to_contain_text("Not now.")
    body = sent.value.post_data_json
    assert (body["override_safety"], body["reason"]) == (True, "a new disk")


def test_a_jobs_form_checks_while_typing_and_fits_a_phone(visit: Visit, stack: Stack) -> None:
    number = job(stack, PATCH)
    with visit(size=PHONE, role="operator") as ben:
        page = ben.go(f"/jobs/{number}/launch?p.level=high")
        expect(page.get_by_text("Fill in Service.")).to_be_visible()
        expect(page.get_by_label("level")).to_have_value("high")
        service = page.get_by_label("Service (required)")
        service.fill("Nginx1")
        expect(page.get_by_text("It must fit [a-z-]+.")).to_be_visible()
        service.fill("nginx")
        with previewed(page, "s3cret-canary"):
            page.get_by_label("token").fill("s3cret-canary")
        button = page.get_by_role("button", name="Launch on 6 targets")
        expect(button).to_be_enabled()
        assert "s3cret-canary" not in page.url
        assert "p.service=nginx" in page.url
        check_accessibility(page)
        check_width(page)
        button.click()
        page.wait_for_url("**/console/executions/*")


def test_a_sick_target_says_why_is_tested_and_held(visit: Visit, stack: Stack) -> None:
    body = {"name": "away-1", "host": "127.0.0.1", "port": 9, "host_key_policy": "accept_new"}
    stack.http.post("/targets", json=body)
    stack.run("uptime", targets={"ids": ["away-1"]})
    with visit() as ada:
        page = ada.go("/targets")
        page.get_by_role("button", name="unhealthy").click()
        expect(page.get_by_role("row", name="away-1")).to_contain_text("last run unreachable")
        page.get_by_role("button", name="Test away-1").click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_text("The test failed.")).to_be_visible()
        check_accessibility(page)
        dialog.get_by_role("button", name="Close").click()
        page.get_by_role("link", name="away-1").click()
        expect(page.get_by_role("grid", name="Runs on this target")).to_be_visible()
        page.get_by_role("button", name="Test", exact=True).click()
        expect(page.get_by_role("heading", name="The test failed")).to_be_visible()
        page.get_by_role("button", name="Maintenance …").click()
        page.get_by_label("Reason").fill("new disk")
        page.get_by_role("button", name="Begin").click()
        expect(page.get_by_text("new disk (admin)")).to_be_visible()
        check_accessibility(page)
        page.get_by_role("button", name="End maintenance").click()
        expect(page.get_by_role("button", name="Maintenance …")).to_be_visible()


def test_a_schedule_is_edited_with_a_preview_in_words(visit: Visit, stack: Stack) -> None:
    number = job(stack, {**PATCH, "name": "nightly-job", "parameters": []})
    nightly = {"name": "at-night", "type": "cron", "cron": "30 2 * * *", "timezone": "UTC"}
    stack.http.post(f"/jobs/{number}/schedules", json=nightly)
    with visit() as ada:
        page = ada.go("/schedules?q=at-night")
        page.get_by_role("link", name="at-night").click()
        page.get_by_role("button", name="Edit …").click()
        page.get_by_label("Cron expression").fill("45 3 * * *")
        expect(page.get_by_role("dialog").get_by_text("03:45")).not_to_have_count(0)
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("dialog")).to_be_hidden()
        found = stack.call("GET", "/schedules?name=at-night")["items"][0]
        assert found["cron"] == "45 3 * * *", json.dumps(found)
        page.get_by_role("button", name="Pause …").click()
        page.get_by_label("Reason").fill("until the audit is over")
        page.get_by_role("button", name="Pause", exact=True).click()
        expect(page.get_by_text("until the audit is over")).to_be_visible()


def test_an_hour_of_the_week_lists_what_is_due(visit: Visit, stack: Stack) -> None:
    number = job(stack, {**PATCH, "name": "weekly-job", "parameters": []})
    weekly = {"name": "at-three", "type": "cron", "cron": "0 3 * * *", "timezone": "UTC"}
    stack.http.post(f"/jobs/{number}/schedules", json=weekly)
    with visit() as ada:
        page = ada.go("/tonight")
        bar = page.get_by_role("button", name=re.compile(": [1-9]")).first
        hour = (bar.get_attribute("aria-label") or "").partition(": ")[0]
        expect(page.get_by_role("button", name=re.compile(", [0-9:]+ to [0-9:]+: "))).to_have_count(
            168
        )
        bar.press("Enter")
        due = page.get_by_role("region", name=hour, exact=True)
        expect(due.get_by_role("link").first).to_be_visible()
        check_accessibility(page)
