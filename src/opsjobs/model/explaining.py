"""What became of a due moment, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opsjobs.model.firing import FiringKind, FiringStatus, span_words


def explained(firing: Mapping[str, Any]) -> str:
    """Of an item of GET /schedules/{id}/firings: whether it ran and how late, or which rule kept it from running."""
    match firing["status"]:
        case FiringStatus.TRIGGERED:
            return _ran(firing)
        case FiringStatus.PENDING:
            return f"waits: {firing['reason']}" if firing["reason"] else "is about to be launched"
        case status:
            several = f"{firing['moments']} moments or more " if firing["moments"] > 1 else ""
            return f"{several}{status}: {firing['reason']}"


def _ran(firing: Mapping[str, Any]) -> str:
    execution = firing["execution_id"]
    what = f"execution {execution}" if execution is not None else "its execution is not kept any more"
    if firing["kind"] == FiringKind.TRIGGER:
        return f"launched by hand: {what}"
    late = (firing["late_ms"] or 0) / 1000
    return f"ran on time: {what}" if late < 1 else f"ran {span_words(late)} late: {what}"
