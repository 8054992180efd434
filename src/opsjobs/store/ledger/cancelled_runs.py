"""Cancel single runs of an execution: its other runs continue.

The request is a row in `cancelled_runs`, written under the lock of the execution. From then on the
run is neither admitted nor claimed. A waiting run ends here; the worker of a running one is told
with its next renewal or flush, and stops it. If such a run waits again before its worker has heard,
the reconciler ends it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.execution import child_uuid
from opsjobs.store import audit
from opsjobs.store.ledger.admission import LOCK
from opsjobs.store.ledger.control import cancel_each, check_not_ended, end_cancelled
from opsjobs.store.transaction import Connection, Database

_EXECUTION = "select status, finished_at from job_executions where id = %(id)s"
_NAMED = """
select id, target_id, target_name, finished_at is not null as ended from target_runs
where execution_id = %(id)s
  and (target_id = any(%(refs)s::text[]) or target_name = any(%(refs)s::text[]))
order by position"""
_REQUEST = """
with cancelled as (
  insert into cancelled_runs (execution_id, target_run_id, cancelled_by, reason)
  select %(id)s, run, %(by)s, %(reason)s from unnest(%(runs)s::bigint[]) as run
  on conflict do nothing returning target_run_id
), marked as (
  update job_executions set partly_cancelled = true where id = %(id)s and not partly_cancelled
)
select target_run_id from cancelled"""
_STATES = "select id, status from target_runs where id = any(%s::bigint[])"

# The actions of cancelled runs that wait for an execution they have launched. The result of such an
# action is open until then.
_OPEN_JOBS = """
with jobs as (
  select a ->> 'key' as key from execution_specs s cross join jsonb_array_elements(s.actions) a
  where s.execution_id = %(id)s and a ->> 'type' = 'job'
)
select r.uuid, x.action, x.attempt
from cancelled_runs c join target_runs r on r.id = c.target_run_id
join job_execution_results x on x.target_run_id = r.id and x.status = 'running'
where c.execution_id = %(id)s and r.finished_at is null and x.action in (select key from jobs)"""
_OPEN_CHILDREN = """
select id from job_executions
where uuid = any(%s::uuid[]) and finished_at is null and not cancelling order by id"""


@dataclass(frozen=True, slots=True)
class CancelledRuns:
    """The outcome of a request to cancel single runs."""

    ended_before: int
    """Runs that had ended, or ended by themselves meanwhile, and keep their outcome."""
    cancelled: int
    """Runs that have ended as cancelled now."""
    stopping: Sequence[int]
    """Ids of the runs that a worker has, which is to stop them."""

    def data(self) -> dict[str, int]:
        """Return the counts, as POST /executions/{id}/cancel shows them."""
        return {
            "cancelled": self.cancelled,
            "stopping": len(self.stopping),
            "ended_before": self.ended_before,
        }


async def cancel_runs(
    database: Database,
    execution_id: int,
    targets: Sequence[str],
    *,
    by: str,
    reason: str | None,
) -> CancelledRuns:
    """Request the cancel of the runs of these targets, and end the waiting ones.

    `targets`: ids or names. A repeated call changes nothing; runs that have ended keep their
    outcome. Each of the two steps is retried by itself after a deadlock. Raises NotFound, Conflict
    if the execution has ended, and Invalid with each target that it does not have.
    """
    runs = await database.retry(
        lambda: _request_cancel(database, execution_id, targets, by=by, reason=reason)
    )
    still_open = [run["id"] for run in runs if not run["ended"]]
    await database.retry(lambda: end_cancelled_runs(database, execution_id))
    states = await database.fetch(_STATES, [still_open])
    stopping = [state["id"] for state in states if state["status"] in ("waiting", "running")]
    cancelled = sum(state["status"] == "cancelled" for state in states)
    return CancelledRuns(
        ended_before=len(runs) - cancelled - len(stopping),
        cancelled=cancelled,
        stopping=stopping,
    )


async def _request_cancel(
    database: Database,
    execution_id: int,
    targets: Sequence[str],
    *,
    by: str,
    reason: str | None,
) -> Sequence[Mapping[str, Any]]:
    """Request the cancel of the open runs of these targets; return the runs of all of them."""
    async with database.transaction() as connection:
        await connection.execute(LOCK, {"executions": [execution_id]})
        row = await (await connection.execute(_EXECUTION, {"id": execution_id})).fetchone()
        check_not_ended(execution_id, row)
        runs = await _runs_of(connection, execution_id, targets)
        if still_open := [run for run in runs if not run["ended"]]:
            await _request(connection, execution_id, still_open, by=by, reason=reason)
    return runs


async def end_cancelled_runs(database: Database, execution_id: int) -> int:
    """End the waiting runs that were cancelled one by one; return how many.

    Executions that they have launched are cancelled first: if this process dies in between, the
    reconciler finds the runs still waiting.
    """
    jobs = await database.fetch(_OPEN_JOBS, {"id": execution_id})
    uuids = [child_uuid(job["uuid"], job["action"], job["attempt"]) for job in jobs]
    if uuids:
        children = [row["id"] for row in await database.fetch(_OPEN_CHILDREN, [uuids])]
        await cancel_each(database, children, "the target that launched it was cancelled")
    return await end_cancelled(database, execution_id)


async def _runs_of(
    connection: Connection, execution_id: int, targets: Sequence[str]
) -> Sequence[Mapping[str, Any]]:
    """Return the runs of these targets. Raises Invalid with each one that is not there."""
    parameters = {"id": execution_id, "refs": list(dict.fromkeys(targets))}
    found = await (await connection.execute(_NAMED, parameters)).fetchall()
    # An id goes before a name: a target may be named like the id of another one.
    by_ref = {run["target_name"]: run for run in found} | {run["target_id"]: run for run in found}
    faults = [
        FieldError(
            f"/targets/{position}",
            f"Execution {execution_id} has no target {ref[:60]!r}.",
            "unknown_target",
        )
        for position, ref in enumerate(targets)
        if ref not in by_ref
    ]
    if faults:
        raise Invalid("unknown_target", f"{faults[0].detail} See its /targets.", errors=faults)
    wanted = {by_ref[ref]["id"] for ref in targets}
    return [run for run in found if run["id"] in wanted]


async def _request(
    connection: Connection,
    execution_id: int,
    runs: Sequence[Mapping[str, Any]],
    *,
    by: str,
    reason: str | None,
) -> None:
    """Write the requests that are not there yet, and an audit row that names them."""
    parameters = {"id": execution_id, "by": by, "reason": reason, "runs": [r["id"] for r in runs]}
    rows = await (await connection.execute(_REQUEST, parameters)).fetchall()
    new = {row["target_run_id"] for row in rows}
    if not new:
        return
    await audit.record(
        connection,
        "execution.targets_cancelled",
        "execution",
        execution_id,
        after={"targets": [run["target_name"] for run in runs if run["id"] in new]},
        reason=reason,
    )
