"""Takeover: assign the runs of a dead worker to a live one; end poison runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from opsjobs.model.execution import ErrorCode, RunError, RunStatus
from opsjobs.store.ledger.admission import ADMIT, LOCK, LOCK_SLOTS, UNPARK
from opsjobs.store.ledger.admit import admit_after
from opsjobs.store.ledger.advance import Advance
from opsjobs.store.ledger.claim import Claimed, parse_claimed
from opsjobs.store.ledger.flush import (
    SETTLE,
    Flush,
    ResultState,
    RunMove,
    parameters,
    result_line,
    status_line,
)
from opsjobs.store.statements import load_statement
from opsjobs.store.transaction import Database

# Owners in a row that may die with a run, without recorded progress of it, before it ends dead.
CLAIMS_MAX = 5
# From this number on, a run is a suspect and is handed out alone: otherwise each death would count
# against all runs of that worker.
SUSPECT_CLAIMS = 2

_CANDIDATES = load_statement(
    __file__,
    "take_over_candidates",
    suspect_claims=SUSPECT_CLAIMS,
    claims_at_most=CLAIMS_MAX,
    next_action=load_statement(__file__, "next_action", condition=f"r.claims > {CLAIMS_MAX}"),
)

_TAKE_OVER = """
with moved as (
  update target_runs r set owner = %(owner)s, worker = %(worker)s, fence = r.fence + 1,
    taken_over = true,
    claims = r.claims + (w.stopped_at is null)::int
  from workers w
  where r.id = any(%(runs)s::bigint[]) and r.status = 'running' and w.id = r.owner
    and w.buried_at is not null
  returning r.id, r.uuid, r.execution_id, r.target_id, r.target_name, r.position, r.fence,
    r.attempt, r.turn, r.store_id, r.boot_id,
    r.passed, r.claimed_at, r.claims, r.contact_lost_at
)
select m.id, m.uuid, m.execution_id, m.target_id, m.target_name, m.position, m.fence, m.attempt,
       coalesce(m.turn, 0) as turn,
       m.store_id, m.boot_id, m.passed, m.claims, m.contact_lost_at, e.log_day, e.watched,
       extract(epoch from opsjobs_now() - m.claimed_at)::float8 as age_seconds,
       extract(epoch from e.deadline_at - opsjobs_now())::float8 as seconds_left,
       extract(epoch from e.hold_until - opsjobs_now())::float8 as hold_seconds
from moved m join job_executions e on e.id = m.execution_id"""


async def take_over(
    database: Database, *, owner: UUID, worker: str, zone: str, limit: int, waited: bool = False
) -> list[Claimed]:
    """Take over up to `limit` running runs of dead workers, at most one of them a suspect.

    They get this owner and the next fence. Until a suspect of this owner has made progress, no
    other suspect is added, unless the caller has `waited` long enough for it.
    """
    async with database.manual_transaction() as connection:
        async with connection.pipeline():
            await connection.begin()
            candidates = await connection.execute(
                _CANDIDATES, {"zone": zone, "limit": limit, "owner": owner, "waited": waited}
            )
        seen = await candidates.fetchall()
        if not seen:
            return []
        executions = sorted({r["execution_id"] for r in seen})
        poison = _end_poisoned(owner, worker, [r for r in seen if r["action"] is not None])
        targets = sorted({run.target_id for run in poison.runs})
        advance = Advance(executions if targets else ())
        async with connection.pipeline():
            await connection.execute(LOCK, {"executions": executions})
            if targets:
                await connection.execute(LOCK_SLOTS, {"targets": targets})
            wanted = {"owner": owner, "worker": worker, "runs": sorted({r["id"] for r in seen})}
            moved = await connection.execute(_TAKE_OVER, wanted)
            if targets:
                await connection.execute(SETTLE, parameters(poison))
                unparked = await connection.execute(UNPARK, {"targets": targets})
                await connection.execute(ADMIT, {"executions": executions})
            await advance.send(connection)
            await connection.execute("commit")
        taken = await moved.fetchall()
        others = (
            {r["execution_id"] for r in await unparked.fetchall()} - set(executions)
            if targets
            else set()
        )
        advanced = await advance.read()
    await admit_after(database, sorted({*others, *advanced.others}))
    dead = {run.run_id for run in poison.runs}
    return [parse_claimed(row, taken_over=True) for row in taken if row["id"] not in dead]


def _end_poisoned(owner: UUID, worker: str, rows: Sequence[Mapping[str, Any]]) -> Flush:
    """Return the flush that ends poison runs, written by their new owner."""
    words = (
        f"more than {CLAIMS_MAX} workers in a row died while they had it, and it gave no sign "
        f"of life"
    )
    error = RunError(ErrorCode.POISON, words)
    results = [_result(row, error) for row in rows]
    started = [
        (row, result)
        for row, result in zip(rows, results, strict=True)
        if result.started_at is not None
    ]
    lines = [result_line(result, row["target_id"]) for row, result in started]
    runs = {row["id"]: row for row in rows}
    lines += [
        status_line(run_id, row["target_id"], RunStatus.DEAD, error) for run_id, row in runs.items()
    ]
    in_spool = {row["id"] for row in rows if row["in_spool"]}
    moves = [
        RunMove(
            i,
            r["execution_id"],
            r["target_id"],
            r["fence"] + 1,
            RunStatus.DEAD,
            error=error,
            sweep=i in in_spool,
        )
        for i, r in runs.items()
    ]
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
