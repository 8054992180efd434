"""End what waits: by a cancel, a deadline, a refusal, or because the execution was halted. Workers stop what runs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
from psycopg import sql

from opsjobs.model.errors import Conflict, NotFound, Unavailable
from opsjobs.model.execution import ErrorCode, RunStatus
from opsjobs.store import audit
from opsjobs.store.ledger.admit import LOCK, admit_after
from opsjobs.store.ledger.advance import Advance
from opsjobs.store.ledger.next_action import next_action
from opsjobs.store.transaction import Database

# A round that skipped rows (a claim holds them right now) is repeated; each round ends at most this many.
ROUND_RUNS = 2_000
MOMENT = 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'


@dataclass(frozen=True, slots=True)
class Ending:
    """Why waiting runs end, and as what. `begun`: the words for a run of which something was performed already."""

    status: RunStatus
    code: ErrorCode
    message: str
    begun: str | None = None


CANCELLED = Ending(RunStatus.CANCELLED, ErrorCode.CANCELLED, "cancelled before it was started", "cancelled while it waited for ")
EXPIRED = Ending(
    RunStatus.TIMEOUT,
    ErrorCode.COMMAND_TIMEOUT,
    "the execution's timeout passed before it was started",
    "the execution's timeout passed while it waited for ",
)

_ASK = """
update job_executions set cancelling = true where id = %(id)s and finished_at is null"""
_ASKED_BY = """
update execution_specs set cancelled_by = %(by)s, cancel_reason = %(reason)s where execution_id = %(id)s and cancelled_by is null"""

_WORDS = """case r.waiting_for when 'child' then 'another job' when 'approval' then 'an approval' when 'timer' then 'its time'
    when 'backoff' then 'its next attempt' when 'hold' then 'its machine' when 'barrier' then 'the others' else 'its turn' end"""

# A run that has begun may have its folders and results: what is open of it ends with it, else the next action gets the end.
# Never started is what nothing was performed of, here or in a child; what only waits, and what a parent did, is nothing.
# What became of a branch that was lost before is looked for then.
_END_WAITING = f"""
with jobs as (
  select a ->> 'key' as key from execution_specs s cross join jsonb_array_elements(s.actions) a
  where s.execution_id = %(id)s and a ->> 'type' = 'job'
), waiting as (
  select r.id, r.waiting_for, {_WORDS} as words, (r.waiting_for = 'child') is true or exists (
      select 1 from job_execution_results b
      where b.target_run_id = r.id and b.started_at is not null and b.inherited_from is null and b.status <> 'skipped'
        and (b.status <> 'running' or b.action in (select key from jobs))) as begun
  from target_runs r where r.execution_id = %(id)s and r.status = 'waiting' {{chosen}}
  order by r.position limit %(limit)s for update of r skip locked
), ended as (
  update target_runs r set status = %(status)s, waiting_for = null, not_before = null, awaits = null, finished_at = opsjobs_now(),
    error_code = %(code)s, cancel_proof = case when not w.begun then 'never_started' end,
    error_message = case when w.begun then coalesce(%(begun)s::text || w.words, %(message)s) else %(message)s end,
    spool_due = case when num_nonnulls(r.boot_id, r.spool_due) > 0 then (select opsjobs_now()) + interval '24 hours' end,
    sweep_due = case when r.fence > 0 and exists (
      select 1 from job_execution_results x
      where x.target_run_id = r.id and x.late_result is null and x.again_at is null and x.boot_id is not null
        and x.store_id <> 'direct' and ((x.cancel_proof = 'unreachable') is true or x.status in ('lost', 'dead'))
    ) then (select opsjobs_now()) + interval '1 minute' end
  from waiting w where r.id = w.id
  returning r.id, r.execution_id, r.target_id, r.position, r.attempt, r.fence, w.waiting_for, r.error_message
), closed as (
  update job_execution_results x set status = %(status)s, error_code = %(code)s, error_message = r.error_message,
    finished_at = opsjobs_now()
  from ended r
  where x.target_run_id = r.id and x.status = 'running' returning x.*
), results as (
  insert into job_execution_results (execution_id, target_run_id, action, attempt, status, error_code, error_message, cancel_proof,
                                     finished_at)
  select %(id)s, r.id, coalesce(at.action, s.actions -> 0 ->> 'key'), coalesce(at.attempt, r.attempt), %(status)s, %(code)s,
         %(message)s, 'never_started', opsjobs_now()
  from ended r join execution_specs s on s.execution_id = %(id)s left join lateral ({next_action("r.fence > 0")}
  ) at on true
  where at.begun is not true and (r.fence = 0 or at.action is not null)
), said as (
  select 1 as nth, r.position, 'result' as event, r.id, r.target_id, x.action, x.attempt, jsonb_build_object(
    'target_run', r.id, 'target', r.target_id, 'action_key', x.action, 'attempt', x.attempt, 'status', x.status,
    'exit_code', x.exit_code, 'error', jsonb_build_object('code', x.error_code, 'message', x.error_message),
    'cancel_proof', x.cancel_proof, 'stdout_bytes', x.stdout_bytes, 'stderr_bytes', x.stderr_bytes,
    'started_at', to_char(x.started_at at time zone 'UTC', '{MOMENT}'),
    'finished_at', to_char(x.finished_at at time zone 'UTC', '{MOMENT}')) as body
  from closed x join ended r on r.id = x.target_run_id
  union all
  select 2, r.position, 'status', r.id, r.target_id, null, null, jsonb_build_object(
    'target_run', r.id, 'target', r.target_id, 'status', %(status)s::text,
    'error', jsonb_build_object('code', %(code)s::text, 'message', r.error_message))
  from ended r
), tally as (
  select count(*) as n, count(*) filter (where waiting_for is null) as ready,
         count(*) filter (where waiting_for is not null) as waiting, (select count(*) from said) as lines
  from ended
), counted as (
  update job_executions e set waiting = e.waiting - t.waiting, ready = e.ready - t.ready, {{column}} = e.{{column}} + t.n,
    last_seq = e.last_seq + t.lines + case when e.waiting + e.ready + e.running - t.n = 0 then 2 else 0 end,
    status = case when e.waiting + e.ready + e.running - t.n = 0 and e.status = 'pending_approval' and not e.cancelling
                  then 'rejected'
                  when e.waiting + e.ready + e.running - t.n = 0
                  then opsjobs_verdict(e.cancelling, e.total, e.succeeded, (e.timeout + t.n * {{timed_out}})::int,
                                       (e.cancelled + t.n * {{cancelled}})::int) else e.status end,
    finished_at = case when e.waiting + e.ready + e.running - t.n = 0 then opsjobs_now() end
  from tally t where e.id = %(id)s and t.n > 0
  returning e.id, e.uuid, e.log_day, e.status, e.finished_at is not null as ended, opsjobs_counts(e) as counts, t.lines,
            e.last_seq - t.lines - case when e.finished_at is not null then 2 else 0 end as before
), logged as (
  insert into execution_log (log_day, execution_id, seq, event, target_run_id, target_id, action, attempt, body)
  select c.log_day, c.id, c.before + row_number() over (order by s.nth, s.position, s.action), s.event, s.id, s.target_id,
         s.action, s.attempt, s.body
  from counted c cross join said s
  union all
  select c.log_day, c.id, c.before + c.lines + 1, 'status', null, null, null, null,
         jsonb_build_object('execution', c.id, 'status', c.status, 'error', null) from counted c where c.ended
  union all
  select c.log_day, c.id, c.before + c.lines + 2, 'end', null, null, null, null,
         jsonb_build_object('status', c.status, 'counts', c.counts) from counted c where c.ended
), told as (
  insert into events (shard, type, subject, execution_id, from_seq, to_seq)
  select t.shard, t.type, t.uuid, t.id, t.from_seq, t.to_seq from (
    select 1 as nth, c.id %% 16 as shard, 'target_run' as type, c.uuid, c.id, c.before + 1 as from_seq,
           c.before + c.lines as to_seq
    from counted c
    union all
    select 2, c.id %% 16, 'execution.' || c.status, c.uuid, c.id, null, null from counted c where c.ended
  ) t order by t.nth
)
select n from tally"""

_LEFT = """
select exists (
  select 1 from target_runs r where r.execution_id = %(id)s and r.status = 'waiting' {chosen}) as left_waiting"""

ALL = sql.SQL("")
# Of a halted execution what has done nothing yet; what a retry took over from its parent was done there.
UNBEGUN = sql.SQL("""and not exists (
    select 1 from job_execution_results b where b.target_run_id = r.id and b.inherited_from is null)""")
REFUSED = sql.SQL("and r.waiting_for = 'approval' and r.awaits = %(awaits)s")

_HALTED = "select halt_reason from execution_specs where execution_id = %s"
_CHILDREN = """
select s.execution_id from execution_specs s join job_executions e on e.id = s.execution_id
where s.parent_id = %s and s.triggered_by = 'workflow' and e.finished_at is null and not e.cancelling order by 1"""


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
        await audit.record(connection, "execution.cancelled", "execution", execution_id, reason=reason)
    await end_waiting(database, execution_id, CANCELLED)
    await cancel_children(database, execution_id, "the execution that it is part of was cancelled")


async def cancel_children(database: Database, execution_id: int, reason: str) -> int:
    """Cancel the executions that runs of this one launched and wait for; says how many."""
    children = await database.fetch(_CHILDREN, [execution_id])
    for child in children:
        with contextlib.suppress(Conflict, NotFound):  # it has ended meanwhile
            await database.repeat(partial(ask_cancel, database, child["execution_id"], by="opsjobs", reason=reason))
    return len(children)


async def skip_after(database: Database, executions: Sequence[int]) -> None:
    """`skip_halted` for a verb that is committed already: what fails here repeats nothing, and the reconciler makes up for it."""
    for execution_id in executions:
        with contextlib.suppress(Unavailable, psycopg.Error):
            await database.repeat(partial(skip_halted, database, execution_id))


async def skip_halted(database: Database, execution_id: int) -> int:
    """Skip every run of a halted execution that has not begun; says how many."""
    row = await database.fetch_one(_HALTED, [execution_id])
    why = row["halt_reason"] if row else None
    ending = Ending(RunStatus.SKIPPED, ErrorCode.CANCELLED, f"skipped, because the execution was stopped: {why}")
    return await _end(database, execution_id, ending, UNBEGUN)


async def end_waiting(database: Database, execution_id: int, ending: Ending) -> int:
    """End every waiting run of the execution, whatever it waits for; says how many."""
    return await _end(database, execution_id, ending, ALL)


async def end_refused(database: Database, execution_id: int, ending: Ending, action: str) -> int:
    """End the runs that wait for the approval of this action; says how many."""
    return await _end(database, execution_id, ending, REFUSED, awaits=action)


async def _end(database: Database, execution_id: int, ending: Ending, chosen: sql.SQL, awaits: str | None = None) -> int:
    statement = sql.SQL(_END_WAITING).format(
        chosen=chosen,
        column=sql.Identifier(ending.status.value),
        timed_out=sql.Literal(int(ending.status is RunStatus.TIMEOUT)),
        cancelled=sql.Literal(int(ending.status is RunStatus.CANCELLED)),
    )
    left_over = sql.SQL(_LEFT).format(chosen=chosen)
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
