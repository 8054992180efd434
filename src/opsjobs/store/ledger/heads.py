"""Heads: how the output of an action began, for those who come after it and read its words."""

from __future__ import annotations

from opsjobs.store.ledger.claim import Claimed, Progress
from opsjobs.store.transaction import Database

# Of an inherited result the execution that did it knows the output, under a run and an attempt of its own.
_STDOUT = """
select start_offset, data from execution_log l
where log_day = (select log_day from job_executions where id = %(execution)s) and execution_id = %(execution)s
  and event = 'output' and stream = 'stdout' and start_offset < %(limit)s
  and (target_run_id = %(run)s and attempt = %(attempt)s
       or %(run)s::bigint is null and target_id = %(target)s and (target_run_id, attempt) = (
         select x.target_run_id, x.attempt from job_execution_results x join target_runs r on r.id = x.target_run_id
         where x.execution_id = %(execution)s and r.target_id = %(target)s and x.action = l.action and x.status = 'succeeded'
         order by x.id desc limit 1))
  and action = %(action)s
order by seq"""


async def stdout(database: Database, run: Claimed, seen: Progress, max_bytes: int) -> bytes:
    """The first bytes of it, without a gap, at most `max_bytes`."""
    own = seen.inherited_from is None
    asked = {
        "execution": run.execution_id if own else seen.inherited_from,
        "run": run.id if own else None,
        "target": run.target_id,
        "action": seen.action,
        "attempt": seen.attempt,
        "limit": max_bytes,
    }
    head = bytearray()
    for row in await database.fetch(_STDOUT, asked):
        if row["data"] is None or row["start_offset"] != len(head):
            break
        head += row["data"]
    return bytes(head[:max_bytes])
