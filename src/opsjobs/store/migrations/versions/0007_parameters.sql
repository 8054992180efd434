-- What a version of a job declares; versions from before declare nothing.
alter table job_versions add column parameters jsonb not null default '[]';
