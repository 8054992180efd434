-- Decide on all candidates of a claim at once.
--
-- Runs of a closed execution, and runs that are cancelled, go back to admission, so that they do not block others; runs whose
-- target has no free slot are parked; runs whose target is under maintenance are held until its
-- end; runs whose slot row is locked by another transaction stay ready.
with slot as materialized (
  select target_id, used, slots - used as free, held_reason,
         case when held_until > (select opsjobs_now()) then held_until end as held_until
           from target_slots
  where target_id = any(:'targets'::text[]) order by target_id for update skip locked
), candidate as materialized (
  select r.id, r.execution_id, r.target_id, e.uuid as execution_uuid,
         gate.closed, slot.free, slot.held_until, slot.held_reason,
         row_number() over (partition by r.target_id, gate.closed order by r.turn, r.id) as place,
         known.store_id, known.boot_id
  from target_runs r join job_executions e on e.id = r.execution_id left join slot
    on slot.target_id = r.target_id
  cross join lateral (
    select (e.paused or e.cancelling or e.finished_at is not null
        or e.deadline_at <= (select opsjobs_now()) or e.halted and r.claimed_at is null
        or e.partly_cancelled and exists (select 1 from cancelled_runs c
          where c.execution_id = e.id and c.target_run_id = r.id offset 0)) is true as closed
    offset 0) gate
  left join lateral (
    select s.store_id, s.boot_id from target_state s where s.target_id = r.target_id offset 0) known
      on true
  where r.id = any(:'runs'::bigint[])
), decided as (
  select id, execution_id, target_id, coalesce(store_id, :unknown) as store_id, boot_id, held_until,
         left(:maintenance || coalesce(': ' || held_reason, ''), :held_for_characters) as held_for,
         case when closed then 'closed' when free is null then 'later'
           when held_until is not null then 'held'
              when place <= free then 'claimed' else 'parked' end as what
  from candidate
), moved as (
  update target_runs r set
    status = case d.what when 'claimed' then 'running' else 'waiting' end,
    waiting_for = case d.what when 'claimed' then null when 'parked' then 'slot'
      when 'held' then 'hold' else 'admission' end,
    not_before = case d.what when 'held' then nullif(d.held_until, 'infinity') end,
    awaits = case d.what when 'held' then d.held_for end,
    owner = case d.what when 'claimed' then :'owner'::uuid end,
    worker = case d.what when 'claimed' then :'worker'::text else r.worker end,
    claimed_at = case d.what when 'claimed' then opsjobs_now() else r.claimed_at end,
    fence = r.fence + (d.what = 'claimed')::int,
    store_id = case d.what when 'claimed' then d.store_id end,
    boot_id = case d.what when 'claimed' then d.boot_id end,
    taken_over = false
  from decided d where r.id = d.id and d.what <> 'later'
  returning r.id, r.uuid, r.execution_id, r.target_id, r.target_name, r.position, r.fence,
    r.attempt, r.turn, r.store_id, r.boot_id, r.passed, d.what
), taken as (
  -- From the row as it was locked: the CHECK is tested first on the row of the snapshot, and a
  -- settle may have freed a slot since.
  update target_slots s set used = n.used + n.n
  from (select target_id, slot.used, count(*) as n from moved join slot using (target_id)
        where what = 'claimed' group by 1, 2) n
  where s.target_id = n.target_id
), counted as (
  update job_executions e set
    running = running + n.claimed, ready = ready - n.claimed - n.back, waiting = waiting + n.back,
    last_seq = last_seq + n.claimed + (n.claimed > 0 and e.started_at is null)::int,
    status = case when n.claimed > 0 then 'running' else e.status end,
    started_at = case when n.claimed > 0 then coalesce(e.started_at,
      opsjobs_now()) else e.started_at end
  from (select m.execution_id, count(*) filter (where m.what = 'claimed') as claimed,
               count(*) filter (where m.what <> 'claimed') as back
        from moved m group by 1) n
  where e.id = n.execution_id
  returning e.id, e.uuid, e.log_day, e.last_seq, n.claimed,
            extract(epoch from e.deadline_at - opsjobs_now())::float8 as seconds_left,
            extract(epoch from e.hold_until - opsjobs_now())::float8 as hold_seconds, e.watched,
            (select x.started_at is null from job_executions x where x.id = e.id)
              and n.claimed > 0 as first
), logged as (
  insert into execution_log (log_day, execution_id, seq, event, target_run_id, target_id, body)
  select e.log_day, e.id, e.last_seq - e.claimed + row_number() over (partition by e.id
    order by m.position), 'status', m.id,
         m.target_id, jsonb_build_object('target_run', m.id, 'target', m.target_id, 'status',
                                         'running', 'error', null, 'worker', :'worker'::text)
  from counted e join moved m on m.execution_id = e.id and m.what = 'claimed'
  union all
  select e.log_day, e.id, e.last_seq - e.claimed, 'status', null, null,
         jsonb_build_object('execution', e.id, 'status', 'running', 'error', null)
  from counted e where e.first
), published as (
  insert into events (shard, type, subject, execution_id, from_seq, to_seq)
  select t.shard, t.type, t.uuid, t.id, t.from_seq, t.to_seq from (
    select 1 as nth, e.id % 16 as shard, 'execution.started' as type, e.uuid, e.id,
           null::bigint as from_seq, null::bigint as to_seq
    from counted e where e.first
    union all
    select 2, e.id % 16, 'target_run', e.uuid, e.id, e.last_seq - e.claimed + 1, e.last_seq
      from counted e where e.claimed > 0
  ) t order by t.nth
)
select m.*, e.log_day, e.seconds_left, e.hold_seconds, e.watched from moved m join counted e
  on e.id = m.execution_id;
