"""Earlier executions, as needed by a launch.

These are the durations of a job's last launches, and the outcomes of the runs of an execution that
is retried.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opsjobs.model.access import Reach
from opsjobs.model.errors import Conflict, NotFound
from opsjobs.model.execution import CancelProof, ErrorCode, RunStatus
from opsjobs.model.retry_request import Parent, PastRun
from opsjobs.model.run_views import TargetName
from opsjobs.store.reference import Reference
from opsjobs.store.scope_sql import LAUNCHED_SPEC, OF_JOB, and_within, condition
from opsjobs.store.transaction import Connection, Database

EXECUTIONS_LOOKED_AT = 10

_LAST = """
select r.execution_id, r.target_id, r.target_name from target_runs r
where r.execution_id = (
  select e.id from job_executions e join execution_specs s on s.execution_id = e.id
  where e.job_id = %(job)s{within} order by e.id desc limit 1)
order by r.position"""

_TAKEN = """
select percentile_cont(0.5) within group (order by extract(epoch
  from r.finished_at - r.claimed_at))::float8 as seconds,
       count(distinct r.execution_id) as executions
from target_runs r
where r.status = 'succeeded' and r.claimed_at is not null
  and r.execution_id = any(array(
    select e.id from job_executions e join execution_specs s on s.execution_id = e.id
    where e.job_id = %(job)s and e.finished_at is not null{within}
    order by e.id desc limit %(limit)s))"""


@dataclass(frozen=True, slots=True)
class LaunchHistory:
    """The past launches of a job that are within reach of a caller."""

    execution: int | None = None
    """The job's last execution; None: there is none."""
    targets: Mapping[str, str] = field(default_factory=dict)
    """The target names of the last execution, by id."""
    seconds: float | None = None
    """The median time of a target in the last `executions`; None if unknown."""
    executions: int = 0
    """The number of executions that `seconds` is taken from."""


async def load_launch_history(database: Database, job_id: int, reach: Reach) -> LaunchHistory:
    """Return the history of a job; it is empty if none of its executions is within reach."""
    within, reaching = and_within(reach, "s.labels", LAUNCHED_SPEC)
    parameters = {"job": job_id, "limit": EXECUTIONS_LOOKED_AT, **reaching}
    last = await database.fetch(_LAST.format(within=within), parameters)
    if not last:
        return LaunchHistory()
    taken = await database.fetch_one(_TAKEN.format(within=within), parameters)
    assert taken is not None
    names = {row["target_id"]: row["target_name"] for row in last}
    return LaunchHistory(last[0]["execution_id"], names, taken["seconds"], taken["executions"])


_PARENT = """
select e.id, e.uuid, e.job_id, e.job_version, s.job_name, s.summary, s.actions, s.policy,
       s.parameters, e.status, e.finished_at is not null as ended,
       coalesce(v.tags, '{}') as tags
from job_executions e join execution_specs s on s.execution_id = e.id
left join job_versions v on v.job_id = e.job_id and v.version = e.job_version"""

RUN_COLUMNS = (
    "r.id, r.execution_id, r.target_id, r.target_name, r.target_host, r.zone, r.status, "
    "r.error_code, r.cancel_proof"
)
_RUNS = f"select {RUN_COLUMNS} from target_runs r where r.execution_id = %s order by r.position"


RETRIES_SHOWN = 10
_LOCK = "select 1 from job_executions where id = %s for no key update"
# Committed by now, or not yet started: a retry locks the execution first.
_RETRIED = """
select e.id, case when {seen} then e.status end as status
from execution_specs s join job_executions e on e.id = s.execution_id
where s.parent_id = %(execution)s and s.triggered_by = 'retry' and e.id <> %(besides)s and exists (
  select from target_runs r where r.execution_id = e.id and r.target_id = any(%(targets)s::text[]))
order by e.id"""


