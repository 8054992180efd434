-- The first line of what an ad-hoc execution runs; null for executions of jobs, which have a name.
alter table execution_specs
  add column summary text check (length(summary) <= 200);
