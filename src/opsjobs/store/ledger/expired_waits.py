"""Wake runs whose wait is over: send them back to admission.

Each statement is bounded, and skips rows that are locked by others. A woken run is still waiting,
so no counter changes; the lock of the execution is taken by the admission that follows.
"""

from __future__ import annotations

from collections.abc import Sequence

from opsjobs.store.ledger.admit import admit
from opsjobs.store.ledger.each import admit_each
from opsjobs.store.transaction import Database

# How many executions one transaction admits.
ADMIT_AT_ONCE = 200

_WAKE_DUE = """
update target_runs r set waiting_for = 'admission', not_before = null, awaits = null
where r.id = any(array(select id from due)) returning r.execution_id"""

# Timers, back-offs and holds whose time has come.
_DUE = f"""
with due as (
  select id from target_runs
  where status = 'waiting' and not_before <= (select opsjobs_now())
    and waiting_for in ('timer', 'backoff', 'hold')
  order by not_before limit %(limit)s for update skip locked
) {_WAKE_DUE}"""

# A child that has ended or does not exist. (The case: `awaits` of other runs is not a uuid.)
_CHILD_OVER = """not exists (
      select 1 from job_executions c
      where c.uuid = case when r.waiting_for = 'child' then r.awaits::uuid end
        and c.finished_at is null)"""
# Branches that wait for several things at once: the row holds the time when the first is due, and
# the names of the others. (The case: the name of an approval is not a uuid.)
_UUID = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_ANSWERED_BESIDE_TIMER = f"""r.waiting_for in ('timer', 'backoff') and exists (
      select 1 from unnest(string_to_array(r.awaits, ' ')) as n(name)
      left join approvals a on a.execution_id = r.execution_id and a.action = n.name
      left join job_executions c on c.uuid = case when n.name ~ '{_UUID}' then n.name::uuid end
      where a.status <> 'pending' or c.finished_at is not null)"""
WAKE_ANSWERED = f"""
with due as (
  select r.id from target_runs r
  where r.execution_id = any(%(executions)s::bigint[]) and r.status = 'waiting'
    and r.awaits is not null and (
    r.waiting_for = 'approval' and not exists (
      select 1 from approvals a where a.execution_id = r.execution_id and a.action = r.awaits
        and a.status = 'pending')
    or r.waiting_for = 'child' and {_CHILD_OVER} or {_ANSWERED_BESIDE_TIMER})
  for update of r skip locked
) {_WAKE_DUE}"""

# Runs of a range of the open executions, looked up by execution id.
_IN_RANGE = """
with due as (
  select r.id from job_executions e join target_runs r on r.execution_id = e.id
  where e.finished_at is null and e.id > %(after)s and e.id <= %(upto)s and r.status = 'waiting'
    and r.awaits is not null"""
_ORPHANED = f"""{_IN_RANGE} and r.waiting_for = 'child' and {_CHILD_OVER}
  limit %(limit)s for update of r skip locked
) {_WAKE_DUE}"""
_APPROVED = f"""{_IN_RANGE} and r.waiting_for = 'approval' and exists (
    select 1 from approvals a where a.execution_id = r.execution_id and a.action = r.awaits
      and a.status <> 'pending' offset 0)
  limit %(limit)s for update of r skip locked
) {_WAKE_DUE}"""
_ANSWERED_BESIDE = f"""{_IN_RANGE} and {_ANSWERED_BESIDE_TIMER}
  limit %(limit)s for update of r skip locked
) {_WAKE_DUE}"""


async def wake(database: Database, limit: int, *, after: int, upto: int) -> int:
    """Wake runs that are due, and runs whose answer has come; admit them; return how many.

    Answers are looked for in executions after `after` up to `upto`. At most `limit` runs of each
    kind.
    """
    executions: list[int] = []
    for statement in (_DUE, _ORPHANED, _APPROVED, _ANSWERED_BESIDE):
        rows = await database.fetch(statement, {"limit": limit, "after": after, "upto": upto})
        executions += [row["execution_id"] for row in rows]
    await admit_each(database, sorted(set(executions)), ADMIT_AT_ONCE)
    return len(executions)


async def wake_answered(database: Database, executions: Sequence[int]) -> None:
    """Wake runs of these executions whose approval is decided or whose child has ended."""
    await database.fetch(WAKE_ANSWERED, {"executions": list(executions)})
    await admit(database, executions)
