-- A selector may be longer than an index entry; only ids and groups are looked for.
create index job_targets_named on job_targets (kind, value) where kind in ('id', 'group');
