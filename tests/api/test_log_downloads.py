"""The log by pages, as lines and as bytes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import resource
import sys

import pytest

from api.kit import problem
from api.live import live_api
from kit.scripted_worker import target
from opsjobs.store.transaction import Database


async def test_the_log_is_read_page_by_page(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start()
        for n in range(10):
            await api.scripted.write("web-1", b"%d\n" % n)
        await api.scripted.finish("web-1")
        last = (await api.scripted.current()).last_seq
        seen, path = [], "/executions/1/log?limit=4"
        while path:
            answer = await api.http.get(path)
            seen += answer.json()["items"]
            path = answer.headers["link"].split(">")[0][1:] if answer.json()["next"] else ""
        assert [item["seq"] for item in seen] == list(range(1, last + 1))
        assert {item["event"] for item in seen} == {"status", "output", "result", "end"}
        assert all(set(item) == {"seq", "at", "event", "data"} for item in seen)
        after = (await api.http.get(f"/executions/1/log?after={last - 1}")).json()
        assert ([item["event"] for item in after["items"]], after["next"]) == (["end"], None)
        lines = (await api.http.get("/executions/1/log?format=ndjson")).text.splitlines()
        assert [json.loads(line) for line in lines] == seen


async def test_one_stream_is_downloaded_byte_for_byte(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start(2)
        blob = random.Random(1).randbytes(700_001)
        for at in range(0, len(blob), 100_000):
            await api.scripted.write("web-1", blob[at : at + 100_000])
            await api.scripted.write("web-2", b"noise\n")
            await api.scripted.write("web-1", b"err\x00\n", stream="stderr")
        answer = await api.http.get("/executions/1/log?format=text&target=web-1&stream=stdout")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.content == blob
        assert (
            await api.http.get("/executions/1/log?format=text&target=1&stream=stderr")
        ).content == b"err\x00\n" * 8


async def test_a_download_can_be_narrowed_to_an_action(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.launch(1, commands=["one", "two"])
        await api.scripted.claim()
        await api.scripted.write("web-1", b"1")
        await api.scripted.end_action("web-1", "step-1")
        await api.scripted.write("web-1", b"2", action="step-2")
        path = "/executions/1/log?format=text&target=web-1&stream=stdout"
        assert (await api.http.get(path)).content == b"12"
        assert (await api.http.get(f"{path}&action=step-2")).content == b"2"
        assert (await api.http.get(f"{path}&attempt=2")).content == b""


async def test_text_lines_are_prefixed_with_target_names(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.launch([target(1), target(2, "db-1")])
        await api.scripted.claim()
        await api.scripted.write("web-1", b"up 3 d")
        await api.scripted.write("db-1", b"down\n")
        await api.scripted.write("web-1", b"ays\nbye")
        await api.scripted.drop("db-1", 42)
        await api.scripted.write("db-1", b"oh\n", stream="stderr")
        answer = await api.http.get("/executions/1/log?format=text")
        assert answer.headers["content-type"].startswith("text/plain")
        assert answer.text.splitlines() == [
            "db-1 | down",
            "web-1 | up 3 days",
            "db-1 | [42 bytes of stdout were not kept]",
            "db-1 | oh",
            "web-1 | bye",
        ]
        assert (
            await api.http.get("/executions/1/log?format=text&stream=stderr")
        ).text == "db-1 | oh\n"
        assert (
            await api.http.get("/executions/1/log?format=text&target=web-1")
        ).text == "web-1 | up 3 days\nweb-1 | bye\n"


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("format=xml", 422, "invalid"),
        ("after=-1", 422, "invalid"),
        ("after=99999999999999999999", 422, "invalid"),
        ("limit=0", 422, "invalid"),
        ("limit=201", 422, "invalid"),
        ("stream=stdin&format=text", 422, "invalid"),
        ("target=web-1", 422, "invalid"),
        ("what=1", 422, "invalid"),
        ("format=text&target=web-9", 404, "target_not_found"),
        ("format=text&target=%00", 422, "invalid"),
        ("cursor=abc", 422, "invalid"),
    ],
)
async def test_an_invalid_log_query_is_refused(
    database: Database, query: str, status: int, code: str
) -> None:
    async with live_api(database) as api:
        await api.scripted.start()
        problem(await api.http.get(f"/executions/1/log?{query}"), status, code)


async def test_fifty_megabytes_are_downloaded_in_bounded_memory(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start()
        portion, told, sent = random.Random(2).randbytes(5 << 20), hashlib.sha256(), 0
        for _ in range(10):
            await api.scripted.write("web-1", portion)
            told.update(portion)
        before = _peak_bytes()
        got = hashlib.sha256()
        async with api.http.stream(
            "GET", "/executions/1/log?format=text&target=web-1&stream=stdout"
        ) as answer:
            async for piece in answer.aiter_bytes():
                got.update(piece)
                sent += len(piece)
        assert (sent, got.hexdigest()) == (50 << 20, told.hexdigest())
        assert _peak_bytes() - before < 16 << 20


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


async def test_a_stalled_download_holds_no_database_connection(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start()
        for _ in range(4):
            await api.scripted.write("web-1", bytes(5 << 20))
        async with api.http.stream(
            "GET", "/executions/1/log?format=text&target=web-1&stream=stdout"
        ) as answer:
            pieces = answer.aiter_bytes(1_000)
            await anext(pieces)
            # The download continues until the sockets' buffers are full; then it stands still, and
            # holds no connection.
            async with asyncio.timeout(60):
                while (stats := database._pool.get_stats())["pool_available"] != stats["pool_size"]:
                    await asyncio.sleep(0.05)
            assert (await api.http.get("/executions/1")).status_code == 200
