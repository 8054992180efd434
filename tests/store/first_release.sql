-- What workers and APIs of the first release send, word for word: they go on beside every later schema.

-- name: launch_execution
insert into job_executions (uuid, job_id, job_version, number, log_day, status, "window", priority, total, waiting, last_seq,
                            created_at, deadline_at)
select %(uuid)s, %(job_id)s, %(job_version)s, %(number)s, (t.now at time zone 'UTC')::date, 'queued', %(window)s, %(priority)s,
       %(total)s, %(total)s, 1, t.now, t.now + make_interval(secs => %(timeout_seconds)s)
from (select opsjobs_now() as now) t returning id, log_day, created_at

-- name: launch_spec
insert into execution_specs (execution_id, job_name, actions, policy, triggered_by, requested_by, reason)
values (%(id)s, %(job_name)s, %(actions)s, %(policy)s, %(triggered_by)s, %(requested_by)s, %(reason)s)

-- name: launch_runs
insert into target_runs (uuid, execution_id, target_id, target_name, target_host, zone, position)
select r.uuid, %(id)s, r.target, r.name, r.host, r.zone, r.position
from unnest(%(uuids)s::uuid[], %(targets)s::text[], %(names)s::text[], %(hosts)s::text[], %(zones)s::text[])
  with ordinality as r(uuid, target, name, host, zone, position)

-- name: launch_slots
insert into target_slots (target_id, slots)
select t.id, t.slots from unnest(%(targets)s::text[], %(slots)s::int[]) as t(id, slots)
where not exists (select 1 from target_slots s where s.target_id = t.id) order by t.id on conflict do nothing

-- name: launch_told
with logged as (
  insert into execution_log (log_day, execution_id, seq, event, body)
  select log_day, id, 1, 'status', jsonb_build_object('execution', id, 'status', 'queued', 'error', null)
  from job_executions where id = %(id)s
)
insert into events (shard, type, subject, execution_id) values (%(id)s %% 16, 'execution.queued', %(uuid)s, %(id)s)

-- name: candidates
select id, execution_id, target_id from target_runs
where zone = %(zone)s and status = 'waiting' and waiting_for is null and turn >= %(floor)s
order by turn, id limit %(limit)s for update skip locked

-- name: lock
select id from job_executions where id = any(%(executions)s::bigint[]) order by id for update

-- name: lock_free_slots
select 1 from target_slots where target_id = any(%(targets)s::text[]) order by target_id for update skip locked

