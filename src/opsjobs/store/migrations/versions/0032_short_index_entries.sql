drop index job_targets_value;
