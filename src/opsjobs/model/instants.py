"""Instants in input: the one place that limits their range."""

from __future__ import annotations

from datetime import UTC, datetime

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
HORIZON = datetime(2200, 1, 1, tzinfo=UTC)
"""An instant from here on never comes.

It is far from the limits of datetime, so that adding offsets and intervals never overflows."""


def in_reach(moment: datetime) -> datetime:
    """Return an aware time in UTC. Raises ValueError if its local year is not 1970 to 2199."""
    if not EARLIEST.year <= moment.year < HORIZON.year:  # the conversion to UTC could overflow
        raise ValueError(
            f"{moment.isoformat()} is out of reach: write a time in the years {EARLIEST.year} to "
            f"{HORIZON.year - 1}"
        )
    return moment.astimezone(UTC)


def read_instant(text: str) -> datetime:
    """Parse an ISO 8601 time with its offset and return it in UTC.

    Raises ValueError with the expected format."""
    try:
        moment = datetime.fromisoformat(text) if len(text) <= 64 else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError("write a time with its zone, such as 2026-11-24T09:00:00Z")
    return in_reach(moment)
