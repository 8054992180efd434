"""Recurring schedules by minutes, hours, days, weeks or months. The only user of dateutil."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from typing import Any, Literal

from dateutil import rrule
from dateutil.rrule import FR, MO, SA, SU, TH, TU, WE

from opsjobs.model.api_model import HORIZON


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
