"""Settle: commit output, results and ends of a worker's runs in one pipelined transaction.

Every run is guarded by owner and fence, and every stream by the offset that the log has reached: a
chunk moves the offset from `old` to `new`, and fails if it is not `old`. A run whose guard fails is
left out completely, and returned as stale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from opsjobs import failpoints
from opsjobs.model.errors import Locked, TooSlow, Unavailable
from opsjobs.model.execution import ANSWERED_WAITS, RunStatus, WaitingFor
from opsjobs.store.connections import RETRYABLE
from opsjobs.store.ledger.admission import ADMIT, LOCK, LOCK_SLOTS, UNPARK, may_admit_more
from opsjobs.store.ledger.admit import WAKE_ANSWERED, admit_after
from opsjobs.store.ledger.advance import Advance, sum_by_zone
from opsjobs.store.ledger.control import skip_after
from opsjobs.store.ledger.flush import SETTLE, Flush, RunMove, parameters
from opsjobs.store.transaction import Database


@dataclass(frozen=True, slots=True)
class Settled:
    """The outcome of a flush."""

    stale: frozenset[int]
    """Runs that no longer belonged to the worker."""
    stopping: frozenset[int]
    """Executions that are being cancelled."""
    admitted: Mapping[str, int]
    """Counts of runs that became ready, by zone."""
    unparked: Sequence[int] = ()
    """Other executions, whose runs waited for the slots that were freed."""
    halted: Sequence[int] = ()
    """Executions in which too many runs failed: runs that have not begun are skipped."""
    stopping_runs: frozenset[int] = frozenset()
    """Runs of this flush that are being cancelled one by one."""


# After a broken connection, the first try of this flush may still be committing. It holds the locks
# that this try has waited for, so at this point it has finished and its result is visible.
_COUNT_FLUSH = """
with before as (select last_flush from workers where id = %(owner)s)
update workers set last_flush = %(number)s from before where id = %(owner)s
returning before.last_flush >= %(number)s as repeated"""
_FLUSHED = "select last_flush from workers where id = %s"
_OWN_RUNS = "select id, fence, status from target_runs where id = any(%s::bigint[]) and owner = %s"
_STOPPING = """
select e.id, e.cancelling, case when e.partly_cancelled then array(
    select c.target_run_id from cancelled_runs c
    where c.execution_id = e.id and c.target_run_id = any(%(runs)s::bigint[])) end as runs
from job_executions e
where e.id = any(%(executions)s::bigint[]) and (e.cancelling or e.partly_cancelled)
  and e.finished_at is null"""

# An answer that has arrived in the meantime may end these waits; it ends timed waits only if they
# name something.
_ANSWERED = ANSWERED_WAITS | {WaitingFor.TIMER, WaitingFor.BACKOFF}


async def settle(database: Database, flush: Flush) -> Settled:
    """Commit a flush as a whole.

    Raises Unavailable if it was certainly not committed; then it may be tried again. If the
    response was lost, the flush's number shows whether it was committed, so that nothing is written
    twice or dropped.
    """
    try:
        async with failpoints.at("settle"):
            settled = await database.retry(lambda: _settle(database, flush))
    except (Unavailable, *RETRYABLE) as broken:
        if not await _was_committed(database, flush):
            again = next(
                (kind for kind in (TooSlow, Locked) if isinstance(broken, kind)), Unavailable
            )
            raise again(f"flush {flush.number} was not committed: {broken}") from broken
        return await _recall(database, flush)
    await skip_after(database, settled.halted)
    return await _admit_others(database, settled)


async def _settle(database: Database, flush: Flush) -> Settled:
    executions = sorted({run.execution_id for run in flush.runs})
    ending = [run for run in flush.runs if run.status is not None]
    targets = sorted({run.target_id for run in ending})
    # Empty for plain executions, and for runs that do not wait for an answer.
    advance = Advance(sorted({run.execution_id for run in ending if run.watched}))
    answered = sorted(
        {
            run.execution_id
            for run in ending
            if run.waiting_for in _ANSWERED and run.awaits is not None
        }
    )
    unparked = admitted = None
    async with database.pipelined() as connection:
        await connection.execute(LOCK, {"executions": executions})
        if ending:
            await connection.execute(LOCK_SLOTS, {"targets": targets})
        settled = await connection.execute(SETTLE, parameters(flush))
        if ending:
            unparked = await connection.execute(UNPARK, {"targets": targets})
            if answered:
                await connection.execute(WAKE_ANSWERED, {"executions": answered})
            admitted = await connection.execute(ADMIT, {"executions": executions})
        await advance.send(connection)
        counted = await connection.execute(
            _COUNT_FLUSH, {"number": flush.number, "owner": flush.owner}
        )
        stopping = await connection.execute(
            _STOPPING, {"executions": executions, "runs": [run.run_id for run in flush.runs]}
        )
    if (seen := await counted.fetchone()) is not None and seen["repeated"]:
        return await _recall(database, flush)
    rows = await settled.fetchall()
    others = (
        {r["execution_id"] for r in await unparked.fetchall()} - set(executions)
        if unparked is not None
        else set()
    )
    ready = (
        {r["zone"]: r["admitted"] for r in await admitted.fetchall()}
        if admitted is not None
        else {}
    )
    others |= set(executions) if may_admit_more(ready) else set()
    advanced = await advance.read()
    stopped = await stopping.fetchall()
    return Settled(
        stale=frozenset(run.run_id for run in flush.runs) - {r["run_id"] for r in rows},
        stopping=frozenset(r["id"] for r in stopped if r["cancelling"]),
        admitted=sum_by_zone(ready, advanced.admitted),
        unparked=sorted({*others, *advanced.others}),
        halted=advanced.halted,
        stopping_runs=frozenset(run for r in stopped for run in r["runs"] or ()),
    )


async def _admit_others(database: Database, settled: Settled) -> Settled:
    return replace(
        settled,
        admitted=sum_by_zone(settled.admitted, await admit_after(database, settled.unparked)),
    )


async def _was_committed(database: Database, flush: Flush) -> bool:
    row = await database.fetch_one(_FLUSHED, [flush.owner])
    return row is not None and row["last_flush"] >= flush.number


async def _recall(database: Database, flush: Flush) -> Settled:
    rows = await database.fetch(_OWN_RUNS, [[run.run_id for run in flush.runs], flush.owner])
    statuses = {(row["id"], row["fence"]): RunStatus(row["status"]) for row in rows}
    stale = frozenset(
        run.run_id
        for run in flush.runs
        if not _as_moved(run, statuses.get((run.run_id, run.fence)))
    )
    return Settled(stale, frozenset(), {})


def _as_moved(run: RunMove, stored: RunStatus | None) -> bool:
    """Return True if the state of the run proves that the flush with this move was committed.

    `stored`: its status, or None if it no longer belongs to this owner.
    """
    if run.status is RunStatus.WAITING:
        return stored is None
    return stored is (run.status or RunStatus.RUNNING)
