-- Workers of the release before go on beside this schema: they leave all of it null, and what is null is said by the run's row.
-- outputs: what the action hands on to later ones.
-- store_id, boot_id: where this attempt may have been started ('direct': outside any store): branches of a run that meet a
-- reboot are looked for each where it was begun.
-- again_at: it is tried again, not before this; so this end does not stand.
-- late_result: what was found out of it after its run had ended.
alter table job_execution_results
  add column outputs jsonb,
  add column store_id text,
  add column boot_id text,
  add column again_at timestamptz,
  add column late_result jsonb;
