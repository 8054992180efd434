-- Who wrote what runs: {name, kind, person, makers}, as of requesters (0019), since who wrote it does not approve it. Processes of
-- the release before write and read neither.

-- null: written by a process of the release before; then created_by is all that is known.
alter table job_versions add column author jsonb;
-- Who made the schedule, and who changed it last.
alter table job_schedules add column authors jsonb;
