"""Rows of target runs as they are read: the statement, and the model that a row becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opsjobs.model.execution import ErrorCode, RunError, RunStatus, WaitingFor
from opsjobs.model.run_views import TargetName, TargetRun

# The zones that have workers are read once, not for each run.
RUN = """
select id, uuid, execution_id, position, target_id, target_name, target_host, status,
       waiting_for, attempt, wave,
       worker, error_code,
       error_message, exit_code, claimed_at, finished_at, cancel_proof, late_result,
       target_id as target,
       coalesce(extract(epoch from coalesce(finished_at, (select opsjobs_now())) - claimed_at)
                * 1000, -1)::bigint as duration,
       case when status = 'waiting' and waiting_for is null and zone <> all (array(
         select w.zone from workers w where w.buried_at is null
           and w.expires_at > (select opsjobs_now())))
       then 'a worker: zone ' || zone || ' has none' else awaits end as awaits,
       nullif(not_before, 'infinity') as not_before,
       case when status = 'running' then contact_lost_at end as contact_lost_at,
       (select jsonb_build_object('by', c.cancelled_by, 'reason', c.reason) from cancelled_runs c
        where c.execution_id = target_runs.execution_id and c.target_run_id = target_runs.id)
        as cancel,
       (select x.action from job_execution_results x where x.target_run_id = target_runs.id
        order by x.status in ('succeeded', 'skipped'), x.id desc limit 1) as step
from target_runs"""


def parse_run(row: Mapping[str, Any]) -> TargetRun:
    """Return the run of a row that `RUN` selects."""
    return TargetRun(
        id=row["id"],
        uuid=str(row["uuid"]),
        position=row["position"],
        target=parse_target(row),
        status=RunStatus(row["status"]),
        waiting_for=WaitingFor(row["waiting_for"]) if row["waiting_for"] else None,
        attempt=row["attempt"],
        wave=row["wave"],
        worker=row["worker"],
        error=parse_error(row),
        exit_code=row["exit_code"],
        started_at=row["claimed_at"],
        finished_at=row["finished_at"],
        cancel_proof=row["cancel_proof"],
        late_result=row["late_result"],
        awaits=row["awaits"],
        not_before=row["not_before"],
        step=row["step"],
        contact_lost_at=row["contact_lost_at"],
        cancel=row["cancel"],
    )


def parse_target(row: Mapping[str, Any]) -> TargetName:
    """Return the target of a row of a run."""
    return TargetName(row["target_id"], row["target_name"], row["target_host"])


def parse_error(row: Mapping[str, Any]) -> RunError | None:
    """Return the error of a row of a run or a result; None if it has none."""
    return (
        RunError(ErrorCode(row["error_code"]), row["error_message"] or "")
        if row["error_code"]
        else None
    )
