"""Fixtures of schedules: a job, its schedules, schedulers on a clock that tests set."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from kit.allow_everything import as_administrator
from opsjobs.clock import Clock, SystemClock
from opsjobs.engine.firing.firing import FiringService
from opsjobs.engine.firing.schedule_launch import FiringPreparer, Triggers
from opsjobs.engine.launching.launch import Launcher, LaunchLimits
from opsjobs.engine.launching.launch_authz import PrincipalLookup
from opsjobs.integrations.targets import Targets
from opsjobs.model.identity import Identity
from opsjobs.model.job import JobDraft
from opsjobs.model.schedule.draft import ScheduleDraft
from opsjobs.model.target import TargetDraft
from opsjobs.store.envelope import new_key
from opsjobs.store.files import Files
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.jobs import Jobs, StoredJob
from opsjobs.store.ledger import Ledger
from opsjobs.store.paging import PageRequest
from opsjobs.store.scheduling.calendars import load_closed_reason
from opsjobs.store.scheduling.due_firings import CalendarReader
from opsjobs.store.scheduling.firings import Firings
from opsjobs.store.scheduling.rows import StoredSchedule
from opsjobs.store.scheduling.schedules import Schedules
from opsjobs.store.transaction import Database
from opsjobs.store.vault.credentials import Vault
from opsjobs.telemetry.metrics import Metrics


class ScheduleHarness:
    """The services that schedules need, on one database."""

    def __init__(
        self, database: Database, clock: Clock | None = None, *, targets: Targets | None = None
    ) -> None:
        self.database = database
        self.clock = clock or SystemClock()
        self.metrics = Metrics()
        self.vault = Vault(database, [new_key()], self.clock)
        self.inventory = TargetInventory(database, self.vault, self.clock)
        self.targets = targets or self.inventory
        self.ledger = Ledger(database)
        self.jobs = Jobs(database)
        self.schedules = Schedules(database)
        self.firings = Firings(database)
        self.notified: list[str] = []
        self.launcher = Launcher(
            database=database,
            ledger=self.ledger,
            targets=self.targets,
            vault=self.vault,
            files=Files(database, self.clock),
            clock=self.clock,
            limits=LaunchLimits(),
            notify=self.notified.append,
        )
        self.triggers = Triggers(self.firings, self.schedules, self.jobs, self.launcher)

    def scheduler(
        self,
        *,
        closer: CalendarReader = load_closed_reason,
        current_principal: PrincipalLookup = as_administrator,
        launcher: Launcher | None = None,
        patience_seconds: float = 60.0,
    ) -> FiringService:
        """Return another firing service, with a cache of schedules of its own.

        Its passes wait for their launches, however slow the machine is.
        """
        launcher = launcher or self.launcher
        firings = Firings(self.database, closer=closer)
        return FiringService(
            firings=firings,
            schedules=Schedules(self.database, closer=closer),
            preparer=FiringPreparer(
                Jobs(self.database),
                launcher,
                firings,
                self.metrics,
                current_principal=current_principal,
            ),
            launcher=launcher,
            ledger=self.ledger,
            metrics=self.metrics,
            patience_seconds=patience_seconds,
        )

    async def job(self, name: str = "nightly", **fields: Any) -> StoredJob:
        """Create a job on web-1, and the target at the first call."""
        if not await self.database.fetch("select from targets where name = 'web-1'"):
            await self.inventory.create(TargetDraft(name="web-1", host="10.0.0.1"))
        body = {
            "name": name,
            "actions": [{"type": "command", "command": "true"}],
            "targets": {"ids": ["web-1"]},
            **fields,
        }
        made = await self.jobs.create(JobDraft.model_validate(body), "ada")
        assert isinstance(made, StoredJob)
        return made

    async def schedule(
        self, job: StoredJob, name: str = "nightly", *, owner: str = "ada", **fields: Any
    ) -> StoredSchedule:
        """Create a schedule of it: every minute from now on, unless the fields differ."""
        body = {
            "name": name,
            **(fields if "type" in fields else {"type": "recurring", "every": "minutes", **fields}),
        }
        made = await self.schedules.create(
            str(job.job.id), ScheduleDraft.model_validate(body), Identity("api_key", owner)
        )
        assert isinstance(made, StoredSchedule)
        return made

    async def turn(self, **time: float) -> None:
        """Advance the clock that all processes share."""
        async with self.database.connection() as connection:
            await connection.execute(
                "update opsjobs_clock set shift = shift + %s", [timedelta(**time)]
            )

    async def turn_to(self, moment: datetime) -> None:
        """Set that clock to a time."""
        async with self.database.connection() as connection:
            await connection.execute(
                "update opsjobs_clock set shift = %s::timestamptz - clock_timestamp()", [moment]
            )

    async def now(self) -> datetime:
        """Return the time of that clock."""
        row = await self.database.fetch_one("select opsjobs_now() as now")
        assert row is not None
        return row["now"].astimezone(UTC)  # type: ignore[no-any-return]

    async def rows(self, schedule: StoredSchedule | None = None) -> list[dict[str, Any]]:
        """Return the firings, by due time."""
        query = "select * from schedule_executions where %(id)s::bigint is null or schedule_id = %(id)s order by due_at, id"
        return await self.database.fetch(query, {"id": schedule and schedule.id})

    async def told(
        self, schedule: StoredSchedule | None = None, *, limit: int = 200
    ) -> list[dict[str, Any]]:
        """Return the firings as they are listed, the latest due time first."""
        assert schedule is not None
        return [
            firing.data()
            for firing in (await self.firings.list(schedule, PageRequest(limit=limit))).items
        ]

    async def finish(self, executions: Sequence[int] | None = None) -> None:
        """End executions (by default all open ones), as a worker would after a cancel."""
        rows = await self.database.fetch("select id from job_executions where finished_at is null")
        for row in rows:
            if executions is None or row["id"] in executions:
                await self.ledger.cancel(row["id"], by="ben", reason=None)

    async def events(self, noun: str = "schedule") -> list[str]:
        """Return the published events, by type."""
        rows = await self.database.fetch(
            "select type from events where type like %s order by id", [f"{noun}.%"]
        )
        return [row["type"] for row in rows]
