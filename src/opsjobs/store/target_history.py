"""The history of a target: its runs in all executions, and its health."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import DictRow

from opsjobs.model.access import Reach
from opsjobs.model.circuit import CircuitState
from opsjobs.model.execution import RunStatus, TriggeredBy, moment
from opsjobs.model.run_views import TargetRun
from opsjobs.model.target_health import HealthStatus, LastRun, OpenCircuit, TargetHealth
from opsjobs.store.paging import ListColumn, Listing, Page, PageRequest
from opsjobs.store.run_rows import RUN, parse_run
from opsjobs.store.scope_sql import LAUNCHED, LAUNCHED_EXECUTION, OF_EXECUTION, and_within
from opsjobs.store.statements import load_statement
from opsjobs.store.transaction import Database

RUNS_READ = 50
"""The last runs of a target from which its health is determined."""


@dataclass(frozen=True, slots=True)
class TargetPastRun:
    """A run of a target, and the execution that it belongs to."""

    run: TargetRun
    execution_id: int
    number: int | None
    job_id: int | None
    job_name: str
    triggered_by: TriggeredBy
    requested_by: str
    created_at: datetime
    summary: str | None = None
    """The line that describes an ad-hoc execution."""

    def data(self) -> dict[str, Any]:
        """Return an item of GET /targets/{id}/runs."""
        return {
            **self.run.data(),
            "execution": {
                "id": self.execution_id,
                "number": self.number,
                "job_id": self.job_id,
                "job_name": self.job_name,
                "summary": self.summary,
                "triggered_by": self.triggered_by.value,
                "requested_by": self.requested_by,
                "created_at": moment(self.created_at),
            },
        }


TARGET_RUNS = Listing(
    f"""
select r.*, e.number, e.job_id, e.created_at, s.job_name, s.summary, s.triggered_by,
  s.requested_by, s.requested_by_kind, s.labels,
  array_remove(array[e.job_id::text, s.job_name], null) as job
from ({RUN} where target_id = %(target)s) r join job_executions e on e.id = r.execution_id
  join execution_specs s on s.execution_id = e.id""",
    {
        "id": ListColumn("integer", sort=True),
        "status": ListColumn("text"),
        "error_code": ListColumn("text"),
        "exit_code": ListColumn("integer"),
        "job": ListColumn("texts"),
        "execution_id": ListColumn("integer"),
        "cancel_proof": ListColumn("text"),
        "created_at": ListColumn("moment"),
        "finished_at": ListColumn("moment"),
    },
    labels="labels",
    launched=LAUNCHED,
)

HEALTH_STATUS = f"""
(select case
  when t.id::text in (select target_id from target_slots
    where held_until > (select opsjobs_now())) then 'maintenance'
  when t.id::text in (select target_id from circuits
    where state <> 'closed') then 'unhealthy'
  else coalesce((select case when r.status in ('unreachable', 'lost', 'dead') then 'unhealthy'
                             else 'ok' end
    from (select l.status, l.target_id, l.id from target_runs l
      where l.target_id between t.id::text and t.id::text
      order by l.target_id desc, l.id desc limit {RUNS_READ}) r
    where r.status in ('succeeded', 'failed', 'timeout', 'unreachable', 'lost', 'dead')
    order by r.target_id desc, r.id desc limit 1),
    case when exists (select from circuits o where o.target_id = t.id::text and o.proven)
      then 'ok' else 'unknown' end) end)"""
"""The health of the target `t`, as SQL.

`between` finds the last runs by their index. With `=` PostgreSQL may read the runs of all targets
from the newest on: it does so as long as its statistics know nothing of the runs of new targets.
Both orders are that of the index, so that it reads until the first run that tells the health, and
not all of the last ones.
"""

_HEALTH = load_statement(
    __file__, "target_health", status=HEALTH_STATUS, runs_read=RUNS_READ, within="{within}"
)


class TargetHistory:
    """Read access to the history of targets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_runs(
        self, target_id: str, request: PageRequest, reach: Reach | None = None
    ) -> Page[TargetPastRun]:
        """Return the runs of a target in executions within reach, the newest first."""
        page = await TARGET_RUNS.page(self._database, request, {"target": target_id}, reach=reach)
        return page.map(_past_run)

    async def load_health(
        self, target_ids: Sequence[str], reach: Reach | None = None
    ) -> dict[str, TargetHealth]:
        """Return the health of these targets, by id; unknown ids are left out.

        Runs that it tells of are those in executions within reach; its status is of all.
        """
        ids = [int(target_id) for target_id in target_ids]
        execution = "l.execution_id"
        within, reaching = and_within(
            reach, OF_EXECUTION.format(execution), LAUNCHED_EXECUTION.format(execution)
        )
        query = _HEALTH.format(within=within)
        rows = await self._database.fetch(query, {"ids": ids, **reaching})
        return {str(row["id"]): _health(row) for row in rows}


def _past_run(row: DictRow) -> TargetPastRun:
    return TargetPastRun(
        parse_run(row),
        row["execution_id"],
        row["number"],
        row["job_id"],
        row["job_name"],
        TriggeredBy(row["triggered_by"]),
        row["requested_by"],
        row["created_at"],
        row["summary"],
    )


def _health(row: DictRow) -> TargetHealth:
    circuit = (
        OpenCircuit(CircuitState(row["state"]), row["code"], row["since"], row["until"])
        if row["state"] is not None
        else None
    )
    held = (
        {"until": moment(row["held_until"]), "reason": row["held_reason"], "by": row["held_by"]}
        if row["is_held"]
        else None
    )
    last = (
        LastRun(RunStatus(row["last_status"]), row["last_code"], row["last_at"])
        if row["last_status"] is not None
        else None
    )
    return TargetHealth(
        HealthStatus(row["status"]),
        circuit,
        held,
        last,
        row["last_success_at"],
        row["last_contact_at"],
        row["waiting_runs"],
        row["dead_letters"],
    )
