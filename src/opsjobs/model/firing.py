"""Firings: what becomes of a schedule's due moments, judged by how late they are found; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol
from uuid import UUID, uuid5

LATE_SECONDS = 60.0
"""A moment that is found later than this is misfired; up to then it is on time, whatever the policy."""
CATCH_UPS_AT_MOST = 100
"""Misfired moments that `run_all` runs: the latest ones."""
TOLD_AT_MOST = 100
"""Misfired moments that have a row of their own: the latest ones. Those before have one row together."""
COUNTED_AT_MOST = 300
"""Misfired moments that are counted one by one; of more it is only said that there were more."""
PENDING_AT_MOST = 100
"""Firings of a schedule that may wait for their launch, beside those that are caught up with."""
LISTED_AT_MOST = 1_200
SPAN_SECONDS = 1_000
"""Moments are a second apart or more, so that of a stretch as short as this all are listed."""
_KNOWN = CATCH_UPS_AT_MOST + TOLD_AT_MOST


class FiringStatus(StrEnum):
    """What became of a due moment. All but the first are final."""

    PENDING = "pending"
    TRIGGERED = "triggered"
    SKIPPED = "skipped"
    MISSED = "missed"
    FAILED = "failed"


class FiringKind(StrEnum):
    """Why it was fired: its moment came, or somebody said so."""

    MOMENT = "moment"
    TRIGGER = "trigger"
    RETRY = "retry"


class FiringRule(StrEnum):
    """Which rule kept a moment from being launched."""

    MISFIRE = "misfire"
    PAUSED = "paused"
    CALENDAR = "calendar"
    OVERLAP = "overlap"
    QUEUE_FULL = "queue_full"
    NO_TARGETS = "no_targets"
    JOB_PAUSED = "job_paused"
    JOB_DRAFT = "job_draft"
    JOB_DELETED = "job_deleted"
    DELETED = "deleted"
    OWNER = "owner"
    MAX_FIRINGS = "max_firings"
    REFUSED = "refused"
    EXPIRED = "expired"


class Moments(Protocol):
    """What is asked of a timetable."""

    def next_after(self, instant: datetime) -> datetime | None:
        """The first moment after the instant; None: never again."""

    def between(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """The first `limit` moments after `after` and up to `until`."""

    def fire_at(self, due: datetime) -> datetime:
        """When a moment is fired: jitter comes on top."""


@dataclass(frozen=True, slots=True)
class ScheduleStanding:
    """How a schedule stands when its moments are judged. `pending`: its firings that wait for their launch, but for
    those that are caught up with.

    `closed`: the words of a calendar in whose closed time a moment lies; None: it is open.
    """

    next_due_at: datetime
    next_fire_at: datetime
    misfire: str = "run_once"
    misfire_window: float = 3600.0
    enabled: bool = True
    paused_reason: str | None = None
    pending: int = 0
    closed: Callable[[datetime], str | None] = field(default=lambda _: None)


@dataclass(frozen=True, slots=True)
class FiringVerdict:
    """What becomes of a moment, or of all from `due_at` to `until_at` together (at least `moments` of them)."""

    due_at: datetime
    fire_at: datetime
    status: FiringStatus
    rule: FiringRule | None = None
    reason: str | None = None
    catch_up: bool = False
    until_at: datetime | None = None
    moments: int = 1


@dataclass(frozen=True, slots=True)
class Round:
    """The verdicts on all moments that are due, in order, and which moment is the next; None: never again."""

    verdicts: Sequence[FiringVerdict]
    next_due_at: datetime | None
    next_fire_at: datetime | None


def execution_uuid(schedule: UUID, due: datetime) -> UUID:
    """The uuid of a moment's execution: the same in a database that was restored from a backup (3-execution.md §2)."""
    return uuid5(schedule, due.astimezone(UTC).isoformat())


