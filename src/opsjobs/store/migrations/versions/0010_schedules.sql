-- Processes of the release before neither read nor write this: they fire nothing.

-- When to launch a job. definition: the draft, whose `enabled` the column says. next_due_at: the next moment that was not fired;
-- next_fire_at: when it is (with jitter; later where reading the schedule failed). Both null: never again. firings: launched
-- moments, which max_firings bounds. tzdata: the rules by which next_due_at was found; null where it depends on none.
create table job_schedules (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  job_id bigint not null references jobs,
  name text not null,
  definition jsonb not null,
  owner text not null,
  enabled boolean not null default true,
  paused_reason text,
  next_due_at timestamptz,
  next_fire_at timestamptz,
  firings bigint not null default 0 check (firings >= 0),
  tzdata text,
  version integer not null default 1,
  created_at timestamptz not null default opsjobs_now(),
  updated_at timestamptz not null default opsjobs_now(),
  deleted_at timestamptz,
  constraint due_moments_are_fired check ((next_due_at is null) = (next_fire_at is null)),
  constraint the_deleted_are_not_due check (deleted_at is null or next_due_at is null),
  constraint the_paused_have_a_reason check (paused_reason is null or not enabled)
) with (fillfactor = 70);
create unique index job_schedules_name on job_schedules (job_id, name) where deleted_at is null;
create index job_schedules_due on job_schedules (next_fire_at) where next_fire_at is not null;
create index job_schedules_rules on job_schedules (tzdata) where tzdata is not null and next_due_at is not null;

-- What became of a due moment, or of a long row of missed ones (due_at to until_at, at least `moments` of them), or of a trigger.
-- uuid: of a moment the one that its execution has. not_before, attempts: whoever launches it has raised attempts by one, and it
-- is his until not_before. in_turn: not before the earlier ones of its schedule. awaits: the execution whose end it waits for.
-- expires_at: not launched until then, it has failed. over: its execution is known to have ended.
create table schedule_executions (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  schedule_id bigint not null references job_schedules on delete cascade,
  kind text not null default 'moment' check (kind in ('moment', 'trigger', 'retry')),
  due_at timestamptz not null,
  until_at timestamptz check (until_at >= due_at),
  moments integer not null default 1 check (moments >= 1),
  fire_at timestamptz not null,
  status text not null check (status in ('pending', 'triggered', 'skipped', 'missed', 'failed')),
  rule text,
  reason text,
  catch_up boolean not null default false,
  in_turn boolean not null default false,
  recorded_at timestamptz not null default opsjobs_now(),
  fired_at timestamptz,
  late_ms bigint,
  not_before timestamptz,
  expires_at timestamptz,
  attempts integer not null default 0,
  awaits bigint,
  execution_id bigint references job_executions on delete set null,
  over boolean not null default false,
  constraint the_pending_are_launched_or_expire check ((status = 'pending') = (not_before is not null and expires_at is not null)),
  constraint the_decided_say_when check ((status = 'pending') = (fired_at is null)),
  constraint only_the_triggered_have_an_execution check (execution_id is null or status = 'triggered'),
  constraint whatever_did_not_run_says_why check (status in ('pending', 'triggered') or (rule is not null and reason is not null))
) with (fillfactor = 70);
create unique index schedule_executions_moment on schedule_executions (schedule_id, due_at) where kind = 'moment';
create index schedule_executions_listed on schedule_executions (schedule_id, due_at, id);
create index schedule_executions_ready on schedule_executions (catch_up, not_before) where status = 'pending';
create index schedule_executions_waiting on schedule_executions (schedule_id, due_at) where status = 'pending';
create index schedule_executions_expiry on schedule_executions (expires_at) where status = 'pending';
create index schedule_executions_open on schedule_executions (schedule_id) where status = 'triggered' and not over;
create index schedule_executions_execution on schedule_executions (execution_id) where execution_id is not null;
