-- Count the failures in a row of receivers. One that accepts a message again gets the lanes that
-- wait for their next attempt at once; those that another process locks keep their time.
-- No key update: whoever queues deliveries holds the receiver's key and waits for lanes.
with seen as materialized (
  select r.id, r.failures, o.works, o.failed
  from unnest(:'receivers'::bigint[], :'works'::bool[], :'failed'::int[]) as o(id, works, failed)
  join delivery_receivers r on r.id = o.id
  where case when o.works then r.failures > 0 else o.failed > 0 end
  order by r.id for no key update of r
), counted as (
  update delivery_receivers r set
    failures = case when s.works then 0 else r.failures + s.failed end,
    failing_since = case when not s.works then coalesce(r.failing_since, opsjobs_now()) end
  from seen s where r.id = s.id
), waiting as materialized (
  select l.receiver_id, l.subject from seen s join delivery_lanes l on l.receiver_id = s.id
  where s.works and l.due_at > (select opsjobs_now()) for update of l skip locked
)
update delivery_lanes l set due_at = opsjobs_now() from waiting w
where l.receiver_id = w.receiver_id and l.subject = w.subject;
