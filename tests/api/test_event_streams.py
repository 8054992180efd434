"""Event streams over real sockets."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from api.kit import problem
from api.live import LiveApi, live_api
from opsjobs.api import long_lived as stream
from opsjobs.api.follower import Pace
from opsjobs.bus import Bus
from opsjobs.store.transaction import Database

DEADLINE_SECONDS = 90


async def seqs(api: LiveApi, after: int = 0, frames: int | None = None) -> list[int]:
    """Return the frames until the end, or until the viewer has this many and leaves."""
    seen: list[int] = []
    headers = {"last-event-id": str(after)}
    async with (
        asyncio.timeout(DEADLINE_SECONDS),
        api.http.stream("GET", "/executions/1/events", headers=headers) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                seen.append(int(line[4:]))
            if frames is not None and len(seen) >= frames:
                break
    return seen


@asynccontextmanager
async def viewer_that_does_not_read(
    api: LiveApi, headers: dict[str, str]
) -> AsyncIterator[socket.socket]:
    """A connection that asks for the stream and takes none of it."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, ("127.0.0.1", api.port))
        lines = ["GET /executions/1/events HTTP/1.1", "Host: x"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        await loop.sock_sendall(connection, "\r\n".join([*lines, "", ""]).encode())
        yield connection


async def read_on(connection: socket.socket) -> None:
    while await asyncio.get_running_loop().sock_recv(connection, 1 << 20):
        continue


async def test_clients_that_reconnect_ten_times_see_each_event_once_in_order(
    database: Database,
) -> None:
    async with live_api(database) as api:
        api.followers.pace = Pace(
            merge_seconds=0.005, poll_seconds=0.02, ring_bytes=10_000, page_entries=20
        )
        await api.scripted.start(2)

        async def write() -> None:
            for n in range(100):
                await api.scripted.write(f"web-{n % 2 + 1}", b"%04d\n" % n * 30)
            for name in ("web-1", "web-2"):
                await api.scripted.finish(name)

        async def viewer(seed: int) -> list[int]:
            turns, seen = random.Random(seed), list[int]()
            for _ in range(10):
                seen += await seqs(api, seen[-1] if seen else 0, turns.randint(1, 12))
            return seen + await seqs(api, seen[-1])

        writer = asyncio.create_task(write())
        told = await asyncio.gather(*(viewer(seed) for seed in range(3)))
        await writer
        last = (await api.scripted.current()).last_seq
        for seen in told:
            # Only the end may be repeated, for a viewer that reconnects after it.
            assert [
                seq for n, seq in enumerate(seen) if not (n and seq == seen[n - 1] == last)
            ] == list(range(1, last + 1))


async def test_sse_frames_have_id_event_and_data(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start()
        await api.scripted.write("web-1", "hä\n".encode())
        await api.scripted.finish("web-1")
        text = (await api.http.get("/api/v1/executions/1/events?after=3")).text
        log = (await api.http.get("/api/v1/executions/1/log?after=3")).json()
        run = api.scripted.runs["web-1"].id
        output, result, status, over, end = text.removesuffix("\n\n").split("\n\n")
        assert output.startswith('id: 4\nevent: output\ndata: {"target_run":')
        assert json.loads(output.split("data: ")[1]) == {
            "target_run": run,
            "target": "1",
            "action": "step-1",
            "attempt": 1,
            "stream": "stdout",
            "offset": 0,
            "data": "hä\n",
            "at": log["items"][0]["at"],
        }
        assert [re.findall("event: (.*)", frame)[0] for frame in (result, status, over, end)] == [
            "result",
            "status",
            "status",
            "end",
        ]
        assert end.startswith("id: 8\n")
        assert '"status":"completed"' in end
        assert '"counts":{"succeeded":1}' in end


async def test_without_redis_an_event_comes_within_about_a_second(database: Database) -> None:
    async with live_api(database, Bus(None)) as api:
        execution = await api.scripted.start()
        viewer = asyncio.create_task(seqs(api, execution.last_seq, 1))
        while not api.followers.streams:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        await api.scripted.write("web-1", b"now\n")
        async with asyncio.timeout(60):
            assert await viewer == [execution.last_seq + 1]


async def test_a_stalled_viewer_is_dropped_and_the_others_continue(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = stream.ServerSentEvents.send

    async def send_patiently(viewer: Any, *args: Any, **more: Any) -> None:
        # The other one, in this loop too, must never seem to stall, however busy the machine is.
        seconds = 2.0 if viewer._caller.name == "ben-viewer" else 600.0
        monkeypatch.setattr(stream, "STALL_SECONDS", seconds)
        await send(viewer, *args, **more)

    monkeypatch.setattr(stream.ServerSentEvents, "send", send_patiently)
    async with live_api(database) as api:
        api.followers.pace = Pace(poll_seconds=0.05)
        await api.scripted.start()
        async with viewer_that_does_not_read(api, await api.as_role("viewer")) as connection:
            other = asyncio.create_task(seqs(api))
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not api.followers.dropped:
                    await api.scripted.write("web-1", b"flood\n" * 100_000)
                    await asyncio.sleep(0.05)
                assert api.followers.dropped == 1
                # Reset, not closed: no unsent data is kept for it.
                with pytest.raises(ConnectionResetError):
                    await read_on(connection)
                await api.scripted.finish("web-1")
                assert await other == list(range(1, (await api.scripted.current()).last_seq + 1))


async def test_streams_end_promptly_when_the_process_stops(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start()
        viewers = [asyncio.create_task(seqs(api)) for _ in range(5)]
        while api.followers.streams < 5:
            await asyncio.sleep(0.01)
        async with asyncio.timeout(60):
            await api.followers.close()
            await asyncio.gather(*viewers)
        assert api.followers.streams == 0


async def test_a_disconnected_viewer_is_no_longer_counted(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start()
        assert await seqs(api, frames=1) == [1]
        async with asyncio.timeout(60):
            while api.followers.streams or api.followers._following:
                await asyncio.sleep(0.01)


async def test_the_number_of_event_streams_is_limited(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start()
        api.followers.pace = Pace(viewers=1)
        viewer = asyncio.create_task(seqs(api))
        while not api.followers.streams:
            await asyncio.sleep(0.01)
        answer = await api.http.get("/executions/1/events")
        problem(answer, 429, "too_many_viewers")
        assert answer.headers["retry-after"] == "5"
        await api.scripted.finish("web-1")
        await viewer


@pytest.mark.parametrize("position", ["-1", "x", "99999999999999999999", "1.5"])
async def test_an_invalid_stream_position_is_refused(database: Database, position: str) -> None:
    async with live_api(database) as api:
        await api.scripted.start()
        problem(
            await api.http.get("/executions/1/events", headers={"last-event-id": position}),
            422,
            "invalid",
        )
        problem(await api.http.get(f"/executions/1/events?after={position}"), 422, "invalid")


@pytest.mark.parametrize("ring_bytes", [600, 4 << 20])
async def test_a_filtered_stream_that_reconnects_misses_and_repeats_nothing(
    database: Database, ring_bytes: int
) -> None:
    """With a small ring, old entries are read from the store, and new ones from memory."""
    async with live_api(database) as api:
        api.followers.pace = Pace(
            merge_seconds=0.005, poll_seconds=0.02, ring_bytes=ring_bytes, page_scan=7
        )
        await api.scripted.start(3)
        path = "/executions/1/events?kinds=status,result,end&target=web-2"

        async def write() -> None:
            for n in range(60):
                await api.scripted.write(f"web-{n % 3 + 1}", b"%04d\n" % n * 30)
            for name in ("web-1", "web-2", "web-3"):
                await api.scripted.finish(name)

        async def viewer(frames: int) -> list[tuple[int, str]]:
            seen: list[tuple[int, str]] = []
            while not seen or seen[-1][1] != "end":
                headers = {"last-event-id": str(seen[-1][0] if seen else 0)}
                async with api.http.stream("GET", path, headers=headers) as answer:
                    text = ""
                    async for piece in answer.aiter_text():
                        text += piece
                        if text.count("data: ") >= frames and text.endswith("\n\n"):
                            break
                seen += [
                    (int(seq), event)
                    for seq, event in re.findall(r"id: (\d+)\nevent: (\w+)\ndata: ", text)
                ][:frames]
            return seen

        writer = asyncio.create_task(write())
        async with asyncio.timeout(DEADLINE_SECONDS):
            told = await asyncio.gather(viewer(1), viewer(2), viewer(100))
            await writer
        items = (await api.http.get("/executions/1/log?limit=200")).json()["items"]
        run = api.scripted.runs["web-2"].id
        expected = [
            (item["seq"], item["event"])
            for item in items
            if item["event"] == "end"
            or (item["event"] != "output" and item["data"].get("target_run") == run)
        ]
        assert [event for _, event in expected] == ["status", "result", "status", "end"]
        assert list(told) == [expected] * 3


async def test_a_quiet_filtered_stream_says_how_far_the_log_is(database: Database) -> None:
    async with live_api(database) as api:
        api.followers.pace = Pace(poll_seconds=0.02, keep_alive_seconds=0.3)
        await api.scripted.start()
        await api.scripted.write("web-1", b"x\n")
        last = (await api.scripted.current()).last_seq
        async with (
            asyncio.timeout(DEADLINE_SECONDS),
            api.http.stream("GET", "/executions/1/events?kinds=end") as answer,
        ):
            text = ""
            async for piece in answer.aiter_text():
                text += piece
                if f"id: {last}\n\n" in text:
                    break
        assert "data: " not in text
        assert f": keep-alive\nid: {last}\n\n" in text


@pytest.mark.parametrize("query", ["kinds=", "kinds=status,x", "kind=status", "target=%0A"])
async def test_an_invalid_filter_of_a_stream_is_refused(database: Database, query: str) -> None:
    async with live_api(database) as api:
        await api.scripted.start()
        problem(await api.http.get(f"/executions/1/events?{query}"), 422, "invalid")


async def test_a_stream_of_an_unknown_target_is_refused(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.start()
        answer = await api.http.get("/executions/1/events?target=web-9")
        problem(answer, 404, "target_not_found")
