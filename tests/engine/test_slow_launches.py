"""A launch that is slow to prepare holds up no schedule that comes due meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import pytest

from engine.harness import until
from kit.ledger_fixtures import faults
from kit.schedule_fixtures import ScheduleHarness
from opsjobs import failpoints
from opsjobs.engine.firing import firing, schedule_launch
from opsjobs.engine.firing.firing import FiringService
from opsjobs.engine.launching.safety_service import SafetyService
from opsjobs.model.errors import Unavailable
from opsjobs.model.safety_verdict import Finding
from opsjobs.safety import SafetyQuestion
from opsjobs.store.scheduling.due_firings import CLAIM_SECONDS
from opsjobs.store.scheduling.firings import Firings, FiringsDue
from opsjobs.store.transaction import Database

SECONDS = 60


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(schedule_launch, "PREPARE_SECONDS", 600.0)
    yield
    failpoints.arm("")


class SlowHarness(ScheduleHarness):
    """Jobs of which those whose command is `slow` are prepared until `release` is set."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.begun, self.release = asyncio.Event(), asyncio.Event()
        self.launcher.safety = SafetyService(self._check, self.inventory, self.clock)

    async def _check(self, asked: SafetyQuestion) -> tuple[Finding, ...]:
        if asked.text == "slow":
            self.begun.set()
            await self.release.wait()
        return ()

    async def due_in(self, seconds: float, name: str) -> None:
        """A job with a schedule that is due once, in so many seconds."""
        job = await self.job(name, actions=[{"type": "command", "command": name}])
        at = await self.now() + timedelta(seconds=seconds)
        await self.schedule(job, name, type="once", at=at.isoformat())

    async def due_slow(self, count: int, seconds: float, *, once: bool) -> None:
        """So many schedules of one slow job, due once in so many seconds, or every minute."""
        job = await self.job("slow", actions=[{"type": "command", "command": "slow"}])
        at = await self.now() + timedelta(seconds=seconds)
        due = {"type": "once", "at": at.isoformat()} if once else {"overlap": "allow"}
        for n in range(count):
            await self.schedule(job, f"s{n}", **due)

    async def fired(self) -> int:
        """The number of schedules that have fired."""
        rows = await self.database.fetch("select distinct schedule_id from schedule_executions")
        return len(rows)

    async def pass_until_launched(self, scheduler: FiringService, schedules: int) -> None:
        """Passes until so many schedules have fired, and nothing waits."""

        async def launched() -> bool:
            await scheduler.run_once()
            waiting = "pending" in (await self.statuses()).values()
            return not waiting and await self.fired() == schedules

        await until(launched, SECONDS)

    async def statuses(self) -> dict[str, str]:
        """The status of the firing of each schedule."""
        rows = await self.database.fetch(
            "select s.name, f.status from schedule_executions f "
            "join job_schedules s on s.id = f.schedule_id"
        )
        return {row["name"]: row["status"] for row in rows}

    async def pass_until(self, scheduler: FiringService, statuses: dict[str, str]) -> None:
        """Passes until the firings have these statuses."""

        async def has_them() -> bool:
            await scheduler.run_once()
            return await self.statuses() == statuses

        await until(has_them, SECONDS)

    async def begin_slow(self, scheduler: FiringService) -> None:
        """A pass that leaves a slow launch."""
        await self.due_in(3600, "slow")
        await self.turn(seconds=3600)
        await scheduler.run_once()
        async with asyncio.timeout(SECONDS):
            await self.begun.wait()
        assert await self.statuses() == {"slow": "pending"}


async def test_a_schedule_that_comes_due_while_a_launch_is_slow_is_launched_before_it(
    database: Database,
) -> None:
    on = SlowHarness(database)
    scheduler = on.scheduler(patience_seconds=0)
    await on.begin_slow(scheduler)
    await on.due_in(5, "quick")
    await on.turn(seconds=5)
    await on.pass_until(scheduler, {"slow": "pending", "quick": "triggered"})
    on.release.set()
    await on.pass_until(scheduler, {"slow": "triggered", "quick": "triggered"})
    await scheduler.stop()
    rows = await database.fetch("select job_id from job_executions order by job_id")
    assert [row["job_id"] for row in rows] == [1, 2], "each is launched once"
    assert await faults(database) == []


async def test_a_pass_begins_no_launch_while_as_many_as_may_be_are_under_way(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firing, "PREPARED_AT_ONCE", 1)
    on = SlowHarness(database)
    scheduler = on.scheduler(patience_seconds=0)
    await on.begin_slow(scheduler)
    await on.due_in(5, "quick")
    await on.turn(seconds=5)
    assert await scheduler.run_once() == {}
    assert await on.statuses() == {"slow": "pending"}
    assert scheduler.rest_seconds <= 0.25, "it looks again soon"
    on.release.set()
    await on.pass_until(scheduler, {"slow": "triggered", "quick": "triggered"})


