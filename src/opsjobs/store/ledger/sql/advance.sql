-- Open barriers and waves, halt or pause executions: evaluate watched executions after their runs
-- have changed state.
--
-- Each CTE that only reads is materialized, so that no plan evaluates it once per run; released
-- runs are looked up by their keys, run by run. Of the barriers at which runs wait, the first in
-- the order of the actions opens: no run can reach a later one before it.
with gate as materialized (
  select e.id, e.log_day, e.total, e.paused, e.halted, e.open_wave, e.open_until,
         e.waiting + e.ready as left_over, :next_wave as next_wave, g.waves,
         g.limits[e.open_wave + 1] as allowed,
         g.per_wave, g.confirm, g.checked, g.pause_on_fail, :failures as failures,
         :failures - g.fail_base as counted, :wave_over as wave_over, e.ready + e.running = 0
           and not exists (
           select 1 from target_runs r
           where r.execution_id = e.id and r.position <= e.open_until and r.status = 'waiting'
             and r.waiting_for <> 'barrier' and not (e.halted and r.claimed_at is null)) as still
  from job_executions e join execution_gates g on g.execution_id = e.id
  where e.id = any(:'executions'::bigint[]) and e.finished_at is null and not e.cancelling
    and e.status <> 'pending_approval'
), opened as materialized (
  select g.id, (
    select k.key from (
      select distinct r.awaits as key from target_runs r
      where r.execution_id = g.id and r.status = 'waiting' and r.waiting_for = 'barrier') k
    left join (
      select a.body ->> 'key' as key, a.nth from execution_specs s
      cross join jsonb_array_elements(s.actions) with ordinality as a(body, nth)
        where s.execution_id = g.id) p using (key)
    order by p.nth limit 1) as key
  from gate g where g.still
), released as (
  update target_runs r set waiting_for = 'admission', awaits = null,
  passed = array_append(r.passed, r.awaits)
  from (
    select array_agg(b.id) as ids from opened o cross join lateral (
      select r.id from target_runs r
      where r.execution_id = o.id and r.awaits = o.key and r.status = 'waiting'
        and r.waiting_for = 'barrier' offset 0) b
  ) s cross join lateral unnest(s.ids) as n(id)
  where r.id = n.id
), judged as materialized (
  select g.*, counted > allowed as too_many, checked and allowed is null and wave_over and exists (
    select 1 from target_runs r join job_execution_results x on x.target_run_id = r.id
      and x.action = :check_key
    where r.execution_id = g.id and r.wave = g.open_wave
      and r.status not in ('waiting', 'running', 'succeeded', 'cancelled')
  ) as check_failed
  from gate g where not g.halted
), decided as materialized (
  select j.*,
    case when left_over = 0 then null
         when (too_many or check_failed) and not pause_on_fail then 'halt'
         when paused then null
         when too_many or check_failed then 'max_fail'
         when wave_over and confirm then 'confirm'
         when wave_over then 'open' end as what,
    case when too_many then format('%s of %s runs failed, and max_fail allows %s', counted,
                                   case when per_wave then waves[open_wave + 1] -
                                     coalesce(waves[open_wave], 0) else total end,
                                   allowed)
         when check_failed then format('the check of wave %s failed', open_wave + 1)
         else format('wave %s of %s has ended', open_wave + 1, cardinality(waves)) end as why
  from judged j
), moved as (
  update job_executions e set
    paused = e.paused or d.what in ('max_fail', 'confirm'), halted = e.halted or d.what = 'halt',
    open_wave = case d.what when 'open' then d.next_wave else e.open_wave end,
    open_until = case d.what when 'open' then d.waves[d.next_wave + 1] else e.open_until end,
    last_seq = e.last_seq + 1
  from decided d where e.id = any(:'executions'::bigint[]) and e.id = d.id and d.what is not null
  returning e.id, e.log_day, e.last_seq, e.open_wave
), gates as (
  update execution_gates g set cause = case when d.what in ('max_fail',
    'confirm') then d.what else g.cause end, fail_base = case when d.what = 'open'
      and d.per_wave then d.failures else g.fail_base end
  from decided d where g.execution_id = d.id and d.what is not null
), reasons as (
  update execution_specs s set
    pause_reason = case when d.what = 'halt' then s.pause_reason else d.why end,
    paused_by = case when d.what = 'halt' then s.paused_by end,
    halt_reason = case when d.what = 'halt' then d.why else s.halt_reason end
  from decided d where s.execution_id = d.id and d.what in ('halt', 'max_fail', 'confirm')
), logged as (
  insert into execution_log (log_day, execution_id, seq, event, body)
  select m.log_day, m.id, m.last_seq, 'status', case
    when d.what = 'open' then jsonb_build_object('execution', m.id, 'status', 'running', 'error',
                                                 null, 'wave', m.open_wave + 1, 'waves',
                                                 cardinality(d.waves))
    else jsonb_build_object('execution', m.id, 'status', case d.what
      when 'halt' then 'running' else 'paused' end, 'error',
                            null,
                            'reason', case d.what when 'halt' then 'stopped: ' else '' end || d.why)
                              end
  from moved m join decided d on d.id = m.id
)
select id, what from decided where what is not null;
