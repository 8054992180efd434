"""Pause and resume executions.

While an execution is paused no run is started. Running runs continue, and waits continue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opsjobs.model.errors import Conflict, NotFound
from opsjobs.store import audit
from opsjobs.store.ledger.admit import ADMIT, LOCK, admit_after, may_admit_more
from opsjobs.store.ledger.advance import FAILURES, WAVE_OVER, Advance, sum_by_zone
from opsjobs.store.ledger.cancel import skip_after
from opsjobs.store.statements import load_statement
from opsjobs.store.transaction import Connection, Database

_STATE = "select status, paused, cancelling, finished_at from job_executions where id = %(id)s"

_PAUSE = """
with moved as (
  update job_executions set paused = true, last_seq = last_seq + 1
  where id = %(id)s and not paused returning id, log_day, last_seq
), reasons as (
  update execution_specs set paused_by = %(by)s,
    pause_reason = %(reason)s where execution_id = (select id from moved)
), gates as (
  update execution_gates set cause = null where execution_id = (select id from moved)
)
insert into execution_log (log_day, execution_id, seq, event, body)
select log_day, id, last_seq, 'status',
       jsonb_build_object('execution', id, 'status', 'paused', 'error', null, 'reason',
                          %(reason)s::text, 'by', %(by)s::text)
from moved"""

_RESUME = load_statement(__file__, "resume", failures=FAILURES, wave_over=WAVE_OVER)


@dataclass(frozen=True, slots=True)
class Resumed:
    """The outcome of a resume."""

    ready: Mapping[str, int]
    """Counts of runs that became ready, by zone."""
    accepts: int | None = None
    """The failures accepted by resuming after a pause by max_fail."""
    max_fail: int | None = None
    """The failures that the policy allows; None if the check of the wave failed."""


async def pause(database: Database, execution_id: int, *, by: str, reason: str | None) -> None:
    """Pause an execution; repeated calls change nothing.

    Raises NotFound, and Conflict if it is being cancelled or has ended.
    """
    parameters = {"id": execution_id, "by": by, "reason": reason}
    async with database.transaction() as connection:
        await _lock_open(connection, execution_id)
        await connection.execute(_PAUSE, parameters)
        await audit.record(connection, "execution.paused", "execution", execution_id, reason=reason)


async def resume(database: Database, execution_id: int, *, by: str) -> Resumed:
    """Resume an execution; if it is paused at a gate, pass the gate.

    Does nothing if it is not paused. Raises NotFound, and Conflict if it is being cancelled or has
    ended.
    """
    parameters = {"id": execution_id, "by": by}
    advance = Advance([execution_id])
    async with database.transaction() as connection:
        await _lock_open(connection, execution_id)
        async with connection.pipeline():
            resumed = await connection.execute(_RESUME, parameters)
            admitted = await connection.execute(ADMIT, {"executions": [execution_id]})
            await advance.send(connection)
            await audit.record(connection, "execution.resumed", "execution", execution_id)
    advanced = await advance.read()
    await skip_after(database, advanced.halted)
    ready = {row["zone"]: row["admitted"] for row in await admitted.fetchall()}
    others = [*advanced.others, *([execution_id] if may_admit_more(ready) else ())]
    later = await admit_after(database, sorted(set(others)))
    accepted = await resumed.fetchone()
    accepted_failures = (
        (None, None) if accepted is None else (accepted["failures"], accepted["max_fail"])
    )
    return Resumed(sum_by_zone(ready, advanced.admitted, later), *accepted_failures)


async def _lock_open(connection: Connection, execution_id: int) -> None:
    """Lock the execution; raise if it can neither be paused nor resumed."""
    await connection.execute(LOCK, {"executions": [execution_id]})
    row = await (await connection.execute(_STATE, {"id": execution_id})).fetchone()
    if row is None:
        raise NotFound.for_ref("execution", execution_id)
    if row["finished_at"] is not None:
        raise Conflict(
            "execution_ended", f"Execution {execution_id} has already ended: it is {row['status']}."
        )
    if row["status"] == "pending_approval":
        detail = f"Execution {execution_id} waits for its approval and has not started. Reject the approval or cancel it."
        raise Conflict("execution_pending", detail)
    if row["cancelling"]:
        raise Conflict(
            "execution_cancelling",
            f"Execution {execution_id} is being cancelled: it cannot be paused or resumed.",
        )
