"""The ends of executions and their durations, for metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opsjobs.store.transaction import Database


@dataclass(frozen=True, slots=True)
class ExecutionEnd:
    """The end of an execution, for metrics."""

    status: str
    job_type: str
    seconds: float
    """From its launch to its end."""


# The actions are read only of executions without a job: they may hold large scripts.
_ENDS = """
select e.status, extract(epoch from e.finished_at - e.created_at)::float8 as seconds,
  coalesce(v.job_type, (
    select case when jsonb_array_length(s.actions) = 1
        and s.actions -> 0 ->> 'type' in ('command', 'script', 'file_transfer')
      then s.actions -> 0 ->> 'type' else 'composite' end
    from execution_specs s where s.execution_id = e.id), 'composite') as job_type
from job_executions e
left join job_versions v on v.job_id = e.job_id and v.version = e.job_version
where e.id = any(%s::bigint[]) and e.finished_at is not null"""


async def load_ends(database: Database, ids: Sequence[int]) -> list[ExecutionEnd]:
    """Return the ends of those executions that have ended and still exist."""
    return [ExecutionEnd(**row) for row in await database.fetch(_ENDS, [list(ids)])]
