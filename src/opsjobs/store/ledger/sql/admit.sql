-- Make waiting runs of these executions ready, within their windows; return how many, by zone.
--
-- Run under the locks of the executions. Linear in the number of admitted runs, whatever the table
-- statistics: arrays count as few rows, and each element is looked up by its key. `low`: the turn
-- from which a zone's next runs count. Its floor (zone_turns) avoids walking index entries of runs
-- that were claimed before, which an old snapshot keeps in the index.
with open as materialized (
  select id, least("window" - ready - running, waiting) as room, ready, :step / priority as step,
         coalesce(open_until, 2147483647) as upto, halted, partly_cancelled
  from job_executions e
  where id = any(:'executions'::bigint[]) and finished_at is null and not paused and not cancelling
    and waiting > 0 and "window" > ready + running
    and (deadline_at > (select opsjobs_now())) is not false
    and (not named or not exists (select 1 from exclusive_locks l where l.execution_id = e.id
      and not l.granted offset 0))
), picked as materialized (
  select run.id, run.zone, open.id as execution_id, open.step,
         open.ready + row_number() over (partition by open.id order by run.position) as place
  from open cross join lateral (
    select id, zone, position from target_runs
    where execution_id = open.id and status = 'waiting' and waiting_for = 'admission'
      and position <= open.upto
      and (not open.halted or claimed_at is not null)
      and (not open.partly_cancelled or not exists (select 1 from cancelled_runs c
        where c.execution_id = open.id and c.target_run_id = target_runs.id offset 0))
    order by position limit least(open.room, :admit_rows) for update skip locked) run
  limit :admit_rows
), low as materialized (
  select z.zone, coalesce((
    select min(r.turn) from target_runs r
    where r.zone = z.zone and r.status = 'waiting' and r.waiting_for is null and r.turn >= z.floor),
      z.floor) as turn
  from (select d.zone, coalesce((select t.turn from zone_turns t where t.zone = d.zone), 0) as floor
        from (select distinct zone from picked) d) z
), admitted as (
  update target_runs r set waiting_for = null, turn = n.turn
  from (select array_agg(p.id) as ids, array_agg(low.turn + p.place * p.step) as turns from picked p
    join low using (zone)) a
  cross join lateral unnest(a.ids, a.turns) as n(id, turn)
  where r.id = n.id
  returning r.execution_id, r.zone
), counted as (
  update job_executions e set ready = ready + n.n, waiting = waiting - n.n
  from (select execution_id, count(*) as n from admitted group by 1) n
  where e.id = n.execution_id
)
select zone, count(*) as admitted from admitted group by zone;