def judge(table: Moments, standing: ScheduleStanding, now: datetime) -> Round:
    """What becomes of every moment from `next_due_at` on whose time has come; bounded work, however long nobody looked."""
    older, moments = _due(table, standing.next_due_at, now)
    known, next_fire_at = _ready(table, moments, standing.next_fire_at, now)
    if len(known) < len(moments):
        next_due: datetime | None = moments[len(known)]
    else:
        next_due = table.next_after(moments[-1])
        next_fire_at = max(next_fire_at, table.fire_at(next_due)) if next_due is not None else next_fire_at
    verdicts = _Judge(standing, now).all(older, known)
    return Round(verdicts, next_due, next_fire_at if next_due is not None else None)


_Moment = tuple[datetime, datetime]


def _due(table: Moments, first: datetime, now: datetime) -> tuple[FiringVerdict | None, list[datetime]]:
    """The moments from the first one to now; of very many the latest ones, and a row for all before them."""
    found = [first, *table.between(first, now, COUNTED_AT_MOST)]
    if len(found) <= COUNTED_AT_MOST:
        return None, found
    tail = _latest(table, found[-1], now, (found[-1] - found[0]) / COUNTED_AT_MOST)
    before, tail = tail[0], tail[1:]
    return FiringVerdict(found[0], found[0], FiringStatus.MISSED, until_at=before, moments=len(found)), tail


def _latest(table: Moments, after: datetime, now: datetime, gap: timedelta) -> list[datetime]:
    """At least the last moments up to now, as many as are told one by one, or all after `after`; it and one more at least."""
    limit, shortest = LISTED_AT_MOST, timedelta(seconds=SPAN_SECONDS)
    span = max(gap * 2 * _KNOWN, shortest)
    tail: list[datetime] = []
    while True:
        start = max(now - span, after)
        found = table.between(start, now, limit)
        if len(found) == limit and span > shortest:  # too dense a stretch: the last ones are not among these
            if tail:
                return tail
            span = max(span / 4, shortest)
            continue
        tail = found if start > after else [after, *found]
        if len(tail) > _KNOWN or start == after:
            return tail
        span *= 2


def _ready(table: Moments, moments: Sequence[datetime], first: datetime, now: datetime) -> tuple[list[_Moment], datetime]:
    """Those whose time has come, each with when that was, and when the next one's is or that of the last of them.

    A moment is never fired before an earlier one, whatever their jitter.
    """
    ready: list[_Moment] = []
    at = first
    for place, due in enumerate(moments):
        at = max(at, table.fire_at(due)) if place else first
        if at > now:
            return ready, at
        ready.append((due, at))
    return ready, at


