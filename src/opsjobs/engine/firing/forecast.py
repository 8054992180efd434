"""Forecast of the coming week over all schedules.

It is counted in portions, concurrently with other work, and only one forecast at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from opsjobs.model.access import Reach
from opsjobs.model.calendar import Calendar, Closed, Closures
from opsjobs.model.errors import TooMany
from opsjobs.model.forecast import Collision, Week
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
