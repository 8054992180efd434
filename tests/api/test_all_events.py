"""GET /events over real sockets: replay without gap or repeat, within the caller's rights."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from api.kit import job, problem
from api.live import LiveApi, live_api
from opsjobs.api import events
from opsjobs.store.transaction import Database

Seen = tuple[str, str, dict[str, Any]]


@asynccontextmanager
async def following(
    api: LiveApi, query: str = "", headers: dict[str, str] | None = None
) -> AsyncIterator[AsyncIterator[Seen]]:
    """Return the frames of a stream that have an event: id, event and data."""
    async with (
        asyncio.timeout(60),
        api.http.stream("GET", f"/events{query}", headers=headers) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()

        async def frames() -> AsyncIterator[Seen]:
            fields: dict[str, str] = {}
            async for line in answer.aiter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                    continue
                if "event" in fields:
                    yield fields["id"], fields["event"], json.loads(fields["data"])
                fields = {}

        yield frames()


async def take(frames: AsyncIterator[Seen], count: int) -> list[Seen]:
    return [await anext(frames) for _ in range(count)]


async def create(api: LiveApi, name: str, **fields: Any) -> None:
    answer = await api.http.post("/jobs", json=job(name=name, **fields))
    assert answer.status_code == 201, answer.text
    await api.services.event_feed.assign()


async def test_events_come_from_now_on_with_their_place_and_filtered_by_type(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "POLL_SECONDS", 0.02)
    async with live_api(database) as api:
        await api.targets("web-1")
        await create(api, "before")
        async with following(api) as all_, following(api, "?type=job.deleted") as deleted:
            await create(api, "first")
            assert (await api.http.delete("/jobs/2")).status_code == 204
            await api.services.event_feed.assign()
            seen = await take(all_, 2)
            assert [(id_, kind) for id_, kind, _ in seen] == [
                ("2-0", "job.created"),
                ("3-0", "job.deleted"),
            ]
            assert seen[0][2]["data"]["name"] == "first"
            assert seen[0][2]["specversion"] == "1.0"
            assert await take(deleted, 1) == seen[1:]


async def test_events_have_no_text_of_a_command(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "POLL_SECONDS", 0.02)
    async with live_api(database) as api:
        await api.targets("web-1")
        body = {"actions": [{"command": "echo the-text"}], "targets": {"ids": ["web-1"]}}
        for more in ({}, {"policy": {"approval": {}}}):
            answer = await api.http.post("/run", json=body | more)
            assert answer.json()["summary"] == "echo the-text"
        (asked,) = (await api.http.get("/approvals")).json()["items"]
        assert asked["summary"] == "echo the-text"
        await api.services.event_feed.assign()
        async with following(api, "?after=0&type=approval.*&type=execution.*") as frames:
            seen = await take(frames, 2)
        assert {kind for _, kind, _ in seen} == {"approval.requested", "execution.queued"}
        assert "the-text" not in json.dumps(seen)


async def test_a_client_that_reconnects_misses_and_repeats_nothing_also_within_a_row(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(events, "RING_EVENTS", 3)
    monkeypatch.setattr(events, "PAGE_ROWS", 2)
    async with live_api(database) as api:
        await api.scripted.start(3)
        for name in ("web-1", "web-2", "web-3"):
            await api.scripted.finish(name)
        await api.services.event_feed.assign()
        async with following(api, "?after=0") as whole:
            everything = [await anext(whole)]
            while everything[-1][1] != "job.completed":
                everything.append(await anext(whole))
        assert len({id_ for id_, _, _ in everything}) == len(everything)
        assert len([kind for _, kind, _ in everything if kind == "target_run.finished"]) == 3
        again, place = list[Seen](), "0"
        while len(again) < len(everything):
            async with following(
                api, "" if again else "?after=0", {"last-event-id": place} if again else None
            ) as part:
                again += await take(part, 1)
                place = again[-1][0]
        assert [each[0] for each in again] == [each[0] for each in everything]


async def test_a_caller_gets_what_it_may_see_and_loses_the_stream_with_its_token(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "POLL_SECONDS", 0.02)
    async with live_api(database) as api:
        api.services.limits = api.services.limits.__class__(
            **{
                **{
                    name: getattr(api.services.limits, name)
                    for name in api.services.limits.__slots__
                },
                "stream_reauth_seconds": 0.05,
            }
        )
        await api.targets("web-1")
        issued = await api.http.post(
            "/api-keys", json={"name": "ben", "role": "viewer", "scope": "env=staging"}
        )
        ben = {"Authorization": f"Bearer {issued.json()['token']}"}
        async with following(api, "?type=job.*", ben) as seen:
            await create(api, "foreign", tags=["env=prod"])
            await create(api, "own", tags=["env=staging"])
            ((_, _, event),) = await take(seen, 1)
            assert event["data"]["name"] == "own"
            await api.http.delete(f"/api-keys/{issued.json()['id']}")
            ((_, kind, refusal),) = await take(seen, 1)
            assert (kind, refusal["status"], refusal["code"]) == ("refused", 401, "token_invalid")


async def test_a_place_that_was_deleted_is_410_and_a_wrong_one_422(database: Database) -> None:
    async with live_api(database) as api:
        await api.targets("web-1")
        await create(api, "one")
        await create(api, "two")
        await database.fetch(
            "update events set at = '2020-01-01', published_at = '2020-01-01' where position = 1 "
            "returning id"
        )
        assert await api.services.event_feed.delete_old() == 1
        headers = {"last-event-id": "0-0"}
        problem(await api.http.get("/events", headers=headers), 410, "events_deleted")
        async with following(api, headers={"last-event-id": "1-0"}) as rest:
            assert (await take(rest, 1))[0][0] == "2-0"
        for query in (
            "?after=x",
            "?after=99",
            "?after=1-",
            "?type=job.exploded",
            "?after=" + "9" * 20,
        ):
            answer = await api.http.get(f"/events{query}")
            assert answer.status_code == 422, query


async def test_quiet_streams_are_kept_alive_with_the_place(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(events, "KEEP_ALIVE_SECONDS", 0.1)
    async with live_api(database) as api:
        await api.targets("web-1")
        async with (
            asyncio.timeout(60),
            api.http.stream("GET", "/events?type=worker.lost") as answer,
        ):
            lines = answer.aiter_lines()
            assert [await anext(lines) for _ in range(2)] == [": connected", "id: 0"]
            assert (await anext(lines), await anext(lines)) == ("", ": keep-alive")
            await create(api, "unseen")
            async for line in lines:
                if line == "id: 1":
                    break


async def test_viewers_that_connect_together_share_one_reader(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "POLL_SECONDS", 0.02)
    async with live_api(database) as api:
        await api.targets("web-1")
        tail: events.EventTail = api.app.state.event_tail
        start = await tail.start_after(None)

        async def watch() -> list[str]:
            seen = list[str]()
            async with aclosing(tail.batches(start, lambda: 0.1)) as batches:
                async for batch in batches:
                    seen += [str(event.cursor) for event in batch.events]
                    if len(seen) >= 2:
                        return seen
            raise AssertionError(seen)

        async def act() -> None:
            while len(readers()) == 0:
                await asyncio.sleep(0.01)
            await create(api, "one")
            await create(api, "two")

        def readers() -> list[asyncio.Task[Any]]:
            return [task for task in asyncio.all_tasks() if task.get_name() == "event-tail"]

        async with asyncio.timeout(60):
            *seen, _ = await asyncio.gather(watch(), watch(), watch(), act())
            assert seen == [["1-0", "2-0"]] * 3
            while readers():
                await asyncio.sleep(0.01)


async def test_a_reader_that_meets_a_fault_retries_and_leaves_out_a_row_that_fails_for_an_hour(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(events, "RETRY_SECONDS", 0.02)
    async with live_api(database) as api:
        await api.targets("web-1")
        build, failed = api.services.event_builder.build, asyncio.Event()

        def broken(row: Any) -> Any:
            if row.data["name"] == "broken":
                failed.set()
                raise ZeroDivisionError
            return build(row)

        monkeypatch.setattr(api.services.event_builder, "build", broken)
        async with following(api) as seen:
            await create(api, "broken")
            await asyncio.wait_for(failed.wait(), 60)
            await create(api, "good")
            await database.fetch("update events set at = at - interval '2 hours' returning 1")
            assert [id_ for id_, _, _ in await take(seen, 1)] == ["2-0"]
        assert api.services.metrics.bugs.labels("event_tail")._value.get() >= 2
        async with following(api, "?after=0") as again:
            assert [id_ for id_, _, _ in await take(again, 1)] == ["2-0"], "as well from a page"
