"""The statements that find the targets and the jobs that use a credential."""

from __future__ import annotations

USERS = """
select id, name from targets where %s in (credential_id, label_credential_id) order by name"""
JOBS = """
select j.id, j.name, coalesce(array_agg(distinct a.key) filter (where a.kind = 'action'),
  '{}') as actions,
  coalesce(array_agg(distinct a.key) filter (where a.kind = 'parameter'), '{}') as parameters
    from jobs j
join (
  select job_id, version, 'action' as kind, key, definition->'become'->>'credential' as credential
    from job_actions
  union all
  select job_id, version, 'action', 'gate-check', policy->'gate'->'check'->'become'->>'credential'
    from job_versions
  union all
  select v.job_id, v.version, 'parameter', p->>'name', p->>'from_credential'
  from job_versions v, jsonb_array_elements(v.parameters) p
) a on a.job_id = j.id and a.version = j.version
where j.state <> 'archived' and a.credential = %s group by j.id, j.name order by j.name"""
