-- Count the executions that ended in one hour.
with ended as materialized (
  select e.job_id, coalesce(v.job_type, 'ad_hoc') as job_type, s.labels, e.status, e.succeeded,
    e.failed, e.unreachable, e.timeout, e.cancelled, e.skipped, e.blocked, e.lost, e.dead,
    :class_of_duration as duration, :class_of_queue as queue
  from job_executions e
    join execution_specs s on s.execution_id = e.id
    left join job_versions v on v.job_id = e.job_id and v.version = e.job_version
  where e.finished_at >= :'hour'
    and e.finished_at < :'hour'::timestamptz + interval '1 hour'
), counted as (
  insert into execution_hours (hour, job_type, labels, status, executions, succeeded,
    failed, unreachable, timeout, cancelled, skipped, blocked, lost, dead)
  select :'hour', job_type, labels, status, count(*), sum(succeeded), sum(failed),
    sum(unreachable), sum(timeout), sum(cancelled), sum(skipped), sum(blocked), sum(lost),
    sum(dead)
  from ended group by job_type, labels, status
), counted_jobs as (
  insert into execution_hour_jobs (hour, job_id, labels, executions, completed, judged)
  select :'hour', job_id, labels, count(*), count(*) filter (where status = 'completed'),
    count(*) filter (where status in :judged)
  from ended group by job_id, labels
), timed as (
  insert into execution_hour_times (hour, job_type, labels, kind, class, executions)
  select :'hour', job_type, labels, t.kind, t.class, count(*)
  from ended
    cross join lateral (values ('duration', duration), ('queue', queue)) t(kind, class)
  where t.class is not null group by job_type, labels, t.kind, t.class
), forgotten as (
  delete from execution_hours where hour < :'hour'::timestamptz - interval '8 days'
), forgotten_jobs as (
  delete from execution_hour_jobs where hour < :'hour'::timestamptz - interval '8 days'
), forgotten_times as (
  delete from execution_hour_times where hour < :'hour'::timestamptz - interval '8 days'
)
update statistics_progress set counted_until = :'hour'::timestamptz + interval '1 hour';