class _Judge:
    """Goes through the moments that are due."""

    def __init__(self, standing: ScheduleStanding, now: datetime) -> None:
        self._standing = standing
        self._now = now
        self._room = max(PENDING_AT_MOST - standing.pending, 0)

    def all(self, older: FiringVerdict | None, moments: Sequence[_Moment]) -> list[FiringVerdict]:
        verdicts = [self._first(due, at) for due, at in moments]
        late = [n for n, v in enumerate(verdicts) if v.status is FiringStatus.MISSED]
        for n in self._caught_up(verdicts, late):
            verdicts[n] = replace(verdicts[n], status=FiringStatus.PENDING, rule=None, reason=None, catch_up=True)
        verdicts = self._queued(verdicts)
        if older is not None:
            verdicts = [self._together(older), *verdicts]
        return _folded(verdicts)

    def _first(self, due: datetime, at: datetime) -> FiringVerdict:
        """What it is but for those that are caught up with."""
        if (why := self._kept(due, at)) is not None:
            return FiringVerdict(due, at, FiringStatus.SKIPPED, *why)
        if self._late(at) < LATE_SECONDS:
            return FiringVerdict(due, at, FiringStatus.PENDING)
        return FiringVerdict(due, at, FiringStatus.MISSED, FiringRule.MISFIRE, self._words(at))

    def _kept(self, due: datetime, at: datetime) -> tuple[FiringRule, str] | None:
        if not self._standing.enabled:
            return FiringRule.PAUSED, paused_words(self._standing.paused_reason)
        words = self._standing.closed(due) or (self._standing.closed(at) if at > due else None)
        return None if words is None else (FiringRule.CALENDAR, words)

    def _caught_up(self, verdicts: Sequence[FiringVerdict], late: Sequence[int]) -> Sequence[int]:
        most = {"run_once": 1, "run_all": CATCH_UPS_AT_MOST}.get(self._standing.misfire, 0)
        within = [n for n in late if self._late(verdicts[n].fire_at) <= self._standing.misfire_window]
        return within[-most:] if most else ()

    def _queued(self, verdicts: Sequence[FiringVerdict]) -> list[FiringVerdict]:
        """No more wait than may: what comes on top is left out."""
        kept: list[FiringVerdict] = []
        for verdict in verdicts:
            counts = verdict.status is FiringStatus.PENDING and not verdict.catch_up
            if counts and not self._room:
                words = f"{PENDING_AT_MOST} firings of the schedule waited for their launch already"
                kept.append(replace(verdict, status=FiringStatus.SKIPPED, rule=FiringRule.QUEUE_FULL, reason=words))
            else:
                self._room -= counts
                kept.append(verdict)
        return kept

    def _together(self, older: FiringVerdict) -> FiringVerdict:
        if not self._standing.enabled:
            words = paused_words(self._standing.paused_reason)
            return replace(older, status=FiringStatus.SKIPPED, rule=FiringRule.PAUSED, reason=words)
        return replace(
            older, rule=FiringRule.MISFIRE, reason=f"{self._words(older.fire_at)}; there were more moments than are counted"
        )

    def _late(self, at: datetime) -> float:
        return (self._now - at).total_seconds()

    def _words(self, at: datetime) -> str:
        policy, late = self._standing.misfire, self._late(at)
        words = f"nobody fired it for {span_words(late)}, and misfire is {policy}"
        if policy == "skip":
            return words
        if late > self._standing.misfire_window:
            return f"{words} within {span_words(self._standing.misfire_window)} only"
        return f"{words}: {'the latest missed moment runs' if policy == 'run_once' else f'the latest {CATCH_UPS_AT_MOST} run'}"


def _folded(verdicts: Sequence[FiringVerdict]) -> list[FiringVerdict]:
    """Of those that did not run alike, for the same rule, the latest one by one, the older ones in one row."""
    folding: dict[int, FiringRule] = {}
    for rule in (FiringRule.MISFIRE, FiringRule.PAUSED, FiringRule.CALENDAR):
        alike = [n for n, v in enumerate(verdicts) if v.rule is rule]
        folding.update(dict.fromkeys(alike[:-TOLD_AT_MOST], rule))
    rows: list[FiringVerdict] = []
    first: dict[FiringRule, int] = {}
    for n, verdict in enumerate(verdicts):
        kept = folding.get(n)
        if kept is None:
            rows.append(verdict)
        elif kept not in first:
            first[kept] = len(rows)
            rows.append(replace(verdict, until_at=verdict.until_at or verdict.due_at))
        else:
            row = rows[first[kept]]
            rows[first[kept]] = replace(row, until_at=verdict.due_at, moments=row.moments + verdict.moments)
    return rows


def paused_words(reason: str | None) -> str:
    """Why a moment of a paused schedule is skipped."""
    return f"the schedule is paused: {reason}" if reason else "the schedule is paused"


def span_words(seconds: float) -> str:
    """How long, in its two largest units.

    >>> span_words(10_800), span_words(266_400), span_words(61)
    ('3 h', '3 d 2 h', '1 min 1 s')
    """
    left = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if left >= size and len(parts) < 2:
            parts.append(f"{left // size} {unit}")
        left %= size
    return " ".join(parts) or "less than a second"
