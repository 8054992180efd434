-- What ended in the last hour, day and week, within a scope.
--
-- Whole hours that are counted come from execution_hours, all that ended later from the executions
-- themselves. Kinds of rows: total (job type, status), job (the busiest jobs), time (job type, kind
-- and class), hour (of the last day, status).
with period (period, since) as (
  values ('day', :'day'::timestamptz), ('week', :'week'::timestamptz)
), ended as materialized (
  select e.finished_at, e.job_id, coalesce(v.job_type, 'ad_hoc') as job_type, e.status,
    e.succeeded, e.failed, e.unreachable, e.timeout, e.cancelled, e.skipped, e.blocked, e.lost,
    e.dead, :class_of_duration as duration, :class_of_queue as queue
  from job_executions e
    left join job_versions v on v.job_id = e.job_id and v.version = e.job_version
  where e.finished_at >= :'live' and e.finished_at < :'now' :live_scope
), placed as materialized (
  select 'hour' as period, ended.* from ended where finished_at >= :'hour'
  union all
  select period, ended.* from ended join period on finished_at >= greatest(since, :'counted')
), counts as (
  select period, job_type, status, 1 as executions, succeeded, failed, unreachable, timeout,
    cancelled, skipped, blocked, lost, dead from placed
  union all
  select period, job_type, status, executions, succeeded, failed, unreachable, timeout,
    cancelled, skipped, blocked, lost, dead
  from execution_hours h join period on h.hour >= since
  where h.hour >= :'week' and h.hour < :'counted' :hours_scope
), times as (
  select period, job_type, t.kind, t.class, 1 as executions
  from placed
    cross join lateral (values ('duration', duration), ('queue', queue)) t(kind, class)
  where t.class is not null
  union all
  select period, job_type, kind, class, executions
  from execution_hour_times h join period on h.hour >= since
  where h.hour >= :'week' and h.hour < :'counted' :hours_scope
), busy as (
  select period, job_id, sum(executions) as executions, sum(completed) as completed,
    sum(judged) as judged,
    row_number() over (partition by period order by sum(executions) desc, job_id) as place
  from (
    select period, job_id, 1 as executions, (status = 'completed')::int as completed,
      (status in :judged)::int as judged from placed
    union all
    select period, job_id, executions, completed, judged
    from execution_hour_jobs h join period on h.hour >= since
    where h.hour >= :'week' and h.hour < :'counted' :hours_scope
  ) launched group by period, job_id
)
select 'total' as kind, period, job_type as name, status as key, null::bigint as id,
  sum(executions)::bigint as executions, array[sum(succeeded), sum(failed), sum(unreachable),
  sum(timeout), sum(cancelled), sum(skipped), sum(blocked), sum(lost), sum(dead)]::bigint[] as parts
from counts group by period, job_type, status
union all
select 'job', g.period, coalesce(j.name, 'ad-hoc'), null, g.job_id, g.executions::bigint,
  array[g.completed, g.judged]::bigint[]
from busy g left join jobs j on j.id = g.job_id where g.place <= :'busiest'
union all
select 'time', period, job_type, times.kind, class, sum(executions)::bigint, null
from times group by period, job_type, times.kind, class
union all
select 'hour', null, null, status, extract(epoch from hour)::bigint, sum(executions)::bigint, null
from (
  select date_trunc('hour', finished_at, 'UTC') as hour, status, 1 as executions
  from ended where finished_at >= greatest(:'day', :'counted')
  union all
  select hour, status, executions from execution_hours h
  where h.hour >= :'day' and h.hour < :'counted' :hours_scope
) by_hour group by hour, status