-- name: decide
with slot as materialized (
  select target_id, slots - used as free from target_slots
  where target_id = any(%(targets)s::text[]) order by target_id for update skip locked
), candidate as materialized (
  select r.id, r.execution_id, r.target_id, e.uuid as execution_uuid,
         (e.paused or e.cancelling or e.finished_at is not null or e.deadline_at <= opsjobs_now()) is true as closed,
         slot.free,
         row_number() over (partition by r.target_id,
           (e.paused or e.cancelling or e.finished_at is not null or e.deadline_at <= opsjobs_now()) is true
           order by r.turn, r.id) as place
  from target_runs r join job_executions e on e.id = r.execution_id left join slot on slot.target_id = r.target_id
  where r.id = any(%(runs)s::bigint[])
), decided as (
  select id, execution_id, target_id,
         case when closed then 'closed' when free is null then 'later' when place <= free then 'claimed' else 'parked' end as what
  from candidate
), moved as (
  update target_runs r set
    status = case d.what when 'claimed' then 'running' else 'waiting' end,
    waiting_for = case d.what when 'claimed' then null when 'parked' then 'slot' else 'admission' end,
    owner = case d.what when 'claimed' then %(owner)s::uuid end,
    worker = case d.what when 'claimed' then %(worker)s::text else r.worker end,
    claimed_at = case d.what when 'claimed' then opsjobs_now() else r.claimed_at end,
    fence = r.fence + (d.what = 'claimed')::int
  from decided d where r.id = any(%(runs)s::bigint[]) and r.id = d.id and d.what <> 'later'
  returning r.id, r.uuid, r.execution_id, r.target_id, r.target_name, r.position, r.fence, r.attempt, r.turn, d.what
), taken as (
  update target_slots s set used = used + n.n
  from (select target_id, count(*) as n from moved where what = 'claimed' group by 1) n
  where s.target_id = any(%(targets)s::text[]) and s.target_id = n.target_id
), counted as (
  update job_executions e set
    running = running + n.claimed, ready = ready - n.claimed - n.back, waiting = waiting + n.back,
    last_seq = last_seq + n.claimed + (n.claimed > 0 and e.started_at is null)::int,
    status = case when n.claimed > 0 then 'running' else e.status end,
    started_at = case when n.claimed > 0 then coalesce(e.started_at, opsjobs_now()) else e.started_at end
  from (select m.execution_id, count(*) filter (where m.what = 'claimed') as claimed,
               count(*) filter (where m.what <> 'claimed') as back
        from moved m group by 1) n
  where e.id = any(%(executions)s::bigint[]) and e.id = n.execution_id
  returning e.id, e.uuid, e.log_day, e.last_seq, n.claimed,
            extract(epoch from e.deadline_at - opsjobs_now())::float8 as seconds_left,
            (select x.started_at is null from job_executions x where x.id = e.id) and n.claimed > 0 as first
), logged as (
  insert into execution_log (log_day, execution_id, seq, event, target_run_id, target_id, body)
  select e.log_day, e.id, e.last_seq - e.claimed + row_number() over (partition by e.id order by m.position), 'status', m.id,
         m.target_id, jsonb_build_object('target_run', m.id, 'target', m.target_id, 'status', 'running', 'error', null,
                                         'worker', %(worker)s::text)
  from counted e join moved m on m.execution_id = e.id and m.what = 'claimed'
  union all
  select e.log_day, e.id, e.last_seq - e.claimed, 'status', null, null,
         jsonb_build_object('execution', e.id, 'status', 'running', 'error', null)
  from counted e where e.first
), told as (
  insert into events (shard, type, subject, execution_id, from_seq, to_seq)
  select t.shard, t.type, t.uuid, t.id, t.from_seq, t.to_seq from (
    select 1 as nth, e.id %% 16 as shard, 'execution.started' as type, e.uuid, e.id, null::bigint as from_seq, null::bigint as to_seq
    from counted e where e.first
    union all
    select 2, e.id %% 16, 'target_run', e.uuid, e.id, e.last_seq - e.claimed + 1, e.last_seq from counted e where e.claimed > 0
  ) t order by t.nth
)
select m.*, e.log_day, e.seconds_left from moved m join counted e on e.id = m.execution_id

-- name: take_over_candidates
select r.id, r.execution_id, r.owner from target_runs r
where r.status = 'running' and r.zone = %(zone)s
  and r.owner in (select id from workers where buried_at is not null)
order by r.id limit %(limit)s for update skip locked

-- name: take_over
with moved as (
  update target_runs r set owner = %(owner)s, worker = %(worker)s, fence = r.fence + 1, claims = r.claims + 1
  where r.id = any(%(runs)s::bigint[]) and r.status = 'running'
    and r.owner in (select id from workers where buried_at is not null)
  returning r.*
)
select m.id, m.uuid, m.execution_id, m.target_id, m.target_name, m.position, m.fence, m.attempt, coalesce(m.turn, 0) as turn,
       e.log_day, extract(epoch from e.deadline_at - opsjobs_now())::float8 as seconds_left
from moved m join job_executions e on e.id = m.execution_id

-- name: unknown
select m.id, m.uuid, m.execution_id, m.target_id, m.target_name, m.position, m.fence, m.attempt, coalesce(m.turn, 0) as turn,
       m.claims > 0 as taken_over, e.log_day, extract(epoch from e.deadline_at - opsjobs_now())::float8 as seconds_left
from target_runs m join job_executions e on e.id = m.execution_id
where m.owner = %(owner)s and m.status = 'running' and not m.id = any(%(known)s::bigint[]) limit 1000

