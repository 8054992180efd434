"""Due times of schedules: the outcome of each, and the next one.

Decided and written under the lock of the schedule's row.
"""

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
from opsjobs.model.firing import (
    FiringStatus,
    FiringVerdict,
    Round,
    ScheduleState,
    decide_due,
    execution_uuid,
)
from opsjobs.model.time_zones import tzdata_version
from opsjobs.store.scheduling.rows import ClosedReason, StoredSchedule
from opsjobs.store.statements import load_statement
from opsjobs.store.transaction import Connection

CLAIM_SECONDS = 15.0
"""The duration of the claim of a firing for its launch."""
LATE_SECONDS_MIN = 60.0
"""The minimum time for which a launch is tried, however short the misfire window."""


CalendarReader = Callable[[Connection, Sequence[StoredSchedule]], Awaitable[ClosedReason]]
"""Reads the calendars that the schedules refer to."""


async def no_calendars(_: Connection, __: Sequence[StoredSchedule]) -> ClosedReason:
    """Return a reader for schedules without calendars."""
    return lambda _, __: None


@dataclass(frozen=True, slots=True)
class ReadyFiring:
    """A pending firing that its caller may launch until its claim ends."""

    id: int
    uuid: UUID
    """The uuid of its execution."""
    due_at: datetime
    fire_at: datetime
    attempts: int
    """The mark of its claim: it changes with each claim."""
    catch_up: bool
    late_seconds: float
    schedule: StoredSchedule


@dataclass(frozen=True, slots=True)
class Fired:
    """The outcome of a round of firing."""

    schedules: int
    """The number of schedules that moved on."""
    counts: Mapping[tuple[str, str | None], int]
    """The number of due times, by status and rule."""
    ready: Sequence[ReadyFiring]
    """The firings that are ready to be launched."""


_FIRED = load_statement(__file__, "fire")

_EVENT_TYPES = {
    FiringStatus.MISSED: EventType.SCHEDULE_MISSED,
    FiringStatus.FAILED: EventType.SCHEDULE_MISSED,
    FiringStatus.SKIPPED: EventType.SCHEDULE_SKIPPED,
    FiringStatus.TRIGGERED: EventType.SCHEDULE_TRIGGERED,
}


def event_type_of(status: FiringStatus) -> EventType:
    """Return the type of the event for a firing with this final status."""
    return _EVENT_TYPES[status]


def event_data(schedule: StoredSchedule, firing: dict[str, Any]) -> str:
    """Return the data of an event: the schedule and its firing."""
    return json.dumps({**schedule.data(), "firing": firing})


@dataclass(frozen=True, slots=True)
class Due:
    """A locked schedule with due times."""

    schedule: StoredSchedule
    pending: int = 0
    """The number of its firings that already wait for their launch, without catch-ups."""

    def decide_due(self, now: datetime, closed: ClosedReason) -> Round:
        """Return the verdicts on its due times. Raises the exceptions of its timetable."""
        schedule = self.schedule
        assert schedule.next_due_at is not None
        assert schedule.next_fire_at is not None
        state = ScheduleState(
            schedule.next_due_at,
            schedule.next_fire_at,
            misfire=str(schedule.definition.misfire),
            misfire_window=schedule.definition.misfire_window,
            enabled=schedule.enabled,
            paused_reason=schedule.paused_reason,
            pending=self.pending,
            closed=lambda instant: closed(schedule, instant),
        )
        return decide_due(schedule.timetable, state, now)


class ScheduleBatch:
    """The rows that a round of firing writes, for all its schedules in one statement."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._tzdata = tzdata_version()
        self._moved: list[tuple[int, datetime | None, datetime | None, str | None]] = []
        self._rows: list[tuple[Any, ...]] = []
        self._events: list[tuple[Any, ...]] = []
        self._schedules: dict[int, StoredSchedule] = {}
        self._late: dict[tuple[int, datetime], tuple[datetime, float]] = {}

    def add(self, due: Due, found: Round, *, claim: bool = True) -> None:
        """Add the verdicts on one schedule's due times.

        `claim`: firings that are on time are claimed for the caller.
        """
        schedule = due.schedule
        self._schedules[schedule.id] = schedule
        rules = self._tzdata if schedule.timetable.wall else None
        self._moved.append((schedule.id, found.next_due_at, found.next_fire_at, rules))
        in_turn = str(schedule.definition.overlap) != "allow"
        patience = max(schedule.definition.misfire_window, LATE_SECONDS_MIN)
        free = due.pending == 0
        for v in found.verdicts:
            pending = v.status is FiringStatus.PENDING
            # Launched at once by this process, unless other firings precede it or it is a catch-up.
            claimed = claim and pending and not v.catch_up and (free or not in_turn)
            free = free and not (pending and not v.catch_up)
            uuid = execution_uuid(schedule.uuid, v.due_at)
            self._rows.append((
                uuid, schedule.id, v.due_at, v.until_at, v.moments, v.fire_at, v.status.value,
                v.rule and v.rule.value, v.reason, v.catch_up, in_turn or v.catch_up,
                int(claimed), patience,
            ))  # fmt: skip
            self._late[schedule.id, v.due_at] = v.fire_at, (self._now - v.fire_at).total_seconds()
        self._add_events(schedule, found.verdicts)

    def _add_events(self, schedule: StoredSchedule, verdicts: Sequence[FiringVerdict]) -> None:
        """Add one event for all missed firings, and one for all skipped ones.

        Each holds the last of them, and how many there are.
        """
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
                self._events.append(
                    (
                        schedule.id,
                        last.due_at,
                        event_type_of(status).value,
                        schedule.uuid,
                        event_data(schedule, firing),
                    )
                )

    async def write(self, connection: Connection) -> Fired:
        """Write all rows; return the outcome."""
        if not self._moved:
            return Fired(0, {}, ())
        rows = await (await connection.execute(_FIRED, self._parameters())).fetchall()
        counts: Counter[tuple[str, str | None]] = Counter()
        for row in rows:
            counts[row["status"], row["rule"]] += row["moments"]
        return Fired(
            len(self._moved), counts, [self._ready(row) for row in rows if row["attempts"]]
        )

    def _ready(self, row: DictRow) -> ReadyFiring:
        fire_at, late = self._late[row["schedule_id"], row["due_at"]]
        schedule = self._schedules[row["schedule_id"]]
        return ReadyFiring(
            row["id"], row["uuid"], row["due_at"], fire_at, row["attempts"], False, late, schedule
        )

    def _parameters(self) -> dict[str, Any]:
        names = ("moved", "next_due", "next_fire", "tzdata")
        columns = (
            *(
                "uuids",
                "schedules",
                "due",
                "until",
                "moments",
                "fire",
                "statuses",
                "rules",
                "reasons",
                "catch_up",
                "in_turn",
            ),
            *("attempts", "patience"),
        )
        events = ("told_schedules", "told_due", "told_types", "told_subjects", "told_data")
        return {
            "now": self._now,
            "claim": CLAIM_SECONDS,
            **_columns(names, self._moved),
            **_columns(columns, self._rows),
            **_columns(events, self._events),
        }


def _columns(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, list[Any]]:
    return {name: [row[n] for row in rows] for n, name in enumerate(names)}
