"""Calendars: times at which schedules that name them do not fire, with the reasons."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import Field, model_validator

from opsjobs.model.api_model import ApiModel
from opsjobs.model.calendar_windows import FIRST_YEAR, LAST_YEAR, Span, Window, WindowDraft
from opsjobs.model.execution import moment
from opsjobs.model.naming import Name
from opsjobs.model.time_zones import ZoneName, zone
from opsjobs.model.validation_errors import fault

WINDOWS_MAX = 200
DAYS_MAX = 5_000
RANGES_MAX = 400
SEEN_DAYS = (2, 32, 400)
"""The steps of the look-ahead of `closed`, in days: nearly always the first is enough."""
LOOKS_MAX = 10_000
"""The limit of windows times days of one look-ahead, so that other requests do not wait."""


class CalendarKind(StrEnum):
    """The kind of a calendar: `blackout` is closed inside its windows, `only` outside."""

    BLACKOUT = "blackout"
    ONLY = "only"


class CalendarDraft(ApiModel):
    """A calendar as a caller writes it (body of POST and PUT /calendars).

    Local times are those of `timezone`."""

    name: Name
    description: str = Field(default="", max_length=2_000)
    timezone: ZoneName = "UTC"
    kind: CalendarKind = CalendarKind.BLACKOUT
    windows: list[WindowDraft] = Field(min_length=1, max_length=WINDOWS_MAX)

    @model_validator(mode="after")
    def _not_too_many_days(self) -> CalendarDraft:
        days = sum(len(window.dates or ()) for window in self.windows)
        if days > DAYS_MAX:
            words = (
                f"there are {days} dates in all windows together, the limit is {DAYS_MAX}: let "
                "years that are over go"
            )
            raise fault("too_many_dates", words, "windows")
        ranges = sum(len(window.yearly or ()) for window in self.windows)
        if ranges > RANGES_MAX:
            words = (
                f"there are {ranges} parts of the year in all windows together, the limit is "
                f"{RANGES_MAX}"
            )
            raise fault("too_many_dates", words, "windows")
        return self

    def data(self) -> dict[str, Any]:
        """Return the canonical body; windows contain only the fields that were set."""
        return {
            **self.model_dump(mode="json"),
            "windows": [w.model_dump(mode="json", exclude_none=True) for w in self.windows],
        }


class Calendar:
    """A compiled calendar."""

    def __init__(self, draft: CalendarDraft) -> None:
        self.name = draft.name
        self.kind = draft.kind
        self.zone = zone(draft.timezone)
        self._windows: tuple[Window, ...] = tuple(window.compiled() for window in draft.windows)

    @property
    def size(self) -> int:
        """The number of its windows."""
        return len(self._windows)

    def spans(self, since: datetime, until: datetime) -> Iterator[Span]:
        """Yield the spans of its windows that overlap this time (UTC), in no order."""
        for window in self._windows:
            for span in window.spans(self.zone, since, until):
                if span.start < until and span.end > since:
                    yield span


@dataclass(frozen=True, slots=True)
class Closed:
    """The reason why calendars forbid firing at an instant.

    `calendar`: the calendar that is closed (of several `only` calendars all of them). `until`: when
    the calendars together are open again; None if that is too far ahead (usually over a year, or
    never). `zone` is the calendar's time zone."""

    calendar: str
    reason: str
    until: datetime | None
    zone: ZoneInfo

    @property
    def words(self) -> str:
        """The description of the closure.

        Such as: closed by the calendar holidays (Christmas: 2026-12-25) until 2026-12-26 00:00 in
        …."""
        end = (
            "with no end in sight"
            if self.until is None
            else f"until {self.local_until} in {self.zone.key}"
        )
        return f"closed by the calendar {self.calendar} ({self.reason}) {end}"

    @property
    def local_until(self) -> str | None:
        """`until` in the calendar's zone, to the minute unless it has seconds."""
        if self.until is None:
            return None
        there = self.until.astimezone(self.zone).replace(tzinfo=None)
        return there.isoformat(" ", "seconds" if there.second else "minutes")

    def data(self) -> dict[str, Any]:
        """Return the JSON of API responses."""
        return {"calendar": self.calendar, "reason": self.reason, "until": moment(self.until)}


def closed(calendars: Iterable[Calendar], instant: datetime) -> Closed | None:
    """Return why an instant is closed; None if it is open.

    It is closed inside of any blackout, or outside of all `only` calendars if there are any. For
    many instants near each other use `Closures`. An instant outside of the years that windows may
    have is open."""
    asked = tuple(calendars)
    if not asked or not FIRST_YEAR <= instant.year <= LAST_YEAR:
        return None
    found: Closed | None = None
    for days in _looks(asked):
        found = Closures(asked, instant, instant + timedelta(days=days)).at(instant)
        if found is None or found.until is not None:
            break
    return found


def _looks(calendars: Sequence[Calendar]) -> Sequence[int]:
    """Return the look-ahead steps in days."""
    windows = sum(calendar.size for calendar in calendars)
    return [days for days in SEEN_DAYS if days == SEEN_DAYS[0] or days * windows <= LOOKS_MAX]


