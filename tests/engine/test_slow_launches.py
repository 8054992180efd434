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
