-- The caller whose execution fetched the file; '' before this revision: those are not counted.
alter table artifacts
  add column requested_by text not null default '',
  add column requested_by_kind text not null default '';

-- Bytes and number of the artifacts of each caller, maintained by triggers; two artifacts with one
-- content count twice. shard: a caller's runs on thousands of targets do not wait for one row. The
-- sum counts: one shard may be negative.
create table artifact_usage (
  requested_by text not null,
  requested_by_kind text not null,
  shard smallint not null,
  bytes bigint not null,
  artifacts bigint not null,
  primary key (requested_by, requested_by_kind, shard)
);
create function opsjobs_count_artifacts() returns trigger language plpgsql as $$
declare
  sign integer := case tg_op when 'DELETE' then -1 else 1 end;
begin
  insert into artifact_usage as u (requested_by, requested_by_kind, shard, bytes, artifacts)
  select a.requested_by, a.requested_by_kind, pg_backend_pid() % 16, sign * sum(c.size),
    sign * count(*)
  from counted a join file_contents c on c.id = a.content_id
  where a.requested_by <> ''
  group by 1, 2 order by 1, 2
  on conflict (requested_by, requested_by_kind, shard) do update
    set bytes = u.bytes + excluded.bytes, artifacts = u.artifacts + excluded.artifacts;
  return null;
end $$;
create trigger artifacts_count_added after insert on artifacts referencing new table as counted
  for each statement execute function opsjobs_count_artifacts();
create trigger artifacts_count_deleted after delete on artifacts referencing old table as counted
  for each statement execute function opsjobs_count_artifacts();
