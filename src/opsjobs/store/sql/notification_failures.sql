-- The first runs of an execution that did not succeed, with the action that failed last.
select r.id, r.target_name, r.target_host, r.status, r.error_code, r.error_message, x.action,
  x.attempt
from target_runs r left join lateral (
  select x.action, x.attempt from job_execution_results x
  where x.target_run_id = r.id and x.status not in ('succeeded', 'skipped')
  order by x.id desc limit 1
) x on true
where r.execution_id = :'execution'
  and r.status not in ('succeeded', 'skipped', 'waiting', 'running')
order by r.position limit :'limit';
