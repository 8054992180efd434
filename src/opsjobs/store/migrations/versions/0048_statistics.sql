-- The executions that ended in an hour, by job type, labels and status, with their runs by status.
create table execution_hours (
  hour timestamptz not null,
  job_type text not null,
  labels jsonb not null,
  status text not null,
  executions integer not null,
  succeeded bigint not null,
  failed bigint not null,
  unreachable bigint not null,
  timeout bigint not null,
  cancelled bigint not null,
  skipped bigint not null,
  blocked bigint not null,
  lost bigint not null,
  dead bigint not null
);
create index execution_hours_hour on execution_hours (hour);

-- The same by job. job_id: null for executions without a job. judged: those that were neither
-- cancelled nor rejected.
create table execution_hour_jobs (
  hour timestamptz not null,
  job_id bigint,
  labels jsonb not null,
  executions integer not null,
  completed integer not null,
  judged integer not null
);
create index execution_hour_jobs_hour on execution_hour_jobs (hour);

-- How long the executions of an hour ran, or waited for their first run, in classes of a logarithmic
-- scale: class n begins at 1 ms times 1.1 to the power of n.
create table execution_hour_times (
  hour timestamptz not null,
  job_type text not null,
  labels jsonb not null,
  kind text not null check (kind in ('duration', 'queue')),
  class smallint not null check (class between 0 and 250),
  executions integer not null
);
create index execution_hour_times_hour on execution_hour_times (hour);

-- counted_until: all hours before it are counted, as far back as is ever asked for.
create table statistics_progress (
  single boolean primary key default true check (single),
  counted_until timestamptz not null
);
insert into statistics_progress (counted_until)
select date_trunc('hour', least(min(finished_at), opsjobs_now()), 'UTC') from job_executions
where finished_at >= (select opsjobs_now()) - interval '8 days';
