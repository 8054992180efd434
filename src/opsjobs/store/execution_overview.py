"""A whole execution in one read: all of its runs as columns, or what was launched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opsjobs.model.access import Reach
from opsjobs.model.execution import moment
from opsjobs.model.run_views import Execution
from opsjobs.store.envelope import mask_parameters
from opsjobs.store.scope_sql import LAUNCHED_SPEC, and_within, condition
from opsjobs.store.statements import load_statement
from opsjobs.store.transaction import Database

_MATRIX = load_statement(__file__, "run_matrix")
# Of targets that are gone or outside the reach the label is null, as of those that lack it.
_LABELS = """
select json_object_agg(key, labels)::text as columns from (
  select k.key, json_agg(case when {visible} then t.labels ->> k.key end
                         order by r.position) as labels
  from unnest(%(keys)s::text[]) as k(key)
  cross join target_runs r
  left join targets t on t.id = case when r.target_id ~ '^[0-9]{{1,18}}$'
    then r.target_id::bigint end
  where r.execution_id = %(execution)s group by k.key) c"""
# Those outside the reach are passed over: an older one may be within it.
_LAST_GOOD = """
select r.id, r.execution_id from (
  select id, execution_id, status from target_runs
  where target_id = %(target)s and execution_id < %(execution)s order by id desc limit 10000
) r join job_executions e on e.id = r.execution_id
join execution_specs s on s.execution_id = e.id
where r.status = 'succeeded' and e.job_id = %(job)s{within} order by r.id desc limit 1"""
_SPECIFICATION = "select actions, parameters, policy from execution_specs where execution_id = %s"


_RECENT = """
select j.id as job_id, r.id, r.number, r.status, r.created_at, r.finished_at
from unnest(%(jobs)s::bigint[]) as j(id) cross join lateral (
  select e.id, e.number, e.created_at, e.finished_at,
    case when e.finished_at is null and e.cancelling then 'cancelling'
         when e.finished_at is null and e.paused then 'paused' else e.status end as status
  from job_executions e join execution_specs s on s.execution_id = e.id
  where e.job_id = j.id{within} order by e.id desc limit %(count)s) r
order by j.id, r.id desc"""


@dataclass(frozen=True, slots=True)
class Specification:
    """The work that was launched, as it was fixed at that time; secrets are masked."""

    actions: list[dict[str, Any]]
    parameters: dict[str, Any]
    policy: dict[str, Any]


@dataclass(frozen=True, slots=True)
class GoodRun:
    """A run that succeeded, and its execution."""

    run_id: int
    execution_id: int


@dataclass(frozen=True, slots=True)
class RunMatrix:
    """All runs of an execution, and the position of its log, read in one snapshot.

    A reader that follows the log after `seq` misses no change of these runs.
    """

    seq: int
    columns: str
    """JSON: an object of equally long lists. Times are milliseconds since the launch."""


class ExecutionOverview:
    """Read access to executions as a whole; the number of runs is bounded at the launch."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def matrix(self, execution: Execution) -> RunMatrix:
        """Return all runs as columns, in launch order. About 90 bytes per run."""
        row = await self._database.fetch_one(_MATRIX, {"execution": execution.id})
        assert row is not None, "the caller has read the execution, and each has a run"
        return RunMatrix(row["seq"], row["columns"])

    async def labels(self, execution: Execution, keys: Sequence[str], visible: Reach) -> str:
        """Return the labels of all runs' targets as they are now: JSON, a list for each key.

        The lists have the order of launch. Labels of targets outside `visible` are null.
        """
        within, parameters = condition(visible, "t.labels")
        row = await self._database.fetch_one(
            _LABELS.format(visible=within or "true"),
            {**parameters, "execution": execution.id, "keys": list(dict.fromkeys(keys))},
        )
        assert row is not None, "the caller has read the execution, and each has a run"
        columns: str = row["columns"]
        return columns

    async def last_good_run(
        self, execution: Execution, target: str, reach: Reach
    ) -> GoodRun | None:
        """Return the last run of the job on a target within reach that succeeded before this one.

        Only the target's last 10,000 runs are searched.
        """
        within, reaching = and_within(reach, "s.labels", LAUNCHED_SPEC)
        row = await self._database.fetch_one(
            _LAST_GOOD.format(within=within),
            {"execution": execution.id, "job": execution.job_id, "target": target, **reaching},
        )
        return None if row is None else GoodRun(row["id"], row["execution_id"])

    async def specification(self, execution: Execution) -> Specification:
        """Return what the execution was launched with."""
        row = await self._database.fetch_one(_SPECIFICATION, [execution.id])
        assert row is not None, "the caller has read the execution"
        actions = [{k: v for k, v in action.items() if k != "pins"} for action in row["actions"]]
        return Specification(actions, mask_parameters(row["parameters"]), row["policy"])

    async def load_recent(
        self, jobs: Sequence[int], count: int, reach: Reach
    ) -> dict[int, list[dict[str, Any]]]:
        """Return the last executions of each of these jobs within reach, the newest first."""
        within, reaching = and_within(reach, "s.labels", LAUNCHED_SPEC)
        rows = await self._database.fetch(
            _RECENT.format(within=within), {"jobs": list(jobs), "count": count, **reaching}
        )
        recent: dict[int, list[dict[str, Any]]] = {job: [] for job in jobs}
        for row in rows:
            recent[row["job_id"]].append(
                {
                    "id": row["id"],
                    "number": row["number"],
                    "status": row["status"],
                    "created_at": moment(row["created_at"]),
                    "finished_at": moment(row["finished_at"]),
                }
            )
        return recent
