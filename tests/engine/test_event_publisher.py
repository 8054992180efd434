"""The event publisher: the outbox reaches the bus in order, at least once, with ids."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from engine.harness import Harness, harness, until
from kit.ledger_fixtures import Owner
from opsjobs import failpoints
from opsjobs.bus import Bus, Messages
from opsjobs.engine.background import event_publisher
from opsjobs.engine.background.event_publisher import EventPublisher
from opsjobs.engine.events import EventBuilder
from opsjobs.engine.loop import Loop
from opsjobs.model.errors import NotFound, Unavailable
from opsjobs.store.outbox import Outbox
from opsjobs.store.transaction import Database
from opsjobs.telemetry import trace_context
from opsjobs.telemetry.trace_context import TraceContext
from wakeup.server_processes import give_redis_time, own_redis

Event = dict[str, Any]
LAUNCH = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis gets time to answer, and listeners get time to come back."""
    give_redis_time(monkeypatch)
    monkeypatch.setattr(event_publisher, "COME_BACK_SECONDS", 600.0)


def publisher_of(on: Harness, bus: Bus) -> EventPublisher:
    builder = EventBuilder(on.executions, on.journal)
    return EventPublisher(Outbox(on.database), builder, bus, on.metrics)


async def next_messages(messages: Messages, count: int) -> list[tuple[str, Event]]:
    """Return the next messages: channel and event."""
    async with asyncio.timeout(60):
        return [
            (channel, json.loads(message))
            for channel, message in [await anext(messages) for _ in range(count)]
        ]


def kinds(told: list[tuple[str, Event]]) -> list[str]:
    return [event["type"].removeprefix("io.opsconductor.").removesuffix(".v1") for _, event in told]


async def test_events_reach_the_bus_in_order_with_their_twins_and_once(
    database: Database, redis_url: str
) -> None:
    async with harness(database) as on:
        async with on.worker():
            with trace_context.within(LAUNCH):
                execution = await on.run("true", 2, max_parallel=1)
        bus = Bus(redis_url, on.metrics)
        publisher = publisher_of(on, bus)
        async with (
            bus.listen("opsconductor.events") as all_of_them,
            bus.listen("opsconductor.events.*") as by_kind,
        ):
            assert await publisher.run_once() == {"published": 9}
            told, again = await next_messages(all_of_them, 9), await next_messages(by_kind, 9)
            assert await publisher.run_once() == {"published": 0}
        await bus.close()
        assert kinds(told) == [
            "execution.queued", "execution.started", "job.started", "target_run.started", "target_run.finished",
            "target_run.started", "target_run.finished", "execution.completed", "job.completed",
        ]  # fmt: skip
        assert [event for _, event in told] == [event for _, event in again]
        assert [channel for channel, _ in again] == [
            f"opsconductor.events.{kind}" for kind in kinds(told)
        ]
        assert len({event["id"] for _, event in told}) == 9
        runs = [row["uuid"] for row in await on.rows(execution)]
        assert [event["subject"] for _, event in told if "target_run" in event["type"]] == [
            str(u) for u in (runs[0], runs[0], runs[1], runs[1])
        ]
        assert {event["subject"] for _, event in told if "target_run" not in event["type"]} == {
            execution.uuid
        }
        assert told[-2][1]["data"] == told[-1][1]["data"] == execution.event_data()
        assert {event["traceparent"] for _, event in told} == {LAUNCH.traceparent}
        seqs = [
            e.seq
            for e in await on.log(execution)
            if e.target_run is not None and e.event == "status"
        ]
        assert [event["id"] for _, event in told if "target_run" in event["type"]] == [
            f"{execution.uuid}/{seq}" for seq in seqs
        ]


async def test_events_published_but_not_marked_are_published_again_with_the_same_ids(
    database: Database, redis_url: str
) -> None:
    async with harness(database) as on:
        async with on.worker():
            await on.run("true", 1)
        bus = Bus(redis_url, on.metrics)
        publisher = publisher_of(on, bus)
        async with bus.listen("opsconductor.events") as messages:
            failpoints.arm("publish:error_after@1")
            with pytest.raises(Unavailable):
                await publisher.run_once()
            first = await next_messages(messages, 7)
            await publisher.run_once()
            assert await next_messages(messages, 7) == first
        await bus.close()


async def test_events_wait_while_redis_is_away_and_are_published_after_that(
    database: Database,
) -> None:
    async with harness(database) as on:
        with own_redis() as redis:
            bus = Bus(redis.url, on.metrics)
            loop = Loop(
                "event_publisher",
                publisher_of(on, bus).run_once,
                interval_seconds=0.05,
                metrics=on.metrics,
            )
            async with bus.listen("opsconductor.events") as messages:
                await asyncio.to_thread(redis.stop, 2)
                loop.start()
                async with on.worker():
                    await on.run("true", 2)
                assert await _untold(database) > 0
                await asyncio.to_thread(redis.start)
                told = await next_messages(messages, 9)
                assert kinds(told)[0] == "execution.queued"
                assert kinds(told)[-1] == "job.completed"
                await until(lambda: _all_told(database))
                await loop.stop()
            await bus.close()


