"""Firing after a downtime: misfire policies, punctual due times first, no stampede."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from kit.schedule_fixtures import ScheduleHarness
from opsjobs.engine.firing.firing import CATCH_UPS_A_PASS, StandIn
from opsjobs.model.time_zones import tzdata_version
from opsjobs.store.retention import Retention, RetentionLimits
from opsjobs.store.scheduling import firings
from opsjobs.store.scheduling.rows import StoredSchedule
from opsjobs.store.transaction import Database
from opsjobs.store.workers import Workers

HOUR, DAY = 3600, 86_400


async def moments(on: ScheduleHarness, schedule: StoredSchedule) -> Counter[str]:
    """Return the number of due times by outcome; `caught up`: triggered late."""
    tally: Counter[str] = Counter()
    for row in await on.rows(schedule):
        status = "caught up" if row["catch_up"] and row["status"] == "triggered" else row["status"]
        tally[status] += row["moments"]
    return tally


@pytest.mark.parametrize(
    ("down", "misfire", "every", "told"),
    [
        (3 * HOUR, "skip", 10, {"missed": 18}),
        (3 * HOUR, "run_once", 10, {"missed": 17, "caught up": 1}),
        (3 * HOUR, "run_all", 10, {"caught up": 6, "missed": 12}),
        (3 * DAY, "skip", 60, {"missed": 72}),
        (3 * DAY, "run_once", 60, {"missed": 71, "caught up": 1}),
        (3 * DAY, "run_all", 60, {"missed": 71, "caught up": 1}),
    ],
)
async def test_each_misfire_policy_handles_missed_moments(
    database: Database, down: int, misfire: str, every: int, told: dict[str, int]
) -> None:
    on = ScheduleHarness(database)
    schedule = await on.schedule(
        await on.job(), interval=every, misfire=misfire, misfire_window="1h", overlap="allow"
    )
    await on.turn(seconds=down + 100)
    await on.scheduler().run_once()
    assert await moments(on, schedule) == told
    assert all(row["reason"] for row in await on.rows(schedule))
    runs = await database.fetch("select uuid from job_executions")
    assert {run["uuid"] for run in runs} == {
        row["uuid"] for row in await on.rows(schedule) if row["status"] == "triggered"
    }


async def test_after_a_long_downtime_one_row_summarizes_all_but_the_last_hundred_moments(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    schedule = await on.schedule(await on.job(), misfire="skip")
    await on.turn(days=3, seconds=100)
    await on.scheduler().run_once()
    first, *others = [row for row in await on.rows(schedule) if row["status"] == "missed"]
    assert (first["due_at"], len(others)) == (schedule.next_due_at, 100)
    assert first["moments"] >= 300
    assert first["until_at"] < others[0]["due_at"]
    told = (await on.told(schedule))[-1]
    assert (told["moments"], told["until_at"] is None) == (first["moments"], False)
    assert (await on.events()).count("schedule.missed") == 1


async def test_moments_on_time_come_first_and_catch_ups_are_limited_per_pass(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    job = await on.job()
    late = [
        await on.schedule(job, f"late-{n}", interval=5, misfire="run_all", overlap="allow")
        for n in range(4)
    ]
    await on.turn(hours=1)
    prompt = [await on.schedule(job, f"prompt-{n}", overlap="allow") for n in range(5)]
    await on.turn(seconds=61)
    scheduler, passes = on.scheduler(), []
    for _ in range(4):
        await scheduler.run_once()
        tally = Counter(row["catch_up"] for row in await on.rows() if row["status"] == "triggered")
        passes.append((tally[False], tally[True]))
    assert [caught for _, caught in passes][:2] == [CATCH_UPS_A_PASS, 2 * CATCH_UPS_A_PASS]
    assert passes[0][0] >= len(prompt)
    order = await database.fetch(
        """select s.name from schedule_executions f join job_schedules s on s.id = f.schedule_id
           where f.status = 'triggered' order by f.execution_id"""
    )
    assert all(row["name"].startswith("prompt") for row in order[: len(prompt)])
    for schedule in late:
        runs = [
            row["execution_id"]
            for row in await on.rows(schedule)
            if row["execution_id"] is not None
        ]
        assert runs == sorted(runs), "a schedule's catch-ups are launched in their order"


async def test_a_worker_stands_in_only_for_a_silent_scheduler(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    schedule = await on.schedule(await on.job(), overlap="allow")
    workers = Workers(database)
    stand_ins = [StandIn(on.scheduler(), workers) for _ in range(2)]
    await workers.tick("scheduler")
    await on.turn(seconds=9)
    assert [dict(await one.run_once()) for one in stand_ins] == [{}, {}]
    assert await on.rows() == []
    await on.turn(seconds=60)
    await asyncio.gather(*(one.run_once() for one in stand_ins))
    assert await moments(on, schedule) == {"triggered": 1}
    await workers.tick("scheduler")
    await on.turn(seconds=5)
    assert [dict(await one.run_once()) for one in stand_ins] == [{}, {}]


async def test_workers_fire_if_there_never_was_a_scheduler(database: Database) -> None:
    on = ScheduleHarness(database)
    schedule = await on.schedule(await on.job())
    await on.turn(seconds=60)
    await StandIn(on.scheduler(), Workers(database)).run_once()
    assert await moments(on, schedule) == {"triggered": 1}


async def test_new_time_zone_rules_move_future_moments_and_none_that_is_due(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    await on.turn_to((await on.now()).replace(hour=12))
    job = await on.job()
    nightly = {"type": "cron", "cron": "30 2 * * *", "timezone": "Europe/Berlin"}
    ahead, due = (
        await on.schedule(job, "ahead", **nightly),
        await on.schedule(job, "due", **nightly),
    )
    real = await on.schedule(job, "real", interval=10)
    assert (ahead.tzdata, real.tzdata) == (tzdata_version(), None)
    async with database.connection() as connection:
        await connection.execute(
            """update job_schedules set tzdata = '1970a', next_due_at = next_due_at + interval '30 minutes',
                 next_fire_at = next_fire_at + interval '30 minutes' where id = %s""",
            [ahead.id],
        )
        await connection.execute(
            """update job_schedules set tzdata = '1970a', next_due_at = opsjobs_now() - interval '1 second',
                 next_fire_at = opsjobs_now() - interval '1 second' where id = %s""",
            [due.id],
        )
    assert (await on.scheduler().run_once())["recomputed"] == 2
    again = await on.schedules.get(ahead.id)
    assert (again.next_due_at, again.tzdata) == (ahead.next_due_at, tzdata_version())
    assert await moments(on, due) == {"triggered": 1}
    assert await on.scheduler().run_once() == {}


async def test_an_idle_pass_reads_the_same_rows_however_many_schedules_there_are(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    await on.schedule(await on.job())
    read = []
    for more in (1_000, 20_000):
        async with database.connection() as connection:
            await connection.execute(_MORE, [more])
            await connection.execute("analyze job_schedules")
        read.append(
            [await _blocks(database, statement) for statement in (firings._CHECK_DUE, firings._DUE)]
        )
    for few, many in zip(*read, strict=True):
        assert many <= few + 3, read


async def _blocks(database: Database, statement: str) -> int:
    """Return the number of blocks that PostgreSQL reads for it."""
    explained = await database.fetch(
        f"explain (analyze, buffers, format json) {statement}", {"from": 0, "to": 1e9, "limit": 50}
    )
    plan = explained[0]["QUERY PLAN"][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


_MORE = """
insert into job_schedules (uuid, job_id, name, definition, owner, next_due_at, next_fire_at)
select gen_random_uuid(), s.job_id, gen_random_uuid(), s.definition, 'ada', s.next_due_at + interval '1 day', s.next_fire_at + interval '1 day'
from job_schedules s cross join generate_series(1, %s) n where s.name = 'nightly'"""


async def test_firings_are_deleted_after_their_retention(database: Database) -> None:
    on = ScheduleHarness(database)
    job = await on.job()
    schedule, gone = await on.schedule(job, overlap="queue"), await on.schedule(job, "gone")
    for _ in range(2):
        await on.turn(seconds=60)
        await on.scheduler().run_once()
    await on.schedules.delete(gone.id, "ada")
    keep = RetentionLimits(DAY, DAY, DAY, 100, DAY, firing_seconds=2.0 * HOUR)
    retention = Retention(database)
    assert await retention.delete_firings(keep) == 0
    async with database.connection() as connection:
        await connection.execute("update job_schedules set next_due_at = null, next_fire_at = null")
    await on.turn(hours=3)
    deleted: Any = await retention.delete_firings(keep)
    assert deleted == 3
    assert [row["status"] for row in await on.rows(schedule)] == ["pending"], "what waits stays"
    assert await retention.delete_firings(keep) == 1, (
        "a deleted schedule goes with the last of its firings"
    )
    assert [row["id"] for row in await database.fetch("select id from job_schedules")] == [
        schedule.id
    ]


async def test_a_moment_on_time_goes_before_a_catch_up_of_the_same_schedule(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    schedule = await on.schedule(await on.job(), misfire="run_once", overlap="skip")
    await on.turn(hours=3, seconds=1)
    await on.scheduler().run_once()
    last, before = (await on.told(schedule))[:2]
    assert (last["status"], before["status"], before["rule"]) == ("triggered", "skipped", "overlap")
