"""Heads: how the output of an action began, for those who come after it and read its words."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg.rows import DictRow

from opsjobs.model.errors import Gone
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
select e.log_day, x.target_run_id, x.attempt, x.stdout_stored
from job_execution_results x join target_runs r on r.id = x.target_run_id join job_executions e on e.id = x.execution_id
where x.execution_id = %(execution)s and r.execution_id = %(execution)s and r.target_id = %(target)s and x.action = %(action)s
  and x.status = 'succeeded'
order by x.attempt desc limit 1"""


async def stdout(database: Database, run: Claimed, seen: Progress, max_bytes: int) -> bytes:
    """Return the first bytes of it, without a gap, at most `max_bytes`.

    Raises Gone if it was inherited from an execution whose log or row is no longer kept.
    """
    if seen.inherited_from is not None:
        return await _inherited(database, run, seen, seen.inherited_from, max_bytes)
    own = {"day": run.log_day, "execution": run.execution_id, "run": run.id, "attempt": seen.attempt}
    return _head(await database.fetch(_STDOUT, {**own, "action": seen.action, "limit": max_bytes}))


async def _inherited(database: Database, run: Claimed, seen: Progress, execution_id: int, max_bytes: int) -> bytes:
    asked = {"execution": execution_id, "target": run.target_id, "action": seen.action}
    found = await database.fetch_one(_INHERITED, asked)
    rows: list[DictRow] = []
    if found is not None:
        source = {
            "day": found["log_day"],
            "execution": execution_id,
            "run": found["target_run_id"],
            "attempt": found["attempt"],
        }
        rows = await database.fetch(_STDOUT, {**source, "action": seen.action, "limit": max_bytes})
    if found is None or (found["stdout_stored"] and not rows):
        detail = (
            f"The output of {seen.action!r} in execution {execution_id} is gone: it was older than OPSJOBS_KEEP_LOGS or "
            "OPSJOBS_KEEP_EXECUTIONS. Execute the job from its beginning."
        )
        raise Gone("log_dropped", detail)
    return _head(rows)


def _head(rows: Sequence[DictRow]) -> bytes:
    head = bytearray()
    for row in rows:
        if row["data"] is None or row["start_offset"] != len(head):
            break
        head += row["data"]
    return bytes(head)
