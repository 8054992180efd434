-- Workers and APIs of the release before go on beside this schema: what is new is optional, and no statement of theirs
-- changes its answer. So `targets` gets no column: they prepare `select * from targets`, which would then fail until they end.

-- Which store answered on a machine last (the token in ~/.opsjobs/id), and since which boot; a hint, so losing it is harmless.
create table target_state (
  target_id text primary key,
  store_id text not null,
  boot_id text not null,
  seen_at timestamptz not null default opsjobs_now()
) with (fillfactor = 50);

-- What a target was told beyond the columns of `targets`; no row = all of it by default.
create table target_options (
  target_id bigint primary key references targets on delete cascade,
  durable text not null check (durable in ('auto', 'required', 'off'))
);

-- store_id, boot_id: where the run's command may have been started; 'direct' = outside any store. Never of a waiting run:
-- a worker of the release before could start it elsewhere and leave them standing.
-- spool_due: when to remove its folders from the target; sweep_due: when to look again for what was lost there.
-- taken_over: its owner has it from one that was buried; `claims` counts how often, since it last gave a sign of life.
alter table target_runs
  add column store_id text,
  add column boot_id text,
  add column taken_over boolean not null default false,
  add column spool_due timestamptz,
  add column sweep_due timestamptz,
  add column sweeps integer not null default 0;
-- Nothing else in their predicates: claims and flushes of running runs stay HOT.
create index target_runs_spool on target_runs (zone, spool_due) where spool_due is not null;
create index target_runs_sweep on target_runs (zone, sweep_due) where sweep_due is not null;
