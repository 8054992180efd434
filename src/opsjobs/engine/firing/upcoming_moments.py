"""The due times of all schedules in a period, in the order in which they fire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from opsjobs.engine.firing.forecast import (
    SECONDS_MAX,
    WAIT_SECONDS,
    ClosureLookup,
    ForecastTurn,
    find_due_times,
)
from opsjobs.model.access import Reach
from opsjobs.model.calendar import Calendar, Closed
from opsjobs.model.execution import moment
from opsjobs.model.time_zones import local
from opsjobs.store.scheduling.calendars import Calendars
from opsjobs.store.scheduling.schedule_overview import ScheduleOverview, UpcomingSchedule

PORTION = 20
PERIOD_MAX = timedelta(days=31)


@dataclass(frozen=True, slots=True)
class UpcomingMoment:
    """A due time of a schedule, and the time at which it fires (later by its jitter)."""

    coming: UpcomingSchedule
    due_at: datetime
    fire_at: datetime
    closed: Closed | None
    """The closure because of which it will be skipped."""

    def data(self) -> dict[str, Any]:
        """Return an item of GET /schedules/moments."""
        zone = self.coming.schedule.definition.timezone
        return {
            "schedule": self.coming.named,
            "due_at": moment(self.due_at),
            "fire_at": moment(self.fire_at),
            "local": local(self.due_at, zone).isoformat(),
            "targets": self.coming.targets,
            "closed": self.closed.data() if self.closed is not None else None,
        }


@dataclass(frozen=True, slots=True)
class UpcomingMoments:
    """The first due times of a period: all that fire before `complete_until`.

    Of those that fire at that time some may be missing, unless it is the end of the period."""

    moments: Sequence[UpcomingMoment]
    complete_until: datetime
    left_out: int
    """The number of schedules that were not looked at, because there are too many."""


class MomentList:
    """List due times of all schedules, one request at a time."""

    def __init__(
        self,
        overview: ScheduleOverview,
        calendars: Calendars,
        *,
        seconds_at_most: float = SECONDS_MAX,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._overview = overview
        self._calendars = calendars
        self._seconds_at_most = seconds_at_most
        self._turn = ForecastTurn(wait_seconds)

    async def list(
        self, since: datetime, until: datetime, limit: int, reach: Reach | None = None
    ) -> UpcomingMoments:
        """Return the first `limit` due times of the schedules within reach.

        Those that fire from `since` on and before `until`: jitter may carry one into the period,
        or out of it. Of each schedule a bounded number is looked for, so the work grows with the
        number of schedules. It ends after 10 seconds. Raises TooMany if no turn comes within 5
        seconds.
        """
        async with self._turn.take():
            return await self._collect(since, until, limit, reach)

    async def _collect(
        self, since: datetime, until: datetime, limit: int, reach: Reach | None
    ) -> UpcomingMoments:
        deadline = time.monotonic() + self._seconds_at_most
        found: list[UpcomingMoment] = []
        last, left_out, complete = 0, 0, until
        while portion := await self._overview.list_upcoming(after=last, limit=PORTION, reach=reach):
            if time.monotonic() > deadline:
                left_out = await self._overview.count_upcoming(after=last, reach=reach)
                break
            calendars = await self._calendars.by_names(
                {name for one in portion for name in one.schedule.definition.calendars}
            )
            more, complete = await asyncio.to_thread(
                _moments, portion, calendars, since, complete, limit
            )
            found = sorted([*found, *more], key=lambda one: (one.fire_at, one.coming.schedule.id))
            if len(found) > limit:
                complete = min(complete, found[limit].fire_at)
            found = [one for one in found[:limit] if one.fire_at <= complete]
            last = portion[-1].schedule.id
        return UpcomingMoments(found, complete, left_out)


def _moments(
    portion: Sequence[UpcomingSchedule],
    calendars: Mapping[str, Calendar],
    since: datetime,
    until: datetime,
    limit: int,
) -> tuple[list[UpcomingMoment], datetime]:
    """Return what fires in the period, and the time before which that is everything."""
    closures = ClosureLookup(calendars, since, until)
    found, complete = [], until
    for coming in portion:
        definition, table = coming.schedule.definition, coming.schedule.timetable
        dues = find_due_times(coming, since, until, limit + 1)
        if definition.max_firings is not None:
            del dues[max(definition.max_firings - coming.schedule.firings, 0) :]
        if sum(due >= since for due in dues) > limit:
            complete = min(complete, dues[-1])  # those after it fire later than this
        closed = closures.check_for(definition.calendars)
        for due in dues:
            at = table.fire_at(due)
            if since <= at < until:
                found.append(UpcomingMoment(coming, due, at, closed(due) or closed(at)))
    return found, complete
