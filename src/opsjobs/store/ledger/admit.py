"""Admission: which waiting runs are ready now, and in which turn they are claimed.

Always run under the locks of the executions named. Ready + running of an execution stay within its window; the i-th
ready run of an execution stands in the i-th round from now, so that a small execution beside a large one is served in
the next rounds, in proportion to priority (10-ledger.md rule 6). Only the open waves are admitted; of a halted execution
only what was claimed before; nothing while a name that it asked for is another's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import psycopg

from opsjobs.model.errors import Unavailable
from opsjobs.store.transaction import Database

LOCK = "select id from job_executions where id = any(%(executions)s::bigint[]) order by id for update"

# Runs that one statement makes ready at most: the rest is for the next one, so that no commit takes seconds.
ADMIT_ROWS = 1_000

# 2520 is divisible by 1 to 10: a turn's step is a whole number for every priority.
STEP = 2520

# The turn from which a zone's next runs count. The floor spares the walk over entries of what was claimed before, which an old snapshot
# keeps in the index.
LOW_TURN = """coalesce((
    select min(r.turn) from target_runs r
    where r.zone = z.zone and r.status = 'waiting' and r.waiting_for is null and r.turn >= z.floor), z.floor)"""
FLOOR = "coalesce((select t.turn from zone_turns t where t.zone = {}), 0)"

# Linear in what is admitted, whatever is known of the tables: arrays count as few rows, and each of them is looked up by its key.
ADMIT = f"""
with open as materialized (
  select id, least("window" - ready - running, waiting) as room, ready, {STEP} / priority as step,
         coalesce(open_until, 2147483647) as upto, halted
  from job_executions e
  where id = any(%(executions)s::bigint[]) and finished_at is null and not paused and not cancelling
    and waiting > 0 and "window" > ready + running and (deadline_at > (select opsjobs_now())) is not false
    and (not named or not exists (select 1 from exclusive_locks l where l.execution_id = e.id and not l.granted offset 0))
), picked as materialized (
  select run.id, run.zone, open.id as execution_id, open.step,
         open.ready + row_number() over (partition by open.id order by run.position) as place
  from open cross join lateral (
    select id, zone, position from target_runs
    where execution_id = open.id and status = 'waiting' and waiting_for = 'admission' and position <= open.upto
      and (not open.halted or claimed_at is not null)
    order by position limit least(open.room, {ADMIT_ROWS}) for update skip locked) run
  limit {ADMIT_ROWS}
), low as materialized (
  select z.zone, {LOW_TURN} as turn
  from (select d.zone, {FLOOR.format("d.zone")} as floor from (select distinct zone from picked) d) z
), admitted as (
  update target_runs r set waiting_for = null, turn = n.turn
  from (select array_agg(p.id) as ids, array_agg(low.turn + p.place * p.step) as turns from picked p join low using (zone)) a
  cross join lateral unnest(a.ids, a.turns) as n(id, turn)
  where r.id = n.id
  returning r.execution_id, r.zone
), counted as (
  update job_executions e set ready = ready + n.n, waiting = waiting - n.n
  from (select execution_id, count(*) as n from admitted group by 1) n
  where e.id = n.execution_id
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
where r.id = parked.id returning r.execution_id"""

LOCK_SLOTS = "select 1 from target_slots where target_id = any(%(targets)s::text[]) order by target_id for update"


async def admit_after(database: Database, executions: Sequence[int]) -> dict[str, int]:
    """`admit` for a verb that is committed already: what fails here repeats nothing, and the reconciler makes up for it."""
    try:
        return await database.repeat(lambda: admit(database, executions))
    except (Unavailable, psycopg.Error):
        return {}


async def admit(database: Database, executions: Sequence[int]) -> dict[str, int]:
    """Make runs of these executions ready as far as their windows allow, a part after another; says how many, by zone."""
    counts: dict[str, int] = {}
    while executions:
        async with database.pipelined() as connection:
            await connection.execute(LOCK, {"executions": list(executions)})
            admitted = await connection.execute(ADMIT, {"executions": list(executions)})
        part = {r["zone"]: r["admitted"] for r in await admitted.fetchall()}
        counts = {zone: counts.get(zone, 0) + part.get(zone, 0) for zone in {*counts, *part}}
        if not admitted_in_part(part):
            break
    return counts


def admitted_in_part(counts: Mapping[str, int]) -> bool:
    """Return whether one ADMIT made as many runs ready as it may, so that more may be left."""
    return sum(counts.values()) >= ADMIT_ROWS
