create index target_runs_of_target on target_runs (target_id, id);
