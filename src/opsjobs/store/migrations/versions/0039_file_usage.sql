-- Bytes of the uploaded files of each caller; of two files with one content each counts. A trigger keeps it, whatever adds or
-- deletes files, also processes of the release before.
create table file_usage (
  created_by text not null,
  created_by_kind text not null,
  bytes bigint not null,
  primary key (created_by, created_by_kind)
);
create function opsjobs_count_added_files() returns trigger language plpgsql as $$
begin
  insert into file_usage as u (created_by, created_by_kind, bytes)
  select f.created_by, f.created_by_kind, sum(c.size) from added f join file_contents c on c.id = f.content_id
  group by 1, 2 order by 1, 2
  on conflict (created_by, created_by_kind) do update set bytes = u.bytes + excluded.bytes;
  return null;
end $$;
create function opsjobs_count_deleted_files() returns trigger language plpgsql as $$
begin
  perform from file_usage u where (u.created_by, u.created_by_kind) in (select g.created_by, g.created_by_kind from gone g)
  order by u.created_by, u.created_by_kind for update;
  update file_usage u set bytes = u.bytes - d.bytes
  from (select g.created_by, g.created_by_kind, sum(c.size) as bytes
        from gone g join file_contents c on c.id = g.content_id group by 1, 2) d
  where (u.created_by, u.created_by_kind) = (d.created_by, d.created_by_kind);
  delete from file_usage u
  where u.bytes = 0 and (u.created_by, u.created_by_kind) in (select g.created_by, g.created_by_kind from gone g);
  return null;
end $$;
create trigger files_count_added after insert on files referencing new table as added
  for each statement execute function opsjobs_count_added_files();
create trigger files_count_deleted after delete on files referencing old table as gone
  for each statement execute function opsjobs_count_deleted_files();
insert into file_usage (created_by, created_by_kind, bytes)
select f.created_by, f.created_by_kind, sum(c.size) from files f join file_contents c on c.id = f.content_id group by 1, 2;
