"""End what waits: by a cancel, or because the execution's deadline has passed. Running runs are stopped by their workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import sql

from opsjobs.model.execution import CancelProof, ErrorCode, RunStatus
from opsjobs.model.failures import Conflict, NotFound
from opsjobs.store.ledger.admit import LOCK
from opsjobs.store.ledger.next_action import next_action
from opsjobs.store.transaction import Database

# A round that skipped rows (a claim holds them right now) is repeated; each round ends at most this many.
ROUND_RUNS = 2_000


@dataclass(frozen=True, slots=True)
class Ending:
    """Why waiting runs end, and as what."""

    status: RunStatus
    code: ErrorCode
    message: str


CANCELLED = Ending(RunStatus.CANCELLED, ErrorCode.CANCELLED, "cancelled before it was started")
EXPIRED = Ending(RunStatus.TIMEOUT, ErrorCode.COMMAND_TIMEOUT, "the execution's timeout passed before it was started")

_ASK = """
update job_executions set cancelling = true where id = %(id)s and finished_at is null"""
_ASKED_BY = """
update execution_specs set cancelled_by = %(by)s, cancel_reason = %(reason)s where execution_id = %(id)s and cancelled_by is null"""

# A run that was claimed before and given back has its folders, and may have results: the next action gets the end.
_END_WAITING = f"""
with waiting as (
  select id, waiting_for from target_runs where execution_id = %(id)s and status = 'waiting'
  order by position limit %(limit)s for update skip locked
), ended as (
  update target_runs r set status = %(status)s, waiting_for = null, finished_at = opsjobs_now(), error_code = %(code)s,
    error_message = %(message)s, cancel_proof = 'never_started',
    spool_due = case when num_nonnulls(r.boot_id, r.spool_due) > 0 then (select opsjobs_now()) + interval '24 hours' end
  from waiting w where r.id = w.id
  returning r.id, r.execution_id, r.target_id, r.position, r.attempt, r.fence, w.waiting_for
), results as (
  insert into job_execution_results (execution_id, target_run_id, action, attempt, status, error_code, error_message, cancel_proof,
                                     finished_at)
  select %(id)s, r.id, coalesce(at.action, s.actions -> 0 ->> 'key'), coalesce(at.attempt, r.attempt), %(status)s, %(code)s,
         %(message)s, 'never_started', opsjobs_now()
  from ended r join execution_specs s on s.execution_id = %(id)s left join lateral ({next_action("r.fence > 0")}
  ) at on true
  where at.begun is not true and (r.fence = 0 or at.action is not null)
), tally as (
  select count(*) as n, count(*) filter (where waiting_for is null) as ready,
         count(*) filter (where waiting_for is not null) as waiting
  from ended
), counted as (
  update job_executions e set waiting = e.waiting - t.waiting, ready = e.ready - t.ready, {{column}} = e.{{column}} + t.n,
    last_seq = e.last_seq + t.n + case when e.waiting + e.ready + e.running - t.n = 0 then 2 else 0 end,
    status = case when e.waiting + e.ready + e.running - t.n = 0
                  then opsjobs_verdict(e.cancelling, e.total, e.succeeded, (e.timeout + t.n * {{timed_out}})::int,
                                       (e.cancelled + t.n * {{cancelled}})::int) else e.status end,
    finished_at = case when e.waiting + e.ready + e.running - t.n = 0 then opsjobs_now() end
  from tally t where e.id = %(id)s and t.n > 0
  returning e.id, e.uuid, e.log_day, e.status, e.finished_at is not null as ended, opsjobs_counts(e) as counts, t.n,
            e.last_seq - t.n - case when e.finished_at is not null then 2 else 0 end as before
), logged as (
  insert into execution_log (log_day, execution_id, seq, event, target_run_id, target_id, body)
  select c.log_day, c.id, c.before + row_number() over (order by e.position), 'status', e.id, e.target_id,
         jsonb_build_object('target_run', e.id, 'target', e.target_id, 'status', %(status)s::text,
                            'error', jsonb_build_object('code', %(code)s::text, 'message', %(message)s::text))
  from counted c cross join ended e
  union all
  select c.log_day, c.id, c.before + c.n + 1, 'status', null, null,
         jsonb_build_object('execution', c.id, 'status', c.status, 'error', null) from counted c where c.ended
  union all
  select c.log_day, c.id, c.before + c.n + 2, 'end', null, null,
         jsonb_build_object('status', c.status, 'counts', c.counts) from counted c where c.ended
), told as (
  insert into events (shard, type, subject, execution_id, from_seq, to_seq)
  select t.shard, t.type, t.uuid, t.id, t.from_seq, t.to_seq from (
    select 1 as nth, c.id %% 16 as shard, 'target_run' as type, c.uuid, c.id, c.before + 1 as from_seq, c.before + c.n as to_seq
    from counted c
    union all
    select 2, c.id %% 16, 'execution.' || c.status, c.uuid, c.id, null, null from counted c where c.ended
  ) t order by t.nth
)
select n from tally"""

_LEFT = "select waiting + ready as left_waiting, finished_at from job_executions where id = %(id)s"


async def ask_cancel(database: Database, execution_id: int, *, by: str, reason: str | None) -> None:
    """Set the flag and end what waits. Asked again while it is running: the same. Raises Conflict once it has ended."""
    asked = {"id": execution_id, "by": by, "reason": reason}
    async with database.transaction() as connection:
        await connection.execute(LOCK, {"executions": [execution_id]})
        row = await (
            await connection.execute("select status, finished_at from job_executions where id = %(id)s", asked)
        ).fetchone()
        if row is None:
            raise NotFound.of("execution", execution_id)
        if row["finished_at"] is not None:
            raise Conflict("execution_ended", f"Execution {execution_id} has already ended: it is {row['status']}.")
        await connection.execute(_ASK, asked)
        await connection.execute(_ASKED_BY, asked)
    await end_waiting(database, execution_id, CANCELLED)


async def end_waiting(database: Database, execution_id: int, ending: Ending) -> int:
    """End every waiting run of the execution; says how many."""
    statement = sql.SQL(_END_WAITING).format(
        column=sql.Identifier(ending.status.value),
        timed_out=sql.Literal(int(ending.status is RunStatus.TIMEOUT)),
        cancelled=sql.Literal(int(ending.status is RunStatus.CANCELLED)),
    )
    parameters: dict[str, Any] = {
        "id": execution_id,
        "limit": ROUND_RUNS,
        "status": ending.status.value,
        "code": ending.code.value,
        "message": ending.message,
        "proof": CancelProof.NEVER_STARTED.value,
    }
    total = 0
    while True:
        async with database.pipelined() as connection:
            await connection.execute(LOCK, {"executions": [execution_id]})
            ended = await connection.execute(statement, parameters)
            left = await connection.execute(_LEFT, parameters)
        row, rest = await ended.fetchone(), await left.fetchone()
        total += row["n"] if row else 0
        if not rest or not rest["left_waiting"]:
            return total
