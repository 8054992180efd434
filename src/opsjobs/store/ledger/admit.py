"""Admit runs: make them ready to be claimed, also after their wait is over.

Runs whose wait is over are sent back to admission, by bounded statements that skip rows locked by
others. A woken run is still waiting, so no counter changes; the admission that follows takes the
lock of the execution.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import psycopg

from opsjobs.model.errors import Unavailable
from opsjobs.store.ledger.admission import ADMIT, LOCK, may_admit_more
from opsjobs.store.transaction import Database


async def admit_after(database: Database, executions: Sequence[int]) -> dict[str, int]:
    """Call `admit` after a committed operation; a failure is ignored.

    The operation is not repeated because of it; the reconciler admits these runs later.
    """
    try:
        return await database.retry(lambda: admit(database, executions))
    except (Unavailable, psycopg.Error):
        return {}


async def admit(database: Database, executions: Sequence[int]) -> dict[str, int]:
    """Make runs of these executions ready, within their windows; return how many, by zone.

    One transaction admits at most ADMIT_ROWS runs; the rest is admitted in further ones.
    """
    counts: dict[str, int] = {}
    while executions:
        async with database.pipelined() as connection:
            await connection.execute(LOCK, {"executions": list(executions)})
            admitted = await connection.execute(ADMIT, {"executions": list(executions)})
        part = {r["zone"]: r["admitted"] for r in await admitted.fetchall()}
        counts = {zone: counts.get(zone, 0) + part.get(zone, 0) for zone in {*counts, *part}}
        if not may_admit_more(part):
            break
    return counts


Key = TypeVar("Key")


async def for_each(
    database: Database, keys: Sequence[Key], act: Callable[[Key], Awaitable[int]]
) -> int:
    """Call `act` with each key and return the sum of its results.

    Raises the first exception once all keys are done. Ends at once if PostgreSQL is unavailable,
    because the others would fail as well.
    """
    done, failed = 0, list[Exception]()
    for key in keys:
        try:
            done += await act(key)
        except Exception as error:  # noqa: BLE001  it is raised in the end
            error.add_note(f"for {key!r}")
            failed.append(error)
            if isinstance(error, Unavailable):
                await database.fetch("select 1")
    if failed:
        raise next((error for error in failed if not isinstance(error, Unavailable)), failed[0])
    return done


async def admit_each(database: Database, executions: Sequence[int], at_once: int) -> int:
    """Call `admit` for executions, `at_once` at a time; return how many runs became ready.

    If a batch fails, its executions are admitted one by one.
    """

    async def alone(execution_id: int) -> int:
        return sum((await admit(database, [execution_id])).values())

    async def together(part: Sequence[int]) -> int:
        try:
            return sum((await admit(database, part)).values())
        except Exception:  # noqa: BLE001  it is raised again for the one that it comes of
            return await for_each(database, part, alone)

    return await for_each(
        database,
        [executions[n : n + at_once] for n in range(0, len(executions), at_once)],
        together,
    )


# How many executions one transaction admits.
ADMIT_AT_ONCE = 200

_WAKE_DUE = """
update target_runs r set waiting_for = 'admission', not_before = null, awaits = null
where r.id = any(array(select id from due)) returning r.execution_id"""

# Timers, back-offs and holds whose time is over.
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
    """Wake runs that are due, and runs whose answer has arrived; admit them; return how many.

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
