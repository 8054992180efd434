"""Exclusive names: an execution that requests some is queued until it has all of them.

Names are granted all together and in launch order, never before an older request for the same name.
A child execution shares the names of its parents, and passes all requests
that are not granted yet, because these may wait for its parents.
"""

from __future__ import annotations

REQUEST_NAMES = """
with recursive line as (
  select parent_id as id from execution_specs where execution_id = %(id)s
    and triggered_by = 'workflow'
  union all
  select s.parent_id from line join execution_specs s on s.execution_id = line.id
  where s.triggered_by = 'workflow'
)
insert into exclusive_locks (name, execution_id, child)
select n.name, %(id)s, exists (select 1 from execution_specs where execution_id = %(id)s
                               and triggered_by = 'workflow')
from unnest(%(names)s::text[]) as n(name)
where not exists (select 1 from line join exclusive_locks l on l.execution_id = line.id
                  where l.name = n.name)"""

# Return a row if a waiting child is part of a lock cycle: a holder of one of its names waits, or
# has children that wait, for a name that is not released before the child has ended. Only the
# request of a child can close a cycle (an execution that is granted names has no children yet), and
# it is checked under the lock of the grant, so that two requests cannot close one together. Returns
# the first name and its holder.
FIND_LOCK_CYCLE = """
with recursive first as (
  select mine.name, held.execution_id as holder from exclusive_locks mine
  join exclusive_locks held on held.name = mine.name and held.granted
  where mine.execution_id = %(id)s and not mine.granted
), before(id) as (
  select holder from first
  union
  select next.id from before b cross join lateral (
    select held.execution_id as id from exclusive_locks mine
    join exclusive_locks held on held.name = mine.name and held.granted
    where mine.execution_id = b.id and not mine.granted
    union all
    select s.execution_id from execution_specs s where s.parent_id = b.id
      and s.triggered_by = 'workflow') next
)
select name, holder from first
where exists (select 1 from (select id from before limit 10000) bounded where id = %(id)s)
order by name limit 1"""

# Release the names of ended executions; return executions that hold all of their names now.
GRANT_NAMES = "select execution_id from opsjobs_pass_names() as granted(execution_id)"
# The same, unless another process is doing it right now.
GRANT_NAMES_IF_FREE = (
    "select execution_id from opsjobs_pass_names(patient => false) as granted(execution_id)"
)
GRANT_AFTER_END = """
select granted.execution_id
from (
  select array_agg(id) as ended from job_executions where id = any(%(executions)s::bigint[])
    and finished_at is not null
  having count(*) > 0
) e
cross join lateral opsjobs_pass_names(e.ended) as granted(execution_id)"""
