-- What processes must agree on (leases, not_before, deadlines) is compared with opsjobs_now(); only tests set the shift.
create table opsjobs_clock (
  one boolean primary key default true check (one),
  shift interval not null default '0'
);
insert into opsjobs_clock default values;
create function opsjobs_now() returns timestamptz language sql volatile as
  $$ select clock_timestamp() + (select shift from opsjobs_clock) $$;

-- Who may speak to us.
create table api_keys (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  name text not null unique,
  token_sha256 bytea not null unique check (length(token_sha256) = 32),
  role text not null check (role in ('viewer', 'operator', 'developer', 'manager', 'admin')),
  created_at timestamptz not null default opsjobs_now(),
  expires_at timestamptz,
  last_used_at timestamptz
);
create table idempotency_keys (
  principal text not null,
  route text not null,
  key text not null,
  body_sha256 bytea not null check (length(body_sha256) = 32),
  status integer,
  location text,
  answer jsonb,
  created_at timestamptz not null default opsjobs_now(),
  primary key (principal, route, key)
);
create index idempotency_keys_age on idempotency_keys (created_at);

-- The inventory.
create table credentials (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  name text not null unique,
  type text not null check (type in ('password', 'ssh_key', 'ssh_certificate', 'agent')),
  username text not null,
  version integer not null default 1,
  key_id text not null,
  wrapped_key bytea not null,
  sealed bytea not null,
  created_at timestamptz not null default opsjobs_now(),
  updated_at timestamptz not null default opsjobs_now()
);
create table targets (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  name text not null unique,
  host text not null,
  port integer not null check (port between 1 and 65535),
  transport text not null check (transport in ('ssh', 'local')),
  platform text not null,
  labels jsonb not null default '{}',
  groups text[] not null default '{}',
  credential_id bigint references credentials,
  host_keys text[] not null default '{}',
  host_key_policy text not null check (host_key_policy in ('pinned', 'accept_new', 'unchecked')),
  zone text not null default 'default',
  slots integer not null check (slots >= 1),
  jump_id bigint references targets,
  version integer not null default 1,
  created_at timestamptz not null default opsjobs_now(),
  updated_at timestamptz not null default opsjobs_now(),
  check (jump_id <> id)
);
create index targets_labels on targets using gin (labels);
create index targets_groups on targets using gin (groups);
create index targets_host on targets (host);

-- Jobs: every change makes a new immutable version.
create table jobs (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  name text not null,
  state text not null check (state in ('draft', 'active', 'paused', 'archived')),
  version integer not null default 1,
  last_number integer not null default 0,
  created_by text not null,
  created_at timestamptz not null default opsjobs_now(),
  updated_at timestamptz not null default opsjobs_now(),
  archived_at timestamptz check ((archived_at is not null) = (state = 'archived'))
);
create unique index jobs_name on jobs (name) where state <> 'archived';
create table job_versions (
  job_id bigint not null references jobs,
  version integer not null,
  name text not null,
  description text not null,
  job_type text not null check (job_type in ('command', 'script', 'file_transfer', 'composite')),
  tags text[] not null default '{}',
  policy jsonb not null,
  created_by text not null,
  created_at timestamptz not null default opsjobs_now(),
  primary key (job_id, version)
);
create table job_actions (
  id bigint generated always as identity primary key,
  job_id bigint not null,
  version integer not null,
  position integer not null,
  key text not null,
  type text not null,
  definition jsonb not null,
  foreign key (job_id, version) references job_versions,
  unique (job_id, version, key),
  unique (job_id, version, position)
);
create table job_targets (
  id bigint generated always as identity primary key,
  job_id bigint not null,
  version integer not null,
  position integer not null,
  kind text not null check (kind in ('id', 'group', 'selector')),
  value text not null,
  foreign key (job_id, version) references job_versions,
  unique (job_id, version, position)
);
create index job_targets_value on job_targets (kind, value);

