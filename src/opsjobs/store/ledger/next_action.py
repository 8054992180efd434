"""Which action a run is at, or would begin next, as the record says."""

from __future__ import annotations


def next_action(condition: str) -> str:
    """A query beside a row `r` (id, execution_id, attempt), for a lateral join: at most one row, and none unless `condition`.

    `action`, `begun` (its result is open), the `attempt` of that result or of the one to come, and how far the open one is.
    What ended stands, unless it never began, or was lost in an attempt before the run's own.
    """
    return f"""
  select a.key as action, x.status is not null as begun, coalesce(x.attempt, greatest(r.attempt, before.attempt + 1)) as attempt,
         x.started_at, coalesce(x.stdout_stored, 0) as stdout_stored, coalesce(x.stderr_stored, 0) as stderr_stored,
         coalesce(x.stdout_bytes, 0) as stdout_bytes, coalesce(x.stderr_bytes, 0) as stderr_bytes
  from execution_specs s cross join jsonb_array_elements(s.actions) with ordinality as d(body, nth)
  cross join lateral (select d.body ->> 'key' as key) a
  left join job_execution_results x on x.target_run_id = r.id and x.action = a.key and x.status = 'running'
  left join lateral (
    select max(p.attempt) as attempt from job_execution_results p where p.target_run_id = r.id and p.action = a.key) before on true
  where {condition} and s.execution_id = r.execution_id and not exists (
    select 1 from job_execution_results o
    where o.target_run_id = r.id and o.action = a.key and o.status not in ('running', 'skipped')
      and not (o.status = 'lost' and o.attempt < r.attempt))
  order by x.status is null, d.nth limit 1"""
