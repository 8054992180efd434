"""Firing under faults: killed and frozen schedulers lose no due time and fire none twice."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.ledger_fixtures import faults
from kit.schedule_fixtures import ScheduleHarness
from opsjobs import failpoints
from opsjobs.engine.firing.firing import FiringService
from opsjobs.model.errors import Unavailable
from opsjobs.store.scheduling.due_firings import CLAIM_SECONDS
from opsjobs.store.transaction import Database

TESTS = Path(__file__).parents[1]
ONE_PASS = """
import asyncio, sys
from kit.schedule_fixtures import ScheduleHarness
from opsjobs.store.transaction import Database, DatabaseOptions

async def main():
    database = Database(DatabaseOptions(sys.argv[1]))
    await database.open()
    await ScheduleHarness(database).scheduler().run_once()
    await database.close()

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


async def check_consistency(on: ScheduleHarness, schedules: int, moments: int) -> None:
    """Check that due times and executions match one to one, and that the ledger is consistent."""
    rows = await on.rows()
    assert {row["status"] for row in rows} == {"triggered"}
    assert len(rows) == schedules * moments
    query = """select f.uuid, e.uuid as execution from schedule_executions f full join job_executions e on e.id = f.execution_id
        where f.uuid is distinct from e.uuid"""
    assert await on.database.fetch(query) == []
    assert await on.database.fetch("select from job_schedules where firings <> %s", [moments]) == []
    told = await on.database.fetch(
        "select count(*) as n from events where type = 'schedule.triggered'"
    )
    assert told == [{"n": schedules * moments}]
    assert await faults(on.database) == []


@pytest.mark.parametrize("count", [2, 5])
async def test_concurrent_schedulers_launch_every_moment_once(
    database: Database, count: int
) -> None:
    on = ScheduleHarness(database)
    job = await on.job()
    for n in range(30):
        await on.schedule(job, f"s{n}", overlap="allow", interval=10)
    schedulers = [on.scheduler() for _ in range(count)]
    for _ in range(3):
        await on.turn(minutes=10)
        await asyncio.gather(*(scheduler.run_once() for scheduler in schedulers))
    await settled(on, schedulers[0])
    await check_consistency(on, 30, 3)


async def settled(on: ScheduleHarness, scheduler: FiringService) -> None:
    """Run passes until nothing waits, including claims of other schedulers."""
    for _ in range(20):
        await scheduler.run_once()
        if not await on.database.fetch(
            "select from schedule_executions where status = 'pending' limit 1"
        ):
            return
        await on.turn(seconds=CLAIM_SECONDS)
    raise AssertionError("something waits for ever")


@pytest.mark.parametrize("step", ["fire", "firing.prepare", "firing.launch"])
async def test_the_next_scheduler_fires_the_moments_of_a_killed_one(
    database: Database, database_url: str, step: str
) -> None:
    on = ScheduleHarness(database)
    job = await on.job()
    for n in range(3):
        await on.schedule(job, f"s{n}", overlap="allow", interval=10)
    await on.turn(minutes=10)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{TESTS}:{TESTS.parent / 'src'}",
        failpoints.VARIABLE: f"{step}:kill",
    }
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ONE_PASS, database_url, env=environment
    )
    assert await asyncio.wait_for(killed.wait(), 120) == -signal.SIGKILL
    assert [row["status"] for row in await on.rows()] == ([] if step == "fire" else ["pending"] * 3)
    await settled(on, on.scheduler())
    await check_consistency(on, 3, 1)


@pytest.mark.parametrize(
    "order",
    [f"{step}:{way}" for step in ("fire", "firing.launch") for way in ("error", "error_after")],
)
async def test_a_commit_without_an_answer_is_no_second_execution(
    database: Database, order: str
) -> None:
    on = ScheduleHarness(database)
    job = await on.job()
    for n in range(3):
        await on.schedule(job, f"s{n}", overlap="allow", interval=10)
    await on.turn(minutes=10)
    failpoints.arm(f"{order}@1")
    with pytest.raises(Unavailable):
        await on.scheduler().run_once()
    failpoints.arm("")
    await settled(on, on.scheduler())
    await check_consistency(on, 3, 1)


async def test_a_firing_that_cannot_be_written_does_not_block_others(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    good, bad = await on.job(), await on.job("bad")
    for n in range(30):
        await on.schedule(good, f"s{n}", overlap="allow", interval=10)
    await on.schedule(bad, "bad", overlap="allow", interval=10)
    async with database.connection() as connection:
        await connection.execute(
            f"""create function refuse() returns trigger language plpgsql as $$
                begin if new.job_id = {bad.job.id} then raise 'no such thing'; end if; return new; end $$;
                create trigger refuse before insert on job_executions for each row execute function refuse()"""
        )
    await on.turn(minutes=10)
    await on.scheduler().run_once()
    stands = {(row["schedule_id"] == 31, row["status"]) for row in await on.rows()}
    assert stands == {(False, "triggered"), (True, "pending")}
    (waiting,) = [row for row in await on.rows() if row["status"] == "pending"]
    assert waiting["reason"] == "a fault of opsjobs: RaiseException"


async def test_the_claims_of_a_frozen_scheduler_are_left_to_it_and_all_else_is_fired(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    job = await on.job()
    first, second = [
        await on.schedule(job, f"s{n}", overlap="allow", interval=10) for n in range(2)
    ]
    await on.turn(minutes=10)
    scheduler = on.scheduler()
    async with database.transaction() as connection:
        await connection.execute(
            "select from job_schedules where id = %s for no key update", [first.id]
        )
        await scheduler.run_once()
        rest = scheduler.rest_seconds
        assert [row["schedule_id"] for row in await on.rows()] == [second.id]
        assert 0 < rest <= 0.25, "it looks again soon, and not without a pause"
    await settled(on, scheduler)
    await check_consistency(on, 2, 1)


async def test_a_scheduler_whose_claim_has_expired_launches_nothing(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    await on.schedule(await on.job(), overlap="allow", interval=10)
    await on.turn(minutes=10)
    frozen = await on.firings.fire(10)
    assert len(frozen.ready) == 1
    assert await on.firings.claim(10, catch_up=False) == []
    await on.turn(seconds=CLAIM_SECONDS + 1)
    await on.scheduler().run_once()
    before = await on.rows()
    preparer = on.scheduler()._preparer
    late = await preparer.prepare(frozen.ready)
    batch = await on.firings.launch([order for order in late if hasattr(order, "new")])  # type: ignore[misc]
    assert (batch.ran, batch.ended, batch.waiting) == ([], [], [])
    assert await on.rows() == before
    await check_consistency(on, 1, 1)


async def test_a_moment_whose_execution_exists_is_not_launched_again(
    database: Database,
) -> None:
    """Like a database whose firings were restored from before its executions."""
    on = ScheduleHarness(database)
    await on.schedule(await on.job(), overlap="allow", interval=10)
    await on.turn(minutes=10)
    await on.scheduler().run_once()
    async with database.connection() as connection:
        await connection.execute(
            """update schedule_executions set status = 'pending', execution_id = null, fired_at = null, not_before = opsjobs_now(),
                 expires_at = opsjobs_now() + interval '1 hour'"""
        )
    await on.scheduler().run_once()
    assert len(await database.fetch("select from job_executions")) == 1
    (row,) = await on.rows()
    assert (row["status"], row["execution_id"]) == ("triggered", 1)
