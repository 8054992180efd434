"""The statements of admission: which runs are ready, and in which turn they are claimed.

They run under the locks of the executions. The ready and running runs of an execution stay within
its window. The i-th ready run of an execution gets the i-th turn from now, so that a small
execution next to a large one is served within the next turns, in proportion to priority.
Only runs of open waves are admitted; of a halted execution, only runs that were claimed before;
none while the execution waits for an exclusive name.
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
