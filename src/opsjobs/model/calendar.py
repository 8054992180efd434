"""Calendars: when schedules that name them do not fire, why, and until when."""

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
from opsjobs.model.draft_error import fault
from opsjobs.model.execution import moment
from opsjobs.model.target import Name
from opsjobs.model.time_zones import ZoneName, zone

WINDOWS_AT_MOST = 200
DAYS_AT_MOST = 5_000
RANGES_AT_MOST = 400
SEEN_DAYS = (2, 32, 400)
"""How far `closed` looks for the end, in steps: nearly always the first one is enough."""
LOOKS_AT_MOST = 10_000
"""Windows times days: with many windows it does not look so far, for others wait meanwhile."""


class CalendarKind(StrEnum):
    """`blackout`: closed inside of its windows. `only`: closed outside of them."""

    BLACKOUT = "blackout"
    ONLY = "only"


class CalendarDraft(ApiModel):
    """What a caller writes of a calendar (body of POST and PUT /calendars). Local times are those of `timezone`."""

    name: Name
    description: str = Field(default="", max_length=2_000)
    timezone: ZoneName = "UTC"
    kind: CalendarKind = CalendarKind.BLACKOUT
    windows: list[WindowDraft] = Field(min_length=1, max_length=WINDOWS_AT_MOST)

    @model_validator(mode="after")
    def _not_too_many_days(self) -> CalendarDraft:
        days = sum(len(window.dates or ()) for window in self.windows)
        if days > DAYS_AT_MOST:
            words = f"there are {days} dates in all windows together, the limit is {DAYS_AT_MOST}: let years that are over go"
            raise fault("too_many_dates", words, "windows")
        ranges = sum(len(window.yearly or ()) for window in self.windows)
        if ranges > RANGES_AT_MOST:
            words = f"there are {ranges} parts of the year in all windows together, the limit is {RANGES_AT_MOST}"
            raise fault("too_many_dates", words, "windows")
        return self

    def data(self) -> dict[str, Any]:
        """The canonical body: windows with what was said of them only."""
        return {**self.model_dump(mode="json"), "windows": [w.model_dump(mode="json", exclude_none=True) for w in self.windows]}


class Calendar:
    """A calendar that can be asked."""

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
        """The stretches of its windows that have something of this time (UTC) in them, in no order."""
        for window in self._windows:
            for span in window.spans(self.zone, since, until):
                if span.start < until and span.end > since:
                    yield span


@dataclass(frozen=True, slots=True)
class Closed:
    """That nothing is to fire now: which calendar says so (of several `only` ones all), and why.

    `until`: when the calendars together are open again; None where that is not in sight (mostly over a year away, or never).
    `zone` is the calendar's.
    """

    calendar: str
    reason: str
    until: datetime | None
    zone: ZoneInfo

    @property
    def words(self) -> str:
        """The whole in words, such as: closed by the calendar holidays (Christmas: 2026-12-25) until 2026-12-26 00:00 in …."""
        end = "with no end in sight" if self.until is None else f"until {self.local_until} in {self.zone.key}"
        return f"closed by the calendar {self.calendar} ({self.reason}) {end}"

    @property
    def local_until(self) -> str | None:
        """`until` as clocks in the calendar's zone show it, to the minute unless it has seconds."""
        if self.until is None:
            return None
        there = self.until.astimezone(self.zone).replace(tzinfo=None)
        return there.isoformat(" ", "seconds" if there.second else "minutes")

    def data(self) -> dict[str, Any]:
        """As it stands in answers."""
        return {"calendar": self.calendar, "reason": self.reason, "until": moment(self.until)}


def closed(calendars: Iterable[Calendar], instant: datetime) -> Closed | None:
    """Whether an instant is in any blackout, or outside of all `only` calendars where there are any; None = open.

    For many instants near each other ask `Closures`. An instant beyond the years that windows may have is open.
    """
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
    """How many days to look ahead, first and then."""
    windows = sum(calendar.size for calendar in calendars)
    return [days for days in SEEN_DAYS if days == SEEN_DAYS[0] or days * windows <= LOOKS_AT_MOST]


def closes(calendars: Iterable[Calendar], instant: datetime) -> datetime | None:
    """When calendars that are open at this instant close next; None where that is not in sight."""
    asked = tuple(calendars)
    if not asked or not FIRST_YEAR <= instant.year <= LAST_YEAR:
        return None
    looks = (Closures(asked, instant, instant + timedelta(days=days)).after(instant) for days in _looks(asked))
    return next((found for found in looks if found is not None), None)


