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
from opsjobs.store.statements import load_statement
from opsjobs.store.transaction import Database

LOCK = "select id from job_executions where id = any(%(executions)s::bigint[]) order by id for update"

# Runs that one statement makes ready at most: the rest is for the next one, so that no commit takes seconds.
ADMIT_ROWS = 1_000

# 2520 is divisible by 1 to 10: a turn's step is a whole number for every priority.
STEP = 2520

ADMIT = load_statement(__file__, "admit", step=STEP, admit_rows=ADMIT_ROWS)

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
        return await database.retry(lambda: admit(database, executions))
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
        if not may_admit_more(part):
            break
    return counts


def may_admit_more(counts: Mapping[str, int]) -> bool:
    """Return whether one ADMIT made as many runs ready as it may, so that more may be left."""
    return sum(counts.values()) >= ADMIT_ROWS