-- name: settle
with flushed as materialized (
  select * from unnest(%(run)s::bigint[], %(execution)s::bigint[], %(fence)s::bigint[], %(status)s::text[], %(exit)s::int[],
                       %(code)s::text[], %(message)s::text[], %(proof)s::text[], %(lines)s::int[], %(moves)s::int[])
    as f(run_id, execution_id, fence, status, exit_code, error_code, error_message, cancel_proof, lines, moves)
), result as materialized (
  select * from unnest(%(r_run)s::bigint[], %(r_execution)s::bigint[], %(r_action)s::text[], %(r_attempt)s::int[],
                       %(r_begins)s::bool[], %(r_status)s::text[], %(r_out_before)s::bigint[], %(r_err_before)s::bigint[],
                       %(r_out)s::bigint[], %(r_err)s::bigint[], %(r_out_written)s::bigint[], %(r_err_written)s::bigint[],
                       %(r_started)s::timestamptz[], %(r_finished)s::timestamptz[], %(r_exit)s::int[], %(r_code)s::text[],
                       %(r_message)s::text[], %(r_proof)s::text[])
    as r(run_id, execution_id, action, attempt, begins, status, out_before, err_before, out_stored, err_stored, out_written,
         err_written, started_at, finished_at, exit_code, error_code, error_message, cancel_proof)
), stale as materialized (
  select f.run_id from flushed f left join lateral (
    select t.owner, t.fence, t.status from target_runs t where t.id = f.run_id offset 0) t on true
  where (t.owner = %(owner)s and t.fence = f.fence and t.status = 'running') is not true
  union all
  select r.run_id from result r left join lateral (
    select s.status, s.stdout_stored, s.stderr_stored from job_execution_results s
    where s.target_run_id = r.run_id and s.action = r.action and s.attempt = r.attempt offset 0) s on true
  where r.begins <> (s.status is null) or s.status <> 'running'
     or coalesce(s.stdout_stored, 0) <> r.out_before or coalesce(s.stderr_stored, 0) <> r.err_before
), mine as materialized (
  select * from flushed where run_id not in (select run_id from stale)
), results as (
  insert into job_execution_results as s (execution_id, target_run_id, action, attempt, status, exit_code, error_code,
    error_message, worker, cancel_proof, stdout_stored, stderr_stored, stdout_bytes, stderr_bytes, started_at, finished_at)
  select r.execution_id, r.run_id, r.action, r.attempt, r.status, r.exit_code, r.error_code, r.error_message, %(worker)s,
         r.cancel_proof, r.out_stored, r.err_stored, r.out_written, r.err_written, r.started_at, r.finished_at
  from result r where r.run_id not in (select run_id from stale)
  on conflict (target_run_id, action, attempt) do update set
    status = excluded.status, exit_code = excluded.exit_code, error_code = excluded.error_code,
    error_message = excluded.error_message, cancel_proof = excluded.cancel_proof, stdout_stored = excluded.stdout_stored,
    stderr_stored = excluded.stderr_stored, stdout_bytes = excluded.stdout_bytes, stderr_bytes = excluded.stderr_bytes,
    finished_at = excluded.finished_at
), moved as (
  update target_runs t set
    status = m.status, exit_code = m.exit_code, error_code = m.error_code, error_message = m.error_message,
    cancel_proof = m.cancel_proof,
    waiting_for = case when m.status = 'waiting' then 'admission' end,
    owner = case when m.status = 'waiting' then null else t.owner end,
    finished_at = case when m.status = 'waiting' then null else opsjobs_now() end
  from mine m where t.id = any(array(select run_id from mine where status is not null)) and t.id = m.run_id
  returning t.target_id
), freed as (
  update target_slots s set used = used - n.n
  from (select target_id, count(*) as n from moved group by 1) n
  where s.target_id = any(array(select target_id from moved)) and s.target_id = n.target_id
), tally as (
  select execution_id, sum(lines) as lines, sum(moves) as moves, count(status) as left_running,
         count(*) filter (where status = 'waiting') as given_back, count(*) filter (where status = 'succeeded') as succeeded, count(*) filter (where status = 'failed') as failed, count(*) filter (where status = 'unreachable') as unreachable, count(*) filter (where status = 'timeout') as timeout, count(*) filter (where status = 'cancelled') as cancelled, count(*) filter (where status = 'skipped') as skipped, count(*) filter (where status = 'blocked') as blocked, count(*) filter (where status = 'lost') as lost, count(*) filter (where status = 'dead') as dead
  from mine group by 1
), counted as (
  update job_executions e set
    running = e.running - t.left_running, waiting = e.waiting + t.given_back, succeeded = e.succeeded + t.succeeded, failed = e.failed + t.failed, unreachable = e.unreachable + t.unreachable, timeout = e.timeout + t.timeout, cancelled = e.cancelled + t.cancelled, skipped = e.skipped + t.skipped, blocked = e.blocked + t.blocked, lost = e.lost + t.lost, dead = e.dead + t.dead,
    last_seq = e.last_seq + t.lines
      + case when e.waiting + e.ready + e.running - t.left_running + t.given_back = 0 then 2 else 0 end,
    status = case when e.waiting + e.ready + e.running - t.left_running + t.given_back = 0
                  then opsjobs_verdict(e.cancelling, e.total, (e.succeeded + t.succeeded)::int, (e.timeout + t.timeout)::int,
                                       (e.cancelled + t.cancelled)::int) else e.status end,
    finished_at = case when e.waiting + e.ready + e.running - t.left_running + t.given_back = 0 then opsjobs_now() end
  from tally t where e.id = any(array(select execution_id from tally)) and e.id = t.execution_id
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
select run_id from mine

-- name: admit
with open as (
  select id, least("window" - ready - running, waiting) as room, ready, 2520 / priority as step
  from job_executions
  where id = any(%(executions)s::bigint[]) and finished_at is null and not paused and not cancelling
    and waiting > 0 and "window" > ready + running and (deadline_at > opsjobs_now()) is not false
), picked as (
  select run.id, run.zone, open.id as execution_id, open.step,
         open.ready + row_number() over (partition by open.id order by run.position) as place
  from open cross join lateral (
    select id, zone, position from target_runs
    where execution_id = open.id and status = 'waiting' and waiting_for = 'admission'
    order by position limit open.room for update skip locked) run
), low as (
  select zone, coalesce((select min(turn) from target_runs r
                         where r.zone = z.zone and r.status = 'waiting' and r.waiting_for is null), 0) as turn
  from (select distinct zone from picked) z
), admitted as (
  update target_runs r set waiting_for = null, turn = low.turn + picked.place * picked.step
  from picked join low using (zone)
  where r.id = any(array(select id from picked)) and r.id = picked.id  -- the array makes the plan go by the key
  returning picked.execution_id, r.zone
), counted as (
  update job_executions e set ready = ready + n.n, waiting = waiting - n.n
  from (select execution_id, count(*) as n from admitted group by 1) n
  where e.id = any(%(executions)s::bigint[]) and e.id = n.execution_id
)
select zone, count(*) as admitted from admitted group by zone

-- name: unpark
with free as (
  select target_id, slots - used as room from target_slots where target_id = any(%(targets)s::text[]) and slots > used
), parked as (
  select run.id from free cross join lateral (
    select id from target_runs
    where target_id = free.target_id and status = 'waiting' and waiting_for = 'slot'
    order by turn limit free.room for update skip locked) run
)
update target_runs r set waiting_for = 'admission' from parked
where r.id = any(array(select id from parked)) and r.id = parked.id returning r.execution_id

-- name: reach
with recursive reach(id) as (
  select id from targets where id = any(%s::bigint[])
  union select t.jump_id from targets t join reach using (id) where t.jump_id is not null
)
select t.* from targets t join reach using (id)

-- name: resolve
select * from targets where id = any(%s::bigint[])

-- name: replace
update targets set name = %(name)s, host = %(host)s, port = %(port)s, transport = %(transport)s, platform = %(platform)s, labels = %(labels)s, groups = %(groups)s, credential_id = %(credential_id)s, host_keys = %(host_keys)s, host_key_policy = %(host_key_policy)s, zone = %(zone)s, slots = %(slots)s, jump_id = %(jump_id)s, version = version + 1, updated_at = opsjobs_now()
where id = %(id)s and (name, host, port, transport, platform, labels, groups, credential_id, host_keys, host_key_policy, zone, slots, jump_id) is distinct from (%(name)s, %(host)s, %(port)s, %(transport)s, %(platform)s, %(labels)s, %(groups)s, %(credential_id)s, %(host_keys)s, %(host_key_policy)s, %(zone)s, %(slots)s, %(jump_id)s)
