"""Take over: give the runs of a buried worker to a living one, and end those that bury whoever has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from opsjobs.model.execution import ErrorCode, RunError, RunStatus
from opsjobs.store.ledger.admit import ADMIT, LOCK, LOCK_SLOTS, UNPARK
from opsjobs.store.ledger.claim import Claimed, claimed
from opsjobs.store.ledger.flush import Flush, LogLine, ResultState, RunMove, parameters
from opsjobs.store.ledger.lines import result_line, status_line
from opsjobs.store.ledger.next_action import next_action
from opsjobs.store.ledger.settle import SETTLE, admit_after
from opsjobs.store.transaction import Database

# Of so many owners in a row a run may have been the last work, without a sign of life of its own.
CLAIMS_AT_MOST = 5

# A worker that stopped in order left its runs to others: that is nothing against them. `action` is read of poisonous runs
# alone; one that has no action left can do no harm any more, and is handed out.
_CANDIDATES = f"""
select r.id, r.execution_id, r.target_id, r.fence, opsjobs_now() as now, at.*
from target_runs r join workers w on w.id = r.owner
left join lateral ({next_action(f"r.claims + (w.stopped_at is null)::int > {CLAIMS_AT_MOST}")}
) at on true
where r.status = 'running' and r.zone = %(zone)s and w.buried_at is not null
order by r.id limit %(limit)s for update of r skip locked"""

_TAKE_OVER = """
with moved as (
  update target_runs r set owner = %(owner)s, worker = %(worker)s, fence = r.fence + 1, taken_over = true,
    claims = r.claims + (w.stopped_at is null)::int
  from workers w
  where r.id = any(%(runs)s::bigint[]) and r.status = 'running' and w.id = r.owner and w.buried_at is not null
  returning r.id, r.uuid, r.execution_id, r.target_id, r.target_name, r.position, r.fence, r.attempt, r.turn, r.store_id, r.boot_id
)
select m.id, m.uuid, m.execution_id, m.target_id, m.target_name, m.position, m.fence, m.attempt, coalesce(m.turn, 0) as turn,
       m.store_id, m.boot_id, e.log_day, extract(epoch from e.deadline_at - opsjobs_now())::float8 as seconds_left
from moved m join job_executions e on e.id = m.execution_id"""


async def take_over(database: Database, *, owner: UUID, worker: str, zone: str, limit: int) -> list[Claimed]:
    """Up to `limit` running runs of buried owners, now under this owner and the next fence."""
    async with database.begun() as connection:
        async with connection.pipeline():
            await connection.execute("begin")
            candidates = await connection.execute(_CANDIDATES, {"zone": zone, "limit": limit})
        seen = await candidates.fetchall()
        if not seen:
            return []
        executions = sorted({r["execution_id"] for r in seen})
        poison = _burial(owner, worker, [r for r in seen if r["action"] is not None])
        targets = sorted({run.target_id for run in poison.runs})
        async with connection.pipeline():
            await connection.execute(LOCK, {"executions": executions})
            if targets:
                await connection.execute(LOCK_SLOTS, {"targets": targets})
            moved = await connection.execute(_TAKE_OVER, {"owner": owner, "worker": worker, "runs": [r["id"] for r in seen]})
            if targets:
                await connection.execute(SETTLE, parameters(poison))
                unparked = await connection.execute(UNPARK, {"targets": targets})
                await connection.execute(ADMIT, {"executions": executions})
            await connection.execute("commit")
        taken = await moved.fetchall()
        others = {r["execution_id"] for r in await unparked.fetchall()} - set(executions) if targets else set()
    await admit_after(database, sorted(others))
    dead = {run.run_id for run in poison.runs}
    return [claimed(row, taken_over=True) for row in taken if row["id"] not in dead]


def _burial(owner: UUID, worker: str, rows: Sequence[Mapping[str, Any]]) -> Flush:
    """What ends poisonous runs, said by the owner that they have in this same transaction."""
    words = f"more than {CLAIMS_AT_MOST} workers in a row died while they had it, and it gave no sign of life"
    error = RunError(ErrorCode.POISON, words)
    moves = [RunMove(r["id"], r["execution_id"], r["target_id"], r["fence"] + 1, RunStatus.DEAD, error=error) for r in rows]
    results = [_result(row, error) for row in rows]
    lines: list[LogLine] = []
    for row, result in zip(rows, results, strict=True):
        if result.started_at is not None:
            lines.append(result_line(result, row["target_id"]))
        lines.append(status_line(row["id"], row["target_id"], RunStatus.DEAD, error))
    return Flush(owner, worker, 0, moves, results, lines)


def _result(row: Mapping[str, Any], error: RunError) -> ResultState:
    stored = (row["stdout_stored"], row["stderr_stored"])
    return ResultState(
        run_id=row["id"],
        action=row["action"],
        attempt=row["attempt"],
        begins=not row["begun"],
        status=RunStatus.DEAD,
        stored_before=stored,
        stored=stored,
        written=(row["stdout_bytes"], row["stderr_bytes"]),
        started_at=row["started_at"],
        finished_at=row["now"],
        error=error,
    )
