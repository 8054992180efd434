-- Bytes, once for all who have the same: found by their sha256, which is null while they still come and of what is going away.
-- loose: perhaps nothing refers to it: it still comes, or a file or artifact of it was deleted (at touched_at). Looked at an hour
-- later, and swept where that is so.
create table file_contents (
  id bigint generated always as identity primary key,
  sha256 bytea unique check (length(sha256) = 32),
  size bigint not null default 0 check (size >= 0),
  loose boolean not null default true,
  doomed boolean not null default false check (not (doomed and sha256 is not null)),
  touched_at timestamptz not null default opsjobs_now()
) with (fillfactor = 50);
create index file_contents_loose on file_contents (touched_at) where loose and not doomed;
create index file_contents_doomed on file_contents (id) where doomed;
create function opsjobs_loosen() returns trigger language plpgsql as $$
begin
  update file_contents set loose = true, touched_at = opsjobs_now() where id in (select content_id from gone);
  return null;
end $$;

-- Rows of 256 KiB. No foreign key: it would lock the content's row once for each chunk; who writes holds that row anyway.
create table file_chunks (
  content_id bigint not null,
  n integer not null check (n >= 0),
  data bytea not null,
  primary key (content_id, n)
);
-- Most files are compressed already, and a slice of what is not compressed is read without the rest.
alter table file_chunks alter column data set storage external;

-- What people uploaded.
create table files (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  name text not null,
  content_id bigint not null references file_contents,
  created_by text not null,
  created_at timestamptz not null default opsjobs_now()
);
create index files_content on files (content_id);
create trigger files_loosen after delete on files referencing old table as gone
  for each statement execute function opsjobs_loosen();

-- What an action brought from a target; gone with its run.
create table artifacts (
  id bigint generated always as identity primary key,
  uuid uuid not null unique,
  execution_id bigint not null,
  target_run_id bigint not null references target_runs on delete cascade,
  action text not null,
  attempt integer not null,
  path text not null,
  content_id bigint not null references file_contents,
  created_at timestamptz not null default opsjobs_now()
);
-- By its hash: a path may be longer than an index entry.
create unique index artifacts_path on artifacts (target_run_id, action, attempt, md5(path));
create index artifacts_execution on artifacts (execution_id, id);
create index artifacts_content on artifacts (content_id);
create trigger artifacts_loosen after delete on artifacts referencing old table as gone
  for each statement execute function opsjobs_loosen();
