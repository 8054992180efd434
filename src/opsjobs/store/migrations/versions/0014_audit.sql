-- Who did what to what, from where: append only. A row is written by the transaction that does what it tells.
create table audit_log (
  id bigint generated always as identity primary key,
  at timestamptz not null default opsjobs_now(),
  actor text not null,
  actor_kind text not null check (actor_kind in ('api_key', 'user', 'service', 'external', 'system')),
  person text,
  address text,
  request_id text,
  action text not null check (action ~ '^[a-z_]+\.[a-z_]+$'),
  thing text not null,
  thing_id text,
  thing_name text,
  before jsonb,
  after jsonb,
  reason text
);
create index audit_log_thing on audit_log (thing, thing_id, id);
create index audit_log_actor on audit_log (actor, id);
