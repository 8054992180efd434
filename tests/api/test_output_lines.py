"""Windows of output lines by number, compared with lines that are counted independently."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from api.kit import problem
from api.live import LiveApi, live_api
from opsjobs.store import output_lines
from opsjobs.store.output_lines import LineReader
from opsjobs.store.transaction import Database

PIECES = (b"a", b"line\n", b"\n", b"x\r\ny", b"\xff\xfe\n", b"two\nlines\n", b"no end", b"\n\n")


async def window(api: LiveApi, **query: Any) -> dict[str, Any]:
    """Return the response to one request."""
    return (await api.http.get("/executions/1/lines", params=query)).json()


async def all_lines(api: LiveApi, count: int, **query: Any) -> list[dict[str, Any]]:
    """Return all lines, window by window."""
    found: list[dict[str, Any]] = []
    first: int | None = 1
    while first is not None:
        answer = await window(api, **{"from": first, "count": count, **query})
        found += answer["lines"]
        first = answer["next"]
    return found


class Expected:
    """The lines of some streams, in the order of their beginnings, built from written pieces."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, bytes]] = []
        self._open: dict[tuple[str, str], int] = {}

    def write(self, name: str, stream: str, data: bytes) -> None:
        """Add a piece, byte by byte."""
        for byte in data:
            if (at := self._open.get((name, stream))) is None:
                at = self._open[name, stream] = len(self.lines)
                self.lines.append((name, stream, b""))
            if byte == 10:
                del self._open[name, stream]
            self.lines[at] = (name, stream, self.lines[at][2] + bytes([byte]))

    def texts(self, name: str | None = None, stream: str | None = None) -> list[str]:
        """Return the expected lines."""
        return [
            data.removesuffix(b"\n")
            .removesuffix(b"\r" if data.endswith(b"\r\n") else b"")
            .decode("utf-8", "replace")
            for n, s, data in self.lines
            if name in (None, n) and stream in (None, s)
        ]


