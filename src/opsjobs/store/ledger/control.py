"""Cancel, pause and resume executions.

Waiting runs end here after a cancel, a deadline, a refusal or a halt. Workers stop running runs
themselves. While an execution is paused no run is started; running runs and waits continue.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg

from opsjobs.model.errors import Conflict, NotFound, Refusal, Unavailable
from opsjobs.model.execution import ErrorCode, RunStatus
from opsjobs.store import audit
from opsjobs.store.ledger.admission import ADMIT, LOCK, may_admit_more
from opsjobs.store.ledger.admit import admit_after
from opsjobs.store.ledger.advance import FAILURES, NEXT_WAVE, WAVE_OVER, Advance, sum_by_zone
from opsjobs.store.statements import load_statement
from opsjobs.store.transaction import Connection, Database

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
    """The message for a run that has performed an action; the reason of its wait is appended."""


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

# The waiting runs to end, as a condition on their rows `r`.
_ALL = ""
# Runs of a halted execution that have performed nothing yet. Actions that a retry inherits were
# performed by its parent.
_UNBEGUN = """and not exists (
    select 1 from job_execution_results b where b.target_run_id = r.id
      and b.inherited_from is null)"""
_REFUSED = "and r.waiting_for = 'approval' and r.awaits = %(awaits)s"
# Runs that were cancelled one by one.
_CANCELLED = """and exists (
    select 1 from cancelled_runs c where c.execution_id = r.execution_id
      and c.target_run_id = r.id)"""

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
    for chosen in (_ALL, _UNBEGUN, _REFUSED, _CANCELLED)
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
        check_not_ended(execution_id, row)
        await connection.execute(_REQUEST, parameters)
        await connection.execute(_REQUESTED_BY, parameters)
        await audit.record(
            connection, "execution.cancelled", "execution", execution_id, reason=reason
        )
    await end_waiting(database, execution_id, CANCELLED)
    await cancel_children(database, execution_id, "the execution that it is part of was cancelled")


async def cancel_children(database: Database, execution_id: int, reason: str) -> int:
    """Cancel the executions that runs of this one launched and wait for; return how many."""
    children = [row["execution_id"] for row in await database.fetch(_CHILDREN, [execution_id])]
    return await cancel_each(database, children, reason)


async def cancel_each(database: Database, executions: Sequence[int], reason: str) -> int:
    """Cancel these executions in the name of opsjobs, except those that have ended."""
    for execution_id in executions:
        with contextlib.suppress(Conflict, NotFound):  # it has ended in the meantime
            await database.retry(
                partial(request_cancel, database, execution_id, by="opsjobs", reason=reason)
            )
    return len(executions)


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


async def end_cancelled(database: Database, execution_id: int) -> int:
    """End the waiting runs that were cancelled one by one; return how many."""
    return await _end(database, execution_id, CANCELLED, _CANCELLED)


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

_RESUME = load_statement(
    __file__, "resume", failures=FAILURES, wave_over=WAVE_OVER, next_wave=NEXT_WAVE
)


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
    """Lock the execution, and raise as `_check_open`."""
    await connection.execute(LOCK, {"executions": [execution_id]})
    _check_open(
        execution_id, await (await connection.execute(_STATE, {"id": execution_id})).fetchone()
    )


async def find_refusals(database: Database, execution_id: int) -> Mapping[str, Refusal | None]:
    """Return for `cancel`, `pause` and `resume` the refusal that each would get now, or None.

    Nothing is locked: an action may still be refused, because the execution has moved on.
    """
    row = await database.fetch_one(_STATE, {"id": execution_id})
    refused: dict[str, Refusal | None] = {}
    checks = {"cancel": check_not_ended, "pause": _check_open, "resume": _check_open}
    for action, check in checks.items():
        try:
            check(execution_id, row)
            refused[action] = None
        except Refusal as refusal:
            refused[action] = refusal
    return refused


def check_not_ended(execution_id: int, row: Mapping[str, Any] | None) -> None:
    """Raise NotFound without a row, and Conflict if the execution has ended."""
    if row is None:
        raise NotFound.for_ref("execution", execution_id)
    if row["finished_at"] is not None:
        raise Conflict(
            "execution_ended", f"Execution {execution_id} has already ended: it is {row['status']}."
        )


def _check_open(execution_id: int, row: Mapping[str, Any] | None) -> None:
    """Raise if the execution can neither be paused nor resumed."""
    check_not_ended(execution_id, row)
    assert row is not None, "check_not_ended raises without a row"
    if row["status"] == "pending_approval":
        detail = (
            f"Execution {execution_id} waits for its approval and has not started. Reject the "
            f"approval or cancel it."
        )
        raise Conflict("execution_pending", detail)
    if row["cancelling"]:
        raise Conflict(
            "execution_cancelling",
            f"Execution {execution_id} is being cancelled: it cannot be paused or resumed.",
        )
