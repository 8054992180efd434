-- Processes of the release before know neither schedules nor calendars.

-- windows: as their author wrote them (model/calendar_windows.py). Schedules name calendars; the name is looked up when one is due.
create table calendars (
  id bigint generated always as identity primary key,
  uuid uuid not null unique default gen_random_uuid(),
  name text not null unique,
  description text not null default '',
  timezone text not null,
  kind text not null check (kind in ('blackout', 'only')),
  windows jsonb not null check (jsonb_typeof(windows) = 'array'),
  created_at timestamptz not null default opsjobs_now(),
  updated_at timestamptz not null default opsjobs_now()
);
