"""Admission: which waiting runs are ready now, and in which turn they are claimed.

Always run under the locks of the executions named. Ready + running of an execution stay within its window; the i-th
ready run of an execution stands in the i-th round from now, so that a small execution beside a large one is served in
the next rounds, in proportion to priority (10-ledger.md rule 6). Only the open waves are admitted; of a halted execution
only what was claimed before; nothing while a name that it asked for is another's.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from opsjobs.model.failures import Unavailable
from opsjobs.store.transaction import Database

LOCK = "select id from job_executions where id = any(%(executions)s::bigint[]) order by id for update"

# 2520 is divisible by 1 to 10: a turn's step is a whole number for every priority.
ADMIT = """
with open as (
  select id, least("window" - ready - running, waiting) as room, ready, 2520 / priority as step,
         coalesce(open_until, 2147483647) as upto, halted
  from job_executions e
  where id = any(%(executions)s::bigint[]) and finished_at is null and not paused and not cancelling
    and waiting > 0 and "window" > ready + running and (deadline_at > opsjobs_now()) is not false
    and (not named or not exists (select 1 from exclusive_locks l where l.execution_id = e.id and not l.granted))
), picked as (
  select run.id, run.zone, open.id as execution_id, open.step,
         open.ready + row_number() over (partition by open.id order by run.position) as place
  from open cross join lateral (
    select id, zone, position from target_runs
    where execution_id = open.id and status = 'waiting' and waiting_for = 'admission' and position <= open.upto
      and (not open.halted or claimed_at is not null)
    order by position limit open.room for update skip locked) run
), low as (
  select zone, coalesce((select min(turn) from target_runs r
                         where r.zone = z.zone and r.status = 'waiting' and r.waiting_for is null), 0) as turn
  from (select distinct zone from picked) z
), admitted as (
  update target_runs r set waiting_for = null, turn = low.turn + picked.place * picked.step
  from picked join low using (zone)
  where r.id = any(array(select id from picked)) and r.id = picked.id  -- the array makes the plan go by the key
  returning picked.execution_id, r.zone
), counted as (
  update job_executions e set ready = ready + n.n, waiting = waiting - n.n
  from (select execution_id, count(*) as n from admitted group by 1) n
  where e.id = any(%(executions)s::bigint[]) and e.id = n.execution_id
)
select zone, count(*) as admitted from admitted group by zone"""

# Slots that became free: the first parked runs of those targets go back to admission.
UNPARK = """
with free as (
  select target_id, slots - used as room from target_slots where target_id = any(%(targets)s::text[]) and slots > used
), parked as (
  select run.id from free cross join lateral (
    select id from target_runs
    where target_id = free.target_id and status = 'waiting' and waiting_for = 'slot'
    order by turn limit free.room for update skip locked) run
)
update target_runs r set waiting_for = 'admission' from parked
where r.id = any(array(select id from parked)) and r.id = parked.id returning r.execution_id"""

LOCK_SLOTS = "select 1 from target_slots where target_id = any(%(targets)s::text[]) order by target_id for update"


async def admit_after(database: Database, executions: Sequence[int]) -> dict[str, int]:
    """`admit` for a verb that is committed already: what fails here repeats nothing, and the reconciler makes up for it."""
    try:
        return await database.repeat(lambda: admit(database, executions))
    except (Unavailable, psycopg.OperationalError):
        return {}


async def admit(database: Database, executions: Sequence[int]) -> dict[str, int]:
    """Make runs of these executions ready as far as their windows allow; says how many, by zone."""
    if not executions:
        return {}
    async with database.pipelined() as connection:
        await connection.execute(LOCK, {"executions": list(executions)})
        admitted = await connection.execute(ADMIT, {"executions": list(executions)})
    return {r["zone"]: r["admitted"] for r in await admitted.fetchall()}