-- The execution row is the execution's one lock, so it is narrow; what never changes lies in execution_specs.
create table job_executions (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  job_id bigint references jobs,
  job_version integer,
  number integer,
  log_day date not null,
  status text not null check (status in ('pending_approval', 'scheduled', 'queued', 'running', 'completed', 'partial',
                                         'failed', 'timeout', 'cancelled', 'rejected', 'skipped')),
  paused boolean not null default false,
  cancelling boolean not null default false,
  open_wave integer not null default 0,
  "window" integer not null check ("window" >= 0),
  priority smallint not null check (priority between 1 and 10),
  total integer not null,
  waiting integer not null default 0 check (waiting >= 0),
  ready integer not null default 0 check (ready >= 0),
  running integer not null default 0 check (running >= 0),
  succeeded integer not null default 0 check (succeeded >= 0),
  failed integer not null default 0 check (failed >= 0),
  unreachable integer not null default 0 check (unreachable >= 0),
  timeout integer not null default 0 check (timeout >= 0),
  cancelled integer not null default 0 check (cancelled >= 0),
  skipped integer not null default 0 check (skipped >= 0),
  blocked integer not null default 0 check (blocked >= 0),
  lost integer not null default 0 check (lost >= 0),
  dead integer not null default 0 check (dead >= 0),
  last_seq bigint not null default 0,
  created_at timestamptz not null,
  started_at timestamptz,
  finished_at timestamptz,
  deadline_at timestamptz,
  constraint counters_add_up check (waiting + ready + running + succeeded + failed + unreachable + timeout + cancelled
                                    + skipped + blocked + lost + dead = total),
  constraint window_holds check (ready + running <= "window"),
  constraint ended_means_empty check ((finished_at is null) = (status in ('pending_approval', 'scheduled', 'queued', 'running'))
                                      and (finished_at is null or waiting + ready + running = 0)),
  unique (job_id, number)
) with (fillfactor = 40);
create index job_executions_open on job_executions (id) where finished_at is null;
create index job_executions_job on job_executions (job_id, id);

-- The status of an execution whose runs have all ended; model/execution.py says the same in Python, a test compares them.
create function opsjobs_verdict(cancel_asked boolean, total integer, succeeded integer, timed_out integer, cancelled integer)
  returns text language sql immutable as $$
  select case when cancel_asked and cancelled > 0 then 'cancelled'
              when succeeded = total then 'completed'
              when succeeded > 0 then 'partial'
              when timed_out = total then 'timeout'
              else 'failed' end $$;
-- {status: n}, without zeros, as GET /executions/{id} shows it; ready runs wait, too.
create function opsjobs_counts(e job_executions) returns jsonb language sql immutable as $$
  select coalesce(jsonb_object_agg(k, n) filter (where n > 0), '{}') from (values
    ('waiting', e.waiting + e.ready), ('running', e.running), ('succeeded', e.succeeded), ('failed', e.failed),
    ('unreachable', e.unreachable), ('timeout', e.timeout), ('cancelled', e.cancelled), ('skipped', e.skipped),
    ('blocked', e.blocked), ('lost', e.lost), ('dead', e.dead)) c(k, n) $$;

create table execution_specs (
  execution_id bigint primary key references job_executions on delete cascade,
  job_name text not null,
  actions jsonb not null,
  parameters jsonb not null default '{}',
  policy jsonb not null,
  triggered_by text not null check (triggered_by in ('manual', 'schedule', 'api', 'webhook', 'retry', 'workflow')),
  requested_by text not null,
  reason text,
  cancelled_by text,
  cancel_reason text,
  parent_id bigint references job_executions,
  traceparent text
);

create table target_runs (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  execution_id bigint not null references job_executions on delete cascade,
  target_id text not null,
  target_name text not null,
  target_host text not null,
  zone text not null,
  position integer not null,
  wave integer not null default 0,
  status text not null default 'waiting'
    check (status in ('waiting', 'running', 'succeeded', 'failed', 'unreachable', 'timeout', 'cancelled', 'skipped',
                      'blocked', 'lost', 'dead')),
  waiting_for text default 'admission'
    check (waiting_for in ('admission', 'slot', 'backoff', 'barrier', 'approval', 'child', 'timer', 'hold')),
  turn bigint,
  owner uuid,
  worker text,
  fence bigint not null default 0,
  claims integer not null default 0,
  attempt integer not null default 1,
  exit_code integer,
  error_code text,
  error_message text,
  cancel_proof text check (cancel_proof in ('never_started', 'killed', 'already_finished', 'unreachable')),
  late_result jsonb,
  claimed_at timestamptz,
  finished_at timestamptz,
  constraint only_the_waiting_wait check (waiting_for is null or status = 'waiting'),
  constraint the_ready_have_a_turn check (status <> 'waiting' or waiting_for is not null or turn is not null),
  constraint the_running_have_an_owner check (status <> 'running' or (owner is not null and fence > 0)),
  constraint the_ended_have_an_end check ((finished_at is not null) = (status not in ('waiting', 'running'))),
  unique (execution_id, position)
) with (fillfactor = 70);
create index target_runs_ready on target_runs (zone, turn, id) where status = 'waiting' and waiting_for is null;
create index target_runs_admission on target_runs (execution_id, position) where status = 'waiting' and waiting_for = 'admission';
create index target_runs_slot on target_runs (target_id, turn) where status = 'waiting' and waiting_for = 'slot';
create index target_runs_owner on target_runs (owner) where status = 'running';

