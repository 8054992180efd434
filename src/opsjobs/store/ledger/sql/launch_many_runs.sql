-- Write the target runs of several executions. `low`: as in admit.sql.
--
-- `place`: the distance from the lowest turn of the zone; null for a run that waits for others of
-- its execution.
with low as materialized (
  select z.zone, coalesce((
    select min(r.turn) from target_runs r
    where r.zone = z.zone and r.status = 'waiting' and r.waiting_for is null and r.turn >= z.floor),
      z.floor) as turn
  from (select d.zone, coalesce((select t.turn from zone_turns t where t.zone = d.zone), 0) as floor
        from (select distinct zone from unnest(:'zones'::text[]) as u(zone)) d) z
)
insert into target_runs (uuid, execution_id, target_id, target_name, target_host, zone, position,
  waiting_for, turn)
select r.uuid, r.execution, r.target, r.name, r.host, r.zone, r.position, case
  when r.place is null then 'admission' end,
       low.turn + r.place
from unnest(:'uuids'::uuid[], :'executions'::bigint[], :'targets'::text[], :'names'::text[],
            :'hosts'::text[], :'zones'::text[], :'positions'::int[],
            :'places'::bigint[]) with ordinality
  as r(uuid, execution, target, name, host, zone, position, place, nth)
join low using (zone) order by r.nth;
