-- Workers of the release before neither read nor write this: they try logins as they always did.

-- One login on one machine. credential_id: '' = none. login: a digest of all that makes it another one when it changes.
-- proven: it was accepted once, so nobody needs to ask; holder: who tries just now, until held_until unless it is prolonged.
create table circuits (
  id bigint generated always as identity primary key,
  uuid uuid not null unique default gen_random_uuid(),
  target_id text not null,
  credential_id text not null,
  login text not null,
  state text not null default 'closed' check (state in ('closed', 'open', 'half_open')),
  proven boolean not null default false,
  failures integer not null default 0 check (failures >= 0),
  trips integer not null default 0 check (trips >= 0),
  code text,
  message text,
  since timestamptz,
  until timestamptz,
  holder uuid,
  held_until timestamptz,
  unique (target_id, credential_id),
  constraint not_closed_has_a_reason check (state = 'closed' or (code is not null and since is not null and until is not null)),
  constraint a_right_ends check ((holder is null) = (held_until is null))
) with (fillfactor = 70);
create index circuits_unwell on circuits (id) where state <> 'closed' or failures > 0;
create index circuits_held on circuits (holder) where holder is not null;

-- Groups of targets. Who is in one: the targets that name it in `groups`, those that its selector finds, and those of the groups
-- that it holds. A name that only targets know (they may come from a process of the release before) is a group all the same.
create table target_groups (
  id bigint generated always as identity primary key,
  uuid uuid not null unique default gen_random_uuid(),
  name text not null unique,
  description text not null default '',
  selector text,
  groups text[] not null default '{}',
  created_at timestamptz not null default opsjobs_now(),
  updated_at timestamptz not null default opsjobs_now()
);
create index target_groups_groups on target_groups using gin (groups);
insert into target_groups (name) select distinct unnest(groups) from targets order by 1;
