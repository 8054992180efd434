"""Conversion of local times to instants, including nonexistent and ambiguous times.

A *label* is a local time: a naive datetime in whole seconds. Most labels are one instant. Those
that a zone skips (a gap) are none, those that it repeats (a fold) are two."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol
from zoneinfo import ZoneInfo

from opsjobs.model.api_model import HORIZON

# A rule whose labels are all in gaps ends at the horizon; this is a second safeguard.
_GAPS_MAX = 1_000
_SECOND = timedelta(seconds=1)


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
