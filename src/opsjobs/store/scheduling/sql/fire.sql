-- Write the firings of due times, advance their schedules, and publish the events.
--
-- A firing that is already recorded (the same instant, found again after a change of the time zone
-- rules) stays unchanged, and no event is published for it.
with moved as (
  update job_schedules s set next_due_at = m.due, next_fire_at = m.fire, tzdata = m.tzdata
  from unnest(:'moved'::bigint[], :'next_due'::timestamptz[], :'next_fire'::timestamptz[],
    :'tzdata'::text[])
    as m(id, due, fire, tzdata)
  where s.id = m.id
), written as (
  insert into schedule_executions (uuid, schedule_id, due_at, until_at, moments, fire_at, status,
                                   rule, reason, catch_up, in_turn,
                                   recorded_at, attempts, fired_at, late_ms, not_before, expires_at)
  select v.uuid, v.schedule, v.due, v.until, v.moments, v.fire, v.status, v.rule, v.reason,
         v.catch_up, v.in_turn, :'now', v.attempts, case
           when v.status <> 'pending' then :'now'::timestamptz end,
         case when v.status <> 'pending' then extract(epoch
           from :'now'::timestamptz - v.fire) * 1000 end,
         case when v.status = 'pending' then :'now'::timestamptz + v.attempts *
           make_interval(secs => :'claim') end,
         case when v.status = 'pending' then :'now'::timestamptz + make_interval(secs => v.patience)
           end
  from unnest(:'uuids'::uuid[], :'schedules'::bigint[], :'due'::timestamptz[],
              :'until'::timestamptz[], :'moments'::int[], :'fire'::timestamptz[],
              :'statuses'::text[], :'rules'::text[], :'reasons'::text[], :'catch_up'::boolean[],
              :'in_turn'::boolean[], :'attempts'::int[], :'patience'::float8[])
    as v(uuid, schedule, due, until, moments, fire, status, rule, reason, catch_up, in_turn,
      attempts, patience)
  on conflict do nothing returning id, uuid, schedule_id, due_at, status, rule, moments, attempts
), published as (
  insert into events (shard, type, subject, data)
  select t.schedule % 16, t.type, t.subject, t.data
  from unnest(:'told_schedules'::bigint[], :'told_due'::timestamptz[], :'told_types'::text[],
              :'told_subjects'::uuid[], :'told_data'::jsonb[]) with ordinality as t(schedule, due,
              type, subject, data, nth)
  where exists (select from written w where w.schedule_id = t.schedule and w.due_at = t.due)
    order by t.nth
)
select id, uuid, schedule_id, due_at, status, rule, moments, attempts from written
  order by schedule_id, due_at;
