"""The week's forecast for all schedules: firings per hour, and those that calendars skip."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from opsjobs.model.execution import moment

HOURS = 168
BUSIEST = 10
COLLISIONS_SHOWN = 200
NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class Collision:
    """A due time in the closed time of a calendar: the schedule will skip it."""

    schedule: dict[str, Any]
    due_at: datetime
    calendar: str
    reason: str
    until: datetime | None

    def data(self) -> dict[str, Any]:
        """Return an item of `collisions`."""
        return {
            "schedule": self.schedule,
            "due_at": moment(self.due_at),
            "calendar": self.calendar,
            "reason": self.reason,
            "until": moment(self.until),
        }


@dataclass
class Week:
    """The counts of the week from `since` on.

    A firing counts in the hour in which it starts, including jitter."""

    since: datetime
    schedules: int = 0
    firings: int = 0
    closed: int = 0
    not_looked_at: int = 0
    cut: list[str] = field(default_factory=list)
    collisions: list[Collision] = field(default_factory=list)
    _firings: Counter[int] = field(default_factory=Counter)
    _closed: Counter[int] = field(default_factory=Counter)
    _targets: Counter[int] = field(default_factory=Counter)
    _minutes: Counter[int] = field(default_factory=Counter)

    @property
    def until(self) -> datetime:
        """The end of the week (exclusive)."""
        return self.since + timedelta(hours=HOURS)

    def count(self, at: datetime, targets: int) -> None:
        """Count a firing that starts at this time on this number of targets."""
        minute = int((at - self.since).total_seconds() // 60)
        if minute < HOURS * 60:
            self.firings += 1
            self._firings[minute // 60] += 1
            self._targets[minute // 60] += targets
            self._minutes[minute] += 1

    def collide(self, collision: Collision, at: datetime) -> None:
        """Count a due time that a calendar closes, in the hour in which it would fire."""
        self.closed += 1
        self._closed[int((at - self.since).total_seconds() // 3_600)] += 1
        if len(self.collisions) < COLLISIONS_SHOWN:
            self.collisions.append(collision)

    def data(self) -> dict[str, Any]:
        """Return the body of the response to GET /schedules/forecast."""
        hours = [self._hour(hour) for hour in range(HOURS)]
        busy = sorted(
            (hour for hour in hours if hour["firings"]), key=lambda hour: -hour["firings"]
        )
        return {
            "from": moment(self.since),
            "until": moment(self.until),
            "schedules": self.schedules,
            "firings": self.firings,
            "closed": self.closed,
            "words": self._summarize(busy),
            "hours": hours,
            "busiest": busy[:BUSIEST],
            "collisions": [
                collision.data() for collision in sorted(self.collisions, key=lambda c: c.due_at)
            ],
            "left_out": list(self._left_out()),
        }

    def _hour(self, hour: int) -> dict[str, Any]:
        return {
            "from": moment(self.since + timedelta(hours=hour)),
            "firings": self._firings[hour],
            "closed": self._closed[hour],
            "targets": self._targets[hour],
            "peak": max(self._minutes[minute] for minute in range(hour * 60, hour * 60 + 60)),
        }

    def _summarize(self, busy: list[dict[str, Any]]) -> str:
        words = (
            f"{_pluralize(self.firings, 'firing')} of {_pluralize(self.schedules, 'schedule')} in "
            "the coming week"
        )
        if busy:
            hour = datetime.fromisoformat(busy[0]["from"])
            most = (
                f"{_pluralize(busy[0]['firings'], 'firing')}, at most {busy[0]['peak']} in one "
                "minute"
            )
            words += f"; the busiest hour begins at {hour:%Y-%m-%d %H:%M} UTC: {most}"
        if self.closed:
            words += (
                f"; {_pluralize(self.closed, 'moment')} will be passed over, closed by calendars"
            )
        return words

    def _left_out(self) -> list[str]:
        notes = []
        if self.not_looked_at:
            notes.append(
                f"not looked at: {_pluralize(self.not_looked_at, 'schedule')}, for there are more "
                "than are counted at once"
            )
        if self.cut:
            named = ", ".join(self.cut[:NAMED_MAX]) + (" …" if len(self.cut) > NAMED_MAX else "")
            notes.append(
                f"not counted to the end of the week: {named}, with more moments than are counted "
                "of one schedule"
            )
        if self.closed > len(self.collisions):
            notes.append(
                f"not listed: {_pluralize(self.closed - len(self.collisions), 'moment')} more that "
                "calendars close"
            )
        return notes


def _pluralize(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
