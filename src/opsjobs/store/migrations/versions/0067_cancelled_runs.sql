-- partly_cancelled: some of its runs were cancelled one by one (cancelled_runs). Statements look
-- there only if it is set, so that other executions cost nothing.
alter table job_executions add column partly_cancelled boolean not null default false;

-- The runs of an execution that were asked to be cancelled, by whom and why. A table of its own,
-- because a run's row may be locked by a claim that waits for the execution's lock; for the same
-- reason there is no foreign key to it.
create table cancelled_runs (
  execution_id bigint not null references job_executions on delete cascade,
  target_run_id bigint not null,
  cancelled_by text not null,
  reason text,
  cancelled_at timestamptz not null default opsjobs_now(),
  primary key (execution_id, target_run_id)
);
