"""A job's past launches: the targets of the last one, and how long a target took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from opsjobs.store.transaction import Database

EXECUTIONS_LOOKED_AT = 10

_LAST = """
select r.execution_id, r.target_id, r.target_name from target_runs r
where r.execution_id = (select max(id) from job_executions where job_id = %s) order by r.position"""

_TAKEN = """
select percentile_cont(0.5) within group (order by extract(epoch
  from r.finished_at - r.claimed_at))::float8 as seconds,
       count(distinct r.execution_id) as executions
from target_runs r
where r.status = 'succeeded' and r.claimed_at is not null
  and r.execution_id = any(array(select id from job_executions where job_id = %s
                                 and finished_at is not null
                                 order by id desc limit %s))"""


@dataclass(frozen=True, slots=True)
class LaunchHistory:
    """The past launches of a job."""

    execution: int | None = None
    """The job's last execution; None: never executed."""
    targets: Mapping[str, str] = field(default_factory=dict)
    """The target names of the last execution, by id."""
    seconds: float | None = None
    """The median time of a target in the last `executions`; None if unknown."""
    executions: int = 0
    """The number of executions that `seconds` is taken from."""


async def load_launch_history(database: Database, job_id: int) -> LaunchHistory:
    """Return the history of a job; it is empty if the job was never executed."""
    last = await database.fetch(_LAST, [job_id])
    if not last:
        return LaunchHistory()
    taken = await database.fetch_one(_TAKEN, [job_id, EXECUTIONS_LOOKED_AT])
    assert taken is not None
    names = {row["target_id"]: row["target_name"] for row in last}
    return LaunchHistory(last[0]["execution_id"], names, taken["seconds"], taken["executions"])
