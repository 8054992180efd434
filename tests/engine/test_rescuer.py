"""The rescuer, the scheduler's tick, and the loop that both run in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import pytest

from engine.harness import Harness, harness
from kit.ledger_fixtures import Owner
from opsjobs.bus import Bus
from opsjobs.engine.background import scheduler as scheduling
from opsjobs.engine.background.event_publisher import EventPublisher
from opsjobs.engine.background.rescuer import Rescuer
from opsjobs.engine.background.scheduler import Scheduler
from opsjobs.engine.loop import Loop
from opsjobs.model.errors import Unavailable
from opsjobs.model.execution import ExecutionStatus
from opsjobs.store.outbox import Outbox
from opsjobs.store.transaction import Database
from opsjobs.telemetry import Metrics


def rescuer(
    on: Harness,
    may_reap: Callable[[], bool] = lambda: True,
    database_now: Callable[[], float | None] = lambda: None,
) -> Rescuer:
    return Rescuer(
        on.ledger,
        on.workers,
        may_reap=may_reap,
        notify=on.notify,
        round_seconds=0,
        database_now=database_now,
    )


async def test_the_expired_are_buried_by_those_alone_who_may(database: Database) -> None:
    async with harness(database, open_ends=True) as on:
        await Owner(database, "alive").register(lease_seconds=1_000)
        await Owner(database, "away", zone="far").register(lease_seconds=10)
        await on.turn(11)
        assert (await rescuer(on, lambda: False).run_once())["leases_expired"] == 0
        assert await on.database.fetch("select 1 from workers where buried_at is not null") == []
        assert (await rescuer(on).run_once())["leases_expired"] == 1
        assert await on.database.fetch("select name from workers where buried_at is not null") == [
            {"name": "away"}
        ]
        assert on.notified == ["far"]
        assert (await rescuer(on).run_once())["leases_expired"] == 0
        events = await database.fetch("select type, data ->> 'name' as name from events")
        assert events == [{"type": "worker.lost", "name": "away"}]


async def test_what_was_left_behind_is_mended(database: Database) -> None:
    async with harness(database) as on:
        stopped = await on.launch("true", 3)
        expired = await on.launch("true", 2, timeout=60)
        async with database.connection() as connection:
            await connection.execute(
                "update job_executions set cancelling = true where id = %s", [stopped.id]
            )
        await on.turn(61)
        done = await rescuer(on).run_once()
        assert (done["cancelled"], done["expired"]) == (3, 2)
        assert (await on.ended(stopped)).status is ExecutionStatus.CANCELLED
        assert (await on.ended(expired)).status is ExecutionStatus.TIMEOUT


class Rounds:
    """A `run_once` that does as it is told, and can be waited for."""

    def __init__(self, *faults: Exception | None) -> None:
        self.count = 0
        self._faults = [*faults]
        self._changed = asyncio.Condition()

    async def __call__(self) -> Mapping[str, int]:
        async with self._changed:
            self.count += 1
            self._changed.notify_all()
        fault = self._faults.pop(0) if self._faults else None
        if fault is not None:
            raise fault
        return {"done": self.count}

    async def reach(self, count: int) -> None:
        async with self._changed, asyncio.timeout(60):
            await self._changed.wait_for(lambda: self.count >= count)


@asynccontextmanager
async def looping(
    rounds: Rounds, interval_seconds: float, metrics: Metrics | None = None
) -> AsyncIterator[Loop]:
    loop = Loop("rounds", rounds, interval_seconds=interval_seconds, metrics=metrics or Metrics())
    loop.start()
    try:
        yield loop
    finally:
        await loop.stop()


async def test_an_error_ends_the_round_and_not_the_loop() -> None:
    metrics = Metrics()
    rounds = Rounds(ZeroDivisionError("a bug"), Unavailable("away"))
    async with looping(rounds, 0.001, metrics):
        await rounds.reach(4)
    assert metrics.bugs.labels("rounds")._value.get() == 1
    count = rounds.count
    await asyncio.sleep(0.01)
    assert rounds.count == count, "it went on after its stop"


async def test_a_loop_whose_cancel_comes_with_an_answer_ends_all_the_same() -> None:
    asked, answer = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def round_() -> Mapping[str, int]:
        asked.set()
        await asyncio.wait_for(
            answer, 60
        )  # Python 3.11 drops a cancel that comes together with the answer
        return {}

    loop = Loop("rounds", round_, interval_seconds=3_600, metrics=Metrics())
    loop.start()
    await asked.wait()
    answer.set_result(None)
    async with asyncio.timeout(30):
        await loop.stop()


async def test_a_loop_is_woken_before_its_time() -> None:
    rounds = Rounds()
    async with looping(rounds, 3_600) as loop:
        for count in (1, 2, 3):
            await rounds.reach(count)
            loop.wake()
        await rounds.reach(4)


async def test_a_loop_that_never_began_can_be_stopped() -> None:
    await Loop("rounds", Rounds(), interval_seconds=1, metrics=Metrics()).stop()


class Hand:
    """The module `time` with a monotonic clock that stands until it is turned."""

    def __init__(self) -> None:
        self.at = 1_000.0

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Hand:
    made = Hand()
    monkeypatch.setattr(scheduling, "time", made)
    return made


def scheduler(on: Harness) -> Scheduler:
    publisher = EventPublisher(
        Outbox(on.database), on.executions, on.journal, Bus(None, on.metrics), on.metrics
    )
    made = Scheduler(on.workers, publisher, lease_seconds=15)
    made.rescuer = rescuer(on, lambda: made.may_reap, lambda: made.database_now)
    return made


class Broken(Rescuer):
    """A rescuer with a bug."""

    async def run_once(self) -> Mapping[str, int]:
        """Fail."""
        raise ZeroDivisionError("a bug (as scripted)")


async def test_a_round_of_repair_that_fails_keeps_no_event_from_being_told(
    database: Database, redis_url: str, hand: Hand
) -> None:
    async with harness(database) as on:
        bus = Bus(redis_url, on.metrics)
        ticking = Scheduler(
            on.workers,
            EventPublisher(Outbox(database), on.executions, on.journal, bus, on.metrics),
            lease_seconds=15,
        )
        ticking.rescuer = Broken(on.ledger, on.workers, may_reap=lambda: False, notify=on.notify)
        async with on.worker():
            await on.run("true")
        async with bus.listen("opsconductor.events"):
            assert await bus.has_listeners("opsconductor.*") is True
            for _ in range(4):
                with pytest.raises(ZeroDivisionError):
                    await ticking.run_once()
                hand.at += 7
                await on.turn(7)
        assert await database.fetch("select id from events where published_at is null") == []
        assert ticking.may_reap, "the database was well all the time"
        await bus.close()


async def test_the_scheduler_notes_its_tick_and_buries_only_after_a_lease_of_good_rounds(
    database: Database, hand: Hand
) -> None:
    async with harness(database) as on:
        dead = await Owner(database, "dead").register(lease_seconds=1)
        await on.turn(2)
        ticking = scheduler(on)
        buried = []
        for _ in range(4):
            buried.append((await ticking.run_once())["leases_expired"])
            hand.at += 7
            await on.turn(7)
        assert buried == [0, 0, 0, 1]  # after 0, 7, 14, 21 s
        assert await database.fetch("select id from workers where buried_at is not null") == [
            {"id": dead.id}
        ]
        assert [
            row["name"] for row in await database.fetch("select name from services order by name")
        ] == [
            "reconciler",
            "scheduler",
        ]


async def test_after_an_outage_the_scheduler_waits_for_a_lease_again(
    database: Database, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with harness(database) as on:
        ticking = scheduler(on)
        await ticking.run_once()
        hand.at += 15
        assert ticking.may_reap
        monkeypatch.setattr(on.workers, "tick", Rounds(Unavailable("away")))
        with pytest.raises(TypeError):  # any error at all counts
            await ticking.run_once()
        monkeypatch.undo()
        assert not ticking.may_reap


async def test_a_scheduler_that_was_frozen_itself_buries_nobody_at_once(
    database: Database, hand: Hand
) -> None:
    """Its last rounds were good; that PostgreSQL was away meanwhile, and nobody could renew, it cannot know."""
    async with harness(database) as on:
        await Owner(database, "not-dead").register(lease_seconds=300)
        ticking = scheduler(on)
        for _ in range(4):
            await ticking.run_once()
            hand.at += 5
            await on.turn(5)
        assert ticking.may_reap
        hand.at += 600
        await on.turn(600)
        assert (await ticking.run_once())["leases_expired"] == 0
        assert not ticking.may_reap
        assert await database.fetch("select 1 from workers where buried_at is not null") == []
        assert time.monotonic() != hand.at