class Asked:
    """Some calendars that are asked for many instants, mostly one behind the other: answers as `closed`, for a part of its cost."""

    def __init__(self, calendars: Iterable[Calendar]) -> None:
        self._calendars = tuple(calendars)
        self._windows = sum(calendar.size for calendar in self._calendars)
        self._days = SEEN_DAYS[0]
        self._since = self._until = datetime.min.replace(tzinfo=UTC)
        self._closures: Closures | None = None
        self._last: Closed | None = None

    def at(self, instant: datetime) -> Closed | None:
        """Whether it is closed at an instant."""
        if not self._calendars or not FIRST_YEAR <= instant.year <= LAST_YEAR:
            return None
        if self._closures is None or not self._since <= instant < self._until:
            self._look(instant)
        assert self._closures is not None
        found = self._closures.at(instant)
        if found is None or found.until is not None:
            return found
        # It is closed to the end of what was looked at: all such instants are in one stretch, whose end is looked for once.
        if self._last is None:
            self._last = closed(self._calendars, instant)
        return replace(found, until=self._last.until if self._last is not None else None)

    def _look(self, instant: datetime) -> None:
        """From this instant on; ever further, if they go on."""
        if self._closures is not None and instant >= self._until:
            self._days = min(self._days * 2, max(LOOKS_AT_MOST // max(self._windows, 1), SEEN_DAYS[0]))
        self._since, self._until = instant, instant + timedelta(days=self._days)
        self._closures, self._last = Closures(self._calendars, self._since, self._until), None


class Closures:
    """When some calendars are closed between two instants: computed once, asked often (by bisection)."""

    def __init__(self, calendars: Iterable[Calendar], since: datetime, until: datetime) -> None:
        asked = tuple(calendars)
        self._since, self._until = since.astimezone(UTC), until.astimezone(UTC)
        blackouts = [(span, c) for c in asked if c.kind is CalendarKind.BLACKOUT for span in c.spans(self._since, self._until)]
        self._inside = _laid_out(self._since, self._until, blackouts)
        only = [c for c in asked if c.kind is CalendarKind.ONLY]
        self._outside = self._without(only) if only else []
        self._runs = _runs([*self._inside, *self._outside])

    def at(self, instant: datetime) -> Closed | None:
        """As `closed`, of an instant between the two; `until` is None where it is not before the second one."""
        found = _holding(self._inside, instant) or _holding(self._outside, instant)
        if found is None:
            return None
        run = _holding(self._runs, instant)
        assert run is not None
        end = None if run.end >= self._until else run.end
        return Closed(found.calendar, found.words, end, found.zone)

    def after(self, instant: datetime) -> datetime | None:
        """When they close next after an instant between the two."""
        position = bisect_right(self._runs, instant, key=lambda piece: piece.start)
        return self._runs[position].start if position < len(self._runs) else None

    def _without(self, only: Sequence[Calendar]) -> list[_Piece]:
        """What lies between the windows of these."""
        names = ", ".join(calendar.name for calendar in only)
        words = "outside its windows" if len(only) == 1 else "outside the windows of all of them"
        spans = [(span, c) for c in only for span in c.spans(self._since, self._until)]
        gaps: list[_Piece] = []
        here = self._since
        for piece in _runs(_laid_out(self._since, self._until, spans)):
            if here < piece.start:
                gaps.append(_Piece(here, piece.start, names, words, only[0].zone))
            here = piece.end
        return [*gaps, _Piece(here, self._until, names, words, only[0].zone)] if here < self._until else gaps


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch, its end not in it, of which one calendar is the reason."""

    start: datetime
    end: datetime
    calendar: str
    words: str
    zone: ZoneInfo


def _laid_out(since: datetime, until: datetime, spans: Iterable[tuple[Span, Calendar]]) -> list[_Piece]:
    """The stretches side by side, in order: what two have in common is the earlier one's."""
    pieces: list[_Piece] = []
    here = since
    for span, calendar in sorted(spans, key=lambda one: (one[0].start, one[0].end)):
        start, end = max(span.start, here), min(span.end, until)
        if start < end:
            pieces.append(_Piece(start, end, calendar.name, span.words, calendar.zone))
            here = end
    return pieces


def _runs(pieces: Iterable[_Piece]) -> list[_Piece]:
    """The same with those that touch or overlap made one."""
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
