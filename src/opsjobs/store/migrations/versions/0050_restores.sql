-- Restores of this database from a backup. backup_at: when the backup was begun. What happened after
-- that is not recorded here, but may have happened on the targets.
create table restores (
  id bigint generated always as identity primary key,
  backup_at timestamptz not null,
  restored_at timestamptz not null default opsjobs_now()
);

-- The time of the backup since which an execution may have run unrecorded; null: it cannot have.
-- It can have if it, its schedule's due time, or the execution whose action launched it is older
-- than a restore. A person who retries it afterwards decides again.
create function opsjobs_restored_from(execution bigint) returns timestamptz language sql stable as $$
  select case when exists (select from restores) then (
    with recursive line as (
      select execution as id
      union all
      select s.parent_id from line join execution_specs s on s.execution_id = line.id
      where s.triggered_by = 'workflow' and s.parent_id is not null
    ), origin as (
      select least(min(e.created_at), min(f.due_at)) as at
      from line join job_executions e on e.id = line.id
        left join schedule_executions f on f.execution_id = line.id
    )
    select min(r.backup_at) from restores r, origin o where r.restored_at >= o.at
  ) end $$;
