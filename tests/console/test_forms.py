"""Forms: objects that a person can create, change and delete without the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from console.browser import PHONE, check_accessibility, check_width, refuse_once, rests_after
from console.conftest import Stack, Visit
from kit.openid_provider import Provider

JOB: dict[str, Any] = {
    "actions": [{"type": "command", "command": "echo ${level}"}],
    "targets": {"selector": "lab=true"},
    "parameters": [{"name": "level", "default": "low"}],
}
REFRESH = "document.dispatchEvent(new Event('visibilitychange'))"
"""Show the page again, so that it loads its content."""


@pytest.fixture(scope="module")
def receiver(provider: Provider) -> str:
    """Return the URL of a receiver of webhooks that accepts all."""
    provider.broken["/hook"] = (200, b"taken")
    return f"{provider.url}/hook"


def job(stack: Stack, name: str) -> int:
    """Return the id of a new job of this name."""
    return int(stack.call("POST", "/jobs", {**JOB, "name": name})["id"])


def set_rules(stack: Stack, schedule: int, *events: str) -> None:
    """Give a schedule a rule for each of these events."""
    body = {"notify": [{"on": [one], "channel": "webhook", "to": ["told"]} for one in events]}
    done = stack.http.patch(f"/schedules/{schedule}", json=body, headers={"If-Match": "*"})
    assert done.status_code == 200, done.text


def confirm(page: Page, verb: str) -> None:
    """Answer the question of a dialog."""
    page.get_by_role("dialog").get_by_role("button", name=verb, exact=True).click()


def add_rule(page: Page) -> None:
    """Add a rule with a text of its own by its form, and test it first."""
    page.get_by_role("button", name="New rule …").click()
    dialog = page.get_by_role("dialog", name="New rule")
    dialog.get_by_label("Channel").select_option("webhook")
    dialog.get_by_label("Webhooks").fill("told")
    dialog.get_by_label("it completed").check()
    expect(dialog.locator(".as-command")).to_contain_text("opsjobs notifications test webhook told")
    dialog.get_by_text("Subject and text of your own").click()
    dialog.get_by_label("Text", exact=True).fill("${summary}")
    # No command line contains the text.
    expect(dialog.locator(".as-command")).to_have_count(0)
    dialog.get_by_role("button", name="Send a test now").click()
    expect(dialog.get_by_text("delivered", exact=True)).to_be_visible()
    check_accessibility(page)
    check_width(page)
    dialog.get_by_role("button", name="Add the rule").click()
    rules = page.get_by_role("grid", name="Notification rules")
    expect(rules).to_contain_text("completed, failed, back to normal")
    page.get_by_role("button", name="Actions of rule 1").click()
    expect(page.get_by_role("menuitem", name="Copy the test as curl")).to_be_visible()
    expect(page.get_by_role("menuitem", name="Copy the test as a command")).to_have_count(0)
    page.keyboard.press("Escape")


def test_a_schedule_is_made_changed_and_deleted_on_a_phone(
    visit: Visit, stack: Stack, receiver: str
) -> None:
    number = job(stack, "form-scheduled")
    others = [job(stack, f"a-choice-{n}") for n in range(12)]
    with visit(size=PHONE) as ada:
        ada.refusals = {422}
        page = ada.go("/schedules")
        page.get_by_role("button", name="New schedule …").first.click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_text(re.compile("more jobs: type part of a name"))).to_be_visible()
        for one in others:
            stack.call("DELETE", f"/jobs/{one}")
        dialog.get_by_label("Job to run").fill("form-scheduled")
        dialog.get_by_role("button", name="form-scheduled").click()
        expect(dialog.get_by_label("Runs", exact=True)).to_be_visible()
        dialog.get_by_role("button", name="Go back").click()
        expect(dialog).to_be_hidden()
        page = ada.go(f"/jobs/{number}?tab=schedules")
        page.get_by_role("button", name="New schedule …").click()
        expect(dialog.get_by_text("02:30").first).to_be_visible()
        dialog.get_by_label("Runs", exact=True).select_option("cron")
        expect(dialog.get_by_text("Say when")).to_be_visible()
        dialog.get_by_label("Cron expression").fill("61 2 * * *")
        expect(dialog.get_by_label("Cron expression")).to_have_attribute("aria-invalid", "true")
        dialog.get_by_label("Cron expression").fill("45 3 * * 1-5")
        expect(dialog.locator(".entries > li")).to_have_count(5)
        dialog.get_by_label("Time zone").fill("Europe/Berlin")
        expect(dialog.get_by_text("03:45 in Europe/Berlin").first).to_be_visible()
        dialog.get_by_label("If the previous execution is still running").select_option("queue")
        dialog.get_by_label("level").fill("high")
        check_accessibility(page)
        check_width(page)
        # Esc and the browser's back button do not discard typed text.
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Keep editing").click()
        dialog.get_by_role("button", name="Schedule", exact=True).click()
        page.wait_for_url("**/console/schedules/*")
        # Without a name, it is called by when it runs.
        heading = page.get_by_role("heading", level=1)
        expect(heading).to_have_text("at 03:45 on weekdays")
        (made,) = stack.call("GET", f"/jobs/{number}/schedules")["items"]
        assert (made["cron"], made["overlap"]) == ("45 3 * * 1-5", "queue")
        assert made["parameters"] == {"level": "high"}
        page.get_by_role("button", name="Edit …").click()
        dialog.get_by_label("Runs", exact=True).select_option("weekly")
        dialog.get_by_label("sat").check()
        stack.call("POST", f"/schedules/{made['id']}/pause", {})
        ada.refusals.add(412)
        dialog.get_by_role("button", name="Save").click()
        expect(dialog.get_by_role("alert")).to_contain_text("stale_version")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Lose the changes").click()
        page.reload()
        page.get_by_role("button", name="Edit …").click()
        dialog.get_by_label("Runs", exact=True).select_option("weekly")
        dialog.get_by_label("sat").check()
        dialog.get_by_role("button", name="Save").click()
        expect(dialog).to_be_hidden()
        expect(heading).to_have_text(re.compile("^at .* on Saturdays$"))
        changed = stack.call("GET", f"/schedules/{made['id']}")
        assert (changed["every"], changed["weekdays"], changed["cron"]) == ("weekly", ["sat"], None)
        # The list of rules is reloaded below a question, which is about the list as it was.
        hook = {"name": "told", "url": receiver, "events": ["approval.*"]}
        webhook = stack.call("POST", "/webhooks", {**hook, "selector": "none=yes"})["id"]
        add_rule(page)
        set_rules(stack, made["id"], "failed", "missed")
        page.evaluate(REFRESH)
        page.get_by_role("button", name="Actions of rule 2").click()
        page.get_by_role("menuitem", name="Delete …").click()
        set_rules(stack, made["id"], "completed")
        page.evaluate(REFRESH)
        expect(page.locator(".panel").get_by_text("completed", exact=True)).to_be_visible()
        confirm(page, "Delete")
        expect(dialog.get_by_role("alert")).to_contain_text("stale_version")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Delete …").click()
        confirm(page, "Delete")
        page.wait_for_url(f"**/console/jobs/{number}?tab=schedules")
        expect(page.get_by_text("There are no schedules yet")).to_be_visible()
    stack.call("DELETE", f"/webhooks/{webhook}")


def test_a_target_is_added_tested_trusted_and_deleted(visit: Visit, stack: Stack) -> None:
    lab = stack.call("GET", "/targets?name=lab-1")["items"][0]
    with visit() as ada:
        ada.refusals = {422, 409}
        page = ada.go("/targets")
        page.get_by_role("button", name="New target …").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Name").fill("form-1")
        dialog.get_by_label("Host", exact=True).fill("not a host")
        dialog.get_by_role("button", name="Add").click()
        expect(dialog.get_by_label("Host", exact=True)).to_be_focused()
        dialog.get_by_label("Host", exact=True).fill(lab["host"])
        dialog.get_by_label("Port").fill(str(lab["port"]))
        dialog.get_by_label("Logs in with").select_option(lab["credential"] or "")
        dialog.get_by_label("Labels").fill("form=yes, site=fra")
        check_accessibility(page)
        dialog.get_by_role("button", name="Add").click()
        page.wait_for_url("**/console/targets/form-1")
        expect(page.get_by_text("SHA256:").first).to_be_visible()
        page.get_by_role("button", name="Trust 1 key and test").click()
        expect(page.get_by_role("heading", name="The test succeeded")).to_be_visible()
        expect(page.locator("h1 + .status")).to_have_text("ok")
        page.get_by_role("button", name="Compare keys").click()
        expect(page.get_by_text("All its keys are trusted")).to_be_visible()
        page.get_by_role("button", name="Edit …").click()
        dialog.get_by_label("Labels").fill("form=yes")
        dialog.get_by_role("button", name="Save").click()
        expect(dialog).to_be_hidden()
        made = stack.call("GET", "/targets?name=form-1")["items"][0]
        assert made["labels"] == {"form": "yes"}
        assert made["host_keys"], "what the form does not show stays"
        stack.call("POST", "/targets", {"name": "form-2", "host": "10.0.0.2", "jump": "form-1"})
        page.reload()
        page.get_by_role("button", name="Delete …").press("Enter")
        expect(page.get_by_text("The target form-1 is the jump host of form-2")).to_be_visible()
        (behind,) = stack.call("GET", "/targets?name=form-2")["items"]
        stack.call("DELETE", f"/targets/{behind['id']}")
        page.reload()
        page.get_by_role("button", name="Delete …").click()
        confirm(page, "Delete")
        page.wait_for_url("**/console/targets")
    assert stack.call("GET", "/targets?name=form-1")["items"] == []


def test_an_inventory_is_shown_before_it_is_imported(visit: Visit, stack: Stack) -> None:
    with visit() as ada:
        page = ada.go("/targets")
        page.get_by_role("link", name="Import …").click()
        text = page.get_by_label("Or its text")
        text.fill("- just text")
        expect(page.get_by_text("Entry 1 is not a target")).to_be_visible()
        text.fill("[imported]\nimp-[1:3] ansible_user=ada\n'bad name' ansible_host=-x\n")
        expect(page.get_by_text("3 created, 1 refused")).to_be_visible()
        expect(page.get_by_text("3 targets would have no login")).to_be_visible()
        page.get_by_label("ada logs in with").select_option(index=1)
        expect(page.get_by_role("button", name="Import 3 targets")).to_be_enabled()
        expect(page.get_by_text("would have no login")).to_have_count(0)
        check_accessibility(page)
        assert stack.call("GET", "/targets?groups=imported")["items"] == []
        page.get_by_role("link", name="Targets", exact=True).click()
        page.get_by_role("button", name="Keep editing").click()
        # Targets and options that no plan has shown are not imported.
        button = "form button.primary"
        assert rests_after(page.get_by_label("All have the labels"), "from=form", button)
        expect(page.get_by_role("button", name="Import 3 targets")).to_be_enabled()
        assert rests_after(text, text.input_value().replace("1:3", "1:2"), button)
        page.get_by_role("button", name="Import 2 targets").click()
        page.wait_for_url("**/console/targets")
    found = stack.call("GET", "/targets?groups=imported&sort=name")["items"]
    assert [one["name"] for one in found] == ["imp-1", "imp-2"]
    assert found[0]["labels"] == {"from": "form"}
    for one in found:
        stack.call("DELETE", f"/targets/{one['id']}")


def test_a_job_is_written_checked_and_saved_over_another_version(
    visit: Visit, stack: Stack
) -> None:
    with visit() as ada:
        page = ada.go("/jobs/new")
        area = page.get_by_label("Definition, as YAML")
        area.fill("name: form-job\ntargets: {selector: lab=true}\nactions:\n  - comand: uptime\n")
        remarks = page.get_by_role("list", name="Remarks")
        expect(remarks.get_by_role("button", name="Line 4").first).to_be_visible()
        area.fill("name: form-job\nactions: [\n")
        expect(page.get_by_role("button", name="Create the job")).to_be_disabled()
        area.fill("name: form-job\ntargets: {selector: lab=true}\nactions:\n  - command: uptime\n")
        expect(page.get_by_text("No problems found.")).to_be_visible()
        page.get_by_role("button", name="Waves").click()
        expect(area).to_have_value(re.compile(r"\npolicy:\n  waves: "))
        page.keyboard.press("Control+Z")
        expect(area).not_to_have_value(re.compile("waves"))
        check_accessibility(page)
        page.get_by_role("button", name="Create the job").click()
        page.wait_for_url(re.compile(r"/console/jobs/\d+$"))
        number = page.url.rsplit("/", 1)[1]
        page.get_by_role("link", name="Edit …").click()
        area.fill(area.input_value() + 'description: "mine"\n')
        expect(page.get_by_text("+ description:")).to_be_visible()
        version = {"If-Match": "*"}
        theirs = stack.http.patch(f"/jobs/{number}", json={"tags": ["env=lab"]}, headers=version)
        assert theirs.status_code == 200, theirs.text
        ada.refusals = {412}
        page.get_by_role("button", name="Save as version 2").click()
        expect(page.get_by_text("Somebody has saved version 2 meanwhile.")).to_be_visible()
        expect(page.get_by_role("region", name="What version 2 changed")).to_contain_text("env=lab")
        page.get_by_role("button", name="Go on from version 2").click()
        page.get_by_role("button", name="Save as version 3").click()
        page.wait_for_url(f"**/console/jobs/{number}")
        saved = stack.call("GET", f"/jobs/{number}")
        assert (saved["version"], saved["description"], saved["tags"]) == (3, "mine", [])
        page.get_by_role("link", name="Edit …").click()
        area.fill(area.input_value().replace("uptime", "mkfs.ext4 /dev/none"))
        page.get_by_role("button", name="Override the check …").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("mkfs")
        check_accessibility(page)
        dialog.get_by_label("Reason").fill("a new disk")
        dialog.get_by_role("button", name="Save as version 4").click()
        page.wait_for_url(f"**/console/jobs/{number}")
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").click()
        assert download.value.suggested_filename == "form-job.yaml"
        assert "mkfs" in Path(download.value.path()).read_text()
        page.get_by_role("button", name="Delete …").click()
        confirm(page, "Delete")
        page.wait_for_url("**/console/jobs")


def test_secrets_of_webhooks_and_triggers_are_shown_once(
    visit: Visit, stack: Stack, receiver: str
) -> None:
    number = job(stack, "form-triggered")
    secrets = []
    with visit() as ada:
        page = ada.go("/webhooks")
        page.get_by_role("button", name="New webhook …").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Name").fill("form-chat")
        dialog.get_by_label("URL").fill(receiver)
        dialog.get_by_role("button", name="Create the webhook").click()
        secrets.append(page.locator("code.secret").first.inner_text())
        page.get_by_role("button", name="I have stored it").click()
        page.wait_for_url("**/console/webhooks/*")
        refuse_once(ada, "**/api/v1/webhooks/*/test", "Not now.")
        page.get_by_role("button", name="Send a test").click()
        alert = page.get_by_role("alert")
        for words in ("Not now.", "conflict", "r-1"):
            expect(alert).to_contain_text(words)
        page.get_by_role("button", name="Send a test").click()
        sent = page.get_by_role("grid", name="Deliveries").get_by_role("row", name="webhook.test")
        expect(sent).to_contain_text("200 taken")
        expect(alert).to_have_count(0)
        page.get_by_role("button", name="New secret …").click()
        confirm(page, "Create a new secret")
        secrets.append(page.locator("code.secret").first.inner_text())
        page.get_by_role("button", name="I have stored it").click()
        check_accessibility(page)
        page.get_by_role("button", name="Edit …").click()
        webhook = page.url.rsplit("/", 1)[1]
        stack.call("PATCH", f"/webhooks/{webhook}", {"selector": "env=prod"})
        dialog.get_by_label("URL").fill("https://chat.example.com/other")
        ada.refusals.add(422)
        dialog.get_by_role("button", name="Save").click()
        expect(dialog.get_by_role("alert")).to_contain_text("Somebody has changed this meanwhile.")
        dialog.get_by_role("button", name="Go back").click()
        page.get_by_role("button", name="Lose the changes").click()
        expect(page.get_by_text("env=prod")).to_be_visible()
        page.get_by_role("button", name="Edit …").click()
        dialog.get_by_label("URL").fill("https://chat.example.com/other")
        dialog.get_by_role("button", name="Save").click()
        expect(dialog).to_be_hidden()
        changed = stack.call("GET", f"/webhooks/{webhook}")
        assert (changed["selector"], changed["url"][-6:]) == ("env=prod", "/other")
        page.get_by_role("button", name="Delete …").click()
        confirm(page, "Delete")
        page.wait_for_url("**/console/webhooks")
        page = ada.follow(f"/jobs/{number}?tab=triggers")
        page.get_by_role("button", name="New trigger …").click()
        dialog.get_by_label("Name").fill("from-git")
        dialog.get_by_label("Callers send").select_option("bearer")
        dialog.get_by_label("level comes from").select_option("pointer")
        dialog.get_by_label("Place in the body").fill("/level")
        dialog.get_by_role("button", name="Add a condition").click()
        dialog.get_by_label("Place 1").fill("/ref")
        dialog.get_by_label("Value 1").fill("main")
        check_accessibility(page)
        dialog.get_by_role("button", name="Create the trigger").click()
        secrets.append(page.locator("code.secret").last.inner_text())
        page.get_by_role("button", name="I have stored it").click()
        page.wait_for_url("**/console/triggers/*")
        held = page.evaluate(
            "document.documentElement.outerHTML + JSON.stringify([localStorage, sessionStorage])"
        )
        assert not [one for one in secrets if one in held]
        (made,) = stack.call("GET", f"/jobs/{number}/triggers")["items"]
        assert made["parameters"] == {"level": {"pointer": "/level"}}
        assert made["when"] == [{"pointer": "/ref", "equals": "main"}]
        for ref, outcome in (("dev", "ignored"), ("main", "launched")):
            called = stack.http.post(
                made["path"],
                json={"ref": ref, "level": "high"},
                headers={"Authorization": f"Bearer {secrets[-1]}"},
            )
            assert called.json()["outcome"] == outcome, json.dumps(called.json())
        page.reload()
        expect(page.get_by_role("grid", name="Calls")).to_contain_text("launched")
        refuse_once(ada, "**/api/v1/triggers/*/disable", "Not now.")
        page.get_by_role("button", name="Disable").click()
        expect(alert).to_contain_text("Not now.")
        page.get_by_role("button", name="Disable").click()
        page.get_by_role("button", name="Enable").click()
        expect(page.get_by_role("button", name="Disable")).to_be_visible()
