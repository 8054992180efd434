-- The health of targets, and what it follows from. A circuit whose pause is over is half-open.
-- `:within`: narrows the runs `l` that are told of; the status is that of the machine, whoever ran
-- something there.
select t.id, :status as status,
  c.state, c.code, c.since, c.until,
  h.target_id is not null as is_held, nullif(h.held_until, 'infinity') as held_until,
  h.held_reason, h.held_by,
  last.status as last_status, last.error_code as last_code, last.finished_at as last_at,
  past.last_success_at, past.last_contact_at,
  (select count(*) from target_runs l where l.target_id = t.id::text and l.status = 'waiting'
    and l.waiting_for = 'hold' :within) as waiting_runs,
  coalesce(letters.n, 0) as dead_letters
from targets t
left join target_slots h on h.target_id = t.id::text and h.held_until > (select opsjobs_now())
left join lateral (
  select case when o.state = 'open' and o.until <= (select opsjobs_now()) then 'half_open'
              else o.state end as state, o.code, o.since, o.until
  from circuits o where o.target_id = t.id::text and o.state <> 'closed'
  order by o.until desc, o.id limit 1) c on true
left join lateral (
  select max(l.finished_at) filter (where l.status = 'succeeded') as last_success_at,
    max(l.finished_at) filter (where l.status in ('succeeded', 'failed', 'timeout'))
      as last_contact_at,
    max(l.id) filter (where l.finished_at is not null) as id
  from (select l.id, l.status, l.finished_at, l.execution_id from target_runs l
    where l.target_id between t.id::text and t.id::text
    order by l.target_id desc, l.id desc limit :runs_read) l where true :within) past
  on true
left join target_runs last on last.id = past.id
left join (
  select l.target_id, count(*) as n from target_runs l
  where l.status in ('lost', 'dead') and l.target_id = any(:'ids'::bigint[]::text[])
    and not exists (select from dead_letter_answers a where a.run_id = l.id) :within
  group by l.target_id) letters on letters.target_id = t.id::text
where t.id = any(:'ids'::bigint[])
