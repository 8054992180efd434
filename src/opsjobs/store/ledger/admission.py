"""The statements of admission: which runs are ready, and in which turn they are claimed.

They run under the locks of the executions. The ready and running runs of an execution stay within
its window. The i-th ready run of an execution gets the i-th turn from now, so that a small
execution next to a large one is served within the next turns, in proportion to priority.
Only runs of open waves are admitted; of a halted execution, only runs that were claimed before;
none while the execution waits for an exclusive name.

`WAITING_ON` and `WAVES` are columns over `e` and `s`: the reason why an open execution does not
proceed, and its waves. `e` is its row in job_executions, `s` its row in execution_specs. `apart`:
the other execution lacks a label of this one, so not every caller who sees this one sees the other
(model/access_bounds.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from opsjobs.store.statements import load_statement

LOCK = (
    "select id from job_executions where id = any(%(executions)s::bigint[]) order by id for update"
)

# Prefix of the reason why a run is held on a target under maintenance.
MAINTENANCE = "maintenance"

# Limit of runs that one statement makes ready, so that no commit takes seconds.
ADMIT_ROWS = 1_000

# 2520 is divisible by 1 to 10, so the step of a turn is a whole number for every priority.
STEP = 2520

ADMIT = load_statement(__file__, "admit", step=STEP, admit_rows=ADMIT_ROWS)

# After slots became free: send the first parked runs of those targets back to admission.
UNPARK = """
with free as (
  select target_id, slots - used as room from target_slots
  where target_id = any(%(targets)s::text[]) and slots > used
), parked as (
  select run.id from free cross join lateral (
    select id from target_runs
    where target_id = free.target_id and status = 'waiting' and waiting_for = 'slot'
    order by turn limit free.room for update skip locked) run
)
update target_runs r set waiting_for = 'admission' from parked
where r.id = parked.id returning r.execution_id"""

LOCK_SLOTS = (
    "select 1 from target_slots where target_id = any(%(targets)s::text[]) order by "
    "target_id for update"
)


def may_admit_more(counts: Mapping[str, int]) -> bool:
    """Return True if one ADMIT reached its limit of rows, so that more runs may be left."""
    return sum(counts.values()) >= ADMIT_ROWS


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
