-- All runs of an execution as columns, with the position of the log in the same snapshot. The
-- aggregates read the rows in the order of the inner query.
select e.last_seq as seq, json_build_object(
  'id', json_agg(r.id), 'target', json_agg(r.target_id), 'name', json_agg(r.target_name),
  'status', json_agg(r.status), 'waiting_for', json_agg(r.waiting_for),
  'attempt', json_agg(r.attempt), 'wave', json_agg(r.wave), 'exit_code', json_agg(r.exit_code),
  'error_code', json_agg(r.error_code), 'cancel_proof', json_agg(r.cancel_proof),
  'started_ms', json_agg(round(extract(epoch from r.claimed_at - e.created_at) * 1000)),
  'finished_ms', json_agg(round(extract(epoch from r.finished_at - e.created_at) * 1000))
)::text as columns
from job_executions e join (
  select id, execution_id, target_id, target_name, status, waiting_for, attempt, wave, exit_code,
    error_code, cancel_proof, claimed_at, finished_at
  from target_runs where execution_id = :'execution' order by position
) r on r.execution_id = e.id
group by e.id;
