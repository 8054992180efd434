"""Time zones: their names, their rules and the version of these, and local times.

The rules are those of the package `tzdata`, never the host's own: all processes of one release
agree about every instant, and the version is known. See docs/decisions/0039.

`Wall` converts local times to instants, including nonexistent and ambiguous ones. A *label* is a
local time: a naive datetime in whole seconds. Most labels are one instant. Those that a zone skips
(a gap) are none, those that it repeats (a fold) are two."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Annotated, Protocol
from zoneinfo import ZoneInfo

import tzdata
from pydantic import AfterValidator, Field, ValidationInfo

from opsjobs.model.api_model import HORIZON, stored
from opsjobs.model.validation_errors import fault

_SECOND = timedelta(seconds=1)
_NO_PLACES = {"Factory"}  # the entry for an unset zone in the tz database
_SHOWN_CHARACTERS_MAX = 60
_OFFSET = re.compile(r"(?:GMT|UTC|gmt|utc)?([+-])(\d{1,2})(?::?00)?")


def tzdata_version() -> str:
    """Return the version of the rules, such as "2026b"; later versions sort later."""
    return str(tzdata.IANA_VERSION)


@cache
def zone_names() -> frozenset[str]:
    """Return every accepted name, including old ones such as US/Eastern."""
    return frozenset((resources.files("tzdata") / "zones").read_text().split()) - _NO_PLACES


@cache
def zone(name: str) -> ZoneInfo:
    """Return the zone of this name. Raises ValueError if there is none.

    A name is looked up, never opened as a path."""
    if name not in zone_names():
        raise ValueError(f"{name!r} is not a zone")
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as rules:
        return ZoneInfo.from_file(rules, key=name)


def check_zone(name: str, info: ValidationInfo) -> str:
    """Return the name of a zone, or raise a fault that suggests the nearest one.

    Stored names are not validated again."""
    if stored(info) or name in zone_names():
        return name
    allowed = "write a name of the IANA database, such as Europe/Berlin, America/New_York or UTC"
    raise fault(
        "unknown_zone",
        f"{name[:_SHOWN_CHARACTERS_MAX]!r} is not a time zone: {allowed}{_hint(name)}",
    )


def _hint(name: str) -> str:
    """Return a suggestion for an unknown name.

    For an offset it is the zone that always has it, whose name has the opposite sign."""
    if offset := _OFFSET.fullmatch(name):
        fixed = f"Etc/GMT{'-' if offset[1] == '+' else '+'}{int(offset[2])}"
        return f"; {fixed} is always {offset[1]}{int(offset[2])}" if fixed in zone_names() else ""
    alike = {one.lower(): one for one in zone_names()}
    near = difflib.get_close_matches(name[:_SHOWN_CHARACTERS_MAX].lower(), alike, n=1, cutoff=0.8)
    return f"; did you mean {alike[near[0]]}" if near else ""


ZoneName = Annotated[
    str, Field(min_length=1, max_length=64, examples=["Europe/Berlin"]), AfterValidator(check_zone)
]
"""The name of a time zone in a body, as the IANA database spells it."""


@dataclass(frozen=True, slots=True)
class Edge:
    """The instants from which on the local time is a wall time or a later one.

    It is so from `first` to `turn`, when the clock is turned back, and from `second` on. All three
    are the same instant unless the time occurs twice. For a skipped time it is the instant of the
    skip."""

    first: datetime
    turn: datetime
    second: datetime


def edge(wall: datetime, zone: ZoneInfo) -> Edge:
    """Return the edge (in UTC) of a wall time (naive) in this zone."""
    early, late = (_instant(wall, zone, fold) for fold in (0, 1))
    if early == late:
        return Edge(early, early, early)
    if early < late:
        return Edge(early, _turn(early, late, zone), late)
    skip = _turn(late, early, zone)
    return Edge(skip, skip, skip)


def stretches(start: datetime, end: datetime, zone: ZoneInfo) -> list[tuple[datetime, datetime]]:
    """Return when the local time of this zone is from `start` to before `end` (naive).

    The result is a sorted list of spans of instants. There is more than one only if the clock is
    turned back meanwhile, and none if it skips the whole range."""
    a, b = edge(start, zone), edge(end, zone)
    since = ((a.first, a.turn), (a.second, None))
    before = ((None, b.first), (b.turn, b.second))
    found: list[tuple[datetime, datetime]] = []
    for low, low_end in since:
        for high_start, high in before:
            begin = max(low, high_start) if high_start is not None else low
            stop = min(low_end, high) if low_end is not None else high
            if begin < stop:
                found.append((begin, stop))
    return sorted(found)


def _instant(wall: datetime, zone: ZoneInfo, fold: int) -> datetime:
    return wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)


def _turn(low: datetime, high: datetime, zone: ZoneInfo) -> datetime:
    """Return the instant after `low`, up to `high`, at which the zone's offset changes."""
    before = low.astimezone(zone).utcoffset()
    start, steps = low, (high - low) // _SECOND
    first, last = 0, steps
    while first < last:
        middle = (first + last) // 2
        if (start + middle * _SECOND).astimezone(zone).utcoffset() == before:
            first = middle + 1
        else:
            last = middle
    return start + first * _SECOND


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def local(at: datetime, name: str | None) -> datetime:
    """Return the local time in this zone (None: UTC)."""
    return at.astimezone(zone(name) if name is not None else UTC)


