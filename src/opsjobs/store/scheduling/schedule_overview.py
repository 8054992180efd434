"""Read models for lists of schedules: job, last firing, upcoming schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opsjobs.model.access import Reach
from opsjobs.store.scheduling.rows import (
    COLUMNS,
    FIRING,
    CompiledSchedules,
    Firing,
    StoredSchedule,
    parse_firing,
)
from opsjobs.store.scope_sql import OF_JOB, and_within
from opsjobs.store.transaction import Database

_JOB_NAMES = (
    "select s.id, j.name from job_schedules s join jobs j on j.id = s.job_id where s.id = any(%s)"
)
_LAST = f"""
select f.* from unnest(%s::bigint[]) as s(id) cross join lateral (
  {FIRING} where f.schedule_id = s.id order by f.due_at desc, f.id desc limit 1
) f"""

# The number of targets is estimated from the past: of the job's last 20 executions the last
# scheduled one, else the last that is not a retry, which has only the targets that failed.
_UPCOMING = f"""
select {COLUMNS}, j.name as job_name, coalesce(e.total, 0) as targets
from job_schedules s join jobs j on j.id = s.job_id
left join lateral (
  select x.total
  from (select r.id, r.total from job_executions r where r.job_id = s.job_id order by r.id desc
        limit 20) x
  join execution_specs p on p.execution_id = x.id
  order by p.triggered_by = 'schedule' desc, p.triggered_by = 'retry', x.id desc limit 1
) e on true
where s.id > %(after)s and s.next_fire_at is not null and s.enabled and j.state = 'active'{{within}}
order by s.id limit %(limit)s"""

_COUNT_UPCOMING = """
select count(*) as n from job_schedules s join jobs j on j.id = s.job_id
where s.id > %(after)s and s.next_fire_at is not null and s.enabled
  and j.state = 'active'{within}"""


@dataclass(frozen=True, slots=True)
class UpcomingSchedule:
    """An enabled schedule with due times ahead."""

    schedule: StoredSchedule
    job_name: str
    targets: int
    """The number of targets of its job's last execution; 0 if it was never executed."""

    @property
    def named(self) -> dict[str, Any]:
        """The schedule as other bodies refer to it."""
        schedule = self.schedule
        return {
            "id": schedule.id,
            "name": schedule.definition.name,
            "job_id": schedule.job_id,
            "job_name": self.job_name,
        }


class ScheduleOverview:
    """Read access to the jobs, firings and targets of schedules."""

    def __init__(self, database: Database, compiled: CompiledSchedules) -> None:
        self._database = database
        self._compiled = compiled

    async def now(self) -> datetime:
        """Return the database's time, which decides when schedules are due."""
        row = await self._database.fetch_one("select opsjobs_now() as now")
        assert row is not None
        now: datetime = row["now"]
        return now

    async def load_jobs_and_last_firings(
        self, schedules: Sequence[int]
    ) -> dict[int, tuple[str, Firing | None]]:
        """Return the job's name and the last firing of each schedule, by id."""
        names = await self._database.fetch(_JOB_NAMES, [list(schedules)])
        last = {
            row["schedule_id"]: parse_firing(row)
            for row in await self._database.fetch(_LAST, [list(schedules)])
        }
        return {row["id"]: (row["name"], last.get(row["id"])) for row in names}

    async def list_upcoming(
        self, *, after: int, limit: int, reach: Reach | None = None
    ) -> list[UpcomingSchedule]:
        """Return the next upcoming schedules within reach, by id."""
        within, reaching = and_within(reach, OF_JOB.format("s.job_id"))
        rows = await self._database.fetch(
            _UPCOMING.format(within=within), {"after": after, "limit": limit, **reaching}
        )
        return [
            UpcomingSchedule(self._compiled.stored(row), row["job_name"], row["targets"])
            for row in rows
        ]

    async def count_upcoming(self, *, after: int, reach: Reach | None = None) -> int:
        """Return the number of upcoming schedules within reach after this id."""
        within, reaching = and_within(reach, OF_JOB.format("s.job_id"))
        row = await self._database.fetch_one(
            _COUNT_UPCOMING.format(within=within), {"after": after, **reaching}
        )
        return int(row["n"]) if row is not None else 0
