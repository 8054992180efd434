"""Lines are found over all targets of an execution."""

from __future__ import annotations

import asyncio
import json
import random
from string import ascii_lowercase
from typing import Any

import pytest

from api.kit import problem
from api.live import LiveApi, live_api
from opsjobs.api import output_lines
from opsjobs.store.transaction import Database


async def search(api: LiveApi, **query: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the matches, and the summary."""
    answer = await api.http.get("/executions/1/search", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    *matches, summary = map(json.loads, answer.text.splitlines())
    return matches, summary


async def test_lines_are_found_over_all_targets(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start(3)
        await api.scripted.write("web-1", b"start\nE: no sp")
        await api.scripted.write("web-2", b"all fine\n")
        await api.scripted.write("web-1", b"ace left\nend\n")
        await api.scripted.write("web-3", b"W: No space soon", stream="stderr")
        await api.scripted.finish("web-1")
        matches, summary = await search(api, q="no space")
        assert [(m["target"], m["stream"], m["text"]) for m in matches] == [
            ("web-1", "stdout", "E: no space left")
        ]
        assert summary == {
            "complete": True,
            "reason": None,
            "next": None,
            "lines": 1,
            "targets": 1,
            "bytes": 52,
        }
        both, summary = await search(api, q="no space", ignore_case=True, context=1)
        assert (summary["lines"], summary["targets"]) == (2, 2)
        assert (both[0]["before"], both[0]["after"]) == (["start"], ["end"])
        narrowed, _ = await search(api, pattern="[Nn]o sp", stream="stderr", target="web-3")
        assert [m["text"] for m in narrowed] == ["W: No space soon"]


async def test_a_search_goes_on_where_it_ended(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_lines, "PAGE_ENTRIES", 2)
    async with live_api(database) as api:
        await api.scripted.start(1)
        for number in range(7):
            await api.scripted.write("web-1", b"hit %d\n" % number)
        seen: list[str] = []
        summary: dict[str, Any] = {"next": 0}
        requests = 0
        while summary["next"] is not None:
            matches, summary = await search(api, q="hit", limit=3, after=summary["next"])
            seen += [match["text"] for match in matches]
            requests += 1
        assert (seen, requests) == ([f"hit {number}" for number in range(7)], 3)
        monkeypatch.setattr(output_lines, "SEARCH_SECONDS", 0.0)
        matches, summary = await search(api, q="hit")
        assert (summary["complete"], summary["reason"]) == (False, "time")
        monkeypatch.setattr(output_lines, "SEARCH_SECONDS", 20.0)
        rest, summary = await search(api, q="hit", after=summary["next"])
        assert 0 < len(matches) < 7 == len(matches) + len(rest)
        assert summary["complete"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({}, "invalid"),
        ({"q": "a", "pattern": "a"}, "invalid"),
        ({"q": "a\nb"}, "invalid"),
        ({"pattern": "(a"}, "invalid_pattern"),
        ({"q": "a", "context": 11}, "invalid"),
        ({"q": "a" * 501}, "invalid"),
        ({"q": "a", "sort": "x"}, "invalid"),
    ],
)
async def test_an_invalid_search_is_refused(
    database: Database, query: dict[str, Any], code: str
) -> None:
    async with live_api(database) as api:
        await api.scripted.start(1)
        problem(await api.http.get("/executions/1/search", params=query), 422, code)


async def test_a_pattern_with_too_many_ways_ends_the_search_with_a_reason(
    database: Database,
) -> None:
    async with live_api(database) as api:
        await api.scripted.start(1)
        await api.scripted.write("web-1", b"ab" * 4_000 + b"\n")
        _, summary = await search(api, pattern="(a|b|ab){1,400}c")
        assert not summary["complete"]
        assert "too long" in summary["reason"]


@pytest.mark.parametrize("query", [{"q": "hit"}, {"pattern": "h[i]t", "context": 1}])
async def test_the_time_ends_a_search_within_a_page_and_no_match_is_lost_or_told_twice(
    database: Database, monkeypatch: pytest.MonkeyPatch, query: dict[str, Any]
) -> None:
    monkeypatch.setattr(output_lines, "SEARCH_SECONDS", 0.0)
    async with live_api(database) as api:
        await api.scripted.start(1)
        for number in range(4):
            await api.scripted.write("web-1", b"hit %d\nmiss\nhit again %d\n" % (number, number))
        seen: list[str] = []
        after: int | None = 0
        requests = 0
        while after is not None and requests < 10:
            matches, summary = await search(api, **query, after=after)
            assert summary["reason"] == "time" or summary["complete"]
            seen += [match["text"] for match in matches]
            after = summary["next"]
            requests += 1
        assert seen == [text for n in range(4) for text in (f"hit {n}", f"hit again {n}")]
        assert requests == 5  # one piece each; the last request finds that there is no more


async def test_a_pattern_that_gets_through_no_piece_in_its_time_is_not_tried_for_ever(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_lines, "SEARCH_SECONDS", 0.0)
    monkeypatch.setattr(output_lines, "PIECE_SECONDS", 0.0)
    async with live_api(database) as api:
        await api.scripted.start(1)
        await api.scripted.write("web-1", b"one\ntwo\n")
        matches, summary = await search(api, pattern="t")
        assert (matches, summary["next"]) == ([], None)
        assert "too long" in summary["reason"]


async def test_incomplete_lines_are_not_left_out_in_silence(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_lines, "PIECE_SECONDS", 0.0)
    async with live_api(database) as api:
        await api.scripted.start(1)
        await api.scripted.write("web-1", b"one\ntwo")
        _, summary = await search(api, pattern="t")
        assert (summary["complete"], summary["next"]) == (False, None)
        assert "incomplete lines" in summary["reason"]


async def test_more_searches_than_threads_are_refused_after_a_while(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_lines, "WAIT_SECONDS", 0.01)
    async with live_api(database) as api:
        await api.scripted.start(1)
        threads = api.app.state.search_threads
        for _ in range(output_lines.THREADS_MAX):
            await threads.reserve(5)
        busy = await api.http.get("/executions/1/search", params={"q": "a"})
        problem(busy, 429, "too_many_searches")
        assert busy.headers["retry-after"]
        threads.release()
        for _ in range(3):
            assert (await search(api, q="a"))[1]["complete"]


async def test_a_reader_who_leaves_ends_the_search_in_its_thread(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_lines, "SEARCH_SECONDS", 1_000.0)
    monkeypatch.setattr(output_lines, "PIECE_SECONDS", 1_000.0)
    monkeypatch.setattr(output_lines, "THREADS_MAX", 1)
    dice = random.Random(1)
    async with live_api(database) as api:
        await api.scripted.start(1)
        for _ in range(16):
            # No two lines are equal: an equal one would cost nothing, because its steps are cached.
            # No line is so long that the pattern is refused for its cost.
            lines = ["".join(dice.choices(ascii_lowercase, k=300)) for _ in range(200)]
            await api.scripted.write("web-1", "\n".join([*lines, ""]).encode())
        threads = api.app.state.search_threads
        slow = {"pattern": "[a-m].{0,1000}#"}
        reading = asyncio.create_task(api.http.get("/executions/1/search", params=slow))
        async with asyncio.timeout(60):
            while not threads._threads._threads:  # it gets one with its first page
                await asyncio.sleep(0.01)
        assert not reading.done()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        async with asyncio.timeout(60):
            await threads.reserve(60)
            await threads.run(bytes)  # it gets the only thread
        threads.release()