class Parents:
    """Read access to executions that are retried."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, ref: str | int) -> Parent:
        """Return an execution by id or uuid. Raises NotFound."""
        named = Reference.require("execution", ref)
        row = await self._database.fetch_one(
            f"{_PARENT} where e.id = %(id)s or e.uuid = %(uuid)s",
            {"id": named.id, "uuid": named.uuid},
        )
        if row is None:
            raise NotFound.for_ref("execution", ref)
        return Parent(**row)

    async def get_many(self, execution_ids: Collection[int]) -> list[Parent]:
        """Return these executions, ordered by id."""
        rows = await self._database.fetch(
            f"{_PARENT} where e.id = any(%s::bigint[]) order by e.id", [list(execution_ids)]
        )
        return [Parent(**row) for row in rows]

    async def labels_of_jobs(self, job_ids: Collection[int]) -> dict[int, Mapping[str, str]]:
        """Return the labels that scopes match against, of these jobs; missing ones are left out."""
        query = (
            f"select j.id, {OF_JOB.format('j.id')} as labels from jobs j where j.id = "
            f"any(%s::bigint[]) order by j.id"
        )
        return {
            row["id"]: row["labels"] for row in await self._database.fetch(query, [list(job_ids)])
        }

    async def retries(
        self, execution_id: int, target_ids: Collection[str], reach: Reach | None = None
    ) -> list[dict[str, Any]]:
        """Return id and status of the retries of an execution for one of these targets.

        The status of those out of reach is None.
        """
        query, parameters = _query_retries(execution_id, target_ids, reach)
        return await self._database.fetch(query, parameters)

    async def runs(self, execution_id: int) -> list[PastRun]:
        """Return all runs of an execution in launch order: at most MAX_TARGETS_PER_JOB."""
        return [parse_past_run(row) for row in await self._database.fetch(_RUNS, [execution_id])]


async def check_not_retried(
    connection: Connection,
    execution_id: int,
    target_ids: Collection[str],
    besides: int,
    reach: Reach | None = None,
) -> None:
    """Lock an execution that is to be retried; raise Conflict if it was retried already.

    That is, if another retry was for one of these targets. `besides`: the retry that is being made,
    which does not count. `reach`: the executions whose status the caller may see.
    """
    await connection.execute(_LOCK, [execution_id])
    query, parameters = _query_retries(execution_id, target_ids, reach, besides)
    raise_if_retried(execution_id, await (await connection.execute(query, parameters)).fetchall())


def _query_retries(
    execution_id: int, target_ids: Collection[str], reach: Reach | None, besides: int = 0
) -> tuple[str, dict[str, Any]]:
    seen, reaching = condition(reach, "s.labels", LAUNCHED_SPEC)
    parameters = {"execution": execution_id, "targets": list(target_ids), "besides": besides}
    return _RETRIED.format(seen=seen or "true"), {**parameters, **reaching}


def raise_if_retried(execution_id: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise Conflict("already_retried") naming the retries in these rows.

    A status of None is one that the caller may not see.
    """
    if rows:
        shown = ", ".join(
            f"{row['id']} ({row['status']})" if row["status"] is not None else f"{row['id']}"
            for row in rows[:RETRIES_SHOWN]
        )
        more = f" and {len(rows) - RETRIES_SHOWN} more" if len(rows) > RETRIES_SHOWN else ""
        advice = (
            "Retry the last of those if it failed, or say `again: true` (--again) to repeat this "
            "one."
            if rows[-1]["status"] is not None
            else "You may not see the last of those: say `again: true` (--again) to repeat this "
            "one, or ask a caller who may see it."
        )
        detail = (
            f"Execution {execution_id} was already retried for these targets, by {shown}{more}. "
            f"{advice}"
        )
        raise Conflict("already_retried", detail)


def parse_past_run(row: Mapping[str, Any]) -> PastRun:
    """Return the run of a row of RUN_COLUMNS."""
    return PastRun(
        id=row["id"],
        execution_id=row["execution_id"],
        target=TargetName(row["target_id"], row["target_name"], row["target_host"]),
        zone=row["zone"],
        status=RunStatus(row["status"]),
        error_code=ErrorCode(row["error_code"]) if row["error_code"] else None,
        cancel_proof=CancelProof(row["cancel_proof"]) if row["cancel_proof"] else None,
    )
