"""Firings: the outcome of a schedule's due times, decided by their lateness; pure.

`explain` describes an outcome in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID, uuid5

from opsjobs.model.execution import ExecutionStatus

LATE_SECONDS = 60.0
"""A due time that is processed later than this is misfired; up to then it is on time."""
CATCH_UPS_MAX = 100
"""The number of misfired times that `run_all` runs: the latest ones."""
SHOWN_MAX = 100
"""The number of misfired times with a separate row: the latest ones.

Earlier ones share one row."""
COUNTED_MAX = 300
"""The number of misfired times that are counted exactly; beyond it the count is a minimum."""
PENDING_MAX = 100
"""The number of firings of a schedule that may wait for their launch, without catch-ups."""
LISTED_MAX = 1_200
SPAN_SECONDS = 1_000
"""A span that is always listed completely, because due times are at least a second apart."""
_KNOWN = CATCH_UPS_MAX + SHOWN_MAX


class FiringStatus(StrEnum):
    """The outcome of a due time. All but the first are final."""

    PENDING = "pending"
    TRIGGERED = "triggered"
    SKIPPED = "skipped"
    MISSED = "missed"
    FAILED = "failed"


class FiringKind(StrEnum):
    """The cause of a firing: its due time, or a manual request."""

    MOMENT = "moment"
    TRIGGER = "trigger"


class FiringRule(StrEnum):
    """The rule that prevented a launch."""

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
    """The due times of a timetable."""

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first due time after the instant; None: there is none."""

    def between(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """Return the first `limit` due times after `after` and up to `until`."""

    def fire_at(self, due: datetime) -> datetime:
        """Return when a due time is fired: jitter is added to it."""


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """The state of a schedule when the outcomes of its due times are decided."""

    next_due_at: datetime
    next_fire_at: datetime
    misfire: str = "run_once"
    misfire_window: float = 3600.0
    enabled: bool = True
    paused_reason: str | None = None
    pending: int = 0
    """Its firings that wait for their launch, without catch-ups."""
    closed: Callable[[datetime], str | None] = field(default=lambda _: None)
    """Returns the description of the calendar that is closed at a time; None: it is open."""


@dataclass(frozen=True, slots=True)
class FiringVerdict:
    """The outcome of one due time, or of all from `due_at` to `until_at` (at least `moments`)."""

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
    """The verdicts on all due times, in order, and the next due time; None: there is none."""

    verdicts: Sequence[FiringVerdict]
    next_due_at: datetime | None
    next_fire_at: datetime | None


def execution_uuid(schedule: UUID, due: datetime) -> UUID:
    """Return the uuid of the execution of a due time.

    It does not change if a database is restored from a backup."""
    return uuid5(schedule, due.astimezone(UTC).isoformat())


def decide_due(table: Moments, state: ScheduleState, now: datetime) -> Round:
    """Decide all due times from `next_due_at` to now; the work is bounded after any downtime."""
    older, moments = _due(table, state.next_due_at, now)
    known, next_fire_at = _ready(table, moments, state.next_fire_at, now)
    if len(known) < len(moments):
        next_due: datetime | None = moments[len(known)]
    else:
        next_due = table.next_after(moments[-1])
        next_fire_at = (
            max(next_fire_at, table.fire_at(next_due)) if next_due is not None else next_fire_at
        )
    verdicts = _RoundDecision(state, now).all(older, known)
    return Round(verdicts, next_due, next_fire_at if next_due is not None else None)


_Moment = tuple[datetime, datetime]


def _due(
    table: Moments, first: datetime, now: datetime
) -> tuple[FiringVerdict | None, list[datetime]]:
    """Return the due times from the first one to now.

    If there are very many, return the latest ones, and a row for all before them."""
    found = [first, *table.between(first, now, COUNTED_MAX)]
    if len(found) <= COUNTED_MAX:
        return None, found
    tail = _latest(table, found[-1], now, (found[-1] - found[0]) / COUNTED_MAX)
    before, tail = tail[0], tail[1:]
    return FiringVerdict(
        found[0], found[0], FiringStatus.MISSED, until_at=before, moments=len(found)
    ), tail


def _latest(table: Moments, after: datetime, now: datetime, gap: timedelta) -> list[datetime]:
    """Return at least the last due times up to now that get a separate row, and one more.

    Returns all from `after` on if there are fewer."""
    limit, shortest = LISTED_MAX, timedelta(seconds=SPAN_SECONDS)
    span = max(gap * 2 * _KNOWN, shortest)
    tail: list[datetime] = []
    while True:
        start = max(now - span, after)
        found = table.between(start, now, limit)
        if len(found) == limit and span > shortest:  # too dense: the last ones are not among these
            if tail:
                return tail
            span = max(span / 4, shortest)
            continue
        tail = found if start > after else [after, *found]
        if len(tail) > _KNOWN or start == after:
            return tail
        span *= 2


def _ready(
    table: Moments, moments: Sequence[datetime], first: datetime, now: datetime
) -> tuple[list[_Moment], datetime]:
    """Return the due times to fire now with their fire times, and the next fire time.

    If there is no next due time, the second value is the fire time of the last. A due time is never
    fired before an earlier one, regardless of their jitter."""
    ready: list[_Moment] = []
    at = first
    for place, due in enumerate(moments):
        at = max(at, table.fire_at(due)) if place else first
        if at > now:
            return ready, at
        ready.append((due, at))
    return ready, at


class _RoundDecision:
    """Decides the outcomes of the due times of one schedule."""

    def __init__(self, state: ScheduleState, now: datetime) -> None:
        self._state = state
        self._now = now
        self._room = max(PENDING_MAX - state.pending, 0)

    def all(self, older: FiringVerdict | None, moments: Sequence[_Moment]) -> list[FiringVerdict]:
        verdicts = [self._first(due, at) for due, at in moments]
        late = [n for n, v in enumerate(verdicts) if v.status is FiringStatus.MISSED]
        for n in self._caught_up(verdicts, late):
            verdicts[n] = replace(
                verdicts[n], status=FiringStatus.PENDING, rule=None, reason=None, catch_up=True
            )
        verdicts = self._queued(verdicts)
        if older is not None:
            verdicts = [self._together(older), *verdicts]
        return _folded(verdicts)

    def _first(self, due: datetime, at: datetime) -> FiringVerdict:
        """Return the verdict before catch-ups are chosen."""
        if (why := self._blocking_rule(due, at)) is not None:
            return FiringVerdict(due, at, FiringStatus.SKIPPED, *why)
        if self._late(at) < LATE_SECONDS:
            return FiringVerdict(due, at, FiringStatus.PENDING)
        return FiringVerdict(
            due, at, FiringStatus.MISSED, FiringRule.MISFIRE, self._describe_miss(at)
        )

    def _blocking_rule(self, due: datetime, at: datetime) -> tuple[FiringRule, str] | None:
        if not self._state.enabled:
            return FiringRule.PAUSED, paused_words(self._state.paused_reason)
        words = self._state.closed(due) or (self._state.closed(at) if at > due else None)
        return None if words is None else (FiringRule.CALENDAR, words)

    def _caught_up(self, verdicts: Sequence[FiringVerdict], late: Sequence[int]) -> Sequence[int]:
        most = {"run_once": 1, "run_all": CATCH_UPS_MAX}.get(self._state.misfire, 0)
        within = [n for n in late if self._late(verdicts[n].fire_at) <= self._state.misfire_window]
        return within[-most:] if most else ()

    def _queued(self, verdicts: Sequence[FiringVerdict]) -> list[FiringVerdict]:
        """Skip the firings beyond the limit of waiting ones."""
        kept: list[FiringVerdict] = []
        for verdict in verdicts:
            counts = verdict.status is FiringStatus.PENDING and not verdict.catch_up
            if counts and not self._room:
                words = f"{PENDING_MAX} firings of the schedule waited for their launch already"
                kept.append(
                    replace(
                        verdict,
                        status=FiringStatus.SKIPPED,
                        rule=FiringRule.QUEUE_FULL,
                        reason=words,
                    )
                )
            else:
                self._room -= counts
                kept.append(verdict)
        return kept

    def _together(self, older: FiringVerdict) -> FiringVerdict:
        if not self._state.enabled:
            words = paused_words(self._state.paused_reason)
            return replace(older, status=FiringStatus.SKIPPED, rule=FiringRule.PAUSED, reason=words)
        return replace(
            older,
            rule=FiringRule.MISFIRE,
            reason=f"{self._describe_miss(older.fire_at)}; "
            "there were more moments than are counted",
        )

    def _late(self, at: datetime) -> float:
        return (self._now - at).total_seconds()

    def _describe_miss(self, at: datetime) -> str:
        policy, late = self._state.misfire, self._late(at)
        words = f"it was not fired for {span_words(late)}, and misfire is {policy}"
        if policy == "skip":
            return words
        if late > self._state.misfire_window:
            return f"{words} within {span_words(self._state.misfire_window)} only"
        runs = "missed moment runs" if policy == "run_once" else f"{CATCH_UPS_MAX} run"
        return f"{words}: the latest {runs}"


def _folded(verdicts: Sequence[FiringVerdict]) -> list[FiringVerdict]:
    """Fold the older verdicts of each rule that prevented a launch into one row.

    The latest ones keep a separate row."""
    folding: dict[int, FiringRule] = {}
    for rule in (FiringRule.MISFIRE, FiringRule.PAUSED, FiringRule.CALENDAR):
        alike = [n for n, v in enumerate(verdicts) if v.rule is rule]
        folding.update(dict.fromkeys(alike[:-SHOWN_MAX], rule))
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
            rows[first[kept]] = replace(
                row, until_at=verdict.due_at, moments=row.moments + verdict.moments
            )
    return rows


def paused_words(reason: str | None) -> str:
    """Return why a due time of a paused schedule is skipped."""
    return f"the schedule is paused: {reason}" if reason else "the schedule is paused"


def span_words(seconds: float) -> str:
    """Return a duration in its two largest units.

    >>> span_words(10_800), span_words(266_400), span_words(61)
    ('3 h', '3 d 2 h', '1 min 1 s')"""
    left = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if left >= size and len(parts) < 2:
            parts.append(f"{left // size} {unit}")
        left %= size
    return " ".join(parts) or "less than a second"


def explain(firing: Mapping[str, Any]) -> str:
    """Explain an item of GET /schedules/{id}/firings.

    The text names the launch and its execution, or the rule that prevented it."""
    match firing["status"]:
        case FiringStatus.TRIGGERED:
            return _launched(firing)
        case FiringStatus.PENDING:
            return f"waits: {firing['reason']}" if firing["reason"] else "is about to be launched"
        case status:
            several = f"{firing['moments']} moments or more " if firing["moments"] > 1 else ""
            return f"{several}{status}: {firing['reason']}"


def _launched(firing: Mapping[str, Any]) -> str:
    late = (firing["late_ms"] or 0) / 1000
    how = "on time" if late < 1 else f"{span_words(late)} late"
    if firing["kind"] == FiringKind.TRIGGER:
        how = "by hand"
    return f"launched {how}; {_execution(firing)}"


def _execution(firing: Mapping[str, Any]) -> str:
    """Describe the outcome of the execution: a launch alone does not mean that anything ran."""
    number, status = firing["execution_id"], firing["execution_status"]
    if number is None or status is None:
        return "its execution is not kept any more"
    if status == ExecutionStatus.PENDING_APPROVAL:
        approval = firing["approval_id"]
        return (
            f"execution {number} waits for "
            f"{'an approval' if approval is None else f'approval {approval}'}"
        )
    if ExecutionStatus(status).final:
        return f"execution {number} ended {status}"
    approval = firing["approval_id"]
    waits = f" and waits for approval {approval}" if approval is not None else ""
    return f"execution {number} is {status}{waits}"
