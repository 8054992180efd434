"""Forecast of the coming week over all schedules.

It is counted in portions, concurrently with other work, and only one forecast at a time. `Week` has
the firings per hour, and those that calendars skip.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from opsjobs.model.access import Reach
from opsjobs.model.calendar import Calendar, Closed, Closures
from opsjobs.model.errors import TooMany
from opsjobs.model.execution import moment
from opsjobs.model.schedule.draft import JITTER_SECONDS_MAX
from opsjobs.store.scheduling.calendars import Calendars
from opsjobs.store.scheduling.schedule_overview import ScheduleOverview, UpcomingSchedule

PORTION = 100
SECONDS_MAX = 10.0
WAIT_SECONDS = 5.0
"""Time for which a request waits for its turn."""
MOMENTS_MAX = 500_000
MOMENTS_OF_ONE_MAX = 10_080
"""One a minute for a week: the limit for one schedule."""
EARLIER_MAX = 2_000
"""Due times before the period that are looked at, because jitter may carry them into it."""
_JITTER_MAX = timedelta(seconds=JITTER_SECONDS_MAX)
_TICK = timedelta(microseconds=1)


class ForecastTurn:
    """Let one request at a time work through all schedules; others wait for a bounded time."""

    def __init__(self, wait_seconds: float = WAIT_SECONDS) -> None:
        self._wait_seconds = wait_seconds
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Take the turn for the block. Raises TooMany if none comes in time."""
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._lock.acquire()
        except TimeoutError:
            raise TooMany(
                "too_many_forecasts",
                "This process works out the due times of all schedules for other requests. "
                "Ask again in some seconds.",
                retry_after_seconds=int(WAIT_SECONDS),
            ) from None
        try:
            yield
        finally:
            self._lock.release()


class Forecasts:
    """Count forecasts, one at a time.

    Callers that request the same reach while it is being counted share its result; others wait for
    their turn.
    """

    def __init__(
        self,
        overview: ScheduleOverview,
        calendars: Calendars,
        *,
        seconds_at_most: float = SECONDS_MAX,
        moments_at_most: int = MOMENTS_MAX,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._overview = overview
        self._calendars = calendars
        self._seconds_at_most = seconds_at_most
        self._moments_at_most = moments_at_most
        self._counting: dict[Reach | None, asyncio.Task[Week]] = {}
        self._turn = ForecastTurn(wait_seconds)

    async def week(self, reach: Reach | None = None) -> Week:
        """Return the week of the schedules within reach (None: of all), from this hour on.

        Due times and schedules beyond the limits are left out; the week reports what was left out.
        Raises TooMany if no turn comes within 5 seconds.
        """
        counting = self._counting.get(reach)
        if counting is None:
            counting = self._counting[reach] = asyncio.create_task(self._in_turn(reach))
            counting.add_done_callback(lambda done: self._forget(reach, done))
        # Shielded: the first caller may disconnect while others still wait for the result.
        return await asyncio.shield(counting)

    def _forget(self, reach: Reach | None, done: asyncio.Task[Week]) -> None:
        del self._counting[reach]
        if not done.cancelled():
            done.exception()  # read here: all callers may have disconnected

    async def _in_turn(self, reach: Reach | None) -> Week:
        async with self._turn.take():
            return await self._count(reach)

    async def _count(self, reach: Reach | None) -> Week:
        now = await self._overview.now()
        week = Week(now.replace(minute=0, second=0, microsecond=0))
        until = time.monotonic() + self._seconds_at_most
        left, last = self._moments_at_most, 0
        while portion := await self._overview.list_upcoming(after=last, limit=PORTION, reach=reach):
            calendars = await self._calendars.by_names(
                {name for one in portion for name in one.schedule.definition.calendars}
            )
            done = 0
            if time.monotonic() < until and left > 0:
                limits = (now, left, until)
                done, left = await asyncio.to_thread(
                    _count_portion, week, portion, calendars, limits
                )
            last = portion[-1].schedule.id
            if done < len(portion):
                rest = await self._overview.count_upcoming(after=last, reach=reach)
                week.not_looked_at = len(portion) - done + rest
                break
        return week


def _count_portion(
    week: Week,
    portion: Sequence[UpcomingSchedule],
    calendars: Mapping[str, Calendar],
    limits: tuple[datetime, int, float],
) -> tuple[int, int]:
    """Count these from now on, within the limits of due times and seconds.

    Return how many schedules were counted, and how many due times remain of the limit.
    """
    now, left, until = limits
    closures = ClosureLookup(calendars, now, week.until)
    for done, coming in enumerate(portion):
        if left <= 0 or time.monotonic() > until:
            return done, left
        left -= _count_one(week, coming, closures, now, min(left, MOMENTS_OF_ONE_MAX))
        week.schedules += 1
    return len(portion), left


def _count_one(
    week: Week, coming: UpcomingSchedule, closures: ClosureLookup, now: datetime, at_most: int
) -> int:
    schedule, table = coming.schedule, coming.schedule.timetable
    left = schedule.definition.max_firings
    allowed = at_most if left is None else min(at_most, max(left - schedule.firings, 0))
    moments = find_due_times(coming, now, week.until, allowed + 1)
    more, moments = moments[allowed:], moments[:allowed]
    if more and allowed == at_most:
        week.cut.append(
            f"{schedule.definition.name} of {coming.job_name} (after {moments[-1]:%Y-%m-%dT%H:%MZ})"
        )
    closed = closures.check_for(schedule.definition.calendars)
    for due in moments:
        at = table.fire_at(due)
        if not now <= at < week.until:
            continue
        if (found := closed(due) or closed(at)) is not None:
            collision = Collision(coming.named, due, found.calendar, found.reason, found.until)
            week.collide(collision, at)
        else:
            week.count(at, coming.targets)
    return len(moments)


def find_due_times(
    coming: UpcomingSchedule, since: datetime, until: datetime, limit: int
) -> list[datetime]:
    """Return the due times that may fire from `since` on and before `until`, in order.

    Jitter may carry those into the period that were due before it and have not fired yet: at most
    EARLIER_MAX. `limit` counts the others.
    """
    table = coming.schedule.timetable
    first = coming.schedule.next_due_at or since
    begin = min(since, max(first, since - timedelta(seconds=table.jitter_seconds)))
    return [
        *table.between(begin - _TICK, since - _TICK, EARLIER_MAX),
        *table.between(since - _TICK, until - _TICK, limit),
    ]


class ClosureLookup:
    """Closures of calendars in this week, computed once for each set of calendars."""

    def __init__(self, calendars: Mapping[str, Calendar], since: datetime, until: datetime) -> None:
        self._calendars = calendars
        self._since, self._until = since, until
        self._known: dict[frozenset[str], Closures] = {}

    def check_for(self, names: Iterable[str]) -> Callable[[datetime], Closed | None]:
        """Return a function that maps an instant to its closure by these calendars, if any."""
        key = frozenset(names)
        if key not in self._known:
            named = [self._calendars[name] for name in sorted(key) if name in self._calendars]
            self._known[key] = Closures(
                named, self._since - _JITTER_MAX, self._until + timedelta(days=2)
            )
        return self._known[key].at


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
