"""Launch many plain executions in one transaction, with a few statements for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from psycopg.types.json import Jsonb

from opsjobs.store.ledger.admission import STEP
from opsjobs.store.ledger.launch import SLOTS, NewExecution, record_secrets
from opsjobs.store.statements import load_statement
from opsjobs.store.transaction import Connection


@dataclass(frozen=True, slots=True)
class LaunchedExecution:
    """An execution that was launched."""

    id: int
    uuid: UUID
    created_at: datetime


_NUMBERS = """
update jobs j set last_number = j.last_number + n.n
from unnest(%(jobs)s::bigint[], %(counts)s::int[]) as n(id, n)
where j.id = n.id and j.state = 'active' returning j.id, j.last_number"""

_EXECUTIONS = """
insert into job_executions (uuid, job_id, job_version, number, log_day, status, "window", priority,
                            total, waiting, ready, last_seq,
                            created_at, deadline_at, hold_until)
select n.uuid, n.job, n.version, n.number, (t.now at time zone 'UTC')::date, 'queued', n."window",
       n.priority, n.total,
       n.total - least(n."window", n.total), least(n."window", n.total), 1,
       t.now, t.now + make_interval(secs => n.timeout), t.now + make_interval(secs => n.hold)
from unnest(%(uuids)s::uuid[], %(jobs)s::bigint[], %(versions)s::int[], %(numbers)s::int[],
            %(windows)s::int[],
            %(priorities)s::int[], %(totals)s::int[], %(timeouts)s::float8[],
            %(holds)s::float8[]) with ordinality
  as n(uuid, job, version, number, "window", priority, total, timeout, hold, nth)
cross join (select opsjobs_now() as now) t order by n.nth returning id, uuid, created_at"""

_SPECS = """
insert into execution_specs (execution_id, job_name, actions, parameters, policy, triggered_by,
                             requested_by, reason,
                             requested_by_kind, labels, requester, judgement, target_versions,
                             target_pins, traceparent)
select * from unnest(%(ids)s::bigint[], %(names)s::text[], %(actions)s::jsonb[],
                     %(parameters)s::jsonb[], %(policies)s::jsonb[],
                     %(triggers)s::text[], %(requesters)s::text[], %(reasons)s::text[],
                     %(kinds)s::text[], %(labels)s::jsonb[],
                     %(people)s::jsonb[], %(judgements)s::jsonb[], %(versions)s::bytea[],
                     %(pins)s::bytea[], %(traceparents)s::text[])"""

_RUNS = load_statement(__file__, "launch_many_runs")

_TOLD = """
with logged as (
  insert into execution_log (log_day, execution_id, seq, event, body)
  select log_day, id, 1, 'status', jsonb_build_object('execution', id, 'status', 'queued', 'error',
    null)
  from job_executions where id = any(%(executions)s::bigint[])
)
insert into events (shard, type, subject, execution_id)
select id %% 16, 'execution.queued', uuid,
  id from job_executions where id = any(%(executions)s::bigint[]) order by id"""


def is_plain(new: NewExecution) -> bool:
    """Return True if the execution can be launched together with others.

    Such an execution has no gates, names, parent, pending approval or override.
    """
    alone = (
        new.watched
        or new.retried_runs
        or new.parent is not None
        or new.approval is not None
        or new.override is not None
    )
    return new.job_id is not None and not alone


async def launch_many(
    connection: Connection, executions: Sequence[NewExecution]
) -> list[LaunchedExecution]:
    """Write plain executions in the caller's transaction, in this order.

    The caller has locked their jobs, and has checked that all are active.
    """
    numbers = await _numbers(connection, executions)
    written = await connection.execute(_EXECUTIONS, _execution_rows(executions, numbers))
    made = [
        LaunchedExecution(row["id"], row["uuid"], row["created_at"])
        for row in await written.fetchall()
    ]
    by_uuid = {one.uuid: one for one in made}
    assert len(by_uuid) == len(executions)
    ids = [by_uuid[new.uuid].id for new in executions]
    slots = {target.id: target.slots for new in executions for target in new.targets}
    places = sorted(slots)
    named = {"targets": places, "slots": [slots[place] for place in places]}
    async with connection.pipeline():
        await connection.execute(_SPECS, _spec_rows(executions, ids))
        await connection.execute(_RUNS, _run_rows(executions, ids))
        await connection.execute(SLOTS, named)
        await connection.execute(_TOLD, {"executions": ids})
        await record_secrets(connection, list(zip(executions, ids, strict=True)))
    return [by_uuid[new.uuid] for new in executions]


async def _numbers(connection: Connection, executions: Sequence[NewExecution]) -> list[int]:
    counts = Counter(new.job_id for new in executions if new.job_id is not None)
    parameters = {"jobs": list(counts), "counts": list(counts.values())}
    rows = await (await connection.execute(_NUMBERS, parameters)).fetchall()
    after = {row["id"]: row["last_number"] - counts[row["id"]] for row in rows}
    numbers = []
    for new in executions:
        assert new.job_id is not None
        after[new.job_id] += 1
        numbers.append(after[new.job_id])
    return numbers


def _execution_rows(executions: Sequence[NewExecution], numbers: Sequence[int]) -> dict[str, Any]:
    return {
        "uuids": [new.uuid for new in executions],
        "jobs": [new.job_id for new in executions],
        "versions": [new.job_version for new in executions],
        "numbers": list(numbers),
        "windows": [new.window for new in executions],
        "priorities": [new.priority for new in executions],
        "totals": [len(new.targets) for new in executions],
        "timeouts": [new.timeout_seconds for new in executions],
        "holds": [new.hold_seconds or None for new in executions],
    }


def _spec_rows(executions: Sequence[NewExecution], ids: Sequence[int]) -> dict[str, Any]:
    return {
        "ids": list(ids),
        "names": [new.job_name for new in executions],
        "actions": [Jsonb(list(new.actions)) for new in executions],
        "parameters": [Jsonb(dict(new.parameters)) for new in executions],
        "policies": [Jsonb(new.policy) for new in executions],
        "triggers": [new.triggered_by.value for new in executions],
        "requesters": [new.requested_by.name for new in executions],
        "reasons": [new.reason for new in executions],
        "kinds": [new.requested_by.kind for new in executions],
        "labels": [Jsonb(new.labels) for new in executions],
        "people": [
            Jsonb(new.requester.data()) if new.requester is not None else None for new in executions
        ],
        "judgements": [
            Jsonb(new.judgement.data()) if new.judgement is not None else None for new in executions
        ],
        "versions": [new.pins.versions for new in executions],
        "pins": [new.pins.digests for new in executions],
        "traceparents": [new.traceparent for new in executions],
    }


def _run_rows(executions: Sequence[NewExecution], ids: Sequence[int]) -> dict[str, Any]:
    runs = [
        (new, made, n, t)
        for new, made in zip(executions, ids, strict=True)
        for n, t in enumerate(new.targets, start=1)
    ]
    return {
        "uuids": [uuid5(new.uuid, target.id) for new, _, _, target in runs],
        "executions": [made for _, made, _, _ in runs],
        "targets": [target.id for _, _, _, target in runs],
        "names": [target.name for _, _, _, target in runs],
        "hosts": [target.host for _, _, _, target in runs],
        "zones": [target.zone for _, _, _, target in runs],
        "positions": [position for _, _, position, _ in runs],
        "places": [
            n * (STEP // new.priority) if n <= new.window else None for new, _, n, _ in runs
        ],
    }
