"""Heads: how the output of an action began, for those who come after it and read its words."""

from __future__ import annotations

from opsjobs.store.ledger.claim import Claimed, Progress
from opsjobs.store.transaction import Database

# All of it is equality on the columns of execution_log_output, so that a generic plan reads the entries of one run: with an
# `or` over two kinds of runs it read the whole log of the execution.
_STDOUT = """
select start_offset, substring(data from 1 for %(limit)s - start_offset::int) as data from execution_log
where log_day = %(day)s and execution_id = %(execution)s and target_run_id = %(run)s and event = 'output'
  and action = %(action)s and attempt = %(attempt)s and stream = 'stdout' and start_offset < %(limit)s
order by seq"""

# Of an inherited result the execution that did it knows the output, under a run and an attempt of its own.
_INHERITED = """
select e.log_day, x.target_run_id, x.attempt
from job_execution_results x join target_runs r on r.id = x.target_run_id join job_executions e on e.id = x.execution_id
where x.execution_id = %(execution)s and r.execution_id = %(execution)s and r.target_id = %(target)s and x.action = %(action)s
  and x.status = 'succeeded'
order by x.attempt desc limit 1"""


async def stdout(database: Database, run: Claimed, seen: Progress, max_bytes: int) -> bytes:
    """The first bytes of it, without a gap, at most `max_bytes`."""
    own = {"day": run.log_day, "execution": run.execution_id, "run": run.id, "attempt": seen.attempt}
    asked = own if seen.inherited_from is None else await _source(database, run, seen, seen.inherited_from)
    if asked is None:
        return b""
    head = bytearray()
    for row in await database.fetch(_STDOUT, {**asked, "action": seen.action, "limit": max_bytes}):
        if row["data"] is None or row["start_offset"] != len(head):
            break
        head += row["data"]
    return bytes(head)


async def _source(database: Database, run: Claimed, seen: Progress, execution_id: int) -> dict[str, object] | None:
    """Return where the output of an inherited result is."""
    asked = {"execution": execution_id, "target": run.target_id, "action": seen.action}
    found = await database.fetch_one(_INHERITED, asked)
    if found is None:
        return None
    return {
        "day": found["log_day"],
        "execution": execution_id,
        "run": found["target_run_id"],
        "attempt": found["attempt"],
    }
