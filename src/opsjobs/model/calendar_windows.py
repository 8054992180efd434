"""Windows of calendars: their notation, and the time spans that they cover."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Literal, Protocol
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from opsjobs.model import text_patterns
from opsjobs.model.api_model import ApiModel
from opsjobs.model.naming import Title
from opsjobs.model.time_zones import stretches
from opsjobs.model.validation_errors import fault

FIRST_YEAR, LAST_YEAR = 1970, 2199
DATES_MAX = 1_000
RANGES_MAX = 100
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

_DAY = timedelta(days=1)
_WEEK_SECONDS = 7 * 86_400
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:?\d\d)?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_TIME = re.compile(rf"(?:({'|'.join(WEEKDAYS)}) )?(\d\d):(\d\d)(?::(\d\d))?")
_RANGE = re.compile(r"(\d\d)-(\d\d)(?:\.\.(\d\d)-(\d\d))?")
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open span of time in UTC, with its description."""

    start: datetime
    end: datetime
    words: str


# --- notation


def read_moment(given: object) -> datetime:
    """Return an instant in UTC (written with an offset) or a local time (without one).

    Raises ValueError with the expected format."""
    if isinstance(given, datetime):
        return given
    if not isinstance(given, str) or not _MOMENT.fullmatch(given):
        words = (
            "write a time such as 2026-12-24T18:00 (in the calendar's zone) or "
            "2026-12-24T18:00:00+01:00; whole days are dates"
        )
        raise ValueError(f"{_short(given)} is not a time: {words}")
    try:
        found = datetime.fromisoformat(given)
        found = found if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError) as wrong:
        raise ValueError(f"{_short(given)} is not a time: {wrong}") from None
    _check_year(found.year)
    return found


def _date(given: object) -> date:
    if isinstance(given, date) and not isinstance(given, datetime):
        return given
    if not isinstance(given, str) or not _DATE.fullmatch(given):
        raise ValueError(f"{_short(given)} is not a date: write it such as 2026-12-25")
    try:
        found = date.fromisoformat(given)
    except ValueError as wrong:
        raise ValueError(f"{given!r} is not a date: {wrong}") from None
    _check_year(found.year)
    return found


def _check_year(year: int) -> None:
    if not FIRST_YEAR <= year <= LAST_YEAR:
        raise ValueError(f"the year {year} is not one of {FIRST_YEAR} to {LAST_YEAR}")


def _weekday(given: object) -> object:
    return given.lower() if isinstance(given, str) else given


def _time(text: str) -> str:
    """Validate a time such as `22:00`, `22:00:30` or `fri 22:00`; `24:00` is the end of a day."""
    match = _TIME.fullmatch(text.lower())
    words = "write it such as 22:00, or fri 22:00 for one that lasts over days"
    if match is None:
        raise ValueError(f"{_short(text)} is not a local time: {words}")
    hour, minute, second = int(match[2]), int(match[3]), int(match[4] or 0)
    if not (hour < 24 and minute < 60 and second < 60) and (hour, minute, second) != (24, 0, 0):
        raise ValueError(f"{_short(text)} is not a local time: 00:00 to 24:00; {words}")
    return text.lower()


def _range(text: str) -> str:
    """Validate a part of the year such as `12-24..01-02` (inclusive), or one day: `12-25`."""
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{_short(text)} is not a part of a year: write days such as 12-24..01-02 (both are in "
            "it) or 12-25"
        )
    for month, day in ((match[1], match[2]), (match[3] or match[1], match[4] or match[2])):
        if not 1 <= int(month) <= 12 or not 1 <= int(day) <= _LONGEST[int(month) - 1]:
            raise ValueError(f"{_short(text)}: there is no day {month}-{day} (month-day)")
    return text


def _short(given: object) -> str:
    return repr(given if not isinstance(given, str) else given[:40])[:60]


