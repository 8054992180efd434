-- Store messages, and a delivery of each for its receivers, in order.
--
-- The row of a lane is locked in any case: a process that ends the lane either sees the new delivery
-- or makes this statement begin a new lane.
with message as (
  insert into delivery_messages (source, message_id, type, body, at)
  select :'source', m.* from unnest(:'message_ids'::text[], :'types'::text[], :'bodies'::json[],
                                    :'moments'::timestamptz[]) m
  on conflict (source, message_id) do update set source = excluded.source
  returning id, message_id
), new as (
  insert into deliveries (receiver_id, message_id, subject, redelivery)
  select r.id, m.id, o.subject, :'redelivery'
  from unnest(:'of'::text[], :'subjects'::text[], :'destinations'::text[], :'keys'::text[])
    with ordinality as o(message_id, subject, destination, key, place)
  join message m on m.message_id = o.message_id
  join delivery_receivers r on r.destination = o.destination and r.key = o.key
  order by o.place
  on conflict (message_id, receiver_id) where not redelivery do nothing
  returning id, receiver_id, subject
), lane as (
  insert into delivery_lanes as l (receiver_id, subject)
  select distinct receiver_id, subject from new order by 1, 2
  on conflict (receiver_id, subject) do update set subject = excluded.subject where false
)
select id from new order by id;
