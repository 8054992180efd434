-- Whether anything of an execution is still to be published: retention asks it of each.
create index events_unpublished_execution on events (execution_id) where published_at is null;
create index job_schedules_deleted on job_schedules (deleted_at) where deleted_at is not null;
create index workers_buried on workers (buried_at) where buried_at is not null;