def _format_moment(moment: datetime) -> str:
    text = moment.replace(tzinfo=None).isoformat()
    return text if moment.tzinfo is None else f"{text}Z"


Moment = Annotated[
    datetime,
    BeforeValidator(read_moment),
    PlainSerializer(_format_moment, return_type=str),
    WithJsonSchema(
        {"type": "string", "examples": ["2026-12-24T18:00", "2026-12-24T18:00:00+01:00"]}
    ),
]
"""An instant in UTC if an offset was written, else a local time of the calendar's zone."""
Time = Annotated[str, Field(max_length=16, examples=["22:00", "fri 22:00"]), AfterValidator(_time)]
YearlyRange = Annotated[
    str, Field(max_length=16, examples=["12-24..01-02"]), AfterValidator(_range)
]
Day = Annotated[
    date,
    BeforeValidator(_date),
    PlainSerializer(date.isoformat, return_type=str),
    WithJsonSchema({"type": "string", "format": "date"}),
]


def _as_list(given: object) -> object:
    return [given] if isinstance(given, str) else given


class WindowDraft(ApiModel):
    """One window, written in one of several ways; `name` is for people.

    `from`, `until`: instants or local times, one of which may be missing (open-ended). `weekdays`:
    these days, whole or from `start` to `end`. `dates`: these days, likewise. `yearly`: days of
    every year, whole. `start` and `end` alone: every day; with weekdays in them (fri 22:00, mon
    06:00) one span a week. An end that is not after its start is on the next day."""

    model_config = ConfigDict(serialize_by_alias=True)

    name: Title | None = Field(
        default=None, min_length=1, max_length=200, pattern=text_patterns.LINE
    )
    from_: Moment | None = Field(default=None, alias="from")
    until: Moment | None = None
    weekdays: list[Annotated[Weekday, BeforeValidator(_weekday)]] | None = Field(
        default=None, min_length=1, max_length=7
    )
    dates: list[Day] | None = Field(default=None, min_length=1, max_length=DATES_MAX)
    yearly: Annotated[list[YearlyRange], BeforeValidator(_as_list)] | None = Field(
        default=None, min_length=1, max_length=RANGES_MAX
    )
    start: Time | None = None
    end: Time | None = None

    @model_validator(mode="after")
    def _check_one_form(self) -> WindowDraft:
        given = [
            name for name in ("weekdays", "dates", "yearly") if getattr(self, name) is not None
        ]
        if self.from_ is not None or self.until is not None:
            given.insert(0, "from" if self.from_ is not None else "until")
        if len(given) > 1:
            words = f"{given[0]} and {given[1]} do not go together: make two windows of them"
            raise fault("invalid_window", words, given[1])
        if not given and self.start is None and self.end is None:
            words = (
                "it says no time: write from and until, or weekdays, or dates, or yearly, or "
                "start and end"
            )
            raise fault("invalid_window", words)
        if given[:1] == ["from"] and self.until is not None:
            self._check_order()
        self._check_times(given[0] if given else None)
        return self

    def _check_order(self) -> None:
        assert self.from_ is not None
        assert self.until is not None
        comparable = (self.from_.tzinfo is None) == (self.until.tzinfo is None)
        if not comparable:
            raise fault("invalid_window", "write both with an offset or both without one", "until")
        if self.until <= self.from_:
            raise fault("invalid_window", "until must be later than from", "until")

    def _check_times(self, way: str | None) -> None:
        if self.start is None and self.end is None:
            return
        if way in ("from", "until", "yearly"):
            at = "start" if self.start is not None else "end"
            raise fault(
                "invalid_window",
                f"{way} takes no {at}: it is for weekdays, for dates and for every day",
                at,
            )
        if self.start is None or self.end is None:
            missing, other = ("start", "end") if self.start is None else ("end", "start")
            raise fault(
                "invalid_window",
                f"{other} is there and {missing} is not: write both, or neither for whole days",
                missing,
            )
        if self.start.endswith("24:00"):
            raise fault(
                "invalid_window", "a day ends at 24:00, and none starts then: write 00:00", "start"
            )
        _check_part(self.start, self.end, way)

    def compiled(self) -> Window:
        """Return the compiled window."""
        label = f"{self.name}: " if self.name else ""
        if self.from_ is not None or self.until is not None:
            return _Once(self.from_, self.until, label)
        if self.yearly is not None:
            return _Yearly(tuple(_days(text) for text in self.yearly), label)
        if self.start is not None and self.end is not None and " " in self.start:
            return _Weekly(self.start, self.end, label)
        whole = self.start is None or self.end is None
        part = (0, 86_400) if whole else (_seconds(self.start or ""), _seconds(self.end or ""))
        words = "" if whole else f" {self.start} to {self.end}"
        if self.dates is not None:
            return _Dates(tuple(sorted(set(self.dates))), part, words, label)
        chosen = tuple(day for day in WEEKDAYS if self.weekdays is None or day in self.weekdays)
        return _Weekdays(
            frozenset(WEEKDAYS.index(d) for d in chosen), part, _listing(chosen) + words, label
        )


