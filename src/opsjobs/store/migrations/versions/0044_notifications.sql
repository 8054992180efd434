-- The outcome of the last execution of each job, and of the executions of each schedule that has
-- rules of its own. failures: executions that failed in a row. Kept while rules apply.
create table notification_outcomes (
  scope text not null check (scope in ('job', 'schedule')),
  scope_id bigint not null,
  outcome text not null check (outcome in ('ok', 'failed')),
  failures integer not null default 0 check (failures >= 0),
  execution_id bigint not null,
  finished_at timestamptz not null,
  primary key (scope, scope_id),
  check ((outcome = 'ok') = (failures = 0))
);

-- The state of each rule that has quiet rules: its messages of the last hour, how many it has held
-- back since, and what its digest has gathered (the first ones; gathered_count: all). Rules of the
-- default are counted over the whole installation: scope_id 0.
create table notification_rules (
  scope text not null check (scope in ('job', 'schedule', 'execution', 'default')),
  scope_id bigint not null,
  rule_key text not null,
  rule jsonb not null,
  sent_at timestamptz[] not null default '{}',
  held integer not null default 0 check (held >= 0),
  held_since timestamptz,
  digest_due_at timestamptz,
  gathered jsonb not null default '[]',
  gathered_count integer not null default 0 check (gathered_count >= 0),
  updated_at timestamptz not null default opsjobs_now(),
  primary key (scope, scope_id, rule_key),
  check ((held = 0) = (held_since is null)),
  check ((gathered_count = 0) = (digest_due_at is null))
);
create index notification_rules_due on notification_rules (digest_due_at)
  where digest_due_at is not null;
create index notification_rules_age on notification_rules (updated_at);

-- One row: the rules of jobs and schedules that have none of their own.
create table notification_default (
  single boolean primary key default true check (single),
  rules jsonb not null default '[]',
  updated_at timestamptz not null default opsjobs_now()
);
insert into notification_default default values;
