"""Times of schedules: those of recurring ones, and times as they are written in bodies.

Recurring schedules count minutes, hours, days, weeks or months; this is the only user of dateutil.
In bodies are instants, local times, times of day, weekdays and days of a month."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal

from dateutil import rrule
from dateutil.rrule import FR, MO, SA, SU, TH, TU, WE
from pydantic import BeforeValidator, WithJsonSchema

from opsjobs.model.api_model import EARLIEST, HORIZON
from opsjobs.model.validation_errors import fault


class Every(StrEnum):
    """The unit of a recurring schedule.

    Minutes and hours count real time, the others calendar days."""

    MINUTES = "minutes"
    HOURS = "hours"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


class Weekday(StrEnum):
    """A day of the week."""

    MON = "mon"
    TUE = "tue"
    WED = "wed"
    THU = "thu"
    FRI = "fri"
    SAT = "sat"
    SUN = "sun"


WEEKDAYS = tuple(Weekday)
_RULE_DAYS = dict(zip(Weekday, (MO, TU, WE, TH, FR, SA, SU), strict=True))
_FREQUENCIES: dict[Every, Literal[1, 2, 3]] = {
    Every.MONTHLY: rrule.MONTHLY,
    Every.WEEKLY: rrule.WEEKLY,
    Every.DAILY: rrule.DAILY,
}
_NTH = re.compile(r"(1st|2nd|3rd|4th|5th|last) (mon|tue|wed|thu|fri|sat|sun)")
ORDINALS = {"1st": 1, "2nd": 2, "3rd": 3, "4th": 4, "5th": 5, "last": -1}


class Interval:
    """Due times at multiples of `step` in real time, before and after an anchor."""

    def __init__(self, step: timedelta, anchor: datetime) -> None:
        self._step = step
        self._anchor = anchor.replace(microsecond=0)

    def after(self, instant: datetime) -> datetime:
        """Return the first due time strictly after this instant."""
        return self._anchor + ((instant - self._anchor) // self._step + 1) * self._step


class Days:
    """Labels at one time of day on every n-th day, week or month from an anchor."""

    def __init__(
        self, every: Every, interval: int, at: time, anchor: date, by: dict[str, Any] | None = None
    ) -> None:
        self._every = every
        self._interval = interval
        self._at = at
        self._anchor = anchor
        self._rule = rrule.rrule(
            _FREQUENCIES[every],
            dtstart=datetime.combine(self._begin(anchor), at),
            interval=interval,
            wkst=MO,
            until=HORIZON.replace(tzinfo=None),
            **(by or {}),
        )

    def after(self, label: datetime, *, inclusive: bool = False) -> datetime | None:
        """Return the first label after this one (or at it)."""
        # Start at the label's period, not at the anchor: the cost would grow with the years.
        rule = self._rule.replace(dtstart=datetime.combine(self._begin(label.date()), self._at))
        return rule.after(label, inc=inclusive)

    def _begin(self, day: date) -> date:
        """Return the first day of the last counted period that has begun by this day."""
        if self._every is Every.MONTHLY:
            months, anchor = (d.year * 12 + d.month - 1 for d in (day, self._anchor))
            counted = months - (months - anchor) % self._interval
            return date(counted // 12, counted % 12 + 1, 1)
        if self._every is Every.WEEKLY:
            monday = self._anchor - timedelta(days=self._anchor.weekday())
            return day - timedelta(days=(day - monday).days % (7 * self._interval))
        return day - timedelta(days=(day - self._anchor).days % self._interval)


def days_of_week(weekdays: list[Weekday]) -> dict[str, Any]:
    """Return the arguments of a weekly rule for its weekdays."""
    return {"byweekday": [_RULE_DAYS[day] for day in weekdays]}


def day_of_month(day: int | str) -> dict[str, Any]:
    """Return the arguments of a monthly rule for 15, "last", "2nd tue" or "last fri".

    A month without such a day has no due time."""
    if isinstance(day, int):
        return {"bymonthday": day}
    if day == "last":
        return {"bymonthday": -1}
    ordinal, weekday = nth(day)
    return {"byweekday": _RULE_DAYS[weekday](ORDINALS[ordinal])}


def nth(day: str) -> tuple[str, Weekday]:
    """Return the ordinal and the weekday of "2nd tue". Raises ValueError for another form."""
    found = _NTH.fullmatch(day)
    if found is None:
        raise ValueError(f"{day!r} is not an ordinal and a weekday")
    return found[1], Weekday(found[2])


_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)([Zz]|[+-]\d\d:?\d\d)?", re.ASCII
)
_OF_DAY = re.compile(r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?", re.ASCII)
_SHOWN_CHARACTERS_MAX = 60


def _read(given: Any, example: str) -> datetime:
    """Return the time as written, aware or naive."""
    if isinstance(given, datetime):
        return given
    found = _TIME.fullmatch(given.strip()) if isinstance(given, str) else None
    try:
        return datetime.fromisoformat(
            f"{found[1]}T{found[2]}{(found[3] or '').upper()}" if found else ""
        )
    except ValueError:
        shown = repr(given)[:_SHOWN_CHARACTERS_MAX]
        raise fault("not_a_time", f"{shown} is not a time: write one such as {example}") from None


def _within_reach(moment: datetime) -> datetime:
    if not EARLIEST.year <= moment.year < HORIZON.year:
        raise fault(
            "out_of_reach",
            f"the year {moment.year} is out of reach: {EARLIEST.year} to {HORIZON.year - 1}",
        )
    return moment


def parse_instant(given: Any) -> datetime:
    """Return an instant in UTC from a text with an offset or an aware datetime.

    Raises a fault for anything else. Example: "2026-12-01T09:00:00+01:00"."""
    moment = _read(given, "2026-12-01T09:00:00+01:00")
    if moment.utcoffset() is None:
        words = "has no zone, so it is ambiguous: add its offset from UTC, such as Z or +01:00"
        raise fault("naive_time", f"{moment.isoformat()} {words}")
    return _within_reach(_within_reach(moment).astimezone(UTC))


def parse_local(given: Any) -> datetime:
    """Return a local time from "2026-12-01T09:00:00" or a naive datetime.

    Raises a fault for anything else."""
    moment = _read(given, "2026-12-01T09:00:00")
    if moment.tzinfo is not None:
        raise fault(
            "not_a_local_time",
            f"{moment.isoformat()} has an offset: a local time has none, its zone is in timezone",
        )
    return _within_reach(moment)


def parse_time_of_day(given: Any) -> str:
    """Return a time of day as HH:MM or HH:MM:SS, without seconds if they are 0."""
    if not isinstance(given, str) or not _OF_DAY.fullmatch(given.strip()):
        shown = repr(given)[:_SHOWN_CHARACTERS_MAX]
        raise fault(
            "not_a_time",
            f"{shown} is not a time of day: write 00:00 to 23:59, or with seconds 02:30:15",
        )
    return given.strip().removesuffix(":00") if given.count(":") > 1 else given.strip()


Instant = Annotated[
    datetime,
    BeforeValidator(parse_instant),
    WithJsonSchema(
        {"type": "string", "format": "date-time", "examples": ["2026-12-01T09:00:00+01:00"]}
    ),
]
"""An instant between 1970 and 2199; written with its offset, stored in UTC."""

LocalTime = Annotated[
    datetime,
    BeforeValidator(parse_local),
    WithJsonSchema({"type": "string", "examples": ["2026-12-01T09:00:00"]}),
]
"""A local time without a zone."""

TimeOfDay = Annotated[
    str,
    BeforeValidator(parse_time_of_day),
    WithJsonSchema({"type": "string", "examples": ["02:30"], "pattern": _OF_DAY.pattern}),
]
"""A time of day: HH:MM or HH:MM:SS."""


_LONG = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WORDS = {
    word: day for day, long in zip(WEEKDAYS, _LONG, strict=True) for word in (day.value, long)
}
_NTH_WRITTEN = re.compile(r"(1st|2nd|3rd|4th|5th|last)\s+([a-z]+)")
_NUMBER = re.compile(r"[0-9]{1,2}")
_SHOWN_DAY_CHARACTERS_MAX = 40


def weekday_of(given: Any) -> Weekday:
    """Return the day of "mon", "Monday" or 1 (0 is Sunday); raise a fault otherwise."""
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given <= 6:
        return WEEKDAYS[(given - 1) % 7]
    found = _WORDS.get(given.strip().lower()) if isinstance(given, str) else None
    if found is None:
        shown = repr(given)[:_SHOWN_DAY_CHARACTERS_MAX]
        raise fault(
            "weekday",
            f"{shown} is not a day of the week: write {', '.join(WEEKDAYS)}, or 0 (Sunday) to 6",
        )
    return found


def day_of(given: Any) -> int | str:
    """Return 15, "last", "2nd tue" or "last fri" in canonical form; raise a fault otherwise."""
    if isinstance(given, str) and _NUMBER.fullmatch(given.strip()):
        given = int(given)
    if isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= 31:
        return given
    text = given.strip().lower() if isinstance(given, str) else ""
    if text == "last":
        return text
    found = _NTH_WRITTEN.fullmatch(text)
    if found is not None and found[2] in _WORDS:
        return f"{found[1]} {_WORDS[found[2]]}"
    words = (
        'write 1 to 31, "last", or 1st to 5th or last and a weekday, '
        'such as "2nd tue" or "last fri"'
    )
    raise fault(
        "day", f"{repr(given)[:_SHOWN_DAY_CHARACTERS_MAX]} is not a day of a month: {words}"
    )


Day = Annotated[
    int | str,
    BeforeValidator(day_of),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 1, "maximum": 31}, {"type": "string"}],
            "examples": [15, "last", "2nd tue"],
        }
    ),
]
"""A day of the month: 1 to 31, "last", "2nd tue", "last fri"."""
