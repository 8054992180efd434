"""Firings as they are listed: the records of due times."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

from opsjobs.model.execution import moment
from opsjobs.model.firing import FiringKind, FiringStatus
from opsjobs.store.paging import IndexWalk, ListColumn, Listing
from opsjobs.store.scope_sql import OF_JOB


@dataclass(frozen=True, slots=True)
class Firing:
    """The record of a due time, or of all due times from `due_at` to `until_at`."""

    id: int
    uuid: UUID
    schedule_id: int
    kind: FiringKind
    due_at: datetime
    until_at: datetime | None
    moments: int
    """The number of due times; a lower bound."""
    fired_at: datetime | None
    status: FiringStatus
    rule: str | None
    reason: str | None
    execution_id: int | None
    late_ms: int | None
    attempts: int
    execution_status: str | None
    """The status of the execution; None if it was deleted."""
    approval_id: int | None
    """The first pending approval of the execution."""

    def data(self) -> dict[str, Any]:
        """Return an item of GET /schedules/{id}/firings."""
        return {
            "id": self.id,
            "schedule_id": self.schedule_id,
            "kind": self.kind.value,
            "due_at": moment(self.due_at),
            "until_at": moment(self.until_at),
            "moments": self.moments,
            "fired_at": moment(self.fired_at),
            "status": self.status.value,
            "rule": self.rule,
            "reason": self.reason,
            "execution_id": self.execution_id,
            "late_ms": self.late_ms,
            "attempts": self.attempts,
            "execution_status": self.execution_status,
            "approval_id": self.approval_id,
        }


@dataclass(frozen=True, slots=True)
class NamedFiring:
    """A firing with its schedule and job, for the list of all firings."""

    firing: Firing
    schedule_name: str
    job_id: int
    job_name: str


FIRING = """
select f.id, f.uuid, f.schedule_id, f.kind, f.due_at, f.until_at, f.moments, f.fired_at, f.status,
       f.rule, f.reason,
       f.execution_id, f.late_ms, f.attempts,
       (select e.status from job_executions e where e.id = f.execution_id) as execution_status,
       (select min(a.id) from approvals a where a.execution_id = f.execution_id
        and a.status = 'pending') as approval_id
from schedule_executions f"""


FIRINGS = Listing(
    f"{FIRING} where f.schedule_id = %(schedule)s",
    {
        "id": ListColumn("integer"),
        "status": ListColumn("text"),
        "rule": ListColumn("text"),
        "execution_id": ListColumn("integer"),
        "due_at": ListColumn("moment", sort=True),
    },
    default_sort="-due_at",
)


ALL_FIRINGS = Listing(
    FIRING.replace(
        "\nfrom schedule_executions f",
        ",\n       s.name as schedule_name, s.job_id, j.name as job_name\n"
        "from schedule_executions f join job_schedules s on s.id = f.schedule_id\n"
        "  join jobs j on j.id = s.job_id",
    ),
    {
        "id": ListColumn("integer", sort=True),
        "status": ListColumn("text", walk=IndexWalk("status")),
        "rule": ListColumn("text", beside=("status",)),
        "job_id": ListColumn("integer", beside=("status",)),
    },
    labels=OF_JOB.format("listed.job_id"),
)


def parse_named_firing(row: DictRow) -> NamedFiring:
    """Return the firing of a row of ALL_FIRINGS."""
    of_firing = {name: row[name] for name in Firing.__dataclass_fields__}
    names = (row["schedule_name"], row["job_id"], row["job_name"])
    return NamedFiring(parse_firing(of_firing), *names)


def parse_firing(row: DictRow) -> Firing:
    """Return the firing of a row of FIRING."""
    return Firing(**{**row, "kind": FiringKind(row["kind"]), "status": FiringStatus(row["status"])})
