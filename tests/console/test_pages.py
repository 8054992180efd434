"""Every page: no findings of axe, three widths, no console messages.

`long`: in every look, as a viewer, and without its data.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import CDPSession, Route, expect

from architecture.tree import ROOT
from console.browser import PHONE, check_accessibility, check_width, faults
from console.conftest import Stack, Visit

# Each page of the console has its line here, with ids of objects that `sample_ids` creates.
PAGES = [
    "/",
    "/executions",
    "/jobs",
    "/jobs/{job}",
    "/jobs/{job}/edit",
    "/jobs/new",
    "/jobs/{job}/launch",
    "/launch?command=uptime&l=lab%3Dtrue",
    "/schedules",
    "/schedules/{schedule}",
    "/tonight",
    "/targets",
    "/targets/lab-1",
    "/targets/import",
    "/groups",
    "/notifications",
    "/webhooks",
    "/webhooks/{webhook}",
    "/triggers/{trigger}",
    "/dead-letters",
    "/executions/{ended}",
    "/executions/{running}",
    "/safety",
    "/system",
    "/audit",
    "/access",
    "/access?tab=people",
    "/access?tab=keys",
    "/access?tab=services",
    "/credentials",
    "/calendars",
    "/files",
    "/approvals",
    "/approvals/{approval}",
    "/me",
    "/logged-in",
]
# Pages for which a viewer lacks the permission: they say so, and send no requests.
REFUSED = {"/audit", "/access", "/credentials", "/launch", "/jobs/{job}/launch"} | {
    *("/jobs/new", "/jobs/{job}/edit", "/targets/import"),
    *("/webhooks", "/webhooks/{webhook}"),
}
# They send no request before something is typed.
WITHOUT_DATA = {"/launch", "/logged-in", "/targets/import"}


@pytest.fixture(scope="module", autouse=True)
def sample_ids(stack: Stack) -> dict[str, int]:
    """Create objects of all kinds; return the ids of those that have pages of their own."""
    stack.run("hostname")
    ended = stack.run("exit 3")
    running = stack.launch("sleep 600")
    job = {
        "name": "restart-db",
        "actions": [{"type": "approval", "message": "Restart the database?"}],
        "targets": {"selector": "lab=true"},
        "policy": {"approval": {"approvers": 1}},
    }
    made = stack.call("POST", "/jobs", job)
    asks = stack.call("POST", f"/jobs/{made['id']}/execute", {})
    (approval,) = stack.call("GET", f"/approvals?execution_id={asks['id']}")["items"]
    windows = [{"name": "christmas", "dates": ["2026-12-24"]}, {"start": "22:00", "end": "06:00"}]
    stack.call("POST", "/calendars", {"name": "freeze", "kind": "blackout", "windows": windows})
    stack.http.post("/files?name=hosts", content=b"127.0.0.1 localhost").raise_for_status()
    schedule = stack.call(
        "POST",
        f"/jobs/{made['id']}/schedules",
        {"name": "nightly", "type": "recurring", "every": "daily", "time": "02:30"},
    )
    trigger = stack.call("POST", f"/jobs/{made['id']}/triggers", {"name": "from-git"})
    hook = {"name": "chat", "url": "https://chat.example.com/hook", "events": ["approval.*"]}
    webhook = stack.call("POST", "/webhooks", hook)
    return {
        "ended": ended["id"],
        "running": running["id"],
        "approval": approval["id"],
        "job": made["id"],
        "schedule": schedule["id"],
        "trigger": trigger["id"],
        "webhook": webhook["id"],
    }


def test_every_page_has_its_line() -> None:
    source = (ROOT / "console" / "src" / "routes.ts").read_text()
    patterns = re.findall(r'^  page\(\s*"([^"]+)"', source, re.MULTILINE)
    assert len(patterns) > 20
    paths = [path.partition("?")[0] for path in PAGES]
    shapes = {re.sub(r"/(\d+\b|lab-1\b|\{\w+\})", "/:id", path) for path in paths}
    assert shapes == set(patterns)


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)])
def test_every_page_is_accessible_and_fits(
    visit: Visit, sample_ids: dict[str, int], *, every: bool
) -> None:
    with visit() as ada:
        wrong = faults(ada, [path.format(**sample_ids) for path in PAGES], every=every)
    assert not wrong, "\n".join(wrong)


@pytest.mark.long
def test_every_page_of_a_viewer_is_accessible_and_says_what_is_refused(
    visit: Visit, sample_ids: dict[str, int]
) -> None:
    wrong: list[str] = []
    with visit(role="viewer") as vic:
        for path in PAGES:
            wrong += faults(vic, [path.format(**sample_ids)])
            if path.partition("?")[0] in REFUSED:
                expect(vic.page.locator("main")).to_contain_text("does not hold")
    assert not wrong, "\n".join(wrong)


def refuse(status: int, code: str) -> Any:
    """Return a route handler that refuses every request of a page."""
    problem = {
        "type": "about:blank", "title": "Refused", "status": status,
        "detail": "PostgreSQL does not answer.", "code": code, "request_id": "r-1",
    }  # fmt: skip

    def handle(route: Route) -> None:
        if "/auth/me" in route.request.url or "/events" in route.request.url:
            route.continue_()
        else:
            route.fulfill(status=status, json=problem, content_type="application/problem+json")

    return handle


@pytest.mark.long
def test_every_page_without_its_data_says_why_and_what_to_do(
    visit: Visit, sample_ids: dict[str, int]
) -> None:
    with visit() as ada:
        ada.refusals = {503}
        ada.page.route("**/api/v1/**", refuse(503, "database_unavailable"))
        for path in PAGES:
            page = ada.go(path.format(**sample_ids))
            if path.partition("?")[0] in WITHOUT_DATA:
                continue
            alert = page.get_by_role("alert").first
            for words in ("PostgreSQL does not answer.", "database_unavailable", "r-1"):
                expect(alert).to_contain_text(words)
            expect(page.get_by_text("Loading", exact=False)).to_have_count(0)
        check_accessibility(page)


def test_a_refusal_is_said_with_its_code(visit: Visit, sample_ids: dict[str, int]) -> None:
    refusals = {403: "forbidden", 404: "not_found", 410: "log_expired"}
    with visit(theme="dark", size=PHONE) as ada:
        ada.refusals = set(refusals)
        for status, code in refusals.items():
            ada.page.route("**/api/v1/**", refuse(status, code))
            page = ada.go(f"/jobs/{sample_ids['job']}")
            expect(page.get_by_role("alert").first).to_contain_text(code)
            check_accessibility(page)
            check_width(page)
            page.unroute_all()
            page.get_by_role("button", name="Try again").first.click()
            expect(page.get_by_role("alert")).to_have_count(0)


HIDE = """() => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.mark.long
def test_no_page_in_a_hidden_tab_asks_more_than_once_a_minute(
    visit: Visit, sample_ids: dict[str, int]
) -> None:
    with visit(alone=True) as ada:
        ada.page.clock.install()
        for path in PAGES:
            page = ada.go(path.format(**sample_ids))
            page.evaluate(HIDE)
            with ada.asks() as asked:
                page.clock.run_for(60_000)
            assert len(asked) <= 1, f"{path}: {asked}"


