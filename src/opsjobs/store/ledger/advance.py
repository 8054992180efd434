"""Advance: what a watched execution does next, judged under its lock after whatever moved its runs.

A barrier opens when every run of the wave that has not ended stands at one. More failures than the policy allows halt the
execution, or pause it; a wave that has ended opens the next one, unless its gate asks a person (10-ledger.md rules 1 to 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncCursor
from psycopg.rows import DictRow

from opsjobs.model.policy import CHECK_KEY
from opsjobs.store.ledger.admit import ADMIT, admitted_in_part
from opsjobs.store.ledger.exclusive_names import GRANT_AFTER_END
from opsjobs.store.transaction import Connection

FAILURES = "(e.failed + e.unreachable + e.timeout + e.blocked + e.lost + e.dead)"
# Only of an open wave the runs move, so what waits beyond it is all that waits: then the wave has ended.
WAVE_OVER = "(e.ready + e.running = 0 and e.waiting <= e.total - e.open_until)"

# Each look is materialized, so that no plan takes it once for each run; what is released is looked up by its key, run by run.
# Of barriers at which runs stand the first in the order of the actions opens: nobody can come to another one before it.
_ADVANCE = f"""
with gate as materialized (
  select e.id, e.log_day, e.total, e.paused, e.halted, e.open_wave, e.open_until, e.waiting + e.ready as left_over, g.waves,
         g.limits[e.open_wave + 1] as allowed, g.per_wave, g.confirm, g.checked, g.pause_on_fail,
         {FAILURES} as failures, {FAILURES} - g.fail_base as counted, {WAVE_OVER} as wave_over,
         e.ready + e.running = 0 and not exists (
           select 1 from target_runs r
           where r.execution_id = e.id and r.position <= e.open_until and r.status = 'waiting'
             and r.waiting_for <> 'barrier' and not (e.halted and r.claimed_at is null)) as still
  from job_executions e join execution_gates g on g.execution_id = e.id
  where e.id = any(%(executions)s::bigint[]) and e.finished_at is null and not e.cancelling
    and e.status <> 'pending_approval'
), opened as materialized (
  select g.id, (
    select k.key from (
      select distinct r.awaits as key from target_runs r
      where r.execution_id = g.id and r.status = 'waiting' and r.waiting_for = 'barrier') k
    left join (
      select a.body ->> 'key' as key, a.nth from execution_specs s
      cross join jsonb_array_elements(s.actions) with ordinality as a(body, nth) where s.execution_id = g.id) p using (key)
    order by p.nth limit 1) as key
  from gate g where g.still
), released as (
  update target_runs r set waiting_for = 'admission', awaits = null, passed = array_append(r.passed, r.awaits)
  from (
    select array_agg(b.id) as ids from opened o cross join lateral (
      select r.id from target_runs r
      where r.execution_id = o.id and r.awaits = o.key and r.status = 'waiting' and r.waiting_for = 'barrier' offset 0) b
  ) s cross join lateral unnest(s.ids) as n(id)
  where r.id = n.id
), judged as materialized (
  select g.*, counted > allowed as too_many, checked and allowed is null and wave_over and exists (
    select 1 from target_runs r join job_execution_results x on x.target_run_id = r.id and x.action = '{CHECK_KEY}'
    where r.execution_id = g.id and r.wave = g.open_wave and r.status not in ('waiting', 'running', 'succeeded', 'cancelled')
  ) as check_failed
  from gate g where not g.halted
), decided as materialized (
  select j.*,
    case when left_over = 0 then null
         when (too_many or check_failed) and not pause_on_fail then 'halt'
         when paused then null
         when too_many or check_failed then 'max_fail'
         when wave_over and confirm then 'confirm'
         when wave_over then 'open' end as what,
    case when too_many then format('%%s of %%s runs failed, and max_fail allows %%s', counted,
                                   case when per_wave then waves[open_wave + 1] - coalesce(waves[open_wave], 0) else total end,
                                   allowed)
         when check_failed then format('the check of wave %%s failed', open_wave + 1)
         else format('wave %%s of %%s has ended', open_wave + 1, cardinality(waves)) end as why
  from judged j
), moved as (
  update job_executions e set
    paused = e.paused or d.what in ('max_fail', 'confirm'), halted = e.halted or d.what = 'halt',
    open_wave = e.open_wave + (d.what = 'open')::int,
    open_until = case d.what when 'open' then d.waves[d.open_wave + 2] else e.open_until end, last_seq = e.last_seq + 1
  from decided d where e.id = any(%(executions)s::bigint[]) and e.id = d.id and d.what is not null
  returning e.id, e.log_day, e.last_seq, e.open_wave
), kept as (
  update execution_gates g set cause = case when d.what in ('max_fail', 'confirm') then d.what else g.cause end,
    fail_base = case when d.what = 'open' and d.per_wave then d.failures else g.fail_base end
  from decided d where g.execution_id = d.id and d.what is not null
), worded as (
  update execution_specs s set
    pause_reason = case when d.what = 'halt' then s.pause_reason else d.why end,
    paused_by = case when d.what = 'halt' then s.paused_by end,
    halt_reason = case when d.what = 'halt' then d.why else s.halt_reason end
  from decided d where s.execution_id = d.id and d.what in ('halt', 'max_fail', 'confirm')
), logged as (
  insert into execution_log (log_day, execution_id, seq, event, body)
  select m.log_day, m.id, m.last_seq, 'status', case
    when d.what = 'open' then jsonb_build_object('execution', m.id, 'status', 'running', 'error', null, 'wave', m.open_wave + 1,
                                                 'waves', cardinality(d.waves))
    else jsonb_build_object('execution', m.id, 'status', case d.what when 'halt' then 'running' else 'paused' end, 'error', null,
                            'reason', case d.what when 'halt' then 'stopped: ' else '' end || d.why) end
  from moved m join decided d on d.id = m.id
)
select id, what from decided where what is not null"""

# A child's end is what a run of its parent waits for, alone or beside something else that is due at its hour.
_WAKE_PARENTS = """
with over as materialized (
  select c.uuid::text as name, s.parent_id from job_executions c join execution_specs s on s.execution_id = c.id
  where c.id = any(%(executions)s::bigint[]) and c.finished_at is not null
), found as (
  select r.id from over c join target_runs r on r.awaits = c.name where r.status = 'waiting' and r.waiting_for = 'child'
  union
  select r.id from over c join target_runs r on r.execution_id = c.parent_id
  where r.status = 'waiting' and r.waiting_for in ('timer', 'backoff') and c.name = any(string_to_array(r.awaits, ' '))
), due as (
  select id from target_runs
  where id = any(array(select id from found)) and status = 'waiting' and waiting_for in ('child', 'timer', 'backoff')
  for update skip locked
)
update target_runs r set waiting_for = 'admission', awaits = null, not_before = null
where r.id = any(array(select id from due)) returning r.execution_id"""


@dataclass(frozen=True, slots=True)
class Advanced:
    """What came of it: executions that were halted, those that may admit more now, and how many runs were made ready, by zone."""

    halted: Sequence[int] = ()
    others: Sequence[int] = ()
    admitted: Mapping[str, int] | None = None


class Advance:
    """The statements of one look, sent within the caller's pipeline and under its locks; read once that is through."""

    def __init__(self, executions: Sequence[int]) -> None:
        self._executions = list(executions)
        self._answers: list[AsyncCursor[DictRow]] = []

    async def send(self, connection: Connection) -> None:
        """Judge, admit what that opened, and tell parents and those who wait for names of what has ended."""
        for statement in (_ADVANCE, ADMIT, _WAKE_PARENTS, GRANT_AFTER_END) if self._executions else ():
            self._answers.append(await connection.execute(statement, {"executions": self._executions}))

    async def read(self) -> Advanced:
        """What the statements came to."""
        if not self._answers:
            return Advanced()
        decided, admitted, woken, granted = [await answer.fetchall() for answer in self._answers]
        ready = {row["zone"]: row["admitted"] for row in admitted}
        others = {row["execution_id"] for row in [*woken, *granted]}
        return Advanced(
            halted=[row["id"] for row in decided if row["what"] == "halt"],
            others=sorted(others | set(self._executions) if admitted_in_part(ready) else others),
            admitted=ready,
        )


def joined(*counts: Mapping[str, Any] | None) -> dict[str, int]:
    """Runs made ready by zone, in all."""
    given = [count for count in counts if count]
    return {zone: sum(count.get(zone, 0) for count in given) for zone in {zone for count in given for zone in count}}
