-- Write an execution with its spec, its runs, its first log entry and its event.
--
-- One statement, so that the row of the job, which assigns the number, is not locked across a round
-- trip. A job that is not active assigns no number; then nothing is written. Runs within the window
-- are written as ready: no other run could be ready before them. `low`: as in admit.sql.
with numbered as (
  update jobs set last_number = last_number + 1 where id = :'job_id' and state = 'active'
    returning last_number
), execution as (
  insert into job_executions (uuid, job_id, job_version, number, log_day, status, "window",
                              priority, total, waiting, ready, last_seq, created_at, deadline_at,
                              open_until, watched, named, hold_until)
  select :'uuid', :'job_id', :'job_version', (select last_number from numbered),
         (t.now at time zone 'UTC')::date, :'status', :'window', :'priority', :'total',
         :'total' - :'ready', :'ready', 1, t.now, t.now + make_interval(secs => :'timeout_seconds'),
         :'open_until', :'watched', :'named', t.now + make_interval(secs => :'hold_seconds')
  from (select opsjobs_now() as now) t where :'job_id'::bigint is null
    or exists (select from numbered)
  returning id, uuid, number, log_day, status, created_at
), spec as (
  insert into execution_specs (execution_id, job_name, actions, parameters, policy, triggered_by,
                               requested_by, reason, parent_id, requested_by_kind, labels,
                               requester, judgement, target_versions, target_pins,
                               traceparent, summary)
  select id, :'job_name', :'actions', :'parameters', :'policy', :'triggered_by', :'requested_by',
         :'reason', :'parent', :'requested_by_kind', :'labels', coalesce(:'requester', (
           select p.requester from execution_specs p where p.execution_id = :'parent'
             and :'triggered_by' = 'workflow')),
         :'judgement', :'target_versions', :'target_pins', :'traceparent',
         :'summary'
  from execution
), low as materialized (
  select z.zone, coalesce((
    select min(r.turn) from target_runs r
    where r.zone = z.zone and r.status = 'waiting' and r.waiting_for is null and r.turn >= z.floor),
      z.floor) as turn
  from (select d.zone, coalesce((select t.turn from zone_turns t where t.zone = d.zone), 0) as floor
        from (select distinct zone from unnest(:'zones'::text[]) as u(zone)) d) z
), runs as (
  insert into target_runs (uuid, execution_id, target_id, target_name, target_host, zone, position,
    wave, waiting_for, turn)
  select r.uuid, e.id, r.target, r.name, r.host, r.zone, r.position,
         width_bucket(r.position::int - 1, :'sizes'::int[]), case
           when r.position > :'ready' then 'admission' end,
         case when r.position <= :'ready' then low.turn + r.position * :'step' end
  from execution e cross join
    unnest(:'uuids'::uuid[], :'targets'::text[], :'names'::text[], :'hosts'::text[],
      :'zones'::text[])
      with ordinality as r(uuid, target, name, host, zone, position) join low using (zone)
  order by r.position
), logged as (
  insert into execution_log (log_day, execution_id, seq, event, body)
  select log_day, id, 1, 'status', jsonb_build_object('execution', id, 'status', status, 'error',
    null) from execution
), published as (
  insert into events (shard, type, subject, execution_id)
  select id % 16, 'execution.queued', uuid, id from execution where status = 'queued'
)
select id, number, log_day, created_at from execution;
