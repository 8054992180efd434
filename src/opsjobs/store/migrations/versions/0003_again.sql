-- inherited_from: the execution whose run did it. A retry begins where its parent went wrong: what succeeded there is on record
-- in the new run, too, and is not done again.
alter table job_execution_results add column inherited_from bigint;

-- An execution goes when its time is over; what came of it stays, and forgets it.
alter table execution_specs
  drop constraint execution_specs_parent_id_fkey,
  add constraint execution_specs_parent_id_fkey foreign key (parent_id) references job_executions on delete set null not valid;
create index execution_specs_parent on execution_specs (parent_id) where parent_id is not null;
create index job_executions_finished on job_executions (finished_at) where finished_at is not null;

-- Runs that ended lost or dead wait for a person's word; one row here is that word, so no two of them can be given.
-- execution_id: what a revived one became; it may be gone by its age.
create index target_runs_dead on target_runs (id) where status in ('lost', 'dead');
create table dead_letter_answers (
  run_id bigint primary key references target_runs on delete cascade,
  answer text not null check (answer in ('revived', 'discarded')),
  answered_by text not null,
  answered_at timestamptz not null default opsjobs_now(),
  reason text,
  execution_id bigint
);

-- Days whose log was dropped by its age; what is asked for of them is gone, not empty.
create table dropped_log_days (
  log_day date primary key,
  dropped_at timestamptz not null default opsjobs_now()
);
