"""Every page: both themes, wide and narrow, nothing that axe finds, no message in the console."""

from __future__ import annotations

import pytest

from console.browser import DESKTOP, PHONE, check_accessibility, check_width
from console.conftest import Stack, Visit

# Each page of the console has its line here.
PAGES = [
    "/",
    "/executions",
    "/jobs",
    "/jobs/1",
    "/jobs/1/launch",
    "/launch?command=uptime&l=lab%3Dtrue",
    "/schedules",
    "/schedules/1",
    "/tonight",
    "/targets",
    "/targets/lab-1",
    "/dead-letters",
    "/executions/1",
    "/executions/3",
    "/safety",
    "/system",
    "/audit",
    "/access",
    "/access?tab=keys",
    "/access?tab=services",
    "/credentials",
    "/calendars",
    "/files",
    "/approvals",
    "/me",
]


@pytest.fixture(scope="module", autouse=True)
def _lived_in(stack: Stack) -> None:
    """Something of all kinds: what ended well and badly, what runs, what waits for a person."""
    stack.run("hostname")
    stack.run("exit 3")
    stack.launch("sleep 600")
    approval = {"type": "approval", "message": "Restart the database?"}
    job = {
        "name": "restart-db",
        "actions": [approval],
        "targets": {"selector": "lab=true"},
    }
    made = stack.call("POST", "/jobs", job)
    stack.call("POST", f"/jobs/{made['id']}/execute", {})
    windows = [{"name": "christmas", "dates": ["2026-12-24"]}, {"start": "22:00", "end": "06:00"}]
    stack.call("POST", "/calendars", {"name": "freeze", "kind": "blackout", "windows": windows})
    stack.http.post("/files?name=hosts", content=b"127.0.0.1 localhost").raise_for_status()
    stack.call(
        "POST",
        f"/jobs/{made['id']}/schedules",
        {"name": "nightly", "type": "recurring", "every": "daily", "time": "02:30"},
    )


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize(("theme", "size"), [("light", DESKTOP), ("dark", PHONE)])
def test_a_page_is_accessible_and_fits(
    visit: Visit, path: str, theme: str, size: tuple[int, int]
) -> None:
    with visit(theme=theme, size=size) as ada:
        page = ada.go(path)
        check_accessibility(page)
        check_width(page)
