"""Waking: runs whose wait is over go back to admission; each statement bounded, and skipping what others have in hand.

A woken run waits still, so no counter moves: the execution's lock is for the admission that follows.
"""

from __future__ import annotations

from collections.abc import Sequence

from opsjobs.store.ledger.admit import admit
from opsjobs.store.ledger.each import admit_each
from opsjobs.store.transaction import Database

# Executions of which one transaction makes runs ready.
ADMIT_AT_ONCE = 200

_WOKEN = """
update target_runs r set waiting_for = 'admission', not_before = null, awaits = null
where r.id = any(array(select id from due)) returning r.execution_id"""

# Timers, back-offs and holds by the clock.
_DUE = f"""
with due as (
  select id from target_runs
  where status = 'waiting' and not_before <= (select opsjobs_now()) and waiting_for in ('timer', 'backoff', 'hold')
  order by not_before limit %(limit)s for update skip locked
) {_WOKEN}"""

# Approvals that are decided, children that have ended or are gone. (The case: other runs await what is no uuid.)
_CHILD_OVER = """not exists (
      select 1 from job_executions c
      where c.uuid = case when r.waiting_for = 'child' then r.awaits::uuid end and c.finished_at is null)"""
# Of branches that wait for several things at once the row says when the first is due, and names what else is awaited. (The case:
# an approval's name is no uuid.)
_UUID = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_HEARD_BESIDE = f"""r.waiting_for in ('timer', 'backoff') and exists (
      select 1 from unnest(string_to_array(r.awaits, ' ')) as n(name)
      left join approvals a on a.execution_id = r.execution_id and a.action = n.name
      left join job_executions c on c.uuid = case when n.name ~ '{_UUID}' then n.name::uuid end
      where a.status <> 'pending' or c.finished_at is not null)"""
WAKE_ANSWERED = f"""
with due as (
  select r.id from target_runs r
  where r.execution_id = any(%(executions)s::bigint[]) and r.status = 'waiting' and r.awaits is not null and (
    r.waiting_for = 'approval' and not exists (
      select 1 from approvals a where a.execution_id = r.execution_id and a.action = r.awaits and a.status = 'pending')
    or r.waiting_for = 'child' and {_CHILD_OVER} or {_HEARD_BESIDE})
  for update of r skip locked
) {_WOKEN}"""

# Of a part of the open executions; each one's runs are looked up by its id.
_OF_PART = """
with due as (
  select r.id from job_executions e join target_runs r on r.execution_id = e.id
  where e.finished_at is null and e.id > %(after)s and e.id <= %(upto)s and r.status = 'waiting' and r.awaits is not null"""
_ORPHANED = f"""{_OF_PART} and r.waiting_for = 'child' and {_CHILD_OVER}
  limit %(limit)s for update of r skip locked
) {_WOKEN}"""
_APPROVED = f"""{_OF_PART} and r.waiting_for = 'approval' and exists (
    select 1 from approvals a where a.execution_id = r.execution_id and a.action = r.awaits and a.status <> 'pending' offset 0)
  limit %(limit)s for update of r skip locked
) {_WOKEN}"""
_ANSWERED_BESIDE = f"""{_OF_PART} and {_HEARD_BESIDE}
  limit %(limit)s for update of r skip locked
) {_WOKEN}"""


async def wake(database: Database, limit: int, *, after: int, upto: int) -> int:
    """Wake what is due, and of the executions from behind `after` to `upto` what has its answer; admit it; return how many.

    At most `limit` of each kind.
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