def in_words(at: datetime, zone: str | None) -> str:
    """Return the local day, time and offset; names are English in every locale.

    >>> in_words(datetime(2026, 11, 26, 1, 30, tzinfo=UTC), "Europe/Berlin")
    'Thu 26 Nov 2026 02:30 +01:00'"""
    there = local(at, zone)
    clock = there.isoformat(timespec="seconds" if there.second else "minutes")[11:]
    return (
        f"{_DAYS[there.weekday()]} {there.day} {_MONTHS[there.month - 1]} {there.year} "
        f"{clock[:-6]} {clock[-6:]}"
    )


# A rule whose labels are all in gaps ends at the horizon; this is a second safeguard.
_GAPS_MAX = 1_000


class DstGap(StrEnum):
    """The handling of a nonexistent label: the first instant after the gap, or nothing."""

    RUN_AFTER = "run_after"
    SKIP = "skip"


class DstFold(StrEnum):
    """The handling of an ambiguous label: its first instant, or both."""

    ONCE = "once"
    TWICE = "twice"


class Labels(Protocol):
    """A finite or infinite ascending sequence of labels."""

    def after(self, label: datetime, *, inclusive: bool = False) -> datetime | None:
        """Return the first label after this one (or at it); None if there is none."""


@dataclass(frozen=True, slots=True)
class Wall:
    """The local time of a zone, and the handling of its gaps and folds."""

    zone: ZoneInfo
    gap: DstGap = DstGap.RUN_AFTER
    fold: DstFold = DstFold.ONCE

    def next_after(self, instant: datetime, labels: Labels) -> datetime | None:
        """Return the first instant strictly after this one that has one of the labels, in UTC."""
        local = instant.astimezone(self.zone)
        label = local.replace(tzinfo=None, fold=0, microsecond=0)
        early, late = self._both(label)
        if early >= late:
            return self._first(labels, labels.after(label))
        return self._in_fold(labels, label, second_time=bool(local.fold))

    def instants(self, label: datetime) -> list[datetime]:
        """Return the instants of a label, in order: none, one or two."""
        early, late = self._both(label)
        if early == late:
            return [early]
        if early > late:
            return [] if self.gap is DstGap.SKIP else [self._jump(late, early)]
        return [early] if self.fold is DstFold.ONCE else [early, late]

    def _first(self, labels: Labels, label: datetime | None) -> datetime | None:
        """Return the first instant of this label, or of the next one that has any."""
        for _ in range(_GAPS_MAX):
            if label is None or label.year >= HORIZON.year:
                return None
            early, late = self._both(label)
            if early <= late:
                return early
            jump = self._jump(late, early)
            if self.gap is DstGap.RUN_AFTER:
                return jump
            label = labels.after(self._label(jump), inclusive=True)
        return None

    def _in_fold(self, labels: Labels, label: datetime, *, second_time: bool) -> datetime | None:
        """Return the next instant from an ambiguous label, at its first or second time."""
        early, late = self._both(label)
        jump = self._jump(early, late)
        begin, end = self._label(jump), self._label(jump - _SECOND) + _SECOND
        if self.fold is DstFold.ONCE:
            if second_time:
                return self._first(labels, labels.after(end, inclusive=True))
            return self._first(labels, labels.after(label))
        following = labels.after(label)
        if following is not None and following < end:
            return self._both(following)[1 if second_time else 0]
        if not second_time:
            again = labels.after(begin, inclusive=True)
            if again is not None and again < end:
                return self._both(again)[1]
        return self._first(labels, following)

    def _both(self, label: datetime) -> tuple[datetime, datetime]:
        """Return the instants of a label by the offsets before and after a jump.

        They are equal without a jump; in a gap the former is the later one."""
        before = label.replace(tzinfo=self.zone)
        return before.astimezone(UTC), before.replace(fold=1).astimezone(UTC)

    def _label(self, instant: datetime) -> datetime:
        return instant.astimezone(self.zone).replace(tzinfo=None, fold=0)

    def _jump(self, before: datetime, after: datetime) -> datetime:
        """Return the second between these instants from which another offset applies."""
        offset = before.astimezone(self.zone).utcoffset()
        low, high = 0, int((after - before).total_seconds())
        while high - low > 1:
            middle = (low + high) // 2
            if (before + middle * _SECOND).astimezone(self.zone).utcoffset() == offset:
                low = middle
            else:
                high = middle
        return before + high * _SECOND