@pytest.mark.parametrize("once", [True, False], ids=["on time", "long overdue"])
async def test_a_pass_begins_no_more_launches_than_are_prepared_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch, once: bool
) -> None:
    monkeypatch.setattr(firing, "PREPARED_AT_ONCE", 2)
    monkeypatch.setattr(firing, "LAUNCH_FIRINGS", 5)
    monkeypatch.setattr(firing, "FIRE_SCHEDULES", 5)
    on = SlowHarness(database)
    await on.due_slow(20, 600, once=once)
    await on.turn(seconds=600)
    scheduler = on.scheduler(patience_seconds=0)
    for _ in range(3):
        await scheduler.run_once()
        assert await on.fired() <= 10, "two batches; the others stay for a later pass"
    on.release.set()
    await on.pass_until_launched(scheduler, 20)
    assert await faults(database) == []


async def test_slow_schedules_on_time_leave_a_place_to_firings_that_have_waited(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firing, "PREPARED_AT_ONCE", 2)
    monkeypatch.setattr(firing, "LAUNCH_FIRINGS", 1)
    on = SlowHarness(database)
    scheduler = on.scheduler(patience_seconds=0)
    await on.due_in(5, "quick")
    await on.turn(seconds=5)
    fired = await on.firings.fire(1)  # as by a process that is killed before it launches
    assert len(fired.ready) == 1
    await on.due_slow(3, CLAIM_SECONDS, once=True)
    await on.turn(seconds=CLAIM_SECONDS)
    await on.pass_until(scheduler, {"quick": "triggered", "s0": "pending"})
    on.release.set()
    await on.pass_until_launched(scheduler, 4)
    assert await faults(database) == []


async def test_a_launch_that_waited_too_long_to_be_prepared_is_left_to_a_later_pass(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firing, "PREPARED_AT_ONCE", 1)
    on = SlowHarness(database)
    scheduler = on.scheduler(patience_seconds=0)
    await on.begin_slow(scheduler)
    monkeypatch.setattr(firing, "PREPARED_AT_ONCE", 3)
    monkeypatch.setattr(firing, "QUEUE_SECONDS_MAX", -1.0)
    await on.due_in(5, "quick")
    await on.turn(seconds=5)
    await on.pass_until(scheduler, {"slow": "pending", "quick": "pending"})
    on.release.set()
    await on.pass_until(scheduler, {"slow": "triggered", "quick": "pending"})
    monkeypatch.setattr(firing, "QUEUE_SECONDS_MAX", float(SECONDS))
    await on.turn(seconds=CLAIM_SECONDS)
    await on.pass_until(scheduler, {"slow": "triggered", "quick": "triggered"})
    rows = await database.fetch("select attempts from schedule_executions order by id")
    assert rows[1]["attempts"] > 1, "it was claimed again"
    assert len(await database.fetch("select from job_executions")) == 2, "each is launched once"
    assert await faults(database) == []


async def test_a_pass_that_fails_reports_the_launches_that_failed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = SlowHarness(database)
    scheduler = on.scheduler(patience_seconds=0)
    await on.begin_slow(scheduler)
    failpoints.arm("firing.launch:error")
    on.release.set()

    async def broken(_: Firings) -> FiringsDue:
        raise ZeroDivisionError("a bug (as scripted)")

    async def both_failed() -> bool:
        try:
            await scheduler.run_once()
        except ExceptionGroup as failed:
            return [type(one) for one in failed.exceptions] == [ZeroDivisionError, Unavailable]
        except ZeroDivisionError:
            return False
        raise AssertionError("the pass did not fail")

    with monkeypatch.context() as patched:
        patched.setattr(Firings, "check_due", broken)
        await until(both_failed, SECONDS)
    failpoints.arm("")
    await scheduler.run_once()  # each failure is raised once
    await on.turn(seconds=CLAIM_SECONDS)
    await on.pass_until(scheduler, {"slow": "triggered"})


async def test_a_launch_that_fails_after_its_pass_fails_a_later_pass(database: Database) -> None:
    on = SlowHarness(database)
    scheduler = on.scheduler(patience_seconds=0)
    await on.begin_slow(scheduler)
    failpoints.arm("firing.launch:error")
    on.release.set()

    async def failed() -> bool:
        try:
            await scheduler.run_once()
        except Unavailable:
            return True
        return False

    await until(failed, SECONDS)
    failpoints.arm("")
    assert await on.statuses() == {"slow": "pending"}
    await on.turn(seconds=CLAIM_SECONDS)
    await on.pass_until(scheduler, {"slow": "triggered"})


async def test_a_scheduler_that_stops_leaves_a_slow_launch_to_another(database: Database) -> None:
    on = SlowHarness(database)
    scheduler = on.scheduler(patience_seconds=0)
    await on.begin_slow(scheduler)
    await scheduler.stop()
    on.release.set()
    await on.turn(seconds=CLAIM_SECONDS)
    assert await on.scheduler().run_once() == {"triggered": 1}
    assert await faults(database) == []
