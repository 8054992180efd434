"""Waiting reasons of executions, in words, with the command that continues each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opsjobs.cli.render import plain

PEOPLE = frozenset({"confirm", "max_fail", "pause", "approval"})
"""Kinds that only a person can decide."""


def kind_of(execution: Mapping[str, Any]) -> str | None:
    """Return the kind of what it waits for, or None if it does not wait."""
    return (execution.get("waiting_on") or {}).get("kind")


def hold_of(execution: Mapping[str, Any]) -> str | None:
    """Return what the execution waits for and how to continue, or None.

    For example `paused: wave 1 of 2 has ended. Continue with: …`.
    """
    waiting = execution.get("waiting_on")
    if not waiting:
        return None
    number, reason = execution.get("id"), plain(waiting.get("reason") or "").rstrip(".")
    what, answer = f"waiting: {reason}", f"See: opsjobs executions show {number} -o wide"
    match waiting.get("kind"):
        case "confirm":
            what, answer = f"paused: {reason}", f"Continue with: opsjobs executions resume {number}"
        case "max_fail":
            what = f"paused: {reason}"
            answer = (
                f"Accept the failures with: opsjobs executions resume {number}; or end it: "
                f"opsjobs executions cancel {number}"
            )
        case "pause":
            by = f" by {plain(waiting['by'])}" if waiting.get("by") else ""
            what = f"paused{by}{': ' if reason else ''}{reason}"
            answer = f"Continue with: opsjobs executions resume {number}"
        case "approval":
            approval = waiting.get("approval")
            what = f"waiting for approval {approval}: {reason}"
            answer = (
                f"See: opsjobs approvals show {approval}. Another person decides with: "
                f"opsjobs approvals approve {approval}"
            )
        case "exclusive" if waiting.get("execution") is not None:
            answer = f"See: opsjobs executions show {waiting.get('execution')}"
        case "workers":
            answer = (
                "Start one with: opsjobs worker --zone "
                f"{plain((waiting.get('zones') or ['default'])[0])}"
            )
        case "maintenance":
            answer = f"See: opsjobs targets show {plain(waiting.get('target'))}"
        case "slot":
            answer = "See: opsjobs executions list --status running"
    return f"{what}. {answer}"
