-- Approvals of launches beside those of actions; several people; bound to what would run. Processes of the release before go on:
-- they see launches' approvals as some of the action '', and can start none of these executions: with a window of 0 no run of
-- them is ever made ready.

-- requester: {name, kind, person} of who asked; null: a process of the release before launched it. judgement: {verdict, findings}
-- of the safety check; null: not judged.
alter table execution_specs
  add column requester jsonb,
  add column judgement jsonb;
alter table job_versions add column judgement jsonb;

-- needed: different people who have to approve. hash, salt: of what would run where, when it was asked. withheld: what the
-- execution's row gets when it is approved: window, timeout and hold in seconds, names of locks.
alter table approvals
  add column kind text not null default 'action' check (kind in ('action', 'launch')),
  add column needed integer not null default 1 check (needed between 1 and 20),
  add column roles text[] not null default '{}',
  add column users text[] not null default '{}',
  add column hash text check (length(hash) = 64),
  add column salt bytea,
  add column withheld jsonb,
  add constraint a_launch_withholds check ((kind = 'launch') = (withheld is not null));
create unique index approvals_launch on approvals (execution_id) where kind = 'launch';

-- Who said what. person: by what one is counted, once.
create table approval_decisions (
  approval_id bigint not null references approvals on delete cascade,
  person text not null,
  decided_by text not null,
  decided_by_kind text not null,
  approve boolean not null,
  overridden boolean not null default false,
  reason text,
  at timestamptz not null default opsjobs_now(),
  primary key (approval_id, person)
);

-- What waits for its approval has no room for any run, no deadline, and has begun nothing.
alter table job_executions add constraint the_pending_hold_nothing
  check (status <> 'pending_approval' or ("window" = 0 and started_at is null and deadline_at is null)) not valid;