create table target_slots (
  target_id text primary key,
  slots integer not null,
  used integer not null default 0,
  check (used between 0 and slots)
) with (fillfactor = 50);

-- One action in one target run, one attempt. *_stored: how far into the target's bytes the log has come.
create table job_execution_results (
  id bigint generated always as identity primary key,
  execution_id bigint not null,  -- the run's own; its foreign key is the run's
  target_run_id bigint not null references target_runs on delete cascade,
  action text not null,
  attempt integer not null,
  status text not null check (status in ('running', 'succeeded', 'failed', 'unreachable', 'timeout', 'cancelled', 'skipped',
                                         'blocked', 'lost', 'dead')),
  exit_code integer,
  error_code text,
  error_message text,
  worker text,
  cancel_proof text check (cancel_proof in ('never_started', 'killed', 'already_finished', 'unreachable')),
  stdout_stored bigint not null default 0,
  stderr_stored bigint not null default 0,
  stdout_bytes bigint not null default 0,
  stderr_bytes bigint not null default 0,
  started_at timestamptz,
  finished_at timestamptz,
  unique (target_run_id, action, attempt)
) with (fillfactor = 80);
create index job_execution_results_execution on job_execution_results (execution_id, id);

-- The one ordered sequence of an execution: 1, 2, 3 ... without a gap.
create table execution_log (
  log_day date not null,
  execution_id bigint not null,
  seq bigint not null,
  at timestamptz not null default opsjobs_now(),
  event text not null check (event in ('output', 'status', 'result', 'end')),
  target_run_id bigint,
  target_id text,
  action text,
  attempt integer,
  stream text check (stream in ('stdout', 'stderr')),
  start_offset bigint,
  data bytea,
  dropped bigint,
  body jsonb,
  primary key (log_day, execution_id, seq),
  check ((event = 'output') = (stream is not null and start_offset is not null and (data is null) <> (dropped is null)))
) partition by range (log_day);
create index execution_log_output on execution_log (execution_id, target_run_id, seq) where event = 'output';
create table execution_log_default partition of execution_log default;

-- Makes the partitions of today and the given number of days after; says how many were new.
-- LIKE + ATTACH: a running insert neither waits nor is waited for. The lock lets one caller do it at a time.
create function opsjobs_make_partitions(days_ahead integer) returns integer language plpgsql as $$
declare
  day date;
  name text;
  made integer := 0;
begin
  perform pg_advisory_xact_lock(hashtext('opsjobs_make_partitions'));
  for n in 0 .. days_ahead loop
    day := (opsjobs_now() at time zone 'UTC')::date + n;
    name := 'execution_log_' || to_char(day, 'YYYYMMDD');
    if to_regclass(name) is null then
      execute format('create table %I (like execution_log including defaults including storage including compression '
                     'including constraints)', name);
      execute format('alter table execution_log attach partition %I for values from (%L) to (%L)', name, day, day + 1);
      made := made + 1;
    end if;
  end loop;
  return made;
end $$;

-- The outbox: facts, in the transaction of the change. Those of target runs are one row a group commit: a range of the log.
create table events (
  id bigint generated always as identity primary key,
  shard smallint not null check (shard between 0 and 15),
  type text not null,
  subject uuid not null,
  execution_id bigint,
  from_seq bigint,
  to_seq bigint,
  data jsonb,
  at timestamptz not null default opsjobs_now(),
  published_at timestamptz
);
create index events_unpublished on events (shard, id) where published_at is null;
create index events_published on events (published_at) where published_at is not null;

-- One row an incarnation of a process. Death is written (buried_at), not computed from expires_at.
create table workers (
  id uuid primary key,
  name text not null,
  zone text not null,
  pid integer not null,
  concurrency integer not null,
  started_at timestamptz not null default opsjobs_now(),
  renewed_at timestamptz not null default opsjobs_now(),
  expires_at timestamptz not null,
  -- The number of the last group commit: after a broken answer the worker reads here whether it went through.
  last_flush bigint not null default 0,
  stopped_at timestamptz,
  buried_at timestamptz
) with (fillfactor = 50);
create index workers_alive on workers (expires_at) where buried_at is null;
create table services (
  name text primary key,
  ticked_at timestamptz not null
);
