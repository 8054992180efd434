"""Launch: one transaction that makes an execution true: its row, its spec, its runs, the first admission, its events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

from psycopg.types.json import Jsonb

from opsjobs.model.execution import Execution, ExecutionStatus, TriggeredBy
from opsjobs.model.failures import Conflict, NotFound
from opsjobs.model.target import Target
from opsjobs.store.ledger.admit import ADMIT
from opsjobs.store.transaction import Connection


@dataclass(frozen=True, slots=True)
class NewExecution:
    """All that a launch fixes. `timeout_seconds` bounds the whole execution; None = no bound."""

    uuid: UUID
    job_id: int | None
    job_version: int | None
    job_name: str
    actions: Sequence[dict[str, Any]]
    policy: dict[str, Any]
    priority: int
    window: int
    timeout_seconds: float | None
    targets: Sequence[Target]
    triggered_by: TriggeredBy
    requested_by: str
    reason: str | None = None


_NUMBER = """
update jobs set last_number = last_number + 1 where id = %s and state in ('active', 'draft') returning last_number, name, state"""

_EXECUTION = """
insert into job_executions (uuid, job_id, job_version, number, log_day, status, "window", priority, total, waiting, last_seq,
                            created_at, deadline_at)
select %(uuid)s, %(job_id)s, %(job_version)s, %(number)s, (t.now at time zone 'UTC')::date, 'queued', %(window)s, %(priority)s,
       %(total)s, %(total)s, 1, t.now, t.now + make_interval(secs => %(timeout_seconds)s)
from (select opsjobs_now() as now) t returning id, log_day, created_at"""

_SPEC = """
insert into execution_specs (execution_id, job_name, actions, policy, triggered_by, requested_by, reason)
values (%(id)s, %(job_name)s, %(actions)s, %(policy)s, %(triggered_by)s, %(requested_by)s, %(reason)s)"""

_RUNS = """
insert into target_runs (uuid, execution_id, target_id, target_name, target_host, zone, position)
select r.uuid, %(id)s, r.target, r.name, r.host, r.zone, r.position
from unnest(%(uuids)s::uuid[], %(targets)s::text[], %(names)s::text[], %(hosts)s::text[], %(zones)s::text[])
  with ordinality as r(uuid, target, name, host, zone, position)"""

# Rows that exist are not touched (a conflicting insert would lock them); a changed number of slots never goes below `used`.
_SLOTS = """
insert into target_slots (target_id, slots)
select t.id, t.slots from unnest(%(targets)s::text[], %(slots)s::int[]) as t(id, slots)
where not exists (select 1 from target_slots s where s.target_id = t.id) order by t.id on conflict do nothing"""

_RESIZE_SLOTS = """
update target_slots s set slots = greatest(t.slots, s.used)
from unnest(%(targets)s::text[], %(slots)s::int[]) as t(id, slots)
where s.target_id = t.id and s.slots <> greatest(t.slots, s.used)"""

_TOLD = """
with logged as (
  insert into execution_log (log_day, execution_id, seq, event, body)
  select log_day, id, 1, 'status', jsonb_build_object('execution', id, 'status', 'queued', 'error', null)
  from job_executions where id = %(id)s
)
insert into events (shard, type, subject, execution_id) values (%(id)s %% 16, 'execution.queued', %(uuid)s, %(id)s)"""


async def launch(connection: Connection, new: NewExecution) -> Execution:
    """Write the execution into the caller's transaction, and say how it stands. Raises NotFound or Conflict for the job."""
    number = await _number(connection, new) if new.job_id is not None else None
    written = await connection.execute(_EXECUTION, _execution_row(new, number))
    row = await written.fetchone()
    assert row is not None
    execution_id: int = row["id"]
    async with connection.pipeline():
        await connection.execute(_SPEC, _spec_row(new, execution_id))
        await connection.execute(_RUNS, _run_rows(new, execution_id))
        slots = {"targets": [t.id for t in new.targets], "slots": [t.slots for t in new.targets]}
        await connection.execute(_SLOTS, slots)
        await connection.execute(_RESIZE_SLOTS, slots)
        await connection.execute(ADMIT, {"executions": [execution_id]})
        await connection.execute(_TOLD, {"id": execution_id, "uuid": new.uuid})
    return _launched(new, number, row)


def _launched(new: NewExecution, number: int | None, row: dict[str, Any]) -> Execution:
    return Execution(
        id=row["id"],
        uuid=str(new.uuid),
        job_id=new.job_id,
        job_version=new.job_version,
        number=number,
        job_name=new.job_name,
        status=ExecutionStatus.QUEUED,
        triggered_by=new.triggered_by,
        requested_by=new.requested_by,
        parameters={},
        counts={"waiting": len(new.targets)},
        total_targets=len(new.targets),
        last_seq=1,
        log_day=row["log_day"],
        created_at=row["created_at"],
        started_at=None,
        finished_at=None,
        reason=new.reason,
    )


async def _number(connection: Connection, new: NewExecution) -> int:
    row = await (await connection.execute(_NUMBER, [new.job_id])).fetchone()
    if row is None:
        raise NotFound.of("job", new.job_id)
    if row["state"] == "draft":
        raise Conflict("job_is_draft", f"Job {row['name']} is a draft: set its state to active before it can be executed.")
    number: int = row["last_number"]
    return number


def _execution_row(new: NewExecution, number: int | None) -> dict[str, Any]:
    return {
        "uuid": new.uuid,
        "job_id": new.job_id,
        "job_version": new.job_version,
        "number": number,
        "window": new.window,
        "priority": new.priority,
        "total": len(new.targets),
        "timeout_seconds": new.timeout_seconds,
    }


def _spec_row(new: NewExecution, execution_id: int) -> dict[str, Any]:
    return {
        "id": execution_id,
        "job_name": new.job_name,
        "actions": Jsonb(list(new.actions)),
        "policy": Jsonb(new.policy),
        "triggered_by": new.triggered_by.value,
        "requested_by": new.requested_by,
        "reason": new.reason,
    }


def _run_rows(new: NewExecution, execution_id: int) -> dict[str, Any]:
    return {
        "id": execution_id,
        # The same target in a database restored from a backup gives the same run, so its folder is found again.
        "uuids": [uuid5(new.uuid, target.id) for target in new.targets],
        "targets": [target.id for target in new.targets],
        "names": [target.name for target in new.targets],
        "hosts": [target.host for target in new.targets],
        "zones": [target.zone for target in new.targets],
    }
