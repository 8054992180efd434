-- Set while the run's worker has lost contact with the machine. In no index and no predicate: flushes of running runs stay HOT.
alter table target_runs add column contact_lost_at timestamptz;
