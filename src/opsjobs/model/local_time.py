"""Times for people: on the clock of a zone, in addition to UTC."""

from __future__ import annotations

from datetime import UTC, datetime

from opsjobs.model.time_zones import zone as rules_of

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def local(at: datetime, zone: str | None) -> datetime:
    """Return the time on the clock of this zone (None: UTC)."""
    return at.astimezone(rules_of(zone) if zone is not None else UTC)


def in_words(at: datetime, zone: str | None) -> str:
    """Return the local day, time and offset; names are English in every locale.

    >>> in_words(datetime(2026, 11, 26, 1, 30, tzinfo=UTC), "Europe/Berlin")
    'Thu 26 Nov 2026 02:30 +01:00'"""
    there = local(at, zone)
    clock = there.isoformat(timespec="seconds" if there.second else "minutes")[11:]
    return (
        f"{_DAYS[there.weekday()]} {there.day} {_MONTHS[there.month - 1]} {there.year} "
        f"{clock[:-6]} {clock[-6:]}"
    )
