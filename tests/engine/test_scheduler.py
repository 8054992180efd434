"""The scheduler's tick: repair rounds, events, and when it may reap leases."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from engine.harness import Harness, harness
from engine.test_loop import Rounds
from engine.test_rescuer import rescuer
from kit.ledger_fixtures import Owner
from opsjobs.bus import Bus
from opsjobs.engine.background import scheduler as scheduling
from opsjobs.engine.background.event_publisher import EventPublisher
from opsjobs.engine.background.housekeeping import Rescuer
from opsjobs.engine.background.scheduler import Scheduler
from opsjobs.engine.events import EventBuilder
from opsjobs.model.errors import Unavailable
from opsjobs.store.outbox import Outbox
from opsjobs.store.transaction import Database
from wakeup.server_processes import give_redis_time

LEASE = 600.0
"""Seconds; whatever a loaded machine adds to the rounds is little beside it."""


class FakeTime:
    """The module `time` with a monotonic clock that a test can set forward, as that of the database."""

    def __init__(self) -> None:
        self.at = 1_000.0

    def monotonic(self) -> float:
        return self.at + time.monotonic()


@pytest.fixture
def redis_url(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A Redis that is well, and gets time to answer."""
    give_redis_time(monkeypatch)
    return redis_url


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    made = FakeTime()
    monkeypatch.setattr(scheduling, "time", made)
    return made


def scheduler(on: Harness) -> Scheduler:
    publisher = EventPublisher(
        Outbox(on.database),
        EventBuilder(on.executions, on.journal),
        Bus(None, on.metrics),
        on.metrics,
    )
    made = Scheduler(on.workers, publisher, lease_seconds=LEASE)
    made.rescuer = rescuer(on, lambda: made.may_reap, lambda: made.database_now)
    return made


class Broken(Rescuer):
    """A rescuer with a bug."""

    async def run_once(self) -> Mapping[str, int]:
        """Fail."""
        raise ZeroDivisionError("a bug (as scripted)")


async def test_a_failed_repair_round_does_not_block_the_event_publisher(
    database: Database, redis_url: str, fake_time: FakeTime
) -> None:
    async with harness(database) as on:
        bus = Bus(redis_url, on.metrics)
        ticking = Scheduler(
            on.workers,
            EventPublisher(
                Outbox(database), EventBuilder(on.executions, on.journal), bus, on.metrics
            ),
            lease_seconds=LEASE,
        )
        ticking.rescuer = Broken(on.ledger, on.workers, may_reap=lambda: False, notify=on.notify)
        async with on.worker():
            await on.run("true")
        async with bus.listen("opsconductor.events"):
            assert await bus.has_listeners("opsconductor.*") is True
            for _ in range(4):
                with pytest.raises(ZeroDivisionError):
                    await ticking.run_once()
                fake_time.at += 250
                await on.turn(250)
        assert await database.fetch("select id from events where published_at is null") == []
        assert ticking.may_reap, "the database was well all the time"
        await bus.close()


async def test_the_scheduler_ticks_and_reaps_leases_only_after_a_lease_of_healthy_rounds(
    database: Database, fake_time: FakeTime
) -> None:
    async with harness(database) as on:
        dead = await Owner(database, "dead").register(lease_seconds=1)
        await on.turn(2)
        ticking = scheduler(on)
        buried = []
        for _ in range(4):
            buried.append((await ticking.run_once())["leases_expired"])
            fake_time.at += 250
            await on.turn(250)
        assert buried == [0, 0, 0, 1]  # after 0, 250, 500, 750 s
        assert await database.fetch("select id from workers where buried_at is not null") == [
            {"id": dead.id}
        ]
        assert [
            row["name"] for row in await database.fetch("select name from services order by name")
        ] == [
            "reconciler",
            "scheduler",
        ]


async def test_after_an_outage_the_scheduler_waits_for_a_lease_before_it_reaps(
    database: Database, fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with harness(database) as on:
        ticking = scheduler(on)
        await ticking.run_once()
        fake_time.at += LEASE
        assert ticking.may_reap
        monkeypatch.setattr(on.workers, "tick", Rounds(Unavailable("away")))
        with pytest.raises(TypeError):  # any error at all counts
            await ticking.run_once()
        monkeypatch.undo()
        assert not ticking.may_reap


async def test_a_scheduler_that_was_frozen_reaps_no_lease_at_once(
    database: Database, fake_time: FakeTime
) -> None:
    """Its last rounds succeeded; it cannot know that PostgreSQL was down meanwhile.

    No worker could renew its lease then.
    """
    async with harness(database) as on:
        await Owner(database, "not-dead").register(lease_seconds=900)
        ticking = scheduler(on)
        for _ in range(4):
            await ticking.run_once()
            fake_time.at += 200
            await on.turn(200)
        assert ticking.may_reap
        fake_time.at += 1_000
        await on.turn(1_000)
        assert (await ticking.run_once())["leases_expired"] == 0
        assert not ticking.may_reap
        assert await database.fetch("select 1 from workers where buried_at is not null") == []
        assert time.monotonic() != fake_time.at
