"""What a job's past says of its next execution: which targets it had last, and how long a target took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from opsjobs.store.transaction import Database

EXECUTIONS_LOOKED_AT = 10

_LAST = """
select r.execution_id, r.target_id, r.target_name from target_runs r
where r.execution_id = (select max(id) from job_executions where job_id = %s) order by r.position"""

_TAKEN = """
select percentile_cont(0.5) within group (order by extract(epoch from r.finished_at - r.claimed_at))::float8 as seconds,
       count(distinct r.execution_id) as executions
from target_runs r
where r.status = 'succeeded' and r.claimed_at is not null
  and r.execution_id = any(array(select id from job_executions where job_id = %s and finished_at is not null
                                 order by id desc limit %s))"""


@dataclass(frozen=True, slots=True)
class LaunchHistory:
    """`execution`: the job's last one (None: never executed), and its targets' names by their ids. `seconds`: the median of
    what a target took in the last `executions`; None where nothing is known.
    """

    execution: int | None = None
    targets: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    executions: int = 0


async def load_launch_history(database: Database, job_id: int) -> LaunchHistory:
    """The job's past; of a job that was never executed it says nothing."""
    last = await database.fetch(_LAST, [job_id])
    if not last:
        return LaunchHistory()
    taken = await database.fetch_one(_TAKEN, [job_id, EXECUTIONS_LOOKED_AT])
    assert taken is not None
    names = {row["target_id"]: row["target_name"] for row in last}
    return LaunchHistory(last[0]["execution_id"], names, taken["seconds"], taken["executions"])