# Count the frames that a page requests: one without motion requests none.
FRAMES = """
window.framesAsked = 0;
const ask = window.requestAnimationFrame;
window.requestAnimationFrame = (draw) => { window.framesAsked++; return ask.call(window, draw); };
"""
# Returns once a page has asked for no frame for a second, or after half a minute.
QUIET = """async () => {
  for (let before = -1, same = 0, n = 0; n < 150 && same < 5; n++) {
    await new Promise((done) => setTimeout(done, 200));
    same = before === window.framesAsked ? same + 1 : 0;
    before = window.framesAsked;
  }
}"""
IDLE_SECONDS = 2
IDLE_SHARE = 0.03


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/", marks=pytest.mark.long),
        pytest.param("/executions/{ended}?tab=targets", marks=pytest.mark.long),
        "/executions/{running}",
    ],
)
def test_an_idle_page_costs_nothing(visit: Visit, sample_ids: dict[str, int], path: str) -> None:
    with visit(apart=True) as ada:
        ada.page.add_init_script(FRAMES)
        page = ada.go(path.format(**sample_ids))
        page.evaluate(QUIET)
        session = page.context.new_cdp_session(page)
        # CPU time, so that a busy machine does not count.
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        before, frames = task_seconds(session), page.evaluate("window.framesAsked")
        page.wait_for_timeout(IDLE_SECONDS * 1_000)
        assert page.evaluate("window.framesAsked") - frames <= 1
        assert task_seconds(session) - before < IDLE_SECONDS * IDLE_SHARE


def task_seconds(session: CDPSession) -> float:
    """Return the CPU time of the page."""
    metrics: list[dict[str, Any]] = session.send("Performance.getMetrics")["metrics"]
    found: float = next(m["value"] for m in metrics if m["name"] == "TaskDuration")
    return found
