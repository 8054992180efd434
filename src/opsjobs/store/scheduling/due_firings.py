"""Due moments, written down: what becomes of each, and which is the schedule's next one, under the lock of its row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

from opsjobs.model.events import EventType
from opsjobs.model.execution import moment
from opsjobs.model.firing import FiringStatus, FiringVerdict, Round, ScheduleStanding, execution_uuid, judge
from opsjobs.model.schedule import tzdata_version
from opsjobs.store.scheduling.schedule_rows import StoredSchedule
from opsjobs.store.statements import load_statement
from opsjobs.store.transaction import Connection

CLAIM_SECONDS = 15.0
"""How long a firing is his who wants to launch it."""
LATE_SECONDS_AT_LEAST = 60.0
"""A firing is tried for so long at least, whatever its misfire window."""

ClosedReason = Callable[[StoredSchedule, datetime], str | None]
"""The words of a calendar of the schedule in whose closed time an instant lies; None: it is open."""


CalendarReader = Callable[[Connection, Sequence[StoredSchedule]], Awaitable[ClosedReason]]
"""Reads the calendars that some schedules name."""


async def no_calendars(_: Connection, __: Sequence[StoredSchedule]) -> ClosedReason:
    """There are no calendars."""
    return lambda _, __: None


@dataclass(frozen=True, slots=True)
class ReadyFiring:
    """A pending firing that is the caller's to launch until its claim ends. `uuid`: its execution's. `attempts`: the claim's mark."""

    id: int
    uuid: UUID
    due_at: datetime
    fire_at: datetime
    attempts: int
    catch_up: bool
    late_seconds: float
    schedule: StoredSchedule


@dataclass(frozen=True, slots=True)
class Fired:
    """What a round of firing came to: `schedules` moved on, moments by status and rule, and what is ready to be launched."""

    schedules: int
    counts: Mapping[tuple[str, str | None], int]
    ready: Sequence[ReadyFiring]


_FIRED = load_statement(__file__, "fire")

_EVENT_OF = {
    FiringStatus.MISSED: EventType.SCHEDULE_MISSED,
    FiringStatus.FAILED: EventType.SCHEDULE_MISSED,
    FiringStatus.SKIPPED: EventType.SCHEDULE_SKIPPED,
    FiringStatus.TRIGGERED: EventType.SCHEDULE_TRIGGERED,
}


def event_type_of(status: FiringStatus) -> EventType:
    """What tells of a firing that has this final status."""
    return _EVENT_OF[status]


def event_data(schedule: StoredSchedule, firing: dict[str, Any]) -> str:
    """The data of an event: the schedule, and the firing that it tells of."""
    return json.dumps({**schedule.data(), "firing": firing})


@dataclass(frozen=True, slots=True)
class Due:
    """A schedule, locked, with moments that are due.

    `pending`: how many of its firings wait for their launch already, but for those that are caught up with.
    """

    schedule: StoredSchedule
    pending: int = 0

    def judged(self, now: datetime, closed: ClosedReason) -> Round:
        """What becomes of its moments. Raises whatever its timetable does."""
        schedule = self.schedule
        assert schedule.next_due_at is not None
        assert schedule.next_fire_at is not None
        standing = ScheduleStanding(
            schedule.next_due_at,
            schedule.next_fire_at,
            misfire=str(schedule.definition.misfire),
            misfire_window=schedule.definition.misfire_window,
            enabled=schedule.enabled,
            paused_reason=schedule.paused_reason,
            pending=self.pending,
            closed=lambda instant: closed(schedule, instant),
        )
        return judge(schedule.timetable, standing, now)


class ScheduleBatch:
    """The rows that a round of firing writes: of all its schedules in one statement."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._tzdata = tzdata_version()
        self._moved: list[tuple[int, datetime | None, datetime | None, str | None]] = []
        self._rows: list[tuple[Any, ...]] = []
        self._told: list[tuple[Any, ...]] = []
        self._schedules: dict[int, StoredSchedule] = {}
        self._late: dict[tuple[int, datetime], tuple[datetime, float]] = {}

    def add(self, due: Due, found: Round, *, claim: bool = True) -> None:
        """The verdicts on one schedule's moments. `claim`: what is on time is the caller's to launch."""
        schedule = due.schedule
        self._schedules[schedule.id] = schedule
        rules = self._tzdata if schedule.timetable.wall else None
        self._moved.append((schedule.id, found.next_due_at, found.next_fire_at, rules))
        in_turn = str(schedule.definition.overlap) != "allow"
        patience = max(schedule.definition.misfire_window, LATE_SECONDS_AT_LEAST)
        free = due.pending == 0
        for v in found.verdicts:
            pending = v.status is FiringStatus.PENDING
            # Launched at once by who fires it, unless others come before it or it is one of many that are caught up with.
            claimed = claim and pending and not v.catch_up and (free or not in_turn)
            free = free and not (pending and not v.catch_up)
            uuid = execution_uuid(schedule.uuid, v.due_at)
            self._rows.append((
                uuid, schedule.id, v.due_at, v.until_at, v.moments, v.fire_at, v.status.value, v.rule and v.rule.value, v.reason,
                v.catch_up, in_turn or v.catch_up, int(claimed), patience,
            ))  # fmt: skip
            self._late[schedule.id, v.due_at] = v.fire_at, (self._now - v.fire_at).total_seconds()
        self._tell(schedule, found.verdicts)

    def _tell(self, schedule: StoredSchedule, verdicts: Sequence[FiringVerdict]) -> None:
        """One event for all that were missed, and one for all that were skipped: with the last of them, and how many."""
        for status in (FiringStatus.MISSED, FiringStatus.SKIPPED):
            alike = [v for v in verdicts if v.status is status]
            if alike:
                last = alike[-1]
                firing = {
                    "due_at": moment(last.due_at),
                    "status": status.value,
                    "rule": last.rule,
                    "reason": last.reason,
                    "late_ms": int((self._now - last.fire_at).total_seconds() * 1000),
                    "moments": sum(v.moments for v in alike),
                }
                self._told.append(
                    (schedule.id, last.due_at, event_type_of(status).value, schedule.uuid, event_data(schedule, firing))
                )

    async def write(self, connection: Connection) -> Fired:
        """Write it all; says what came of it."""
        if not self._moved:
            return Fired(0, {}, ())
        rows = await (await connection.execute(_FIRED, self._parameters())).fetchall()
        counts: Counter[tuple[str, str | None]] = Counter()
        for row in rows:
            counts[row["status"], row["rule"]] += row["moments"]
        return Fired(len(self._moved), counts, [self._ready(row) for row in rows if row["attempts"]])

    def _ready(self, row: DictRow) -> ReadyFiring:
        fire_at, late = self._late[row["schedule_id"], row["due_at"]]
        schedule = self._schedules[row["schedule_id"]]
        return ReadyFiring(row["id"], row["uuid"], row["due_at"], fire_at, row["attempts"], False, late, schedule)

    def _parameters(self) -> dict[str, Any]:
        names = ("moved", "next_due", "next_fire", "tzdata")
        columns = (
            *("uuids", "schedules", "due", "until", "moments", "fire", "statuses", "rules", "reasons", "catch_up", "in_turn"),
            *("attempts", "patience"),
        )
        events = ("told_schedules", "told_due", "told_types", "told_subjects", "told_data")
        return {
            "now": self._now,
            "claim": CLAIM_SECONDS,
            **_columns(names, self._moved),
            **_columns(columns, self._rows),
            **_columns(events, self._told),
        }


def _columns(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, list[Any]]:
    return {name: [row[n] for row in rows] for n, name in enumerate(names)}
