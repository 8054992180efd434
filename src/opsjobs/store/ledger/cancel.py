"""End waiting runs after a cancel, a deadline, a refusal or a halt.

Workers stop running runs themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg

from opsjobs.model.errors import Conflict, NotFound, Unavailable
from opsjobs.model.execution import ErrorCode, RunStatus
from opsjobs.store import audit
from opsjobs.store.ledger.admit import LOCK, admit_after
from opsjobs.store.ledger.advance import Advance
from opsjobs.store.statements import load_statement
from opsjobs.store.transaction import Database

# Limit of runs that one round ends. A round that skipped rows (locked by a claim) is repeated.
ROUND_RUNS = 2_000
MOMENT = 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'


@dataclass(frozen=True, slots=True)
class Ending:
    """The status with which waiting runs end, and the reason."""

    status: RunStatus
    code: ErrorCode
    message: str
    begun: str | None = None
    """The message for a run that has performed an action; what it waited for is appended."""


CANCELLED = Ending(
    RunStatus.CANCELLED,
    ErrorCode.CANCELLED,
    "cancelled before it was started",
    "cancelled while it waited for ",
)
EXPIRED = Ending(
    RunStatus.TIMEOUT,
    ErrorCode.COMMAND_TIMEOUT,
    "the execution's timeout passed before it was started",
    "the execution's timeout passed while it waited for ",
)

_REQUEST = """
update job_executions set cancelling = true where id = %(id)s and finished_at is null"""
_REQUESTED_BY = """
update execution_specs set cancelled_by = %(by)s,
  cancel_reason = %(reason)s where execution_id = %(id)s and cancelled_by is null"""

# Which waiting runs are ended, as a condition on their rows `r`.
_ALL = ""
# Runs of a halted execution that have done nothing yet. What a retry inherits was done by its parent.
_UNBEGUN = """and not exists (
    select 1 from job_execution_results b where b.target_run_id = r.id
      and b.inherited_from is null)"""
_REFUSED = "and r.waiting_for = 'approval' and r.awaits = %(awaits)s"

_NEXT_ACTION = load_statement(__file__, "next_action", condition="r.fence > 0")
_END_WAITING = {
    (chosen, status): load_statement(
        __file__,
        "end_waiting",
        chosen=chosen,
        column=status.value,
        timed_out=int(status is RunStatus.TIMEOUT),
        cancelled=int(status is RunStatus.CANCELLED),
        next_action=_NEXT_ACTION,
    )
    for chosen in (_ALL, _UNBEGUN, _REFUSED)
    for status in (RunStatus.CANCELLED, RunStatus.TIMEOUT, RunStatus.SKIPPED)
}
_IS_LEFT = """
select exists (
  select 1 from target_runs r where r.execution_id = %(id)s
    and r.status = 'waiting' {chosen}) as left_waiting"""

_HALTED = "select halt_reason from execution_specs where execution_id = %s"
_CHILDREN = """
select s.execution_id from execution_specs s join job_executions e on e.id = s.execution_id
where s.parent_id = %s and s.triggered_by = 'workflow' and e.finished_at is null
  and not e.cancelling order by 1"""


async def request_cancel(
    database: Database, execution_id: int, *, by: str, reason: str | None
) -> None:
    """Request the cancel of an execution, and end its waiting runs.

    Repeated calls change nothing while it is running. Raises Conflict once it has ended.
    """
    parameters = {"id": execution_id, "by": by, "reason": reason}
    async with database.transaction() as connection:
        await connection.execute(LOCK, {"executions": [execution_id]})
        row = await (
            await connection.execute(
                "select status, finished_at from job_executions where id = %(id)s", parameters
            )
        ).fetchone()
        if row is None:
            raise NotFound.for_ref("execution", execution_id)
        if row["finished_at"] is not None:
            raise Conflict(
                "execution_ended",
                f"Execution {execution_id} has already ended: it is {row['status']}.",
            )
        await connection.execute(_REQUEST, parameters)
        await connection.execute(_REQUESTED_BY, parameters)
        await audit.record(
            connection, "execution.cancelled", "execution", execution_id, reason=reason
        )
    await end_waiting(database, execution_id, CANCELLED)
    await cancel_children(database, execution_id, "the execution that it is part of was cancelled")


async def cancel_children(database: Database, execution_id: int, reason: str) -> int:
    """Cancel the executions that runs of this one launched and wait for; return how many."""
    children = await database.fetch(_CHILDREN, [execution_id])
    for child in children:
        with contextlib.suppress(Conflict, NotFound):  # it has ended in the meantime
            await database.retry(
                partial(
                    request_cancel, database, child["execution_id"], by="opsjobs", reason=reason
                )
            )
    return len(children)


async def skip_after(database: Database, executions: Sequence[int]) -> None:
    """Call `skip_halted` after a committed operation; a failure is ignored.

    The operation is not repeated because of it; the reconciler skips these runs later.
    """
    for execution_id in executions:
        with contextlib.suppress(Unavailable, psycopg.Error):
            await database.retry(partial(skip_halted, database, execution_id))


async def skip_halted(database: Database, execution_id: int) -> int:
    """Skip every run of a halted execution that has not begun; return how many."""
    row = await database.fetch_one(_HALTED, [execution_id])
    why = row["halt_reason"] if row else None
    ending = Ending(
        RunStatus.SKIPPED, ErrorCode.CANCELLED, f"skipped, because the execution was stopped: {why}"
    )
    return await _end(database, execution_id, ending, _UNBEGUN)


async def end_waiting(database: Database, execution_id: int, ending: Ending) -> int:
    """End every waiting run of the execution, whatever it waits for; return how many."""
    return await _end(database, execution_id, ending, _ALL)


async def end_refused(database: Database, execution_id: int, ending: Ending, action: str) -> int:
    """End the runs that wait for the approval of this action; return how many."""
    return await _end(database, execution_id, ending, _REFUSED, awaits=action)


async def _end(
    database: Database, execution_id: int, ending: Ending, chosen: str, awaits: str | None = None
) -> int:
    statement = _END_WAITING[chosen, ending.status]
    left_over = _IS_LEFT.format(chosen=chosen)
    parameters: dict[str, Any] = {
        "id": execution_id,
        "limit": ROUND_RUNS,
        "status": ending.status.value,
        "code": ending.code.value,
        "message": ending.message,
        "begun": ending.begun,
        "awaits": awaits,
    }
    total = 0
    while True:
        advance = Advance([execution_id])
        async with database.pipelined() as connection:
            await connection.execute(LOCK, {"executions": [execution_id]})
            ended = await connection.execute(statement, parameters)
            left = await connection.execute(left_over, parameters)
            await advance.send(connection)
        row, rest = await ended.fetchone(), await left.fetchone()
        total += row["n"] if row else 0
        await admit_after(database, (await advance.read()).others)
        if not rest or not rest["left_waiting"]:
            return total
