-- End waiting runs of an execution: `:chosen` narrows them down, `:column` is the counter of the
-- status.
--
-- A run that has begun may have folders on its target and results: its open results end with it,
-- otherwise the next action gets a result with this end. A run was never started if none of its
-- actions was performed, here or in a child execution; waiting does not count as performed, nor do
-- actions that the parent of a retry performed. The outcome of a branch that was lost before is
-- looked up later (sweep_due).
with jobs as (
  select a ->> 'key' as key from execution_specs s cross join jsonb_array_elements(s.actions) a
  where s.execution_id = :'id' and a ->> 'type' = 'job'
), waiting as (
  select r.id, r.waiting_for,
    case r.waiting_for when 'child' then 'another job' when 'approval' then 'an approval'
      when 'timer' then 'its time'
      when 'backoff' then 'its next attempt' when 'hold' then 'its machine'
        when 'barrier' then 'the others' else 'its turn'
    end as words,
    (r.waiting_for = 'child') is true or exists (
      select 1 from job_execution_results b
      where b.target_run_id = r.id and b.started_at is not null and b.inherited_from is null
        and b.status <> 'skipped'
        and (b.status <> 'running' or b.action in (select key from jobs))) as begun
  from target_runs r where r.execution_id = :'id' and r.status = 'waiting' :chosen
  order by r.position limit :'limit' for update of r skip locked
), ended as (
  update target_runs r set status = :'status', waiting_for = null, not_before = null, awaits = null,
    finished_at = opsjobs_now(),
    error_code = :'code', cancel_proof = case when not w.begun then 'never_started' end,
    error_message = case when w.begun then coalesce(:'begun'::text || w.words,
    :'message') else :'message' end, spool_due = case when num_nonnulls(r.boot_id,
    r.spool_due) > 0 then (select opsjobs_now()) + interval '24 hours' end, sweep_due = case
      when r.fence > 0 and exists (
      select 1 from job_execution_results x
      where x.target_run_id = r.id and x.late_result is null and x.again_at is null
        and x.boot_id is not null
        and x.store_id <> 'direct' and ((x.cancel_proof = 'unreachable') is true
          or x.status in ('lost', 'dead'))
    ) then (select opsjobs_now()) + interval '1 minute' end
  from waiting w where r.id = w.id
  returning r.id, r.execution_id, r.target_id, r.position, r.attempt, r.fence, w.waiting_for,
    r.error_message, r.cancel_proof
), closed as (
  update job_execution_results x set status = :'status', error_code = :'code',
    error_message = r.error_message, finished_at = opsjobs_now()
  from ended r
  where x.target_run_id = r.id and x.status = 'running' returning x.*
), results as (
  insert into job_execution_results (execution_id, target_run_id, action, attempt, status,
                                     error_code, error_message, cancel_proof,
                                     finished_at)
  select :'id', r.id, coalesce(at.action, s.actions -> 0 ->> 'key'),
         coalesce(at.attempt, r.attempt), :'status', :'code', :'message', 'never_started',
         opsjobs_now()
  from ended r join execution_specs s on s.execution_id = :'id' left join lateral (
:next_action
  ) at on true
  where at.begun is not true and (r.fence = 0 or at.action is not null)
), entries as (
  select 1 as nth, r.position, 'result' as event, r.id, r.target_id, x.action, x.attempt,
    jsonb_build_object(
    'target_run', r.id, 'target', r.target_id, 'action_key', x.action, 'attempt', x.attempt,
    'status', x.status, 'exit_code', x.exit_code, 'error',
    jsonb_build_object('code', x.error_code, 'message', x.error_message), 'cancel_proof',
    x.cancel_proof, 'stdout_bytes', x.stdout_bytes, 'stderr_bytes', x.stderr_bytes, 'started_at',
    to_char(x.started_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'finished_at',
    to_char(x.finished_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')) as body
  from closed x join ended r on r.id = x.target_run_id
  union all
  select 2, r.position, 'status', r.id, r.target_id, null, null, jsonb_build_object(
    'target_run', r.id, 'target', r.target_id, 'status', :'status'::text,
    'error', jsonb_build_object('code', :'code'::text, 'message', r.error_message),
    'cancel_proof', r.cancel_proof)
  from ended r
), tally as (
  select count(*) as n, count(*) filter (where waiting_for is null) as ready,
         count(*) filter (where waiting_for is not null) as waiting,
         (select count(*) from entries) as lines
  from ended
), verdict as (
  -- Runs of an execution that are cancelled one by one cancel it once there are no others.
  select e.id, e.cancelling or e.partly_cancelled and e.cancelled + t.n * :cancelled = e.total
    as cancelled from job_executions e cross join tally t where e.id = :'id'
), counted as (
  update job_executions e set waiting = e.waiting - t.waiting, ready = e.ready - t.ready,
    :column = e.:column + t.n, last_seq = e.last_seq + t.lines + case
      when e.waiting + e.ready + e.running - t.n = 0 then 2 else 0 end,
    status = case when e.waiting + e.ready + e.running - t.n = 0 and e.status = 'pending_approval'
      and not v.cancelled
                  then 'rejected'
                  when e.waiting + e.ready + e.running - t.n = 0
                  then opsjobs_verdict(v.cancelled, e.total, e.succeeded,
                    (e.timeout + t.n * :timed_out)::int,
                                       (e.cancelled + t.n * :cancelled)::int) else e.status end,
    finished_at = case when e.waiting + e.ready + e.running - t.n = 0 then opsjobs_now() end
  from tally t, verdict v where e.id = :'id' and v.id = e.id and t.n > 0
  returning e.id, e.uuid, e.log_day, e.status, e.finished_at is not null as ended,
            opsjobs_counts(e) as counts, t.lines, e.last_seq - t.lines - case
              when e.finished_at is not null then 2 else 0 end as before
), logged as (
  insert into execution_log (log_day, execution_id, seq, event, target_run_id, target_id, action,
    attempt, body)
  select c.log_day, c.id, c.before + row_number() over (order by s.nth, s.position, s.action),
         s.event, s.id, s.target_id, s.action, s.attempt, s.body
  from counted c cross join entries s
  union all
  select c.log_day, c.id, c.before + c.lines + 1, 'status', null, null, null, null,
         jsonb_build_object('execution', c.id, 'status', c.status, 'error', null) from counted c
           where c.ended
  union all
  select c.log_day, c.id, c.before + c.lines + 2, 'end', null, null, null, null,
         jsonb_build_object('status', c.status, 'counts', c.counts) from counted c where c.ended
), published as (
  insert into events (shard, type, subject, execution_id, from_seq, to_seq)
  select t.shard, t.type, t.uuid, t.id, t.from_seq, t.to_seq from (
    select 1 as nth, c.id % 16 as shard, 'target_run' as type, c.uuid, c.id,
           c.before + 1 as from_seq, c.before + c.lines as to_seq
    from counted c
    union all
    select 2, c.id % 16, 'execution.' || c.status, c.uuid, c.id, null, null from counted c
      where c.ended
  ) t order by t.nth
)
select n from tally;
