"""Schemas of schedules, their firings, previews and forecast; of calendars and triggers."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated
from uuid import UUID

from pydantic import ConfigDict, Field

from opsjobs.api.schemas.base import (
    ActionsOut,
    AnswerModel,
    Json,
    PageModel,
    StoredModel,
    Timestamp,
)
from opsjobs.model.api_model import Duration, Pause
from opsjobs.model.calendar import CalendarKind
from opsjobs.model.execution import ExecutionStatus
from opsjobs.model.firing import FiringKind, FiringStatus
from opsjobs.model.identity import IdentityKind
from opsjobs.model.notification import NotificationRule
from opsjobs.model.parameter import Scalar
from opsjobs.model.schedule.draft import DayOfWeek, Misfire, Overlap, ScheduleType
from opsjobs.model.schedule.times import Every
from opsjobs.model.time_zones import DstFold, DstGap
from opsjobs.model.trigger import CallOutcome, CallVerification


class FiringLinksOut(AnswerModel):
    """Addresses of what belongs to a firing."""

    execution: str = ""


class FiringOut(AnswerModel):
    """Outcome of a due time."""

    id: int
    schedule_id: int
    kind: FiringKind
    due_at: Timestamp
    until_at: Timestamp | None
    moments: int
    fired_at: Timestamp | None
    status: FiringStatus
    rule: str | None
    reason: str | None
    execution_id: int | None
    late_ms: int | None
    attempts: int
    execution_status: ExecutionStatus | None
    approval_id: int | None
    explained: str
    links: FiringLinksOut


class FiringPageOut(PageModel):
    """A page of firings."""

    items: list[FiringOut]


class ScheduleOut(StoredModel):
    """A schedule at its current version, with all defaults filled in."""

    job_id: int
    version: int
    name: str
    type: ScheduleType
    at: str | None
    local_time: str | None
    cron: str | None
    every: Every | None
    interval: int | None
    time: str | None
    weekdays: list[DayOfWeek] | None
    day: int | str | None
    anchor: str | None
    timezone: str | None
    dst_gap: DstGap
    dst_fold: DstFold
    misfire: Misfire
    misfire_window: Duration
    overlap: Overlap
    jitter: Pause
    start_at: str | None
    end_at: str | None
    max_firings: int | None
    enabled: bool
    calendars: list[str]
    parameters: Json
    notify: list[NotificationRule] | None
    words: str = Field(description="The schedule in words")
    paused_reason: str | None
    owner: str
    owner_kind: IdentityKind
    next_due_at: Timestamp | None
    next_fire_at: Timestamp | None = Field(description="With its jitter")
    firings: int
    created_at: Timestamp
    updated_at: Timestamp
    job_name: str | None
    next: str | None = Field(description="The next due time in words, in local time of its zone")
    last_firing: FiringOut | None


class ScheduleDetailOut(ScheduleOut, ActionsOut):
    """A schedule, and what the caller may do: update, pause, resume, trigger, delete."""


class SchedulePageOut(PageModel):
    """A page of schedules."""

    items: list[ScheduleOut]


class ClosureOut(AnswerModel):
    """The calendar that closes a time, with the reason and the end of the closure."""

    calendar: str
    reason: str
    until: Timestamp | None


class DueTimeOut(AnswerModel):
    """A due time to come."""

    utc: Timestamp
    local: datetime
    closed: ClosureOut | None


class SchedulePreviewOut(AnswerModel):
    """When a schedule would be due."""

    moments: list[DueTimeOut]
    words: str
    notes: list[str]


class HourOut(AnswerModel):
    """The load of one hour."""

    model_config = ConfigDict(validate_by_name=True)

    from_: Annotated[Timestamp, Field(alias="from")]
    firings: int
    closed: int
    targets: int
    peak: int = Field(description="Firings in its busiest minute")


class ForecastScheduleOut(AnswerModel):
    """The schedule of a collision, and its job."""

    id: int
    name: str
    job_id: int
    job_name: str


class CollisionOut(AnswerModel):
    """A due time that a calendar closes."""

    schedule: ForecastScheduleOut
    due_at: Timestamp
    calendar: str
    reason: str
    until: Timestamp | None


class UpcomingMomentOut(AnswerModel):
    """A due time to come, and the targets that its job ran on last."""

    schedule: ForecastScheduleOut
    due_at: Timestamp
    fire_at: Timestamp = Field(description="With its jitter")
    local: datetime
    targets: int
    closed: ClosureOut | None


class UpcomingMomentsOut(AnswerModel):
    """Due times of all schedules in a period, in the order in which they fire."""

    model_config = ConfigDict(validate_by_name=True)

    moments: list[UpcomingMomentOut]
    from_: Annotated[Timestamp, Field(alias="from")]
    to: Timestamp
    complete_until: Timestamp = Field(description="All that fire before this time are listed")
    left_out: int = Field(description="Schedules that were left out, because there are too many")


class NamedFiringOut(FiringOut):
    """A firing, and its schedule."""

    schedule: ForecastScheduleOut


class NamedFiringPageOut(PageModel):
    """A page of firings of all schedules."""

    items: list[NamedFiringOut]


class ForecastOut(AnswerModel):
    """The coming week over all enabled schedules."""

    model_config = ConfigDict(validate_by_name=True)

    from_: Annotated[Timestamp, Field(alias="from")]
    until: Timestamp
    schedules: int
    firings: int
    closed: int
    words: str
    hours: list[HourOut]
    busiest: list[HourOut]
    collisions: list[CollisionOut]
    left_out: list[str]


class WindowOut(AnswerModel):
    """A window of a calendar, with the fields that were written."""

    model_config = ConfigDict(validate_by_name=True)

    name: str = ""
    from_: Annotated[str, Field(alias="from")] = ""
    until: str = ""
    weekdays: list[str] = Field(default=[])
    dates: list[date] = Field(default=[])
    yearly: list[str] = Field(default=[])
    start: str = ""
    end: str = ""


class CalendarOut(StoredModel):
    """A calendar, its windows as they were written."""

    name: str
    description: str
    timezone: str
    kind: CalendarKind
    windows: list[WindowOut]
    created_at: Timestamp
    updated_at: Timestamp


class CalendarPageOut(PageModel):
    """A page of calendars."""

    items: list[CalendarOut]


class CalendarCheckOut(AnswerModel):
    """State of a calendar at a time, and how long it lasts."""

    calendar: str
    at: Timestamp
    local: datetime
    open: bool
    reason: str | None
    until: Timestamp | None
    local_until: datetime | None
    timezone: str


# --- triggers, and answers to their calls


class MappedParameterOut(AnswerModel):
    """The source of a parameter's value: the one field that it has."""

    pointer: str = ""
    header: str = ""
    value: Scalar | list[Scalar] = ""


