create index target_runs_of_target on target_runs (target_id, id);
create index schedule_executions_of_status on schedule_executions (status, id);
