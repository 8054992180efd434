-- What stays fast in a large database; additions only. Processes of the release before go on beside it.

-- turn: below it no ready run of the zone stands, but perhaps one that was left behind. Written by claims, at most once a second. Who
-- admits begins to look there, so that what has been claimed since the oldest snapshot is not read again and again.
create table zone_turns (
  zone text primary key,
  turn bigint not null,
  written_at timestamptz not null default opsjobs_now()
) with (fillfactor = 20);