class CallConditionOut(AnswerModel):
    """A condition: a place, and the one test that it has."""

    pointer: str = ""
    header: str = ""
    equals: Scalar = ""
    any_of: list[Scalar] = Field(default=[])
    matches: str = ""
    exists: bool = True


class TriggerCallOut(AnswerModel):
    """A call of a trigger, and its outcome."""

    id: int
    at: Timestamp
    outcome: CallOutcome
    code: str | None = Field(description="The error code of a refused call")
    reason: str | None
    times: int = Field(description="The number of refused calls that this entry represents")
    delivery: str | None = Field(description="The id that the sender gave it")
    address: str | None
    execution_id: int | None


class TriggerCallListOut(AnswerModel):
    """The last calls of a trigger."""

    items: list[TriggerCallOut]
    next: None


class TriggerOut(StoredModel):
    """A trigger without its secret."""

    job_id: int
    job_name: str
    name: str
    description: str
    verify: CallVerification
    parameters: dict[str, MappedParameterOut]
    when: list[CallConditionOut]
    max_calls_per_minute: int
    expires_at: Timestamp | None
    enabled: bool
    path: str = Field(description="The path of the URL that launches the job")
    owner: str
    owner_kind: IdentityKind
    calls: int = Field(description="All calls by holders of the secret")
    last_call: TriggerCallOut | None
    created_at: Timestamp
    updated_at: Timestamp


class TriggerDetailOut(TriggerOut, ActionsOut):
    """A trigger, and what the caller may do: update, enable, disable, rotate, delete."""


class NewTriggerOut(TriggerOut):
    """A trigger with its secret."""

    secret: str | None = Field(
        description="Shown this once; null in the answer to a repeated request"
    )


class TriggerPageOut(PageModel):
    """A page of triggers."""

    items: list[TriggerOut]


class LaunchedExecutionOut(AnswerModel):
    """The execution of a call, as it was launched."""

    id: int
    uuid: UUID
    number: int | None
    status: ExecutionStatus


class HookResultOut(AnswerModel):
    """The answer to a call of a trigger."""

    outcome: CallOutcome
    reason: str | None
    execution: LaunchedExecutionOut | None