def _check_part(start: str, end: str, way: str | None) -> None:
    """Raise a fault if the two do not form a part of a day, or of a week."""
    weekly = " " in start
    if weekly != (" " in end):
        raise fault(
            "invalid_window",
            "write the weekday in both start and end, or in neither",
            "end" if weekly else "start",
        )
    if weekly and way is not None:
        raise fault(
            "invalid_window",
            f"a stretch over days stands alone: take {way} away, or the weekday in start and end",
            way,
        )
    if (_of_week(end) - _of_week(start)) % _WEEK_SECONDS == 0:
        meant = "write all seven weekdays" if weekly else "leave both out"
        raise fault(
            "invalid_window",
            f"it is the same as start: if you mean all of the time, {meant}",
            "end",
        )


def _listing(days: Sequence[str]) -> str:
    return "every day" if len(days) == 7 else ", ".join(days)


def _seconds(text: str) -> int:
    """Return the seconds of the day of a time such as `fri 22:00`."""
    match = _TIME.fullmatch(text)
    assert match is not None
    return int(match[2]) * 3600 + int(match[3]) * 60 + int(match[4] or 0)


def _of_week(text: str) -> int:
    """Return the seconds since Monday of a time with a weekday, else those of the day."""
    match = _TIME.fullmatch(text)
    assert match is not None
    return _seconds(text) + (WEEKDAYS.index(match[1]) * 86_400 if match[1] else 0)


def _days(text: str) -> tuple[tuple[int, int], tuple[int, int]]:
    match = _RANGE.fullmatch(text)
    assert match is not None
    first = (int(match[1]), int(match[2]))
    return first, (int(match[3]), int(match[4])) if match[3] else first


# --- meaning


class Window(Protocol):
    """A window of a calendar."""

    def spans(self, zone: ZoneInfo, since: datetime, until: datetime) -> Iterator[Span]:
        """Yield its spans that may overlap the time from `since` to `until` (UTC), unordered."""


