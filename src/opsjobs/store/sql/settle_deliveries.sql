-- Record the outcomes of attempts. A delivery that was cancelled meanwhile stays so.
update deliveries d set status = o.status, response_code = o.code, response = o.response,
  error = o.error, duration_ms = o.duration_ms,
  attempts = d.attempts + o.attempted::int,
  attempted_at = case when o.attempted then opsjobs_now() else d.attempted_at end,
  finished_at = case when o.status <> 'pending' then opsjobs_now() end
from unnest(:'ids'::bigint[], :'statuses'::text[], :'codes'::int[], :'responses'::text[],
            :'errors'::text[], :'durations'::int[], :'attempted'::bool[])
  as o(id, status, code, response, error, duration_ms, attempted)
where d.id = o.id and d.status = 'pending';
