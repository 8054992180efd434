"""From clocks on the wall to instants: what becomes of times that do not exist, and of those that exist twice.

A *label* is what a clock on the wall shows: a naive datetime in whole seconds. Most labels are one instant. Those that a zone
leaves out (a gap) are none, those that it repeats (a fold) are two.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol
from zoneinfo import ZoneInfo

from opsjobs.model.instants import HORIZON

# A rule whose every label lies in a gap ends by the horizon; this is the second bolt on that door.
_GAPS_MAX = 1_000
_SECOND = timedelta(seconds=1)


class DstGap(StrEnum):
    """What becomes of a label that does not exist: the first instant after the gap, or nothing."""

    RUN_AFTER = "run_after"
    SKIP = "skip"


class DstFold(StrEnum):
    """How often a label that exists twice is meant: the first time, or both."""

    ONCE = "once"
    TWICE = "twice"


class Labels(Protocol):
    """An endless or ended row of labels, in order."""

    def after(self, label: datetime, *, inclusive: bool = False) -> datetime | None:
        """The first one behind this label (or at it); None where there is no more."""


@dataclass(frozen=True, slots=True)
class Wall:
    """The clocks on the walls of a zone, and what is to be done where they jump."""

    zone: ZoneInfo
    gap: DstGap = DstGap.RUN_AFTER
    fold: DstFold = DstFold.ONCE

    def next_after(self, instant: datetime, labels: Labels) -> datetime | None:
        """The first instant strictly after this one at which a clock shows one of the labels, in UTC."""
        local = instant.astimezone(self.zone)
        label = local.replace(tzinfo=None, fold=0, microsecond=0)
        early, late = self._both(label)
        if early >= late:
            return self._first(labels, labels.after(label))
        return self._in_fold(labels, label, second_time=bool(local.fold))

    def instants(self, label: datetime) -> list[datetime]:
        """Every instant that is meant by a label, in order: none, one or two."""
        early, late = self._both(label)
        if early == late:
            return [early]
        if early > late:
            return [] if self.gap is DstGap.SKIP else [self._jump(late, early)]
        return [early] if self.fold is DstFold.ONCE else [early, late]

    def _first(self, labels: Labels, label: datetime | None) -> datetime | None:
        """The first instant of this label, or of the next one that has any."""
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
        """The next instant seen from a label that exists twice, the first or the second time."""
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
        """The instants of a label by the rules before and after a jump: equal where there is none, the former later in a gap."""
        before = label.replace(tzinfo=self.zone)
        return before.astimezone(UTC), before.replace(fold=1).astimezone(UTC)

    def _label(self, instant: datetime) -> datetime:
        return instant.astimezone(self.zone).replace(tzinfo=None, fold=0)

    def _jump(self, before: datetime, after: datetime) -> datetime:
        """The second between these instants from which another offset holds."""
        offset = before.astimezone(self.zone).utcoffset()
        low, high = 0, int((after - before).total_seconds())
        while high - low > 1:
            middle = (low + high) // 2
            if (before + middle * _SECOND).astimezone(self.zone).utcoffset() == offset:
                low = middle
            else:
                high = middle
        return before + high * _SECOND
