"""The state of the platform's services over all processes: reports, the worst view, dead processes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from opsjobs.clock import TurnedClock
from opsjobs.engine.background.status import (
    REPEAT_SECONDS,
    IntegrationReporter,
)
from opsjobs.integrations.services.health import ServiceHealth
from opsjobs.store.integration_reports import KEPT_SECONDS, IntegrationReports
from opsjobs.store.transaction import Database

AT = datetime(2026, 11, 29, 3, 0, tzinfo=UTC)


class Process:
    """Return a process that is connected to the Audit Service."""

    def __init__(self, database: Database, name: str, clock: TurnedClock) -> None:
        self.health = ServiceHealth("audit", "http://audit:8080", "opsconductor-v3", clock)
        self.reporter = IntegrationReporter(
            IntegrationReports(database), lambda: [self.health.status()], clock, process=name
        )

    async def asked(self, error: str | None = None) -> None:
        """Let it request something of the service, and report."""
        if error is None:
            self.health.succeeded()
        else:
            self.health.failed(error)
        self.health.tried()
        await self.reporter.run_once()


async def test_the_worst_view_counts_and_each_process_is_named(database: Database) -> None:
    clock = TurnedClock(AT)
    api, worker, scheduler = (
        Process(database, name, clock) for name in ("api a-1", "worker b-2", "scheduler c-3")
    )
    await api.reporter.run_once()
    await worker.asked()
    await scheduler.asked("it answers 500")
    (found,) = await api.reporter.load()
    assert (found.worst.process, found.worst.state) == ("scheduler c-3", "failing")
    assert (found.worst.last_error, found.worst.host) == ("it answers 500", "audit:8080")
    assert [(view.process, view.state) for view in found.views] == [
        ("api a-1", "unused"),
        ("scheduler c-3", "failing"),
        ("worker b-2", "ok"),
    ]
    await scheduler.asked()
    (found,) = await api.reporter.load()
    assert found.worst.state == "ok"


async def test_its_own_view_is_read_from_memory_and_not_from_the_last_report(
    database: Database,
) -> None:
    api = Process(database, "api a-1", TurnedClock(AT))
    await api.asked()
    api.health.failed("it answers 502")
    (found,) = await api.reporter.load()
    assert [view.last_error for view in found.views] == ["it answers 502"]


async def test_an_old_failure_counts_no_longer_once_others_were_answered(
    database: Database,
) -> None:
    clock = TurnedClock(AT)
    idle, busy = (Process(database, name, clock) for name in ("worker a-1", "worker b-2"))
    await idle.asked("it does not answer")
    await busy.asked()
    assert (await busy.reporter.load())[0].worst.state == "failing"
    clock.turn(timedelta(minutes=6).total_seconds())
    await idle.reporter.run_once()
    assert (await busy.reporter.load())[0].worst.state == "failing", "no other was answered since"
    await busy.asked()
    (found,) = await busy.reporter.load()
    assert found.worst.state == "ok"
    assert {view.state for view in found.views} == {"ok", "failing"}


async def test_a_view_is_written_when_it_changes_and_repeated_now_and_then(
    database: Database,
) -> None:
    clock = TurnedClock(AT)
    process = Process(database, "scheduler a-1", clock)
    assert await process.reporter.run_once() == {"reported": 1}
    assert await process.reporter.run_once() == {}
    process.health.failed("it answers 500")
    assert await process.reporter.run_once() == {"reported": 1}
    process.health.failed("it answers 503")
    assert await process.reporter.run_once() == {"reported": 1}, "the reason is another one"
    clock.turn(REPEAT_SECONDS)
    assert await process.reporter.run_once() == {"reported": 1}


async def test_a_dead_process_is_forgotten_and_one_that_ends_takes_its_reports_along(
    database: Database,
) -> None:
    clock = TurnedClock(AT)
    dead, ended, api = (
        Process(database, name, clock) for name in ("worker a-1", "worker b-2", "api c-3")
    )
    await dead.asked("it does not answer")
    await ended.asked("it does not answer")
    await ended.reporter.withdraw()
    (found,) = await api.reporter.load()
    assert [view.process for view in found.views] == ["api c-3", "worker a-1"]
    await database.fetch(
        "update opsjobs_clock set shift = shift + make_interval(secs => %s) returning 1",
        [KEPT_SECONDS + 1],
    )
    (found,) = await api.reporter.load()
    assert [view.process for view in found.views] == ["api c-3"]
    await api.asked()
    rows = await database.fetch("select process from integration_reports")
    assert [row["process"] for row in rows] == ["api c-3"]


async def test_a_service_that_is_no_longer_connected_is_no_longer_reported(
    database: Database,
) -> None:
    clock = TurnedClock(AT)
    reports = IntegrationReports(database)
    health = [
        ServiceHealth(name, "http://x", "opsconductor-v3", clock) for name in ("audit", "user")
    ]
    reporter = IntegrationReporter(
        reports, lambda: [each.status() for each in health], clock, process="api a-1"
    )
    await reporter.run_once()
    health.pop()
    await reporter.run_once()
    assert [each.name for each in await reports.read()] == ["audit"]
