"""A schedule as a caller writes it: its fields, older names, and validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from opsjobs.model import text_patterns
from opsjobs.model.api_model import (
    HORIZON,
    ApiModel,
    Duration,
    Pause,
    duration_limits,
    snake_case,
    stored,
)
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.naming import Name, Title
from opsjobs.model.notification import NotificationRules
from opsjobs.model.parameter import PARAMETERS_MAX
from opsjobs.model.schedule.cron import canonical
from opsjobs.model.schedule.times import (
    WEEKDAYS,
    Day,
    Every,
    Instant,
    LocalTime,
    TimeOfDay,
    Weekday,
    weekday_of,
)
from opsjobs.model.time_zones import DstFold, DstGap, Wall, ZoneName, zone
from opsjobs.model.validation_errors import fault

CALENDARS_MAX = 16
JITTER_SECONDS_MAX = 86_400


class ScheduleType(StrEnum):
    """The type of a schedule: once, recurring, or a cron expression."""

    ONCE = "once"
    RECURRING = "recurring"
    CRON = "cron"


class Misfire(StrEnum):
    """The handling of due times that passed while no scheduler ran."""

    SKIP = "skip"
    RUN_ONCE = "run_once"
    RUN_ALL = "run_all"


class Overlap(StrEnum):
    """The handling of a due time while the previous execution has not ended."""

    ALLOW = "allow"
    SKIP = "skip"
    QUEUE = "queue"
    CANCEL_PREVIOUS = "cancel_previous"


_OLDER = {
    "schedule_type": "type",
    "cron_expression": "cron",
    "execute_at": "at",
    "recurring_type": "every",
    "days_of_week": "weekdays",
    "day_of_month": "day",
    "max_executions": "max_firings",
    "end_date": "end_at",
}
# The fields that define the time, by the type of the schedule.
_OF_TYPE = {
    ScheduleType.ONCE: {"at", "local_time"},
    ScheduleType.CRON: {"cron"},
    ScheduleType.RECURRING: {"every", "interval", "time", "weekdays", "day", "anchor"},
}
_OF_EVERY = {
    Every.MINUTES: {"interval", "anchor"},
    Every.HOURS: {"interval", "anchor"},
    Every.DAILY: {"interval", "anchor", "time"},
    Every.WEEKLY: {"interval", "anchor", "time", "weekdays"},
    Every.MONTHLY: {"interval", "anchor", "time", "day"},
}
# Up to a year, for the long units up to ten.
INTERVAL_MAX = {
    Every.MINUTES: 527_040,
    Every.HOURS: 8_784,
    Every.DAILY: 3_660,
    Every.WEEKLY: 520,
    Every.MONTHLY: 120,
}

DayOfWeek = Annotated[
    Weekday,
    BeforeValidator(weekday_of),
    WithJsonSchema({"type": "string", "enum": [day.value for day in WEEKDAYS]}),
]


def _without_default(described: dict[str, Any]) -> None:
    described.pop("default", None)


class ScheduleDraft(ApiModel):
    """Body of POST /jobs/{id}/schedules and PUT /schedules/{id}.

    `once`: `at` (an instant), or `local_time` with `timezone`. `cron`: `cron`. `recurring`: `every`
    `interval` minutes or hours from `anchor` (else start_at, else creation), or daily, weekly on
    `weekdays`, monthly on `day`, at `time`. Times before `start_at` and after `end_at` are not due.
    `jitter` delays each due time by a part of itself, always the same one. `calendars` and
    `parameters` apply to its firings. `notify`: rules of notifications in place of the job's.
    Validated with `context={"now": …}`, a `once` in the past is refused; with
    `context={"stored": True}` stored values are not validated again."""

    # The schema has no default, because "" is not a name: it is derived from the other fields.
    name: Title = Field(
        default="", max_length=200, pattern=text_patterns.TITLE, json_schema_extra=_without_default
    )
    type: ScheduleType
    at: Instant | None = None
    local_time: LocalTime | None = None
    cron: str | None = None
    every: Every | None = None
    interval: int | None = Field(default=None, strict=True, ge=1)
    time: TimeOfDay | None = None
    weekdays: list[DayOfWeek] | None = Field(default=None, min_length=1, max_length=7)
    day: Day | None = None
    anchor: Instant | None = None
    timezone: ZoneName | None = None
    dst_gap: DstGap = DstGap.RUN_AFTER
    dst_fold: DstFold = DstFold.ONCE
    misfire: Misfire = Misfire.RUN_ONCE
    misfire_window: Duration = 3600.0
    overlap: Overlap = Overlap.SKIP
    jitter: Annotated[Pause, duration_limits(le=JITTER_SECONDS_MAX)] = 0.0
    start_at: Instant | None = None
    end_at: Instant | None = None
    max_firings: int | None = Field(default=None, strict=True, ge=1, le=1_000_000_000)
    enabled: bool = Field(default=True, strict=True)
    calendars: list[Name] = Field(default_factory=list, max_length=CALENDARS_MAX)
    parameters: dict[str, Any] = Field(default_factory=dict, max_length=PARAMETERS_MAX)
    notify: NotificationRules | None = None

    @model_validator(mode="before")
    @classmethod
    def _older_words(cls, body: Any) -> Any:
        return _modernised(body) if isinstance(body, dict) else body

    @field_validator("cron")
    @classmethod
    def _cron_is_due_at_times(cls, cron: str | None, info: ValidationInfo) -> str | None:
        return cron if cron is None or stored(info) else canonical(cron)

    @field_validator("weekdays")
    @classmethod
    def _each_day_once(cls, weekdays: Sequence[Weekday] | None) -> list[Weekday] | None:
        return None if weekdays is None else sorted(set(weekdays), key=WEEKDAYS.index)

    @field_validator("calendars")
    @classmethod
    def _each_calendar_once(cls, names: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(names))

    @model_validator(mode="after")
    def _whole(self, info: ValidationInfo) -> ScheduleDraft:
        if not stored(info):
            self._check_fields()
            self._fill()
            self._check_bounds()
            if info.context and (now := info.context.get("now")) is not None:
                _check_past(self, now)
        return self

    def _check_fields(self) -> None:
        """Raise a fault if a field of the type is missing, or one of another type is set."""
        for type_, names in _OF_TYPE.items():
            for name in sorted(names) if type_ is not self.type else ():
                if getattr(self, name) is not None:
                    raise fault(
                        "not_of_this_type",
                        f"{name} is of type {type_}, but the type is {self.type}",
                        name,
                    )
        if self.type is ScheduleType.CRON and self.cron is None:
            raise fault("missing", 'type cron needs an expression, such as "30 2 * * *"', "cron")
        if self.type is ScheduleType.ONCE:
            self._check_once()
        if self.type is ScheduleType.RECURRING:
            self._check_recurring()

    def _check_once(self) -> None:
        if (self.at is None) == (self.local_time is None):
            raise fault(
                "missing", "type once needs either at (an instant) or local_time and timezone", "at"
            )
        if self.local_time is not None and self.timezone is None:
            words = (
                "a local time without a zone is ambiguous: "
                "set timezone, for example Europe/Berlin, or write at with an offset"
            )
            raise fault("naive_time", words, "local_time")
        if self.dst_fold is DstFold.TWICE:
            raise fault(
                "not_of_this_type",
                "type once is once: leave dst_fold out, or write at with an offset",
                "dst_fold",
            )

    def _check_recurring(self) -> None:
        every = self.every
        if every is None:
            raise fault("missing", f"type recurring needs every: {', '.join(Every)}", "every")
        for name in sorted(_OF_TYPE[ScheduleType.RECURRING] - _OF_EVERY[every] - {"every"}):
            if getattr(self, name) is not None:
                raise fault("not_of_this_type", f"every: {every} has no {name}", name)
        if (self.interval or 1) > INTERVAL_MAX[every]:
            raise fault(
                "range", f"the interval of every: {every} is 1 to {INTERVAL_MAX[every]}", "interval"
            )
        if every is Every.WEEKLY and self.weekdays is None:
            raise fault(
                "missing",
                f"every: weekly needs weekdays, a list of {', '.join(WEEKDAYS)}",
                "weekdays",
            )
        if every is Every.MONTHLY and self.day is None:
            raise fault(
                "missing",
                'every: monthly needs day: 1 to 31, "last", "2nd tue" or "last fri"',
                "day",
            )

    def _fill(self) -> None:
        """Set defaults that depend on other fields, so that the stored draft is complete."""
        filled: dict[str, Any] = {"timezone": self.timezone or "UTC"}
        if self.type is ScheduleType.RECURRING and self.every is not None:
            filled["interval"] = self.interval or 1
            filled["time"] = self.time or ("00:00" if "time" in _OF_EVERY[self.every] else None)
        filled["name"] = self.name or _name_of(self)
        for name, value in filled.items():
            # The model is frozen for others; this is still its construction.
            object.__setattr__(self, name, value)

    def _check_bounds(self) -> None:
        if self.start_at is not None and self.end_at is not None and self.end_at <= self.start_at:
            raise fault("range", "end_at is not after start_at", "end_at")
        if self.type is not ScheduleType.ONCE:
            return
        field = "at" if self.at is not None else "local_time"
        moment = once_at(self)
        if moment is None:
            words = (
                f"{self.timezone} has no such time on that day, and dst_gap is skip: it would "
                "never be due"
            )
            raise fault("never", words, field)
        if moment >= HORIZON:  # late in the last year, far west
            raise fault(
                "out_of_reach",
                f"it is after the year {HORIZON.year - 1}, which is out of reach",
                field,
            )
        if (self.start_at and moment < self.start_at) or (self.end_at and moment > self.end_at):
            raise fault(
                "never", "it lies outside start_at and end_at: it would never be due", field
            )


def once_at(draft: ScheduleDraft) -> datetime | None:
    """Return the instant of a `once`; None if its local time does not exist and is skipped."""
    if draft.at is not None:
        return draft.at
    assert draft.local_time is not None
    moments = Wall(zone(draft.timezone or "UTC"), draft.dst_gap).instants(draft.local_time)
    return moments[0] if moments else None


def refuse_past(draft: ScheduleDraft, now: datetime) -> None:
    """Raise Invalid for a one-shot schedule in the past, for drafts parsed without `now`."""
    if found := _past(draft, now):
        field, detail = found
        raise Invalid(
            "in_the_past",
            f"/{field}: {detail}.",
            errors=[FieldError(f"/{field}", detail, "in_the_past")],
        )


def _check_past(draft: ScheduleDraft, now: datetime) -> None:
    if found := _past(draft, now):
        field, detail = found
        raise fault("in_the_past", detail, field)


def _past(draft: ScheduleDraft, now: datetime) -> tuple[str, str] | None:
    moment = once_at(draft) if draft.type is ScheduleType.ONCE else None
    if moment is None or moment > now:
        return None
    detail = (
        f"{moment.isoformat()} is past, it is {now.isoformat(timespec='seconds')} now: write a "
        "time that is to come"
    )
    return ("at" if draft.at is not None else "local_time"), detail


def _name_of(draft: ScheduleDraft) -> str:
    """Return the name of a draft without one; the store replaces it by the due times in words."""
    when = draft.cron or draft.at or draft.local_time or draft.every
    text = when.isoformat() if isinstance(when, datetime) else str(when)
    return f"{draft.type} {text}"[:200]


def _modernised(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body with current field names, and a naive `at` with a zone as `local_time`.

    Values are moved, and validated later."""
    new: dict[str, Any] = {}
    for key, value in body.items():
        old = snake_case(key) if isinstance(key, str) else ""
        name = _OLDER.get(old, key)
        if name in new:
            raise ValueError(f"{name} is given twice, in two spellings")
        new[name] = value
    if (
        isinstance(new.get("at"), str)
        and new.get("timezone")
        and "local_time" not in new
        and _is_naive(new["at"])
    ):
        new["local_time"] = new.pop("at")
    return new


def _is_naive(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is None
    except ValueError:
        return False
