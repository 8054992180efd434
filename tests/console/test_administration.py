"""Access, Credentials, Calendars, Files, Audit: objects created by hand, partly by keyboard."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect

from console.browser import check_accessibility, refuse_once
from console.conftest import Stack, Visit

CANARY = "canary-of-a-secret-7f3a91"


def test_a_user_is_added_by_keyboard_and_disabled(visit: Visit, stack: Stack) -> None:
    with visit() as ada:
        page = ada.go("/access")
        page.get_by_role("button", name="New user").focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="New user")
        expect(dialog.get_by_label("Name")).to_be_focused()
        check_accessibility(page)
        page.keyboard.type("carl")
        page.keyboard.press("Tab")
        page.keyboard.type("short")
        ada.refusals = {422}
        page.keyboard.press("Enter")
        expect(dialog.get_by_text("weak_password")).to_be_visible()
        dialog.get_by_label("Password").fill("correct horse battery")
        page.keyboard.press("Enter")
        row = page.get_by_role("row", name="carl")
        expect(row).to_contain_text("viewer")
        refuse_once(ada, "**/api/v1/users/*/disable", "Not now.")
        row.get_by_role("button", name="Actions of carl").click()
        page.get_by_role("menuitem", name="Disable").click()
        expect(page.get_by_role("alert")).to_contain_text("Not now.")
        row.get_by_role("button", name="Actions of carl").click()
        page.get_by_role("menuitem", name="Disable").click()
        expect(row).to_contain_text("disabled")
    (carl,) = stack.call("GET", "/users?name=carl")["items"]
    assert carl["disabled"] is True
    assert carl["grants"] == [{"role": "viewer", "permissions": [], "scope": ""}]


def test_a_key_is_shown_once(visit: Visit) -> None:
    with visit() as ada:
        page = ada.go("/access?tab=keys")
        page.get_by_role("button", name="New key").click()
        page.get_by_role("dialog").get_by_label("Name").fill("ci-of-carl")
        page.get_by_label("Scope").fill("env=staging")
        page.get_by_role("button", name="Create", exact=True).click()
        token = page.locator("code.secret").inner_text()
        assert token.startswith("opsc_")
        page.get_by_role("button", name="I have stored it").click()
        expect(page.get_by_role("row", name="ci-of-carl")).to_contain_text("env=staging")
        held = page.evaluate(
            "document.documentElement.outerHTML + JSON.stringify([localStorage, sessionStorage])"
        )
        assert token not in held


def test_the_secret_of_a_credential_is_only_written(visit: Visit) -> None:
    with visit() as ada:
        page = ada.go("/credentials")
        page.get_by_role("button", name="New credential").click()
        dialog = page.get_by_role("dialog", name="New credential")
        dialog.get_by_label("Name").fill("web-login")
        dialog.get_by_label("Type").select_option("password")
        dialog.get_by_label("Logs in as").fill("deploy")
        dialog.get_by_label("Password").fill(CANARY)
        dialog.get_by_role("button", name="Add").click()
        page.get_by_role("row", name="web-login").click()
        details = page.get_by_role("dialog", name="web-login")
        expect(details.get_by_text("Nothing uses it.")).to_be_visible()
        details.get_by_role("button", name="Test").click()
        expect(details.get_by_text("ms", exact=False).first).to_be_visible()
        check_accessibility(page)
        page.reload()
        expect(details).to_be_visible()
        assert CANARY not in page.content()
        page.keyboard.press("Escape")
        expect(details).to_be_hidden()


def test_a_calendar_and_a_file_are_made_and_deleted(visit: Visit, tmp_path: Path) -> None:
    file = tmp_path / "app <b>.conf"
    file.write_text("listen = 80\n")
    with visit() as ada:
        page = ada.go("/calendars")
        page.get_by_role("button", name="New calendar").click()
        page.get_by_label("Name").fill("nights")
        page.get_by_label("From", exact=True).fill("22:00")
        page.get_by_label("To", exact=True).fill("06:00")
        check_accessibility(page)
        page.get_by_role("button", name="Create").click()
        panel = page.get_by_role("region", name="nights")
        expect(panel).to_contain_text("every day 22:00 to 06:00")
        page.get_by_role("button", name="Delete nights").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(panel).to_be_hidden()
        page = ada.go("/files")
        page.get_by_label("File", exact=True).set_input_files(file)
        row = page.get_by_role("row", name="app <b>.conf")
        expect(row).to_contain_text("12 B")
        with page.expect_download() as download:
            row.get_by_role("link", name="Download").click()
        assert Path(download.value.path()).read_text() == "listen = 80\n"
        row.get_by_role("button", name="Delete").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(row).to_be_hidden()


def test_the_audit_log_says_who_did_it_and_that_it_is_whole(visit: Visit, stack: Stack) -> None:
    windows = [{"dates": ["2026-12-24"]}]
    stack.call("POST", "/calendars", {"name": "audited", "kind": "only", "windows": windows})
    with visit() as ada:
        page = ada.go("/audit")
        box = page.get_by_role("combobox", name="Filter audit rows")
        page.keyboard.press("/")
        expect(box).to_be_focused()
        # The list has no full-text search: a text, or an incomplete word, is not sent.
        page.keyboard.type("created")
        page.keyboard.press("Enter")
        expect(page.get_by_text('"created": write what it is')).to_be_visible()
        assert "q=" not in page.url
        box.clear()
        page.keyboard.type("after:2026-")
        page.keyboard.press("Enter")
        expect(page.get_by_text("after: takes a time, such as 2026-11-29")).to_be_visible()
        assert "q=" not in page.url
        box.clear()
        page.keyboard.type("action:calendar.created name:audited after:2000-01-01")
        page.keyboard.press("Enter")
        expect(page.locator(".line")).to_have_count(1)
        page.get_by_role("button", name="Details of audit row").press("Enter")
        dialog = page.get_by_role("dialog", name="Audit row")
        expect(dialog).to_contain_text("calendar.created")
        check_accessibility(page)
        page.go_back()
        expect(dialog).to_be_hidden()
        page.get_by_role("button", name="Verify the chain").click()
        expect(page.get_by_text("Intact:")).to_be_visible()
