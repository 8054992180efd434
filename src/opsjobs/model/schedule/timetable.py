"""The due times of a schedule, and the jitter of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from hashlib import sha256
from uuid import UUID

from opsjobs.model.api_model import EARLIEST, HORIZON
from opsjobs.model.schedule.cron import Cron
from opsjobs.model.schedule.draft import ScheduleDraft, ScheduleType, once_at
from opsjobs.model.schedule.recurring import Days, Every, Interval, day_of_month, days_of_week
from opsjobs.model.schedule.wall_clock import DstFold, DstGap, Wall
from opsjobs.model.time_zones import zone

_MICROSECOND = timedelta(microseconds=1)

Following = Callable[[datetime], datetime | None]
"""A function that returns the first due time strictly after an instant."""


@dataclass(frozen=True, slots=True)
class Timetable:
    """A compiled schedule. `wall`: its due times depend on the zone's rules, which may change."""

    uuid: UUID
    draft: ScheduleDraft
    cron: Cron | None
    wall: bool
    start_at: datetime
    end_at: datetime
    jitter_seconds: float
    following: Following

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first due time strictly after this instant, in UTC; None if there is none.

        The work is bounded."""
        assert instant.tzinfo is not None
        if instant >= self.end_at:
            return None
        moment = self.following(max(instant, self.start_at - _MICROSECOND).astimezone(UTC))
        return moment if moment is not None and moment <= self.end_at else None

    def between(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """Return the first `limit` due times after `after`, up to and including `until`."""
        moments: list[datetime] = []
        moment = self.next_after(after)
        while moment is not None and moment <= until and len(moments) < limit:
            moments.append(moment)
            moment = self.next_after(moment)
        return moments

    def fire_at(self, due: datetime) -> datetime:
        """Return when a due time is fired: due plus a delay of less than the jitter.

        The delay is always the same for the same due time."""
        milliseconds = int(self.jitter_seconds * 1000)
        if not milliseconds:
            return due
        seed = self.uuid.bytes + due.astimezone(UTC).isoformat().encode()
        return due + timedelta(
            milliseconds=int.from_bytes(sha256(seed).digest()[:8]) % milliseconds
        )


def timetable(draft: ScheduleDraft, *, uuid: UUID, created_at: datetime) -> Timetable:
    """Return the timetable of a schedule.

    `uuid` seeds its jitter and every H; `created_at` is the default anchor."""
    cron = Cron(draft.cron, uuid) if draft.cron is not None else None
    wall, following = _rule(draft, cron, draft.anchor or draft.start_at or created_at)
    return Timetable(
        uuid=uuid,
        draft=draft,
        cron=cron,
        wall=wall and draft.timezone != "UTC",
        start_at=max(draft.start_at or EARLIEST, EARLIEST),
        end_at=min(draft.end_at or HORIZON, HORIZON - _MICROSECOND),
        jitter_seconds=draft.jitter,
        following=following,
    )


def _rule(draft: ScheduleDraft, cron: Cron | None, anchor: datetime) -> tuple[bool, Following]:
    """Return whether the schedule depends on the zone, and the function of its next due time."""
    rules = zone(draft.timezone or "UTC")
    wall = Wall(rules, draft.dst_gap, draft.dst_fold)
    if cron is not None:
        # In real time it is due whenever the local time matches: never in a gap, twice in a fold.
        clocks = Wall(rules, DstGap.SKIP, DstFold.TWICE) if cron.runs_on_real_time else wall
        return True, lambda after: clocks.next_after(after, cron)
    if draft.type is ScheduleType.ONCE:
        moment = once_at(draft)
        return (
            draft.local_time is not None,
            lambda after: moment if moment is not None and moment > after else None,
        )
    every, interval = draft.every, draft.interval or 1
    assert every is not None
    if every in (Every.MINUTES, Every.HOURS):
        step = timedelta(minutes=interval) if every is Every.MINUTES else timedelta(hours=interval)
        return False, Interval(step, anchor).after
    by = days_of_week(draft.weekdays or []) if every is Every.WEEKLY else None
    by = day_of_month(draft.day or 1) if every is Every.MONTHLY else by
    at = time.fromisoformat(draft.time or "00:00")
    days = Days(every, interval, at, anchor.astimezone(rules).date(), by)
    return True, lambda after: wall.next_after(after, days)
