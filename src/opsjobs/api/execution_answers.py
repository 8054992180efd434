"""Responses about executions: links, results, groups of results, phases of the timeline."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from opsjobs.model.execution import moment
from opsjobs.model.run_views import Captured, Execution, Result, ResultGroup, Stretch


def render_execution(execution: Execution) -> dict[str, Any]:
    """Return the response for an execution: its data, and links to its parts."""
    return add_links(execution.data())


def add_links(execution: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of an execution, which may be a stored response, with its links."""
    path, job_id = f"/executions/{execution['id']}", execution["job_id"]
    return {
        **execution,
        "links": {
            "self": path,
            "events": f"{path}/events",
            "targets": f"{path}/targets",
            "results": f"{path}/results",
            "log": f"{path}/log",
            "cancel": f"{path}/cancel",
            "job": f"/jobs/{job_id}" if job_id is not None else None,
        },
    }


def render_result(result: Result) -> dict[str, Any]:
    """Return an item of GET /executions/{id}/results."""
    took = None
    if result.finished_at is not None and result.started_at is not None:
        took = result.finished_at - result.started_at
    error = result.error
    return {
        "id": result.id,
        "execution_id": result.execution_id,
        "target_run": result.target_run,
        "target": result.target.data(),
        "action_key": result.action_key,
        "attempt": result.attempt,
        "status": result.status.value,
        "exit_code": result.exit_code,
        **_render_captured("stdout", result.stdout),
        **_render_captured("stderr", result.stderr),
        "error": error and {"code": error.code.value, "message": error.message},
        "started_at": moment(result.started_at),
        "finished_at": moment(result.finished_at),
        "duration_ms": _milliseconds(took),
        "command": result.command,
        "worker": result.worker,
        "cancel_proof": result.cancel_proof,
        "inherited_from": result.inherited_from,
    }


def render_result_group(group: ResultGroup) -> dict[str, Any]:
    """Return an item of GET /executions/{id}/groups."""
    return {
        "digest": group.digest,
        "exit_code": group.exit_code,
        "status": group.status.value,
        "error_code": group.error_code,
        "error_message": group.error_message,
        **_render_captured("stdout", group.stdout),
        **_render_captured("stderr", group.stderr),
        "count": group.count,
        "targets": [target.data() for target in group.targets],
    }


def render_phase(phase: Stretch) -> dict[str, Any]:
    """Return an item of GET /executions/{id}/timeline."""
    took = None
    if phase.finished_at is not None:
        took = max(phase.finished_at - phase.started_at, timedelta())
    return {
        "target_run": phase.run.id,
        "target": phase.run.target.data(),
        "action": phase.action,
        "attempt": phase.attempt,
        "phase": phase.phase.value,
        "started_at": moment(phase.started_at),
        "duration_ms": _milliseconds(took),
    }


def _render_captured(stream: str, captured: Captured) -> dict[str, Any]:
    return {
        stream: captured.text,
        f"{stream}_truncated": captured.truncated,
        f"{stream}_bytes": captured.total_bytes,
    }


def _milliseconds(took: timedelta | None) -> int | None:
    return None if took is None else round(took.total_seconds() * 1_000)
