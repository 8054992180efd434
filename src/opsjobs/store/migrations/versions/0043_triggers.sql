-- definition: the trigger as it was written. The secret is sealed for secret_version. calls: all
-- calls by holders of the secret; window_calls: those since window_began_at that launched or were
-- refused, for the limit of calls a minute.
create table job_triggers (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  job_id bigint not null references jobs,
  name text not null,
  definition jsonb not null,
  owner text not null,
  owner_kind text not null
    check (owner_kind in ('api_key', 'user', 'service', 'external', 'system')),
  enabled boolean not null,
  expires_at timestamptz,
  secret_version integer not null default 1 check (secret_version >= 1),
  key_id text not null,
  wrapped_key bytea not null,
  sealed bytea not null,
  calls bigint not null default 0 check (calls >= 0),
  window_began_at timestamptz not null default timestamptz 'epoch',
  window_calls integer not null default 0 check (window_calls >= 0),
  created_at timestamptz not null default opsjobs_now(),
  updated_at timestamptz not null default opsjobs_now()
) with (fillfactor = 70);
create unique index job_triggers_name on job_triggers (job_id, name);

-- The last calls of each trigger. times: the number of refused calls that the row stands for. The
-- execution may be deleted by retention.
create table trigger_calls (
  id bigint generated always as identity primary key,
  trigger_id bigint not null references job_triggers on delete cascade,
  at timestamptz not null default opsjobs_now(),
  outcome text not null
    check (outcome in ('launched', 'repeated', 'ignored', 'ping', 'refused')),
  code text,
  reason text,
  times integer not null default 1 check (times >= 1),
  delivery text,
  address text,
  execution_id bigint,
  constraint the_refused_have_a_code check ((code is not null) = (outcome = 'refused')),
  constraint the_launched_have_an_execution
    check (outcome <> 'launched' or execution_id is not null)
);
create index trigger_calls_of_trigger on trigger_calls (trigger_id, id);
