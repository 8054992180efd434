-- End, delay or continue lanes after an attempt; return the next delivery of those that continue.
--
-- The caller has locked the lanes in a statement before this one, so all their deliveries are seen.
with lane as materialized (
  select o.*, d.id from unnest(:'receivers'::bigint[], :'subjects'::text[], :'pauses'::float8[])
    as o(receiver_id, subject, pause)
  left join lateral (
    select d.id from deliveries d where d.receiver_id = o.receiver_id and d.subject = o.subject
      and d.status = 'pending' order by d.id limit 1) d on true
), ended as (
  delete from delivery_lanes l using lane o
  where l.receiver_id = o.receiver_id and l.subject = o.subject and o.id is null
), delayed as (
  update delivery_lanes l
  set due_at = opsjobs_now() + make_interval(secs => o.pause), lease_until = null
  from lane o where l.receiver_id = o.receiver_id and l.subject = o.subject
    and o.id is not null and o.pause is not null
), continued as (
  update delivery_lanes l set lease_until = opsjobs_now() + make_interval(secs => :'lease')
  from lane o where l.receiver_id = o.receiver_id and l.subject = o.subject
    and o.id is not null and o.pause is null
  returning l.receiver_id, l.subject, l.claim, o.id
)
select :delivery
from continued l join delivery_receivers r on r.id = l.receiver_id
join deliveries d on d.id = l.id join delivery_messages m on m.id = d.message_id;
