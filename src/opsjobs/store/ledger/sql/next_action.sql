-- The current actions of a run `r`, or the one that it would begin next: a query for a lateral join
-- with a row `r` (id, execution_id, attempt). It returns no row unless `:condition` holds.
-- One row for each open action, or else one for the first action that has not ended: `action`,
-- `begun` (its result is open), the `attempt` of that result or of the next one, the progress of
-- the open result, and whether it is `in_spool` on its target. An action that has ended stays
-- ended, unless it never began, is to be retried, or was lost in an attempt before the run's own
-- without a spool id. Rollback actions are not considered.
  select q.action, q.begun, q.attempt, q.started_at, q.stdout_stored, q.stderr_stored,
    q.stdout_bytes, q.stderr_bytes, q.in_spool
  from (
    select a.key as action, x.status is not null as begun,
           coalesce(x.attempt, before.attempt + 1, 1) as attempt, x.started_at,
           coalesce(x.stdout_stored, 0) as stdout_stored,
           coalesce(x.stderr_stored, 0) as stderr_stored,
           coalesce(x.stdout_bytes, 0) as stdout_bytes, coalesce(x.stderr_bytes, 0) as stderr_bytes,
           (x.boot_id is not null and x.store_id <> 'direct') is true as in_spool,
           row_number() over (order by x.status is null, d.nth) as place
    from execution_specs s cross join jsonb_array_elements(s.actions) with ordinality as d(body,
      nth)
    cross join lateral (select d.body ->> 'key' as key) a
    left join job_execution_results x on x.target_run_id = r.id and x.action = a.key
      and x.status = 'running'
    left join lateral (
      select max(p.attempt) as attempt from job_execution_results p where p.target_run_id = r.id
        and p.action = a.key) before on true
    where :condition and s.execution_id = r.execution_id and not exists (
      select 1 from job_execution_results o
      where o.target_run_id = r.id and o.action = a.key and o.status <> 'running'
        and o.again_at is null
        and not (o.status = 'skipped' and o.cancel_proof is not null)
        and not (o.status = 'lost' and o.attempt < r.attempt and o.store_id is null))
      and (x.status is not null
           or not exists (select 1 from jsonb_array_elements(s.actions) u
             where u ->> 'rollback' = a.key))
  ) q where q.begun or q.place = 1;
