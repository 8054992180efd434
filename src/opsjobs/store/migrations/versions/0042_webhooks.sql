-- Webhooks get the events that their owner may see. sealed: the secrets, current first. A secret
-- before the last rotation signs, too, until previous_until.
create table webhooks (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  name text not null unique,
  url text not null,
  events text[] not null check (cardinality(events) > 0),
  selector text,
  enabled boolean not null default true,
  disabled_reason text check (disabled_reason is null or not enabled),
  owner text not null,
  owner_kind text not null check (owner_kind in ('api_key', 'user', 'service', 'external')),
  version bigint not null default 1,
  key_id text not null,
  wrapped_key bytea not null,
  sealed bytea not null,
  previous_until timestamptz,
  created_at timestamptz not null default opsjobs_now(),
  updated_at timestamptz not null default opsjobs_now()
);
