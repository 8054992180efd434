"""Instants that callers write: the one place that says how early and how late they may be."""

from __future__ import annotations

from datetime import UTC, datetime

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
HORIZON = datetime(2200, 1, 1, tzinfo=UTC)
"""What does not come before this never comes. Far from it, neither offsets nor intervals leave what a datetime can hold."""


def in_reach(moment: datetime) -> datetime:
    """Return an aware time in UTC. Raises ValueError for one outside of 1970 to 2199, on its own clock."""
    if not EARLIEST.year <= moment.year < HORIZON.year:  # it may have no time in UTC at all
        raise ValueError(f"{moment.isoformat()} is out of reach: write a time in the years {EARLIEST.year} to {HORIZON.year - 1}")
    return moment.astimezone(UTC)


def read_instant(text: str) -> datetime:
    """Read a time with its offset, as ISO 8601 has it; in UTC. Raises ValueError that says how to write one."""
    try:
        moment = datetime.fromisoformat(text) if len(text) <= 64 else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError("write a time with its zone, such as 2026-11-24T09:00:00Z")
    return in_reach(moment)
