-- List the authors of the actions of some executions: of their jobs' versions, of ad-hoc executions
-- and of schedules.
--
-- Upwards (`above`): the executions that each is a part of, or retries. Their jobs determine its
-- parameters and targets; an ad-hoc execution was written by its requester. Downwards (`step`): the
-- jobs that it will run as steps, at their current version; a version that changes after the
-- approval was requested is not run. `root` is the execution that a row is about.
with recursive above(root, id, job_id, version, parent_id, requested_by, requester, depth) as (
  select e.id, e.id, e.job_id, e.job_version, s.parent_id, s.requested_by, s.requester, 0
  from job_executions e join execution_specs s on s.execution_id = e.id
    where e.id = any(:'executions'::bigint[])
  union all
  select root, e.id, e.job_id, e.job_version, s.parent_id, s.requested_by, s.requester, depth + 1
  from above join job_executions e on e.id = above.parent_id join execution_specs s
    on s.execution_id = e.id where depth < 100
), step(root, job, depth) as (
  select s.execution_id, a.value ->> 'job', 1
  from execution_specs s, jsonb_array_elements(s.actions) a
  where s.execution_id = any(:'executions'::bigint[]) and a.value ->> 'type' = 'job'
  union
  select root, a.definition ->> 'job', depth + 1
  from step join jobs j on j.state <> 'archived' and step.job in (j.name, j.id::text, j.uuid::text)
  join job_actions a on a.job_id = j.id and a.version = j.version and a.type = 'job' where depth < 8
), run as (
  select root, job_id, version from above where job_id is not null
  union
  select root, j.id, j.version from step join jobs j on j.state <> 'archived'
    and step.job in (j.name, j.id::text, j.uuid::text)
), written(root, wrote, author) as (
  select root, 'version ' || v.version || ' of the job ' || v.name, who.author
  from run join job_versions v on v.job_id = run.job_id and v.version = run.version
  cross join lateral (select coalesce(v.author, jsonb_build_object('name',
    v.created_by)) as author) who
  union
  select root, 'the ad-hoc execution ' || above.id, coalesce(above.requester,
    jsonb_build_object('name', above.requested_by))
  from above where above.job_id is null and above.depth > 0
  union
  select root, 'the schedule ' || s.name, who.author
  from above join schedule_executions f on f.execution_id = above.id join job_schedules s
    on s.id = f.schedule_id
  cross join lateral (
    select jsonb_build_object('name', s.owner, 'kind', s.owner_kind) as author
    union all select jsonb_array_elements(s.authors)) who
), numbered as (
  select root, wrote, author, row_number() over (partition by root order by wrote) as place
  from written
)
select root as execution_id, wrote, author from numbered where place <= 1000 order by root, place;
