"""Housekeeping and retention: a turn for one process at a time, of independent steps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from structlog.testing import capture_logs

from engine.harness import Harness, harness, until
from kit.ledger_fixtures import Owner, faults, launch, machines
from opsjobs.engine.background.housekeeping import LEFTOVERS_SECONDS, Housekeeper, Rescuer
from opsjobs.engine.loop import TURN_PAUSE_SECONDS, TURN_SECONDS, Turn
from opsjobs.model.errors import Unavailable
from opsjobs.store.blobs import Contents
from opsjobs.store.deliveries import Deliveries
from opsjobs.store.execution_log import DAYS_AHEAD, Partitions
from opsjobs.store.feeds import EventFeed, FeedBounds
from opsjobs.store.idempotency import delete_old_keys
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.notifications import Notifications
from opsjobs.store.retention import Leftovers
from opsjobs.store.statistics import Statistics
from opsjobs.store.transaction import Database
from opsjobs.store.workers import SingletonLock
from opsjobs.telemetry.metrics import Metrics


class Clock:
    """A monotonic clock that tests advance."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def step(log: list[str], name: str, *parts: int | Exception) -> Callable[[], Awaitable[int]]:
    """Return a step that does so much at each call, or fails; after that it does nothing."""
    left = [*parts]

    async def part() -> int:
        log.append(name)
        now = left.pop(0) if left else 0
        if isinstance(now, Exception):
            raise now
        return now

    return part


def housekeeper(on: Harness) -> Housekeeper:
    return Housekeeper(
        Turn("housekeeping", SingletonLock(on.database), on.metrics),
        SingletonLock(on.database),
        on.metrics,
        reconciler=Reconciler(on.database),
        workers=on.workers,
        delete_old_events=EventFeed(on.database, keep_seconds=86_400).delete_old,
        more={"deliveries_forgotten": partial(Deliveries(on.database).delete_old, 7 * 86_400)},
        count_hour=Statistics(on.database).count_hour,
        delete_old_notification_states=Notifications(on.database).delete_old,
        delete_old_keys=partial(delete_old_keys, on.database),
        partitions=Partitions(on.database),
        contents=Contents(on.database),
        leftovers=Leftovers(on.database),
    )


def failures(metrics: Metrics, name: str) -> float:
    return metrics.upkeep_failures.labels(name)._value.get()


async def pass_seconds(database: Database, seconds: float) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "update opsjobs_clock set shift = shift + make_interval(secs => %s)", [seconds]
        )


async def test_a_failed_step_of_a_turn_is_counted_and_ends_no_other(
    database: Database,
) -> None:
    metrics, log = Metrics(), list[str]()
    steps = {
        "bug": step(log, "bug", ZeroDivisionError("a bug"), 1),
        "slow": step(log, "slow", Unavailable("canceling statement due to statement timeout"), 1),
        "good": step(log, "good", 3, 2),
    }
    with capture_logs() as lines:
        done = await Turn("service", SingletonLock(database), metrics).run(steps)
    assert done == {"bug": 0, "slow": 0, "good": 5}
    assert log == ["bug", "slow", "good", "good", "good"]
    assert [
        (line["step"], line["log_level"]) for line in lines if line["event"] == "step_failed"
    ] == [
        ("bug", "error"),
        ("slow", "warning"),
    ]
    assert [failures(metrics, name) for name in steps] == [1, 1, 0]
    assert metrics.bugs.labels("service")._value.get() == 1


async def test_a_turn_continues_while_there_is_work_and_time_and_has_no_pause_if_work_is_left(
    database: Database,
) -> None:
    clock, log = Clock(), list[str]()
    turn = Turn("service", SingletonLock(database), Metrics(), monotonic=clock)

    async def endless() -> int:
        clock.at += TURN_SECONDS / 10
        return 100

    steps = {"endless": endless, "short": step(log, "short", 1, 1)}
    assert await turn.run(steps) == {"endless": 1_000, "short": 2}
    assert log == ["short"] * 3
    assert (await turn.run(steps))["endless"] == 1_000, "it need not wait"
    assert await turn.run({"short": step(log, "short", 1)}) == {"short": 1}
    assert await turn.run(steps) == {}, "nothing was left: now there is a pause"
    await pass_seconds(database, TURN_PAUSE_SECONDS)
    assert (await turn.run(steps))["endless"] == 1_000


async def test_each_step_has_its_first_part_however_long_the_others_take(
    database: Database,
) -> None:
    clock, log = Clock(), list[str]()

    async def slow() -> int:
        clock.at += 10 * TURN_SECONDS
        return 1

    assert await Turn("service", SingletonLock(database), Metrics(), monotonic=clock).run(
        {"slow": slow, "last": step(log, "last", 1)}
    ) == {
        "slow": 1,
        "last": 1,
    }


