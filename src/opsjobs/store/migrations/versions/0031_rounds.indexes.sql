-- What a round of repair looks for, and what the lists are filtered and sorted by.
create index job_executions_cancelling on job_executions (id) where cancelling and finished_at is null;
create index job_executions_paused on job_executions (id) where paused and finished_at is null;
create index job_executions_halted on job_executions (id) where halted and finished_at is null;
create index job_executions_pending on job_executions (id) where status = 'pending_approval';
create index job_executions_deadline on job_executions (deadline_at) where finished_at is null and deadline_at is not null;
create index job_executions_status on job_executions (status, id);
create index job_executions_created on job_executions (created_at, id);
create index execution_specs_job_name on execution_specs (job_name, execution_id);
create index execution_specs_requested_by on execution_specs (requested_by, execution_id);
create index execution_specs_triggered_by on execution_specs (triggered_by, execution_id);
create index exclusive_locks_line on exclusive_locks (name, execution_id) where not granted;
