-- Workers and APIs of the release before go on beside this schema: what is new is optional, and no statement of theirs
-- changes its answer.

-- not_before: when a timer, a back-off or a hold is over. awaits: what a waiting run waits for, by name: the action's key of a
-- barrier or an approval, the uuid of a child execution, the reason of a hold. passed: barriers that opened for it.
alter table target_runs
  add column not_before timestamptz,
  add column awaits text,
  add column passed text[];
create index target_runs_not_before on target_runs (not_before) where status = 'waiting' and not_before is not null;
create index target_runs_awaits on target_runs (execution_id, awaits) where status = 'waiting' and awaits is not null;
create index target_runs_child on target_runs (awaits) where status = 'waiting' and waiting_for = 'child';
create index target_runs_held on target_runs (target_id) where status = 'waiting' and waiting_for = 'hold';

-- open_until: the last position that may be admitted (null = all): waves are stretches of positions. watched: a settle looks
-- after it (waves, max_fail, barriers, names, a parent), plain ones cost nothing. halted: what has not begun is skipped.
-- named: it asks for exclusive names. hold_until: until then unreachable targets are waited for.
alter table job_executions
  add column open_until integer,
  add column watched boolean not null default false,
  add column halted boolean not null default false,
  add column named boolean not null default false,
  add column hold_until timestamptz;
alter table execution_specs
  add column paused_by text,
  add column pause_reason text,
  add column halt_reason text;

-- How a watched execution goes on from wave to wave. waves: cumulative counts; limits: how many may fail in each (null = all),
-- counted over the wave (per_wave) or the execution. fail_base: failures that are not held against it any more.
-- cause: which gate paused it.
create table execution_gates (
  execution_id bigint primary key references job_executions on delete cascade,
  waves integer[] not null,
  limits integer[],
  per_wave boolean not null default false,
  confirm boolean not null default false,
  checked boolean not null default false,
  pause_on_fail boolean not null default false,
  fail_base integer not null default 0,
  cause text check (cause in ('confirm', 'max_fail'))
);

-- One a name and execution that asks for it; granted all together, in launch order, freed when the execution has ended.
create table exclusive_locks (
  name text not null,
  execution_id bigint not null references job_executions on delete cascade,
  granted boolean not null default false,
  primary key (name, execution_id)
);
create unique index exclusive_locks_holder on exclusive_locks (name) where granted;
create index exclusive_locks_execution on exclusive_locks (execution_id);

-- Frees the names of executions that have ended, and grants those that nobody has: says who got all that it asked for. One at
-- a time; the lock is taken last of all locks, and each statement sees what was committed before it. A child may outlive its
-- parent by a moment: the names go with the last of the family. A child passes those who only wait: they may wait for names
-- of its parent, which waits for the child.
create function opsjobs_pass_names() returns setof bigint language plpgsql as $$
declare
  candidate bigint;
begin
  if not exists (select 1 from exclusive_locks) then
    return;
  end if;
  perform pg_advisory_xact_lock(hashtext('opsjobs_pass_names'));
  delete from exclusive_locks l using job_executions e
  where e.id = l.execution_id and e.finished_at is not null and not exists (
    with recursive line as (
      select execution_id as id from execution_specs where parent_id = l.execution_id and triggered_by = 'workflow'
      union all
      select s.execution_id from line join execution_specs s on s.parent_id = line.id and s.triggered_by = 'workflow'
    )
    select 1 from line join job_executions c on c.id = line.id where c.finished_at is null);
  for candidate in
    select a.id from (
      select l.execution_id as id, coalesce(s.triggered_by = 'workflow', false) as child
      from (select distinct execution_id from exclusive_locks where not granted) l
      left join execution_specs s on s.execution_id = l.execution_id
    ) a
    where not exists (
      select 1 from exclusive_locks mine
      join exclusive_locks other on other.name = mine.name and other.execution_id <> mine.execution_id
      where mine.execution_id = a.id and (other.granted or not a.child and other.execution_id < a.id))
    order by not a.child, a.id
  loop
    -- A child before it in this round may have got what it asks for.
    update exclusive_locks set granted = true where execution_id = candidate and not exists (
      select 1 from exclusive_locks mine
      join exclusive_locks other on other.name = mine.name and other.execution_id <> mine.execution_id
      where mine.execution_id = candidate and other.granted);
    if found then
      return next candidate;
    end if;
  end loop;
end $$;

-- held_until: the target is under maintenance until then (infinity = until further notice), and its runs wait.
alter table target_slots
  add column held_until timestamptz,
  add column held_reason text,
  add column held_by text;

create table approvals (
  id bigint generated always as identity primary key,
  uuid uuid not null unique default gen_random_uuid(),
  execution_id bigint not null references job_executions on delete cascade,
  action text not null,
  message text not null,
  status text not null default 'pending' check (status in ('pending', 'approved', 'rejected', 'expired', 'cancelled')),
  asked_at timestamptz not null default opsjobs_now(),
  expires_at timestamptz,
  decided_at timestamptz,
  decided_by text,
  reason text,
  unique (execution_id, action),
  check ((status = 'pending') = (decided_at is null))
);
create index approvals_pending on approvals (expires_at) where status = 'pending';
create index approvals_decided on approvals (decided_at);
