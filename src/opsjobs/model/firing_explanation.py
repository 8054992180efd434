"""The outcome of a due time, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opsjobs.model.execution import ExecutionStatus
from opsjobs.model.firing import FiringKind, FiringStatus, span_words


def explained(firing: Mapping[str, Any]) -> str:
    """Explain an item of GET /schedules/{id}/firings.

    The text names the launch and its execution, or the rule that prevented it."""
    match firing["status"]:
        case FiringStatus.TRIGGERED:
            return _launched(firing)
        case FiringStatus.PENDING:
            return f"waits: {firing['reason']}" if firing["reason"] else "is about to be launched"
        case status:
            several = f"{firing['moments']} moments or more " if firing["moments"] > 1 else ""
            return f"{several}{status}: {firing['reason']}"


def _launched(firing: Mapping[str, Any]) -> str:
    late = (firing["late_ms"] or 0) / 1000
    how = "on time" if late < 1 else f"{span_words(late)} late"
    if firing["kind"] == FiringKind.TRIGGER:
        how = "by hand"
    return f"launched {how}; {_execution(firing)}"


def _execution(firing: Mapping[str, Any]) -> str:
    """Describe the outcome of the execution: a launch alone does not mean that anything ran."""
    number, status = firing["execution_id"], firing["execution_status"]
    if number is None or status is None:
        return "its execution is not kept any more"
    if status == ExecutionStatus.PENDING_APPROVAL:
        approval = firing["approval_id"]
        return (
            f"execution {number} waits for "
            f"{'an approval' if approval is None else f'approval {approval}'}"
        )
    if ExecutionStatus(status).final:
        return f"execution {number} ended {status}"
    approval = firing["approval_id"]
    waits = f" and waits for approval {approval}" if approval is not None else ""
    return f"execution {number} is {status}{waits}"