async def test_one_process_at_a_time_has_the_turn_while_it_renews_it(
    database: Database,
) -> None:
    first, second = (Turn("service", SingletonLock(database), Metrics()) for _ in range(2))
    seen = list[object]()

    async def part() -> int:
        await pass_seconds(database, TURN_PAUSE_SECONDS - 1)
        seen.append(await second.run({"other": step([], "other", 1)}))
        return len(seen) < 3

    assert await first.run({"part": part}) == {"part": 2}
    assert seen == [{}, {}, {}]
    await pass_seconds(database, -3_600)
    assert await second.run({"other": step([], "other", 1)}) == {"other": 1}, (
        "a clock that was set back stops nothing"
    )


async def test_a_turn_ends_if_postgresql_is_away(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics, log, turns = Metrics(), list[str](), SingletonLock(database)

    async def away(_service: str) -> None:
        raise Unavailable("away")

    monkeypatch.setattr(turns, "renew", away)
    with pytest.raises(Unavailable):
        await Turn("service", turns, metrics).run(
            {"first": step(log, "first", Unavailable("away")), "second": step(log, "second")}
        )
    assert log == ["first"]


async def test_expensive_checks_run_once_a_minute_and_repair_slots(database: Database) -> None:
    async with harness(database, bugs=["counters"]) as on:
        await on.launch("true", 1)
        async with database.connection() as connection:
            await connection.execute("update target_slots set used = 2")
        await on.turn(1)
        assert (await housekeeper(on).run_once())["counters_mended"] == 1
        assert await faults(database) == []
        assert await housekeeper(on).run_once() == {}
        await on.turn(TURN_PAUSE_SECONDS)
        assert (await housekeeper(on).run_once())["counters_mended"] == 0
        async with on.worker():
            await until(lambda: _nothing_open(on))


async def test_a_wrong_counter_is_counted_as_a_bug(database: Database) -> None:
    async with harness(database, bugs=["counters"]) as on:
        execution = await on.launch("true", 2)
        await on.turn(120)
        async with database.connection() as connection:
            await connection.execute("update job_executions set ready = 1, waiting = 1")
        with capture_logs() as lines:
            await housekeeper(on).run_once()
        assert [line["miscounted"] for line in lines if line["event"] == "counters_differ"] == [1]
        async with database.connection() as connection:
            await connection.execute("update job_executions set ready = 2, waiting = 0")
        async with on.worker():
            await on.ended(execution)


async def test_short_lived_rows_are_deleted_however_many_there_are(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsjobs.store.feeds.DELETED_ROWS_MAX", 16 * 5)
    monkeypatch.setattr("opsjobs.store.idempotency.DELETED_ROWS_MAX", 16 * 5)
    async with harness(database) as on:
        await database.fetch(
            """insert into events (shard, type, subject, at, published_at)
            select n % 16, 'x.y', gen_random_uuid(), opsjobs_now() - a, case when p then opsjobs_now() - a end
            from generate_series(1, 200) n, (values (interval '25 hours', true), ('8 days', false)) k(a, p) returning 1"""
        )
        await database.fetch(
            """insert into idempotency_keys (principal, route, key, body_sha256, created_at)
            select 'ada', 'POST /jobs', n::text, decode(repeat('00', 32), 'hex'), opsjobs_now() - make_interval(hours => n / 10)
            from generate_series(1, 490) n returning 1"""
        )
        assert await EventFeed(database).assign() == 400
        gone = await Owner(database, "gone").register()
        await gone.die()
        await on.turn(7 * 86_400 - 50)
        done = await housekeeper(on).run_once()
        assert done["workers_forgotten"] == 0
        await on.turn(TURN_PAUSE_SECONDS)
        assert (await housekeeper(on).run_once())["workers_forgotten"] == 1
        assert done["keys_forgotten"] == 490
        left = await database.fetch(
            "select count(*) filter (where published_at is null) as untold, count(*) as n from events where type = 'x.y'"
        )
        assert left == [{"untold": 0, "n": 0}]


async def test_recent_events_and_idempotency_keys_stay(database: Database) -> None:
    async with harness(database) as on:
        await database.fetch(
            """insert into events (shard, type, subject, at, published_at)
            select n, 'x.y', gen_random_uuid(), opsjobs_now() - a, case when p then opsjobs_now() - a end
            from generate_series(0, 15) n, (values (interval '25 hours', true), ('23 hours', true), ('8 days', false), ('6 days', false)) k(a, p)
            order by a desc returning 1"""
        )
        await database.fetch(
            """insert into idempotency_keys (principal, route, key, body_sha256, created_at)
            select 'ada', 'POST /jobs', n::text, decode(repeat('00', 32), 'hex'), opsjobs_now() - make_interval(hours => n)
            from generate_series(20, 27) n returning 1"""
        )
        await EventFeed(database).assign()
        await database.fetch("update delivery_sources set position = 64 returning 1")
        done = await housekeeper(on).run_once()
        assert (done["events_forgotten"], done["keys_forgotten"]) == (16, 4)
        assert await EventFeed(database).bounds() == FeedBounds(16, 64), (
            "those behind an unpublished one stay: the stream has no gap"
        )
        await database.fetch("update events set published_at = opsjobs_now() returning 1")
        await on.turn(TURN_PAUSE_SECONDS)
        assert (await housekeeper(on).run_once())["events_forgotten"] == 32
        kept = await database.fetch("select min(position) as first, count(*) as n from events")
        assert kept == [{"first": 49, "n": 16}]


async def test_a_day_without_a_partition_is_logged_and_blocks_no_other_step(
    database: Database,
) -> None:
    async with harness(database) as on:
        await on.turn((DAYS_AHEAD + 1) * 86_400)
        await database.fetch(
            "insert into events (shard, type, subject, at, published_at) "
            "select 0, 'x.y', gen_random_uuid(), d, d from (select timestamptz '2020-01-01' as d) o returning 1"
        )
        await EventFeed(database).assign()
        await launch(database, machines(1))
        broken, *_ = await Partitions(database).find_missing()
        async with database.connection() as connection:
            await connection.execute(
                f"create table execution_log_{broken:%Y%m%d} (in_the_way int)".encode()
            )
        with capture_logs() as lines:
            done = await housekeeper(on).run_once()
        assert [
            list(line["days"]) for line in lines if line["event"] == "partition_creation_failed"
        ] == [[str(broken)]]
        assert (done["events_forgotten"], failures(on.metrics, "partitions_made")) == (1, 1)
        assert await Partitions(database).find_missing() == [broken]
        async with on.worker():
            await until(lambda: _nothing_open(on))


async def test_leftovers_of_deleted_targets_are_deleted_unless_an_open_run_needs_them(
    database: Database,
) -> None:
    async with harness(database) as on:
        await database.fetch(
            """insert into targets (uuid, name, host, port, transport, platform, host_key_policy, slots)
            select gen_random_uuid(), 'web-' || n, '10.0.0.1', 22, 'ssh', 'linux', 'pinned', 10 from generate_series(1, 4) n returning 1"""
        )
        await database.fetch(
            "insert into target_state (target_id, store_id, boot_id) select id::text, 's', 'b' from targets returning 1"
        )
        async with on.worker():
            await on.run("true", 4)
        execution = await on.launch("true", 2)  # on web-1 and web-2
        await database.fetch("delete from targets where id in (1, 3) returning 1")
        assert (await housekeeper(on).run_once())["leftovers_forgotten"] == 2
        for table in ("target_slots", "target_state"):
            assert await database.fetch(f"select target_id from {table} order by 1") == [
                {"target_id": t} for t in ("1", "2", "4")
            ]
        async with on.worker():
            await on.ended(execution)
        await on.turn(TURN_PAUSE_SECONDS)
        assert (await housekeeper(on).run_once())["leftovers_forgotten"] == 0, (
            "it is for once a day"
        )
        await on.turn(LEFTOVERS_SECONDS)
        assert (await housekeeper(on).run_once())["leftovers_forgotten"] == 2


async def test_a_run_whose_target_slots_were_deleted_gets_them_back(database: Database) -> None:
    async with harness(database) as on:
        execution = await on.launch("true", 2)
        await database.fetch("delete from target_slots where target_id = '1' returning 1")
        await housekeeper(on).run_once()
        async with on.worker():
            await on.ended(execution)


async def test_housekeeping_continues_if_the_rescuer_fails(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with harness(database) as on:

        async def broken() -> None:
            raise ZeroDivisionError

        reconciler = Reconciler(on.database)
        monkeypatch.setattr(reconciler, "run_once", broken)
        rescuer = Rescuer(reconciler, on.workers, may_reap=lambda: True, notify=on.notify)
        with pytest.raises(ZeroDivisionError):
            await rescuer.run_once()
        await housekeeper(on).run_once()  # the database may have been made on the day before
        await on.turn(86_400)
        done = await housekeeper(on).run_once()
        assert done["partitions_made"] == 1


async def test_concurrent_processes_have_one_turn(database: Database) -> None:
    turns = SingletonLock(database)
    assert sorted(await asyncio.gather(*(turns.acquire("service", 60) for _ in range(3)))) == [
        False,
        False,
        True,
    ]


async def _nothing_open(on: Harness) -> bool:
    return await on.database.fetch("select 1 from job_executions where finished_at is null") == []
