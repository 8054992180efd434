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
    held = execution.get("waiting_on")
    if not held:
        return None
    number, reason = execution.get("id"), plain(held.get("reason") or "").rstrip(".")
    what, answer = f"waiting: {reason}", f"See: opsjobs executions show {number} -o wide"
    match held.get("kind"):
        case "confirm":
            what, answer = f"paused: {reason}", f"Continue with: opsjobs executions resume {number}"
        case "max_fail":
            what = f"paused: {reason}"
            answer = f"Accept the failures with: opsjobs executions resume {number}; or end it: opsjobs executions cancel {number}"
        case "pause":
            by = f" by {plain(held['by'])}" if held.get("by") else ""
            what = f"paused{by}{': ' if reason else ''}{reason}"
            answer = f"Continue with: opsjobs executions resume {number}"
        case "approval":
            approval = held.get("approval")
            what = f"waiting for approval {approval}: {reason}"
            answer = f"See: opsjobs approvals show {approval}. Another person decides with: opsjobs approvals approve {approval}"
        case "exclusive" if held.get("execution") is not None:
            answer = f"See: opsjobs executions show {held.get('execution')}"
        case "workers":
            answer = f"Start one with: opsjobs worker --zone {plain((held.get('zones') or ['default'])[0])}"
        case "maintenance":
            answer = f"See: opsjobs targets show {plain(held.get('target'))}"
        case "slot":
            answer = "See: opsjobs executions list --status running"
    return f"{what}. {answer}"
