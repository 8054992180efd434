"""Settle: the group commit of a worker: output, results and ends of many runs in one pipelined transaction.

Every run is guarded by owner + fence, and every stream by the offset that the log has reached: a chunk moves it from
`old` to `new` and fails if it is not at `old`. A run whose guard fails is left out whole and named as stale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from opsjobs import failpoints
from opsjobs.model.errors import TooSlow, Unavailable
from opsjobs.model.execution import FINAL_RUN_STATUSES, RunStatus, WaitingFor
from opsjobs.store.connection_errors import REPEATABLE
from opsjobs.store.ledger.admit import ADMIT, LOCK, LOCK_SLOTS, UNPARK, admit_after, admitted_in_part
from opsjobs.store.ledger.advance import Advance, joined
from opsjobs.store.ledger.cancel import skip_after
from opsjobs.store.ledger.expired_waits import WAKE_ANSWERED
from opsjobs.store.ledger.flush import DIRECT, Flush, RunMove, parameters
from opsjobs.store.transaction import Database


@dataclass(frozen=True, slots=True)
class Settled:
    """What a flush did: runs that were not ours any more, executions that are being cancelled,
    and how many runs it made ready, by zone."""

    stale: frozenset[int]
    stopping: frozenset[int]
    admitted: Mapping[str, int]
    unparked: Sequence[int] = ()
    """Other executions, whose runs waited for what it freed."""
    halted: Sequence[int] = ()
    """Executions in which too many failed: what has not begun is skipped."""


_ENDS = ", ".join(f"{s.value} = e.{s.value} + t.{s.value}" for s in FINAL_RUN_STATUSES)
_TALLY = ", ".join(f"count(*) filter (where status = '{s.value}') as {s.value}" for s in FINAL_RUN_STATUSES)

# A run with a boot id was perhaps started in its machine's store: its folders there are removed a day after its end (while it
# waits in between, the moment keeps the fact), and what is unknown of it there is looked for soon, before that. Output that is
# large or may hold secrets is emptied within seconds (aftercare.EARLY_HOURS); its record stays for the day.
_SPOOL_DUE = """case when num_nonnulls(m.boot_id, t.boot_id, t.spool_due) > 0
                     then (select opsjobs_now())
                        + case when m.release and m.status <> 'waiting' then interval '10 seconds' else interval '24 hours' end
                     end"""
_SWEEP_DUE = f"""case when m.status <> 'waiting' and (
                        m.sweep or (m.cancel_proof = 'unreachable' or m.error_code in ('lost', 'poison'))
                        and coalesce(m.boot_id, t.boot_id) is not null and coalesce(m.store_id, t.store_id) <> '{DIRECT}')
                     then (select opsjobs_now()) + interval '1 minute' end"""

# What ended by itself before its worker heard of a cancel is proven to have finished, too: each target of a cancel has a proof.
# Every step is linear in what the flush holds, whatever plan is chosen: rows are looked up one by one by their keys (lateral,
# offset 0), and what is stale is left out by a hashed `not in`.
SETTLE = f"""
with seen as materialized (
  select f.*, t.target_id, t.claims, (t.owner = %(owner)s and t.fence = f.fence and t.status = 'running') is true as ours
  from unnest(%(run)s::bigint[], %(execution)s::bigint[], %(fence)s::bigint[], %(status)s::text[], %(exit)s::int[],
              %(code)s::text[], %(message)s::text[], %(proof)s::text[], %(attempt)s::int[], %(store)s::text[], %(boot)s::text[],
              %(lines)s::int[], %(moves)s::int[], %(waiting_for)s::text[], %(wake)s::float8[], %(awaits)s::text[],
              %(sweep)s::bool[], %(release)s::bool[])
    as f(run_id, execution_id, fence, status, exit_code, error_code, error_message, cancel_proof, attempt, store_id, boot_id,
         lines, moves, waiting_for, wake, awaits, sweep, release)
  left join lateral (
    select t.owner, t.fence, t.status, t.target_id, t.claims from target_runs t where t.id = f.run_id offset 0) t on true
), result as materialized (
  select * from unnest(%(r_run)s::bigint[], %(r_execution)s::bigint[], %(r_action)s::text[], %(r_attempt)s::int[],
                       %(r_begins)s::bool[], %(r_status)s::text[], %(r_out_before)s::bigint[], %(r_err_before)s::bigint[],
                       %(r_out)s::bigint[], %(r_err)s::bigint[], %(r_out_written)s::bigint[], %(r_err_written)s::bigint[],
                       %(r_started)s::timestamptz[], %(r_finished)s::timestamptz[], %(r_exit)s::int[], %(r_code)s::text[],
                       %(r_message)s::text[], %(r_proof)s::text[], %(r_store)s::text[], %(r_boot)s::text[],
                       %(r_outputs)s::text[], %(r_again)s::float8[], %(r_command)s::text[], %(r_logged_in)s::text[])
    as r(run_id, execution_id, action, attempt, begins, status, out_before, err_before, out_stored, err_stored, out_written,
         err_written, started_at, finished_at, exit_code, error_code, error_message, cancel_proof, store_id, boot_id, outputs,
         again, command, logged_in)
), stale as materialized (
  select run_id from seen where not ours
  union all
  select r.run_id from result r left join lateral (
    select s.status, s.stdout_stored, s.stderr_stored from job_execution_results s
    where s.target_run_id = r.run_id and s.action = r.action and s.attempt = r.attempt offset 0) s on true
  where r.begins <> (s.status is null) or s.status <> 'running'
     or coalesce(s.stdout_stored, 0) <> r.out_before or coalesce(s.stderr_stored, 0) <> r.err_before
), mine as materialized (
  select * from seen where run_id not in (select run_id from stale)
), results as (
  insert into job_execution_results as s (execution_id, target_run_id, action, attempt, status, exit_code, error_code,
    error_message, worker, cancel_proof, stdout_stored, stderr_stored, stdout_bytes, stderr_bytes, started_at, finished_at,
    store_id, boot_id, outputs, again_at, command, logged_in)
  select r.execution_id, r.run_id, r.action, r.attempt, r.status, r.exit_code, r.error_code, r.error_message, %(worker)s,
         r.cancel_proof, r.out_stored, r.err_stored, r.out_written, r.err_written, r.started_at, r.finished_at,
         r.store_id, r.boot_id, r.outputs::jsonb,
         case when r.again is not null then opsjobs_now() + make_interval(secs => r.again) end, r.command,
         r.logged_in::tstzrange
  from result r where r.run_id not in (select run_id from stale)
  on conflict (target_run_id, action, attempt) do update set
    status = excluded.status, exit_code = excluded.exit_code, error_code = excluded.error_code,
    error_message = excluded.error_message, cancel_proof = excluded.cancel_proof, stdout_stored = excluded.stdout_stored,
    stderr_stored = excluded.stderr_stored, stdout_bytes = excluded.stdout_bytes, stderr_bytes = excluded.stderr_bytes,
    finished_at = excluded.finished_at, store_id = coalesce(excluded.store_id, s.store_id),
    boot_id = coalesce(excluded.boot_id, s.boot_id), outputs = excluded.outputs, again_at = excluded.again_at
), cancelling as materialized (
  select e.id from job_executions e where e.id = any(%(execution)s::bigint[]) and e.cancelling
), moved as (
  update target_runs t set
    status = m.status, exit_code = m.exit_code, error_code = m.error_code, error_message = m.error_message,
    cancel_proof = coalesce(m.cancel_proof, case
      when m.status in ('succeeded', 'failed') and m.execution_id in (select id from cancelling) then 'already_finished' end),
    waiting_for = case when m.status = 'waiting' then coalesce(m.waiting_for, 'admission') end,
    not_before = case when m.wake is not null then opsjobs_now() + make_interval(secs => m.wake) end, awaits = m.awaits,
    owner = case when m.status = 'waiting' then null else t.owner end,
    finished_at = case when m.status = 'waiting' then null else opsjobs_now() end,
    attempt = coalesce(m.attempt, t.attempt), claims = 0,
    store_id = case when m.status = 'waiting' then null else coalesce(m.store_id, t.store_id) end,
    boot_id = case when m.status = 'waiting' then null else coalesce(m.boot_id, t.boot_id) end,
    spool_due = {_SPOOL_DUE}, sweep_due = {_SWEEP_DUE}
  from mine m where t.id = m.run_id and m.status is not null
  returning t.target_id
), lived as (
  update target_runs t set claims = 0, store_id = coalesce(m.store_id, t.store_id), boot_id = coalesce(m.boot_id, t.boot_id)
  from mine m
  where t.id = m.run_id and m.status is null and (m.store_id is not null or m.claims > 0 and m.lines > 0)
), identified as (
  insert into target_state as s (target_id, store_id, boot_id)
  select distinct on (m.target_id) m.target_id, m.store_id, m.boot_id from mine m
  where m.boot_id is not null and not exists (
    select 1 from target_state k where k.target_id = m.target_id and k.store_id = m.store_id and k.boot_id = m.boot_id)
  order by m.target_id  -- as all who write there: what waits for each other must not stand in a circle
  on conflict (target_id) do update set store_id = excluded.store_id, boot_id = excluded.boot_id, seen_at = opsjobs_now()
), freed as (
  update target_slots s set used = used - n.n
  from (select target_id, count(*) as n from moved group by 1) n
  where s.target_id = n.target_id
), tally as (
  select execution_id, sum(lines) as lines, sum(moves) as moves, count(status) as left_running,
         count(*) filter (where status = 'waiting') as given_back, {_TALLY}
  from mine group by 1
), counted as (
  update job_executions e set
    running = e.running - t.left_running, waiting = e.waiting + t.given_back, {_ENDS},
    last_seq = e.last_seq + t.lines
      + case when e.waiting + e.ready + e.running - t.left_running + t.given_back = 0 then 2 else 0 end,
    status = case when e.waiting + e.ready + e.running - t.left_running + t.given_back = 0
                  then opsjobs_verdict(e.cancelling, e.total, (e.succeeded + t.succeeded)::int, (e.timeout + t.timeout)::int,
                                       (e.cancelled + t.cancelled)::int) else e.status end,
    finished_at = case when e.waiting + e.ready + e.running - t.left_running + t.given_back = 0 then opsjobs_now() end
  from tally t where e.id = t.execution_id
  returning e.id, e.uuid, e.log_day, e.status, e.finished_at is not null as ended, opsjobs_counts(e) as counts, t.lines, t.moves,
            e.last_seq - t.lines - case when e.finished_at is not null then 2 else 0 end as before
), logged as (
  insert into execution_log (log_day, execution_id, seq, event, target_run_id, target_id, action, attempt, stream, start_offset,
                             data, dropped, body)
  select e.log_day, e.id, e.before + row_number() over (partition by e.id order by l.nth), l.event, l.run_id, l.target_id,
         l.action, l.attempt, l.stream, l.start_offset, l.data, l.dropped, l.body::jsonb
  from unnest(%(l_run)s::bigint[], %(l_execution)s::bigint[], %(l_target)s::text[], %(l_event)s::text[], %(l_action)s::text[],
              %(l_attempt)s::int[], %(l_stream)s::text[], %(l_start)s::bigint[], %(l_data)b::bytea[], %(l_dropped)s::bigint[],
              %(l_body)s::text[])
    with ordinality as l(run_id, execution_id, target_id, event, action, attempt, stream, start_offset, data, dropped, body, nth)
  join counted e on e.id = l.execution_id
  where l.run_id not in (select run_id from stale)
  union all
  select e.log_day, e.id, e.before + e.lines + 1, 'status', null, null, null, null, null, null, null, null,
         jsonb_build_object('execution', e.id, 'status', e.status, 'error', null) from counted e where e.ended
  union all
  select e.log_day, e.id, e.before + e.lines + 2, 'end', null, null, null, null, null, null, null, null,
         jsonb_build_object('status', e.status, 'counts', e.counts) from counted e where e.ended
), told as (
  insert into events (shard, type, subject, execution_id, from_seq, to_seq)
  select t.shard, t.type, t.uuid, t.id, t.from_seq, t.to_seq from (
    select 1 as nth, e.id %% 16 as shard, 'target_run' as type, e.uuid, e.id, e.before + 1 as from_seq,
           e.before + e.lines as to_seq
    from counted e where e.moves > 0
    union all
    select 2, e.id %% 16, 'execution.' || e.status, e.uuid, e.id, null, null from counted e where e.ended
  ) t order by t.nth
)
select run_id from mine"""

# A line that broke may have left the first try of this flush behind, still on its way to its commit: it holds the locks that
# this one waited for, so here it is over, and seen.
_COUNT_FLUSH = """
with before as (select last_flush from workers where id = %(owner)s)
update workers set last_flush = %(number)s from before where id = %(owner)s
returning before.last_flush >= %(number)s as repeated"""
_FLUSHED = "select last_flush from workers where id = %s"
_OURS = "select id, fence, status from target_runs where id = any(%s::bigint[]) and owner = %s"
_STOPPING = """
select e.id from job_executions e
where e.id = any(%(executions)s::bigint[]) and e.cancelling and e.finished_at is null"""

# Who waits so may wait for an answer that has come meanwhile; by its hour, too, where it names something.
_ANSWERED = (WaitingFor.APPROVAL, WaitingFor.CHILD, WaitingFor.TIMER, WaitingFor.BACKOFF)


async def settle(database: Database, flush: Flush) -> Settled:
    """Commit a flush whole. Raises Unavailable where it was surely not committed; then it may be given again.

    An answer lost on the way is looked up by the flush's number, so that nothing is written twice or dropped.
    """
    try:
        async with failpoints.at("settle"):
            settled = await database.repeat(lambda: _settle(database, flush))
    except (Unavailable, *REPEATABLE) as broken:
        if not await _went_through(database, flush):
            again = TooSlow if isinstance(broken, TooSlow) else Unavailable
            raise again(f"flush {flush.number} was not committed: {broken}") from broken
        return await _recall(database, flush)
    await skip_after(database, settled.halted)
    return await _admit_others(database, settled)


async def _settle(database: Database, flush: Flush) -> Settled:
    executions = sorted({run.execution_id for run in flush.runs})
    ending = [run for run in flush.runs if run.status is not None]
    targets = sorted({run.target_id for run in ending})
    # Nothing of this for plain executions, and for runs that wait for nobody's answer.
    advance = Advance(sorted({run.execution_id for run in ending if run.watched}))
    answered = sorted({run.execution_id for run in ending if run.waiting_for in _ANSWERED and run.awaits is not None})
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
        counted = await connection.execute(_COUNT_FLUSH, {"number": flush.number, "owner": flush.owner})
        stopping = await connection.execute(_STOPPING, {"executions": executions})
    if (seen := await counted.fetchone()) is not None and seen["repeated"]:
        return await _recall(database, flush)
    rows = await settled.fetchall()
    others = {r["execution_id"] for r in await unparked.fetchall()} - set(executions) if unparked is not None else set()
    ready = {r["zone"]: r["admitted"] for r in await admitted.fetchall()} if admitted is not None else {}
    others |= set(executions) if admitted_in_part(ready) else set()
    advanced = await advance.read()
    return Settled(
        stale=frozenset(run.run_id for run in flush.runs) - {r["run_id"] for r in rows},
        stopping=frozenset(r["id"] for r in await stopping.fetchall()),
        admitted=joined(ready, advanced.admitted),
        unparked=sorted({*others, *advanced.others}),
        halted=advanced.halted,
    )


async def _admit_others(database: Database, settled: Settled) -> Settled:
    return replace(settled, admitted=joined(settled.admitted, await admit_after(database, settled.unparked)))


async def _went_through(database: Database, flush: Flush) -> bool:
    row = await database.fetch_one(_FLUSHED, [flush.owner])
    return row is not None and row["last_flush"] >= flush.number


async def _recall(database: Database, flush: Flush) -> Settled:
    rows = await database.fetch(_OURS, [[run.run_id for run in flush.runs], flush.owner])
    stands = {(row["id"], row["fence"]): RunStatus(row["status"]) for row in rows}
    stale = frozenset(run.run_id for run in flush.runs if not _as_moved(run, stands.get((run.run_id, run.fence))))
    return Settled(stale, frozenset(), {})


def _as_moved(run: RunMove, stands: RunStatus | None) -> bool:
    """Whether a run that is ours and stands so (None: it is not ours) was part of a flush that made this move."""
    if run.status is RunStatus.WAITING:
        return stands is None
    return stands is (run.status or RunStatus.RUNNING)
