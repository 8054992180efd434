-- Claim due lanes, and return the first pending delivery of each; none of a lane that has none.
--
-- A receiver has a limited number of lanes in work, so that one that hangs leaves room for the
-- others; one that fails has a single lane, to find out when it is back.
with ready as materialized (
  select p.receiver_id, p.subject from delivery_receivers r
  left join unnest(:'busy'::bigint[], :'running'::int[]) as b(id, lanes) on b.id = r.id
  cross join lateral (
    select l.receiver_id, l.subject from delivery_lanes l
    where l.receiver_id = r.id and l.due_at <= (select opsjobs_now())
      and (l.lease_until is null or l.lease_until <= (select opsjobs_now()))
    order by l.due_at
    limit greatest(case when r.failures >= :'probed' then 1 else :'per_receiver' end
                   - coalesce(b.lanes, 0), 0)
    for update skip locked) p
  where r.destination = any(:'destinations'::text[])
  order by random() limit :'limit'
), claimed as (
  update delivery_lanes l
  set lease_until = opsjobs_now() + make_interval(secs => :'lease'), claim = l.claim + 1
  from ready r where l.receiver_id = r.receiver_id and l.subject = r.subject
  returning l.receiver_id, l.subject, l.claim
)
select :delivery, l.subject as lane
from claimed l join delivery_receivers r on r.id = l.receiver_id
left join lateral (select * from deliveries d
  where d.receiver_id = l.receiver_id and d.subject = l.subject and d.status = 'pending'
  order by d.id limit 1) d on true
left join delivery_messages m on m.id = d.message_id;
