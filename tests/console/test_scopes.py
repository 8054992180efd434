"""Two viewers, one of them with a scope, only see, count, find and receive what is theirs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Error, Page, Response, expect

from console.browser import Visitor, browser_storage
from console.conftest import ENDED_SECONDS, Stack, Visit

# All objects of one half have this word in their names, output and reasons.
MINE, THEIRS = "mineqx", "theirsqx"
WORDS = {"left": THEIRS, "right": MINE}
# Between objects that are created before a stream is read and the one that ends it.
STREAM_SECONDS = 30


@dataclass(frozen=True)
class Half:
    """The objects of one half of the installation: their word, and their ids."""

    word: str
    target: str
    job: int
    ended: int
    asks: int
    approval: int
    schedule: int

    @property
    def pages(self) -> list[str]:
        """Return the pages of its objects, by their URLs."""
        tabs = ("", "?tab=targets", "?tab=output", "?tab=groups", "?tab=spec", "?tab=who")
        return [
            *(f"/executions/{self.ended}{tab}" for tab in tabs),
            f"/executions/{self.ended}?target={self.target}",
            f"/executions/{self.asks}",
            f"/jobs/{self.job}",
            f"/schedules/{self.schedule}",
            f"/approvals/{self.approval}",
            f"/targets/{self.target}",
        ]


def furnish(stack: Stack, half: str, machine: str) -> Half:
    """Create one of everything in a half, on one machine of the lab."""
    word = WORDS[half]
    stack.twin(machine, f"{word}-1", {"half": half, f"only-{word}": word})
    job = {
        "name": f"{word}-job",
        "tags": [f"half={half}"],
        "actions": [{"key": "say", "command": f"echo {word} said so; echo shared; exit 3"}],
        "targets": {"ids": [f"{word}-1"]},
    }
    made = stack.call("POST", "/jobs", job)
    ended = stack.call("POST", f"/jobs/{made['id']}/execute", {"reason": f"because {word}"})
    stack.http.get(f"/executions/{ended['id']}/events?kinds=end", timeout=ENDED_SECONDS)
    asking = {
        **job,
        "name": f"{word}-asks",
        "policy": {"approval": {"approvers": 1}},
    }
    second = stack.call("POST", "/jobs", asking)
    asks = stack.call("POST", f"/jobs/{second['id']}/execute", {})
    (approval,) = stack.call("GET", f"/approvals?execution_id={asks['id']}")["items"]
    hourly = {"name": f"{word}-hourly", "type": "recurring", "every": "hours"}
    schedule = stack.call("POST", f"/jobs/{made['id']}/schedules", hourly)
    return Half(
        word, f"{word}-1", made["id"], ended["id"], asks["id"], approval["id"], schedule["id"]
    )


@pytest.fixture(scope="module")
def halves(stack: Stack) -> tuple[Half, Half]:
    """The half of the scoped viewer, and the other one."""
    return furnish(stack, "right", "lab-5"), furnish(stack, "left", "lab-6")


@pytest.fixture(scope="module")
def tokens(stack: Stack) -> dict[str, str]:
    """A viewer of everything, and one of the right half."""
    grants: dict[str, dict[str, str]] = {
        "vic": {"role": "viewer"},
        "rae": {"role": "viewer", "scope": "half=right"},
    }
    return {
        name: stack.call("POST", "/api-keys", {"name": f"scoped-{name}", "grants": [grant]})[
            "token"
        ]
        for name, grant in grants.items()
    }


@contextmanager
def overheard(page: Page) -> Iterator[list[Response]]:
    """Collect the responses of a page, except streams, which do not end."""
    answers: list[Response] = []

    def note(response: Response) -> None:
        if "/api/v1/" in response.url and "/events" not in response.url:
            answers.append(response)

    page.on("response", note)
    try:
        yield answers
    finally:
        page.remove_listener("response", note)


def shown_text(visitor: Visitor, path: str) -> str:
    """Return everything that a page shows and received."""
    with overheard(visitor.page) as answers:
        page = visitor.page
        if page.url.startswith(visitor.url):
            page.evaluate("performance.clearResourceTimings()")
            visitor.follow(path)
        else:
            visitor.go(path)
        return browser_storage(page) + "\n".join(text_of(answer) for answer in answers)


def text_of(response: Response) -> str:
    """Return the body of a response; nothing for a request that the page cancelled."""
    try:
        return response.text()
    except Error:
        return ""


# Lists of objects of both halves, from which a scope must remove some.
LISTS = [
    "/",
    "/executions",
    "/jobs",
    "/schedules",
    "/tonight",
    "/targets",
    "/approvals",
    "/dead-letters",
    "/calendars",
    "/files",
    "/safety",
    "/system",
    "/me",
]
# Targets with problems come first: with thousands, those of other tests may fill the page.
SHOW_BOTH = {"/", "/executions", "/jobs", "/schedules", "/tonight"}


def test_lists_have_only_what_is_theirs(
    visit: Visit, halves: tuple[Half, Half], tokens: dict[str, str]
) -> None:
    mine, theirs = halves
    with visit(token=tokens["vic"]) as vic, visit(token=tokens["rae"]) as rae:
        for path in LISTS:
            part = shown_text(rae, path)
            assert theirs.word not in part, path
            if path in SHOW_BOTH:
                assert mine.word in part, path
                assert theirs.word in shown_text(vic, path), path


def test_no_address_leads_to_what_is_not_theirs(
    visit: Visit, halves: tuple[Half, Half], tokens: dict[str, str]
) -> None:
    mine, theirs = halves
    with visit(token=tokens["rae"]) as rae:
        for path in mine.pages:
            found = shown_text(rae, path)
            assert mine.word in found, path
            assert theirs.word not in found, path
        rae.refusals = {404}
        for path in theirs.pages:
            found = shown_text(rae, path)
            assert "not_found" in found, path
            # A text that was typed into the URL is shown there, but nothing more.
            assert theirs.word not in found.replace(theirs.target, ""), path


def test_searches_and_counts_find_only_what_is_theirs(
    visit: Visit, stack: Stack, halves: tuple[Half, Half], tokens: dict[str, str]
) -> None:
    mine, theirs = halves
    with visit(token=tokens["rae"]) as rae:
        page = rae.go("/")
        badge = page.locator(".badge")
        shown = badge.inner_text() if badge.count() else "0"
        assert int(shown) <= 1, "it counts approvals of others"
        for word in (mine.word, theirs.word):
            page.keyboard.press("Control+k")
            expect(page.get_by_role("combobox", name="Go to")).to_be_focused()
            with page.expect_response(re.compile(rf"/targets\?q={word}&")) as found:
                page.keyboard.type(word)
            found.value.finished()
            options = page.get_by_role("option").filter(has_text=word)
            if word == mine.word:
                for kind in ("job", "target"):
                    expect(options.filter(has_text=kind).first).to_be_visible()
            expect(page.get_by_role("option").filter(has_text=theirs.word)).to_have_count(0)
            page.keyboard.press("Escape")
        page = rae.go(f"/executions?q=job:{theirs.word}-job")
        rows = page.get_by_role("row").filter(has_text=re.compile("#|qx"))
        expect(rows).to_have_count(0)
        rae.follow(f"/executions?q=job:{mine.word}-job")
        expect(rows).to_have_count(1)


def api_client(stack: Stack, token: str) -> httpx2.Client:
    """Return the API as another user."""
    headers = {"Authorization": f"Bearer {token}"}
    return httpx2.Client(base_url=f"{stack.url}/api/v1", headers=headers, timeout=30)


def test_facets_figures_and_labels_are_of_what_is_theirs(
    stack: Stack, halves: tuple[Half, Half], tokens: dict[str, str]
) -> None:
    mine, theirs = halves
    body = {"targets": {"selector": "half in (left, right)"}}
    with api_client(stack, tokens["rae"]) as rae:
        answers: dict[str, Any] = {
            path: rae.get(path).raise_for_status().json()
            for path in ("/targets/labels", "/targets?page=1&size=50", "/stats", "/jobs?q=qx-")
        }
        resolved = rae.post("/targets/resolve", json=body)
        assert theirs.word not in json.dumps(answers) + resolved.text
        assert mine.word in resolved.text
        assert answers["/targets?page=1&size=50"]["total"] == 1
        for path in ("matrix", "lines", "search?q=said", "groups", "spec", "events", "log"):
            refused = rae.get(f"/executions/{theirs.ended}/{path}")
            assert refused.status_code == 404, path
            assert theirs.word not in refused.text
        for query in (f"target={theirs.target}", f"q={theirs.word}", f"job_id={theirs.job}"):
            found = rae.get(f"/executions?page=1&size=1&{query}")
            assert found.status_code in (200, 404, 422), query
            if found.status_code == 200:
                assert found.json()["total"] == 0, query


def until(lines: Iterator[str], *words: str) -> str:
    """Return a stream up to an event with all of these words."""
    said: list[str] = []
    for line in lines:
        said.append(line)
        if line.startswith("data:") and all(word in line for word in words):
            break
    return "\n".join(said)


def test_a_stream_brings_only_what_is_theirs(
    stack: Stack, halves: tuple[Half, Half], tokens: dict[str, str]
) -> None:
    mine, theirs = halves
    with (
        api_client(stack, tokens["vic"]) as vic,
        api_client(stack, tokens["rae"]) as rae,
        vic.stream("GET", "/events", timeout=STREAM_SECONDS) as all_of_it,
        rae.stream("GET", "/events", timeout=STREAM_SECONDS) as part,
    ):
        for half in (theirs, mine):
            made = stack.call("POST", f"/jobs/{half.job}/execute", {"reason": half.word})
            stack.http.get(f"/executions/{made['id']}/events?kinds=end", timeout=ENDED_SECONDS)
        assert theirs.word in until(all_of_it.iter_lines(), ".execution.failed.", mine.word)
        found = until(part.iter_lines(), ".execution.failed.")
        assert mine.word in found
        assert theirs.word not in found
