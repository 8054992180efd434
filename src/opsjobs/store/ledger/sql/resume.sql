-- Resume a paused execution. At a gate this is the confirmation that the gate waits for: the next
-- wave opens, and the failures so far are accepted.
with stood as (
  select e.id, g.waves, g.cause, g.per_wave, :failures as failures,
    :failures - g.fail_base as counted, g.limits[e.open_wave + 1] as allowed,
    (g.cause is not null and :wave_over) is true as opens, :next_wave as next_wave
  from job_executions e left join execution_gates g on g.execution_id = e.id where e.id = :'id'
    and e.paused
), moved as (
  update job_executions e set paused = false, last_seq = e.last_seq + 1,
    open_wave = case when s.opens then s.next_wave else e.open_wave end,
    open_until = case when s.opens then s.waves[s.next_wave + 1] else e.open_until end
  from stood s where e.id = s.id returning e.id, e.log_day, e.last_seq, e.open_wave, e.started_at
), gates as (
  update execution_gates g set cause = null,
    fail_base = case when s.cause = 'max_fail' or s.opens
      and s.per_wave then s.failures else g.fail_base end
  from stood s where g.execution_id = s.id
), reasons as (
  update execution_specs set paused_by = null, pause_reason = null
    where execution_id = (select id from stood)
), accepted as (
  select counted as failures, allowed as max_fail from stood where cause = 'max_fail'
), logged as (
  insert into execution_log (log_day, execution_id, seq, event, body)
  select m.log_day, m.id, m.last_seq, 'status',
         jsonb_build_object('execution', m.id, 'status', case
           when m.started_at is null then 'queued' else 'running' end,
                            'error', null, 'by', :'by'::text)
           || case when s.opens then jsonb_build_object('wave', m.open_wave + 1, 'waves',
             cardinality(s.waves)) else '{}' end
           || coalesce((select jsonb_build_object('accepts', a.failures, 'max_fail', a.max_fail)
             from accepted a), '{}')
  from moved m join stood s on s.id = m.id
)
select failures, max_fail from accepted;