def closes(calendars: Iterable[Calendar], instant: datetime) -> datetime | None:
    """Return when calendars open at this instant close next; None if beyond the look-ahead."""
    asked = tuple(calendars)
    if not asked or not FIRST_YEAR <= instant.year <= LAST_YEAR:
        return None
    looks = (
        Closures(asked, instant, instant + timedelta(days=days)).after(instant)
        for days in _looks(asked)
    )
    return next((found for found in looks if found is not None), None)


class Asked:
    """A cache of `closed` for many instants, mostly ascending: same results at lower cost."""

    def __init__(self, calendars: Iterable[Calendar]) -> None:
        self._calendars = tuple(calendars)
        self._windows = sum(calendar.size for calendar in self._calendars)
        self._days = SEEN_DAYS[0]
        self._since = self._until = datetime.min.replace(tzinfo=UTC)
        self._closures: Closures | None = None
        self._last: Closed | None = None

    def at(self, instant: datetime) -> Closed | None:
        """Return why an instant is closed; None if it is open."""
        if not self._calendars or not FIRST_YEAR <= instant.year <= LAST_YEAR:
            return None
        if self._closures is None or not self._since <= instant < self._until:
            self._look(instant)
        assert self._closures is not None
        found = self._closures.at(instant)
        if found is None or found.until is not None:
            return found
        # The calendar is closed to the end of the range: such instants share one span, whose end is
        # searched only once.
        if self._last is None:
            self._last = closed(self._calendars, instant)
        return replace(found, until=self._last.until if self._last is not None else None)

    def _look(self, instant: datetime) -> None:
        """Compute the closures from this instant on; the range doubles when instants move on."""
        if self._closures is not None and instant >= self._until:
            self._days = min(self._days * 2, max(LOOKS_MAX // max(self._windows, 1), SEEN_DAYS[0]))
        self._since, self._until = instant, instant + timedelta(days=self._days)
        self._closures, self._last = Closures(self._calendars, self._since, self._until), None


class Closures:
    """The closed spans of some calendars between two instants, computed once and bisected."""

    def __init__(self, calendars: Iterable[Calendar], since: datetime, until: datetime) -> None:
        asked = tuple(calendars)
        self._since, self._until = since.astimezone(UTC), until.astimezone(UTC)
        blackouts = [
            (span, c)
            for c in asked
            if c.kind is CalendarKind.BLACKOUT
            for span in c.spans(self._since, self._until)
        ]
        self._inside = _laid_out(self._since, self._until, blackouts)
        only = [c for c in asked if c.kind is CalendarKind.ONLY]
        self._outside = self._without(only) if only else []
        self._runs = _runs([*self._inside, *self._outside])

    def at(self, instant: datetime) -> Closed | None:
        """Return why an instant of the range is closed, as `closed` does.

        `until` is None if the closure does not end within the range."""
        found = _holding(self._inside, instant) or _holding(self._outside, instant)
        if found is None:
            return None
        run = _holding(self._runs, instant)
        assert run is not None
        end = None if run.end >= self._until else run.end
        return Closed(found.calendar, found.words, end, found.zone)

    def after(self, instant: datetime) -> datetime | None:
        """Return when they close next after an instant of the range."""
        position = bisect_right(self._runs, instant, key=lambda piece: piece.start)
        return self._runs[position].start if position < len(self._runs) else None

    def _without(self, only: Sequence[Calendar]) -> list[_Piece]:
        """Return the gaps between the windows of these calendars."""
        names = ", ".join(calendar.name for calendar in only)
        words = "outside its windows" if len(only) == 1 else "outside the windows of all of them"
        spans = [(span, c) for c in only for span in c.spans(self._since, self._until)]
        gaps: list[_Piece] = []
        here = self._since
        for piece in _runs(_laid_out(self._since, self._until, spans)):
            if here < piece.start:
                gaps.append(_Piece(here, piece.start, names, words, only[0].zone))
            here = piece.end
        return (
            [*gaps, _Piece(here, self._until, names, words, only[0].zone)]
            if here < self._until
            else gaps
        )


@dataclass(frozen=True, slots=True)
class _Piece:
    """A half-open span, and the calendar that is its reason."""

    start: datetime
    end: datetime
    calendar: str
    words: str
    zone: ZoneInfo


def _laid_out(
    since: datetime, until: datetime, spans: Iterable[tuple[Span, Calendar]]
) -> list[_Piece]:
    """Return the spans in order and without overlap; an overlap belongs to the earlier one."""
    pieces: list[_Piece] = []
    here = since
    for span, calendar in sorted(spans, key=lambda one: (one[0].start, one[0].end)):
        start, end = max(span.start, here), min(span.end, until)
        if start < end:
            pieces.append(_Piece(start, end, calendar.name, span.words, calendar.zone))
            here = end
    return pieces


def _runs(pieces: Iterable[_Piece]) -> list[_Piece]:
    """Return the pieces with those that touch or overlap merged."""
    runs: list[_Piece] = []
    for piece in sorted(pieces, key=lambda one: one.start):
        if runs and piece.start <= runs[-1].end:
            runs[-1] = replace(runs[-1], end=max(runs[-1].end, piece.end))
        else:
            runs.append(piece)
    return runs


def _holding(pieces: Sequence[_Piece], instant: datetime) -> _Piece | None:
    position = bisect_right(pieces, instant, key=lambda piece: piece.start) - 1
    return pieces[position] if position >= 0 and instant < pieces[position].end else None
