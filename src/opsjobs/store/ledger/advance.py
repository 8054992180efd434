"""Advance watched executions: open barriers and waves, halt or pause after failures.

Runs under the lock of the execution, after any of its runs has moved. A barrier opens when every
run of the wave that has not ended waits at one. More failures than the policy allows halt or pause
the execution. A wave that has ended opens the next one, unless its gate requires a confirmation.

An execution that requests exclusive names is queued until it has all of them. Names are granted all
together and in launch order, never before an older request for the same name. A child execution
shares the names of its parents, and passes all requests that are not granted yet, because these may
wait for its parents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncCursor
from psycopg.rows import DictRow

from opsjobs.model.action_base import CHECK_KEY
from opsjobs.store.ledger.admission import ADMIT, may_admit_more
from opsjobs.store.statements import load_statement
from opsjobs.store.transaction import Connection

REQUEST_NAMES = """
with recursive line as (
  select parent_id as id from execution_specs where execution_id = %(id)s
    and triggered_by = 'workflow'
  union all
  select s.parent_id from line join execution_specs s on s.execution_id = line.id
  where s.triggered_by = 'workflow'
)
insert into exclusive_locks (name, execution_id, child)
select n.name, %(id)s, exists (select 1 from execution_specs where execution_id = %(id)s
                               and triggered_by = 'workflow')
from unnest(%(names)s::text[]) as n(name)
where not exists (select 1 from line join exclusive_locks l on l.execution_id = line.id
                  where l.name = n.name)"""

# Return a row if a waiting child is part of a lock cycle: a holder of one of its names waits, or
# has children that wait, for a name that is not released before the child has ended. Only the
# request of a child can close a cycle (an execution that is granted names has no children yet), and
# it is checked under the lock of the grant, so that two requests cannot close one together. Returns
# the first name and its holder.
FIND_LOCK_CYCLE = """
with recursive first as (
  select mine.name, held.execution_id as holder from exclusive_locks mine
  join exclusive_locks held on held.name = mine.name and held.granted
  where mine.execution_id = %(id)s and not mine.granted
), before(id) as (
  select holder from first
  union
  select next.id from before b cross join lateral (
    select held.execution_id as id from exclusive_locks mine
    join exclusive_locks held on held.name = mine.name and held.granted
    where mine.execution_id = b.id and not mine.granted
    union all
    select s.execution_id from execution_specs s where s.parent_id = b.id
      and s.triggered_by = 'workflow') next
)
select name, holder from first
where exists (select 1 from (select id from before limit 10000) bounded where id = %(id)s)
order by name limit 1"""

# Release the names of ended executions; return executions that hold all of their names now.
GRANT_NAMES = "select execution_id from opsjobs_pass_names() as granted(execution_id)"
# Like the statement above, but skipped while another process is doing it.
GRANT_NAMES_IF_FREE = (
    "select execution_id from opsjobs_pass_names(patient => false) as granted(execution_id)"
)
GRANT_AFTER_END = """
select granted.execution_id
from (
  select array_agg(id) as ended from job_executions where id = any(%(executions)s::bigint[])
    and finished_at is not null
  having count(*) > 0
) e
cross join lateral opsjobs_pass_names(e.ended) as granted(execution_id)"""


FAILURES = "(e.failed + e.unreachable + e.timeout + e.blocked + e.lost + e.dead)"
# Only runs of open waves move; if all waiting runs are beyond the open waves, the wave has ended.
# Runs that were cancelled one by one may be beyond them: then the waiting runs are looked at.
WAVE_OVER = """(e.ready + e.running = 0 and case when e.partly_cancelled then not exists (
  select 1 from target_runs w
  where w.execution_id = e.id and w.position <= e.open_until and w.status = 'waiting')
  else e.waiting <= e.total - e.open_until end)"""
# The wave to open next (from 0): the first one in which a run is left.
NEXT_WAVE = """case when e.partly_cancelled then (
  select w.wave from target_runs w
  where w.execution_id = e.id and w.position > e.open_until and w.status = 'waiting'
  order by w.position limit 1) else e.open_wave + 1 end"""

_ADVANCE = load_statement(
    __file__,
    "advance",
    failures=FAILURES,
    wave_over=WAVE_OVER,
    next_wave=NEXT_WAVE,
    check_key=f"'{CHECK_KEY}'",
)

# Wake runs of a parent that wait for the end of a child, alone or along with a timer or a back-off.
_WAKE_PARENTS = """
with over as materialized (
  select c.uuid::text as name, s.parent_id from job_executions c
    join execution_specs s on s.execution_id = c.id
  where c.id = any(%(executions)s::bigint[]) and c.finished_at is not null
), found as (
  select r.id from over c join target_runs r on r.awaits = c.name where r.status = 'waiting'
    and r.waiting_for = 'child'
  union
  select r.id from over c join target_runs r on r.execution_id = c.parent_id
  where r.status = 'waiting' and r.waiting_for in ('timer', 'backoff')
    and c.name = any(string_to_array(r.awaits, ' '))
), due as (
  select id from target_runs
  where id = any(array(select id from found)) and status = 'waiting'
    and waiting_for in ('child', 'timer', 'backoff')
  for update skip locked
)
update target_runs r set waiting_for = 'admission', awaits = null, not_before = null
where r.id = any(array(select id from due)) returning r.execution_id"""


@dataclass(frozen=True, slots=True)
class Advanced:
    """The outcome of an advance."""

    halted: Sequence[int] = ()
    """Executions that were halted."""
    others: Sequence[int] = ()
    """Executions that may admit more runs now."""
    admitted: Mapping[str, int] | None = None
    """Counts of runs that became ready, by zone."""


class Advance:
    """The statements of one advance.

    They are sent within the caller's pipeline and under its locks, and read after the pipeline.
    """

    def __init__(self, executions: Sequence[int]) -> None:
        self._executions = list(executions)
        self._answers: list[AsyncCursor[DictRow]] = []

    async def send(self, connection: Connection) -> None:
        """Send the statements: advance, admit, wake parents, grant exclusive names."""
        for statement in (
            (_ADVANCE, ADMIT, _WAKE_PARENTS, GRANT_AFTER_END) if self._executions else ()
        ):
            self._answers.append(
                await connection.execute(statement, {"executions": self._executions})
            )

    async def read(self) -> Advanced:
        """Return the outcome of the statements."""
        if not self._answers:
            return Advanced()
        decided, admitted, woken, granted = [await answer.fetchall() for answer in self._answers]
        ready = {row["zone"]: row["admitted"] for row in admitted}
        others = {row["execution_id"] for row in [*woken, *granted]}
        return Advanced(
            halted=[row["id"] for row in decided if row["what"] == "halt"],
            others=sorted(others | set(self._executions) if may_admit_more(ready) else others),
            admitted=ready,
        )


def sum_by_zone(*counts: Mapping[str, Any] | None) -> dict[str, int]:
    """Add up counts of ready runs by zone."""
    given = [count for count in counts if count]
    return {
        zone: sum(count.get(zone, 0) for count in given)
        for zone in {zone for count in given for zone in count}
    }
