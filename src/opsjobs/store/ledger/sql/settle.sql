-- Commit a flush: the output, results and moves of many runs of one worker.
--
-- A run that ended by itself before its worker received the cancel gets `already_finished` as its
-- proof: so each target that is cancelled has a proof. Every step is linear in the size of
-- the flush, whatever plan is chosen: rows are looked up one by one by their keys (lateral, offset
-- 0), and stale runs are left out by a hashed `not in`. `spool_due`: a run with a boot id may have
-- been started in the spool of its target: its folders there are removed a day after its end (while
-- it waits in between, the time keeps this fact), and an unknown outcome is looked up there soon,
-- before that (`sweep_due`). Output that is large or may contain secrets is deleted within seconds
-- (`release`, remote_cleanup.EARLY_HOURS); the record of the run stays for the day.
with seen as materialized (
  select f.*, t.target_id, t.claims, (t.owner = :'owner' and t.fence = f.fence
    and t.status = 'running') is true as ours
  from unnest(:'run'::bigint[], :'execution'::bigint[], :'fence'::bigint[], :'status'::text[],
              :'exit'::int[], :'code'::text[], :'message'::text[], :'proof'::text[],
              :'attempt'::int[], :'store'::text[], :'boot'::text[], :'lines'::int[],
              :'moves'::int[], :'waiting_for'::text[], :'wake'::float8[], :'awaits'::text[],
              :'sweep'::bool[], :'release'::bool[], :'contact'::text[])
    as f(run_id, execution_id, fence, status, exit_code, error_code, error_message, cancel_proof,
         attempt, store_id, boot_id, lines, moves, waiting_for, wake, awaits, sweep, release,
         contact)
  left join lateral (
    select t.owner, t.fence, t.status, t.target_id, t.claims from target_runs t
      where t.id = f.run_id offset 0) t on true
), result as materialized (
  select * from unnest(:'r_run'::bigint[], :'r_execution'::bigint[], :'r_action'::text[],
                       :'r_attempt'::int[], :'r_begins'::bool[], :'r_status'::text[],
                       :'r_out_before'::bigint[], :'r_err_before'::bigint[], :'r_out'::bigint[],
                       :'r_err'::bigint[], :'r_out_written'::bigint[], :'r_err_written'::bigint[],
                       :'r_started'::timestamptz[], :'r_finished'::timestamptz[], :'r_exit'::int[],
                       :'r_code'::text[],
                       :'r_message'::text[], :'r_proof'::text[], :'r_store'::text[],
                       :'r_boot'::text[], :'r_outputs'::text[], :'r_again'::float8[],
                       :'r_command'::text[], :'r_logged_in'::text[], :'r_open'::int[])
    as r(run_id, execution_id, action, attempt, begins, status, out_before, err_before, out_stored,
         err_stored, out_written, err_written, started_at, finished_at, exit_code, error_code,
         error_message, cancel_proof, store_id, boot_id, outputs, again, command, logged_in,
         open_lines)
), stale as materialized (
  select run_id from seen where not ours
  union all
  select r.run_id from result r left join lateral (
    select s.status, s.stdout_stored, s.stderr_stored from job_execution_results s
    where s.target_run_id = r.run_id and s.action = r.action and s.attempt = r.attempt offset 0) s
      on true
  where r.begins <> (s.status is null) or s.status <> 'running'
     or coalesce(s.stdout_stored, 0) <> r.out_before or coalesce(s.stderr_stored, 0) <> r.err_before
), mine as materialized (
  select * from seen where run_id not in (select run_id from stale)
), results as (
  insert into job_execution_results as s (execution_id, target_run_id, action, attempt, status,
    exit_code, error_code, error_message, worker, cancel_proof, stdout_stored, stderr_stored,
    stdout_bytes, stderr_bytes, started_at, finished_at, store_id, boot_id, outputs, again_at,
    command, logged_in, open_lines)
  select r.execution_id, r.run_id, r.action, r.attempt, r.status, r.exit_code, r.error_code,
         r.error_message, :'worker', r.cancel_proof, r.out_stored, r.err_stored, r.out_written,
         r.err_written, r.started_at, r.finished_at, r.store_id, r.boot_id, r.outputs::jsonb,
         case when r.again is not null then opsjobs_now() + make_interval(secs => r.again) end,
         r.command, r.logged_in::tstzrange, coalesce(r.open_lines, 0)
  from result r where r.run_id not in (select run_id from stale)
  on conflict (target_run_id, action, attempt) do update set
    status = excluded.status, exit_code = excluded.exit_code, error_code = excluded.error_code,
    error_message = excluded.error_message, cancel_proof = excluded.cancel_proof,
    stdout_stored = excluded.stdout_stored, stderr_stored = excluded.stderr_stored,
    stdout_bytes = excluded.stdout_bytes, stderr_bytes = excluded.stderr_bytes,
    finished_at = excluded.finished_at, store_id = coalesce(excluded.store_id, s.store_id),
    boot_id = coalesce(excluded.boot_id, s.boot_id), outputs = excluded.outputs,
    again_at = excluded.again_at, open_lines = excluded.open_lines
), cancelled as materialized (
  select m.run_id from mine m cross join lateral (
    select e.cancelling, e.partly_cancelled from job_executions e where e.id = m.execution_id
      offset 0) e
  where m.status is not null and (e.cancelling or e.partly_cancelled and exists (
    select 1 from cancelled_runs c
    where c.execution_id = m.execution_id and c.target_run_id = m.run_id offset 0))
), moved as (
  update target_runs t set
    status = m.status, exit_code = m.exit_code, error_code = m.error_code,
    error_message = m.error_message, cancel_proof = coalesce(m.cancel_proof, case
      when m.status in ('succeeded', 'failed') and m.run_id in (select run_id
        from cancelled) then 'already_finished' end),
    waiting_for = case when m.status = 'waiting' then coalesce(m.waiting_for, 'admission') end,
    not_before = case when m.wake is not null then opsjobs_now() + make_interval(secs => m.wake)
      end, awaits = m.awaits,
    owner = case when m.status = 'waiting' then null else t.owner end,
    finished_at = case when m.status = 'waiting' then null else opsjobs_now() end,
    attempt = coalesce(m.attempt, t.attempt), claims = 0,
    store_id = case when m.status = 'waiting' then null else coalesce(m.store_id, t.store_id) end,
    boot_id = case when m.status = 'waiting' then null else coalesce(m.boot_id, t.boot_id) end,
    spool_due = case when num_nonnulls(m.boot_id, t.boot_id, t.spool_due) > 0
                     then (select opsjobs_now())
                        + case when m.release and m.status <> 'waiting' then interval '10 seconds'
                          else interval '24 hours' end
                     end,
    sweep_due = case when m.status <> 'waiting' and (
                        m.sweep or (m.cancel_proof = 'unreachable'
                          or m.error_code in ('lost', 'poison'))
                        and coalesce(m.boot_id, t.boot_id) is not null
                        and coalesce(m.store_id, t.store_id) <> 'direct')
                     then (select opsjobs_now()) + interval '1 minute' end,
    contact_lost_at = null
  from mine m where t.id = m.run_id and m.status is not null
  returning t.target_id
), lived as (
  update target_runs t set
    claims = case when m.store_id is not null or m.lines > 0 then 0 else t.claims end,
    store_id = coalesce(m.store_id, t.store_id), boot_id = coalesce(m.boot_id, t.boot_id),
    contact_lost_at = case when m.contact is null then t.contact_lost_at else nullif(m.contact,
      '')::timestamptz end
  from mine m
  where t.id = m.run_id and m.status is null
    and (m.store_id is not null or m.contact is not null or m.claims > 0 and m.lines > 0)
), identified as (
  insert into target_state as s (target_id, store_id, boot_id)
  select distinct on (m.target_id) m.target_id, m.store_id, m.boot_id from mine m
  where m.boot_id is not null and not exists (
    select 1 from target_state k where k.target_id = m.target_id and k.store_id = m.store_id
      and k.boot_id = m.boot_id)
  order by m.target_id
    -- the order of all statements that write there, so that they cannot deadlock
  on conflict (target_id) do update set store_id = excluded.store_id, boot_id = excluded.boot_id,
    seen_at = opsjobs_now()
), freed as (
  update target_slots s set used = used - n.n
  from (select target_id, count(*) as n from moved group by 1) n
  where s.target_id = n.target_id
), tally as (
  select execution_id, sum(lines) as lines, sum(moves) as moves, count(status) as left_running,
         count(*) filter (where status = 'waiting') as given_back,
         count(*) filter (where status = 'succeeded') as succeeded,
         count(*) filter (where status = 'failed') as failed,
         count(*) filter (where status = 'unreachable') as unreachable,
         count(*) filter (where status = 'timeout') as timeout,
         count(*) filter (where status = 'cancelled') as cancelled,
         count(*) filter (where status = 'skipped') as skipped,
         count(*) filter (where status = 'blocked') as blocked,
         count(*) filter (where status = 'lost') as lost,
         count(*) filter (where status = 'dead') as dead
  from mine group by 1
), counted as (
  update job_executions e set
    running = e.running - t.left_running, waiting = e.waiting + t.given_back,
    succeeded = e.succeeded + t.succeeded, failed = e.failed + t.failed,
    unreachable = e.unreachable + t.unreachable, timeout = e.timeout + t.timeout,
    cancelled = e.cancelled + t.cancelled, skipped = e.skipped + t.skipped,
    blocked = e.blocked + t.blocked,
    lost = e.lost + t.lost, dead = e.dead + t.dead,
    last_seq = e.last_seq + t.lines
      + case when e.waiting + e.ready + e.running - t.left_running + t.given_back = 0 then 2 else 0
        end,
    status = case when e.waiting + e.ready + e.running - t.left_running + t.given_back = 0
                  then opsjobs_verdict(
                    e.cancelling or e.partly_cancelled and e.cancelled + t.cancelled = e.total,
                    e.total, (e.succeeded + t.succeeded)::int, (e.timeout + t.timeout)::int,
                    (e.cancelled + t.cancelled)::int) else e.status end,
    finished_at = case when e.waiting + e.ready + e.running - t.left_running + t.given_back = 0 then
      opsjobs_now() end
  from tally t where e.id = t.execution_id
  returning e.id, e.uuid, e.log_day, e.status, e.finished_at is not null as ended,
            opsjobs_counts(e) as counts, t.lines, t.moves,
            e.last_seq - t.lines - case when e.finished_at is not null then 2 else 0 end as before
), logged as (
  insert into execution_log (log_day, execution_id, seq, event, target_run_id, target_id, action,
                             attempt, stream, start_offset, data, dropped, body, lines)
  select e.log_day, e.id, e.before + row_number() over (partition by e.id order by l.nth), l.event,
         l.run_id, l.target_id, l.action, l.attempt, l.stream, l.start_offset, l.data, l.dropped,
         l.body::jsonb, l.lines
  from unnest(:'l_run'::bigint[], :'l_execution'::bigint[], :'l_target'::text[], :'l_event'::text[],
              :'l_action'::text[], :'l_attempt'::int[], :'l_stream'::text[], :'l_start'::bigint[],
              :'l_data'::bytea[], :'l_dropped'::bigint[], :'l_body'::text[], :'l_lines'::int[])
    with ordinality as l(run_id, execution_id, target_id, event, action, attempt, stream,
                         start_offset, data, dropped, body, lines, nth)
  join counted e on e.id = l.execution_id
  where l.run_id not in (select run_id from stale)
  union all
  select e.log_day, e.id, e.before + e.lines + 1, 'status', null, null, null, null, null, null,
         null, null, jsonb_build_object('execution', e.id, 'status', e.status, 'error', null), null
           from counted e where e.ended
  union all
  select e.log_day, e.id, e.before + e.lines + 2, 'end', null, null, null, null, null, null, null,
         null, jsonb_build_object('status', e.status, 'counts', e.counts), null from counted e
           where e.ended
), published as (
  insert into events (shard, type, subject, execution_id, from_seq, to_seq)
  select t.shard, t.type, t.uuid, t.id, t.from_seq, t.to_seq from (
    select 1 as nth, e.id % 16 as shard, 'target_run' as type, e.uuid, e.id,
           e.before + 1 as from_seq, e.before + e.lines as to_seq
    from counted e where e.moves > 0
    union all
    select 2, e.id % 16, 'execution.' || e.status, e.uuid, e.id, null, null from counted e
      where e.ended
  ) t order by t.nth
)
select run_id from mine;