@pytest.mark.parametrize(
    "seed", [0, 1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)]
)
async def test_windows_have_the_lines_that_were_written(
    database: Database, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Small strides, so that there are many sums, and more than the cache keeps."""
    monkeypatch.setattr(output_lines, "STRIDE_ROWS", 4)
    monkeypatch.setattr(output_lines, "SUMS_MAX", 8)
    monkeypatch.setattr(output_lines, "SCAN_ROWS", 10)
    monkeypatch.setattr(output_lines, "SPAN_SEQS", 16)
    monkeypatch.setattr(output_lines, "REST_LINES", 1)
    monkeypatch.setattr(output_lines, "REST_BYTES", 2_000)
    turns, expected = random.Random(seed), Expected()
    async with live_api(database) as api:
        await api.scripted.start(3)
        for _ in range(120):
            name, stream = f"web-{turns.randint(1, 3)}", turns.choice(["stdout", "stderr"])
            data = b"".join(turns.choices(PIECES, k=turns.randint(1, 4)))
            await api.scripted.write(name, data, stream=stream, chunk=turns.randint(1, 9))  # type: ignore[arg-type]
            for each in [data]:
                expected.write(name, stream, each)
            if turns.random() < 0.1:  # the sums are extended as the log grows
                assert (await window(api, count=1))["total"] == len(expected.lines)
        texts = [line["text"] for line in await all_lines(api, turns.randint(1, 40))]
        assert texts == expected.texts()
        for name, stream in (("web-2", None), ("web-1", "stderr"), (None, "stdout")):
            query = {k: v for k, v in (("target", name), ("stream", stream)) if v is not None}
            found = await all_lines(api, 7, **query)
            assert [line["text"] for line in found] == expected.texts(name, stream)
            assert [line["line"] for line in found] == list(range(1, len(found) + 1))
        for _ in range(20):
            first, count = turns.randint(1, len(texts)), turns.randint(1, 30)
            answer = await window(api, **{"from": first, "count": count})
            assert [line["text"] for line in answer["lines"]] == texts[first - 1 :][:count]
            assert answer["next"] == (first + count if first + count <= len(texts) else None)
        await check_search(api, texts)
        last = await window(api, **{"from": -5, "count": 10})
        assert [line["text"] for line in last["lines"]] == texts[-5:]
        assert (last["from"], last["next"]) == (len(texts) - 4, None)


async def check_search(api: LiveApi, texts: list[str]) -> None:
    """A search returns the number of each line that it finds, even if it continues another one."""
    for limit in (10_000, 5):
        found: dict[int, str] = {}
        after, requests = 0, 0
        while after is not None:
            query = {"q": "line", "limit": limit, "after": after}
            answer = await api.http.get("/executions/1/search", params=query)
            *matches, summary = map(json.loads, answer.text.splitlines())
            # Without a number: the line began before the start position.
            found |= {match["line"]: match["text"] for match in matches if match["line"]}
            after, requests = summary["next"], requests + 1
        assert all(texts[line - 1].endswith(text) for line, text in found.items())
        expected = {line for line, text in enumerate(texts, start=1) if "line" in text}
        assert set(found) == expected if limit == 10_000 else set(found) <= expected
    assert requests > 2


async def test_a_line_says_where_it_is_from_and_if_it_has_ended(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start(2)
        await api.scripted.write("web-2", b"Password: ")
        await api.scripted.write("web-1", b"one\n", stream="stderr")
        await api.scripted.drop("web-1", 99, stream="stderr")
        first, second, third = (await window(api))["lines"]
        run = api.scripted.runs["web-2"].id
        assert {k: v for k, v in first.items() if k != "at"} == {
            "line": 1,
            "seq": 5,
            "target_run": run,
            "target": "web-2",
            "action": "step-1",
            "attempt": 1,
            "stream": "stdout",
            "text": "Password: ",
            "complete": False,
            "cut": False,
            "dropped": None,
        }
        assert (second["text"], second["stream"], second["complete"]) == ("one", "stderr", True)
        assert (third["text"], third["dropped"]) == ("", 99)
        await api.scripted.write("web-2", b"granted\nnext\n")
        answer = await window(api, target="web-2")
        assert [line["text"] for line in answer["lines"]] == ["Password: granted", "next"]
        assert answer["lines"][0]["complete"]


async def test_a_line_longer_than_16_kib_is_cut(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start()
        await api.scripted.write("web-1", b"x" * 200_000 + b"\nend\n", chunk=1_000)
        first, second = (await window(api))["lines"]
        assert (first["cut"], len(first["text"]), second["text"]) == (True, 16 << 10, "end")
        assert [line["text"] for line in (await window(api, **{"from": 2}))["lines"]] == ["end"]


async def test_large_windows_end_early_and_go_on(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start()
        await api.scripted.write("web-1", (b"y" * 9_999 + b"\n") * 500)
        answer = await window(api, count=500)
        assert 200 <= len(answer["lines"]) < 300
        assert answer["next"] == len(answer["lines"]) + 1
        assert len(await all_lines(api, 500)) == 500


async def test_a_window_ends_early_if_its_lines_go_on_far_behind_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_lines, "REST_LINES", 1)
    monkeypatch.setattr(output_lines, "REST_BYTES", 3_000)
    async with live_api(database) as api:
        await api.scripted.start(4)
        for data in (b"begins ", b"x" * 3_000 + b"\n", b"next\n"):
            for name in api.scripted.runs:
                await api.scripted.write(name, data)
        answer = await window(api, count=4)
        assert (len(answer["lines"]), answer["next"]) == (1, 2)
        found = await all_lines(api, 4)
        assert [line["text"] for line in found[:4]] == ["begins " + "x" * 3_000] * 4
        assert all(line["complete"] for line in found)


async def test_a_rare_stream_is_looked_for_in_bounded_spans(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_lines, "SPAN_SEQS", 10)
    spans: list[int] = []
    original = LineReader._fetch

    async def fetch(self: LineReader, query: str, *given: Any) -> Any:
        if "%(action)s" not in query and "%(runs)s" not in query:
            spans.append(given[-1]["upto"] - given[-1]["after"])
        return await original(self, query, *given)

    monkeypatch.setattr(LineReader, "_fetch", fetch)
    async with live_api(database) as api:
        await api.scripted.start()
        for part in range(3):
            await api.scripted.write("web-1", b"dull\n" * 40, chunk=5)
            await api.scripted.write("web-1", f"rare {part}\n".encode(), stream="stderr")
        first = await window(api, stream="stderr")
        assert ([line["text"] for line in first["lines"]], first["next"]) == (["rare 0"], 2)
        found = await all_lines(api, 100, stream="stderr")
        assert [line["text"] for line in found] == ["rare 0", "rare 1", "rare 2"]
    assert 0 < max(spans) <= 20


@pytest.mark.parametrize("query", ["from=0", "count=0", "count=2001", "stream=x", "x=1", "from=a"])
async def test_a_wrong_window_is_refused(database: Database, query: str) -> None:
    async with live_api(database) as api:
        await api.scripted.start()
        problem(await api.http.get(f"/executions/1/lines?{query}"), 422, "invalid")


async def test_a_window_beyond_the_end_is_empty(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start()
        assert (await window(api))["lines"] == []
        await api.scripted.write("web-1", b"1\n2\n")
        answer = await window(api, **{"from": 3})
        assert (answer["lines"], answer["total"], answer["next"]) == ([], 2, None)
