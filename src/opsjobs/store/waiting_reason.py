"""The reason why an open execution does not proceed, as a column over `e` and `s`.

`e` is its row in job_executions, `s` its row in execution_specs. `apart`: the other execution lacks
a label of this one, so not every caller who sees this one sees the other (model/access_bounds.py).
"""

from __future__ import annotations

_APART = (
    "not coalesce((select o.labels @> s.labels from execution_specs o where o.execution_id = "
    "{}), false)"
)

# Subqueries inside a case: none is run for ended executions, or for rows that a list leaves out.
WAITING_ON = f"""
case when e.finished_at is not null or e.cancelling then null else coalesce(
  case when e.paused then jsonb_build_object(
    'kind', coalesce((select g.cause from execution_gates g where g.execution_id = e.id), 'pause'),
    'reason', s.pause_reason, 'by', s.paused_by) end,
  case when e.named then coalesce((
    select jsonb_build_object('kind', 'exclusive', 'name', mine.name, 'execution',
                              held.execution_id,
      'apart', {_APART.format("held.execution_id")},
      'reason', mine.name || ' is held by execution ' || held.execution_id)
    from exclusive_locks mine join exclusive_locks held on held.name = mine.name and held.granted
    where mine.execution_id = e.id and not mine.granted order by mine.name limit 1), (
    select jsonb_build_object('kind', 'exclusive', 'name', mine.name, 'execution',
                              before.execution_id,
      'apart', {_APART.format("before.execution_id")},
      'reason', mine.name || ', for which execution ' || before.execution_id || ' asked before')
    from exclusive_locks mine cross join lateral (
      select o.execution_id from exclusive_locks o
      where o.name = mine.name and not o.granted and o.execution_id < mine.execution_id
      order by o.execution_id limit 1) before
    where mine.execution_id = e.id and not mine.granted order by mine.name limit 1)) end,
  (select jsonb_build_object('kind', 'approval', 'approval', a.id, 'action', a.action, 'reason',
                             a.message)
   from approvals a where a.execution_id = e.id and a.status = 'pending' order by a.id
     limit 1)) end"""

WAVES = """
case when e.open_until is not null then (
  select case when cardinality(g.waves) > 1
    then jsonb_build_object('open', e.open_wave + 1, 'total', cardinality(g.waves)) end
  from execution_gates g where g.execution_id = e.id) end"""