_OPEN = (datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class _Once:
    start: datetime | None
    end: datetime | None
    label: str

    def spans(
        self,
        zone: ZoneInfo,
        since: datetime,  # noqa: ARG002  the same as other windows
        until: datetime,  # noqa: ARG002  likewise
    ) -> Iterator[Span]:
        words = self.label + " ".join(
            f"{word} {_format_moment(at).replace('T', ' ')}"
            for word, at in (("from", self.start), ("until", self.end))
            if at is not None
        )
        start, end = self.start, self.end
        if all(at is None or at.tzinfo is not None for at in (start, end)):
            yield Span(start or _OPEN[0], end or _OPEN[1], words)
            return
        for first, last in stretches(
            start or _OPEN[0].replace(tzinfo=None), end or _OPEN[1].replace(tzinfo=None), zone
        ):
            yield Span(first, last, words)


def _dates_of(zone: ZoneInfo, since: datetime, until: datetime) -> tuple[date, date]:
    """Return the local days, from the one before to the one after.

    A span that starts on one day may extend into the next one."""
    first = max(since.astimezone(zone).date() - _DAY, date(FIRST_YEAR, 1, 1))
    return first, min(until.astimezone(zone).date() + _DAY, date(LAST_YEAR, 12, 31))


def _parts(
    days: Iterator[date], part: tuple[int, int], zone: ZoneInfo
) -> Iterator[tuple[date, datetime, datetime]]:
    start, end = part
    if end <= start:
        end += 86_400
    for day in days:
        midnight = datetime.combine(day, time())
        for first, last in stretches(
            midnight + timedelta(seconds=start), midnight + timedelta(seconds=end), zone
        ):
            yield day, first, last


@dataclass(frozen=True, slots=True)
class _Weekdays:
    days: frozenset[int]
    part: tuple[int, int]
    words: str
    label: str

    def spans(self, zone: ZoneInfo, since: datetime, until: datetime) -> Iterator[Span]:
        first, last = _dates_of(zone, since, until)
        every_day = (first + n * _DAY for n in range((last - first).days + 1))
        days = (day for day in every_day if day.weekday() in self.days)
        for _, start, end in _parts(days, self.part, zone):
            yield Span(start, end, self.label + self.words)


@dataclass(frozen=True, slots=True)
class _Dates:
    days: tuple[date, ...]
    part: tuple[int, int]
    words: str
    label: str

    def spans(self, zone: ZoneInfo, since: datetime, until: datetime) -> Iterator[Span]:
        first, last = _dates_of(zone, since, until)
        days = iter(self.days[bisect_left(self.days, first) : bisect_left(self.days, last + _DAY)])
        for day, start, end in _parts(days, self.part, zone):
            yield Span(start, end, f"{self.label}{day}{self.words}")


@dataclass(frozen=True, slots=True)
class _Weekly:
    start: str
    end: str
    label: str

    def spans(self, zone: ZoneInfo, since: datetime, until: datetime) -> Iterator[Span]:
        start = _of_week(self.start)
        length = (_of_week(self.end) - start) % _WEEK_SECONDS
        first, last = _dates_of(zone, since, until)
        monday = first - (first.weekday() + 7) * _DAY
        while monday <= last:
            begin = datetime.combine(monday, time()) + timedelta(seconds=start)
            for one, other in stretches(begin, begin + timedelta(seconds=length), zone):
                yield Span(one, other, f"{self.label}{self.start} to {self.end}")
            monday += 7 * _DAY


@dataclass(frozen=True, slots=True)
class _Yearly:
    ranges: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    label: str

    def spans(self, zone: ZoneInfo, since: datetime, until: datetime) -> Iterator[Span]:
        first, last = _dates_of(zone, since, until)
        for year in range(first.year - 1, last.year + 1):
            for begin, end in self.ranges:
                start, after = _on(year, begin), _on(year + (end < begin), end, past=True)
                if after < first or start > last:
                    continue
                words = (
                    f"{self.label}every year "
                    f"{_month_day(begin)}{f' to {_month_day(end)}' if end != begin else ''}"
                )
                for one, other in stretches(
                    datetime.combine(start, time()), datetime.combine(after, time()), zone
                ):
                    yield Span(one, other, words)


def _on(year: int, month_day: tuple[int, int], *, past: bool = False) -> date:
    """Return the day in this year, or with `past` the day after it.

    Without a 29th of February, both are the 1st of March."""
    month, day = month_day
    if (month, day) == (2, 29) and not (year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)):
        return date(year, 3, 1)
    return date(year, month, day) + (_DAY if past else timedelta())


def _month_day(month_day: tuple[int, int]) -> str:
    return f"{month_day[0]:02}-{month_day[1]:02}"
