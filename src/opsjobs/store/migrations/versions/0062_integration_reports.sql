-- The state of each connected service of the platform as each process sees it, for GET /status.
-- since, asked_at: by the clock of the process. A row that is not reported again is of a dead process.
create table integration_reports (
  process text not null,
  name text not null,
  host text not null,
  profile text not null,
  state text not null check (state in ('unused', 'ok', 'failing', 'open')),
  last_error text,
  since timestamptz not null,
  asked_at timestamptz,
  reported_at timestamptz not null default opsjobs_now(),
  primary key (process, name)
);
