-- external_id: the id in the Target Service; null for a target that is kept here.
-- synced_at: when the service told it last. gone_at: since when the service does not have it.
alter table targets
  add column external_id text unique,
  add column synced_at timestamptz,
  add column gone_at timestamptz,
  add check ((external_id is null) = (synced_at is null));

-- One row for each source that is mirrored; synced_at: when all of it was read.
create table mirrors (
  name text primary key,
  synced_at timestamptz not null
);