async def _untold(database: Database) -> int:
    return len(await database.fetch("select 1 from events where published_at is null"))


async def _all_told(database: Database) -> bool:
    return await _untold(database) == 0


async def test_a_fact_that_cannot_be_published_blocks_no_other_shard_and_is_dropped_after_an_hour(
    database: Database, redis_url: str
) -> None:
    async with harness(database) as on:
        bus = Bus(redis_url, on.metrics)
        publisher = publisher_of(on, bus)
        async with bus.listen("opsconductor.events"):
            assert await bus.has_listeners("opsconductor.*") is True
            # An execution that was deleted; and before it in its shard an event that can be
            # published.
            await database.fetch(
                """insert into events (shard, type, subject, execution_id, data) values
                     (0, 'worker.lost', gen_random_uuid(), null, '{}'), (0, 'execution.queued', gen_random_uuid(), 999999, null)
                   returning id"""
            )
            async with on.worker():
                execution = await on.run("true")
            assert execution.id % 16 != 0
            with pytest.raises(NotFound):
                await publisher.run_once()
            assert await _untold(database) == 1
            published = on.metrics.events_published._value.get()
            with pytest.raises(NotFound):
                await publisher.run_once()
            assert on.metrics.events_published._value.get() == published, (
                "nothing is told twice because of it"
            )
            await on.turn(3_601)
            with pytest.raises(NotFound):
                await publisher.run_once()
            assert await _untold(database) == 0
        await bus.close()


async def test_without_listeners_nothing_is_published_or_kept(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with harness(database) as on:
        async with on.worker():
            await on.run("true", 2)
        bus = Bus(redis_url, on.metrics)
        publisher = publisher_of(on, bus)
        assert await publisher.run_once() == {"published": 0}
        assert not await _all_told(database), (
            "what ended the process before may have ended Redis and its listeners, too"
        )
        monkeypatch.setattr("opsjobs.engine.background.event_publisher.COME_BACK_SECONDS", 0.0)
        assert await publisher.run_once() == {"published": 0}
        assert await _all_told(database)
        await bus.close()


async def test_listeners_get_time_to_reconnect_after_an_outage_of_redis(
    database: Database, redis_url: str
) -> None:
    """Every subscription broke with Redis.

    No subscribers right after its return does not mean that there are none.
    """
    async with harness(database) as on:
        async with on.worker():
            await on.run("true", 2)
        away, back = Bus("unix:///nowhere", on.metrics), Bus(redis_url, on.metrics)
        publisher = publisher_of(on, away)
        assert await publisher.run_once() == {"published": 0}
        publisher._bus = back
        assert await publisher.run_once() == {"published": 0}
        assert not await _all_told(database)
        async with back.listen("opsconductor.events") as messages:
            assert await publisher.run_once() == {"published": 9}
            assert len(await next_messages(messages, 9)) == 9
        await back.close()


async def test_a_slow_redis_ends_a_batch_early_and_published_events_are_marked(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_publisher, "BATCH_SECONDS", 0.0)
    async with harness(database) as on:
        async with on.worker():
            await on.run("true", 1)
        bus = Bus(redis_url, on.metrics)
        async with bus.listen("opsconductor.events"):
            left = [await _untold(database)]
            while left[-1]:
                await publisher_of(on, bus).run_once()
                left.append(await _untold(database))
            assert left == [*range(left[0], -1, -1)]
        await bus.close()


async def test_two_publishers_publish_everything_once(database: Database, redis_url: str) -> None:
    async with harness(database) as on:
        async with on.worker():
            for _ in range(4):
                await on.run("true", 5)
        bus = Bus(redis_url, on.metrics)
        async with bus.listen("opsconductor.events") as messages:
            done = await asyncio.gather(*(publisher_of(on, bus).run_once() for _ in range(4)))
            told = await next_messages(messages, sum(counts["published"] for counts in done))
        await bus.close()
        ids = [event["id"] for _, event in told]
        assert len(ids) == len(set(ids)) == 4 * (5 + 10)


async def test_a_lost_run_is_published_as_lost(database: Database, redis_url: str) -> None:
    async with harness(database) as on:
        await on.launch()
        dead = await Owner(database, "dead").register()
        (run,) = (await dead.claim()).runs
        await on.bury("dead")
        async with on.worker():
            await on.ended(await on.executions.get(run.execution_id))
        bus = Bus(redis_url, on.metrics)
        async with bus.listen("opsconductor.events") as messages:
            count = (await publisher_of(on, bus).run_once())["published"]
            told = await next_messages(messages, count)
        await bus.close()
        assert [kind for kind in kinds(told) if "run" in kind] == [
            "target_run.started",
            "target_run.lost",
        ]
