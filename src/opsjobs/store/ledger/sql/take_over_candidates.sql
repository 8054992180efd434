-- Lock the runs of dead workers that the worker `:'owner'` takes over, at most one of them a
-- suspect.
--
-- A worker whose own lease has expired takes nothing over, not even its own runs. A worker that
-- shut down cleanly left its runs to others; that does not count as a death. `action` is read for
-- poison runs only; a poison run without a remaining action can do no more harm, and is handed out.
with suspect as materialized (
  select r.id from target_runs r join workers w on w.id = r.owner
  where r.status = 'running' and r.zone = :'zone' and w.buried_at is not null
    and r.claims + (w.stopped_at is null)::int between :suspect_claims and :claims_at_most
    and (:'waited' or not exists (
      select 1 from target_runs mine where mine.owner = :'owner' and mine.status = 'running'
        and mine.claims >= :suspect_claims))
  order by r.id limit 1 for update of r skip locked
), r as materialized (
  select r.id, r.execution_id, r.target_id, r.fence, r.attempt,
    r.claims + (w.stopped_at is null)::int as claims
  from target_runs r join workers w on w.id = r.owner
  where r.status = 'running' and r.zone = :'zone' and w.buried_at is not null
    and (r.claims + (w.stopped_at is null)::int not between :suspect_claims and :claims_at_most
         or r.id = (select id from suspect))
    and not exists (select 1 from workers me where me.id = :'owner' and me.buried_at is not null)
  order by r.id limit :'limit' for update of r skip locked
)
select r.id, r.execution_id, r.target_id, r.fence, opsjobs_now() as now, at.*
from r left join lateral (
:next_action
) at on true order by r.id;
