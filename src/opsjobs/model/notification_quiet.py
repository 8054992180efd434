"""Quiet rules: whether a notification is sent now, gathered for a digest, or held back.

Pure: the state of a rule is a value that the store keeps, and each decision returns the next
one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from opsjobs.model.notification import NotificationEvent, NotificationRule

_HOUR = timedelta(hours=1)
_OF_OUTCOMES = (NotificationEvent.COMPLETED, NotificationEvent.FAILED)


class QuietDecision(StrEnum):
    """The decision on one notification."""

    SEND = "send"
    GATHER = "gather"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class QuietState:
    """The state of one rule of a job, a schedule or the installation."""

    sent_at: tuple[datetime, ...] = ()
    """The times of its messages in the last hour."""
    held: int = 0
    """The notifications held back since its last message."""
    held_since: datetime | None = None
    """The time of the first of them."""
    digest_due_at: datetime | None = None
    """The time at which its digest is sent; None if nothing is gathered."""


@dataclass(frozen=True, slots=True)
class Quieted:
    """A decision, and the state after it."""

    decision: QuietDecision
    state: QuietState
    held: int = 0
    """The notifications that this message reports as held back."""
    held_since: datetime | None = None


def decide(
    rule: NotificationRule,
    event: NotificationEvent,
    state: QuietState,
    now: datetime,
    *,
    changed: bool,
) -> Quieted:
    """Return the decision on one notification of the rule.

    `changed`: the outcome differs from the one before. A needed approval is always sent: someone
    waits for it."""
    if event is NotificationEvent.APPROVAL_NEEDED:
        return _send(rule, state, now)
    if rule.quiet.only_changes and event in _OF_OUTCOMES and not changed:
        return _hold(state, now)
    if rule.quiet.digest is not None:
        due = state.digest_due_at or now + timedelta(seconds=rule.quiet.digest)
        return Quieted(QuietDecision.GATHER, replace(state, digest_due_at=due))
    if _free_at(rule, state, now) is not None:
        return _hold(state, now)
    return _send(rule, state, now)


def decide_digest(rule: NotificationRule, state: QuietState, now: datetime) -> Quieted:
    """Return the decision on a digest that is due.

    If the rule has sent its messages of this hour, the digest is due again when one is free."""
    free_at = _free_at(rule, state, now)
    if free_at is not None:
        return Quieted(QuietDecision.GATHER, replace(state, digest_due_at=free_at))
    return _send(rule, replace(state, digest_due_at=None), now)


def _send(rule: NotificationRule, state: QuietState, now: datetime) -> Quieted:
    recent = (*_recent(state.sent_at, now), now) if rule.quiet.max_per_hour else ()
    after = replace(state, sent_at=recent, held=0, held_since=None)
    return Quieted(QuietDecision.SEND, after, state.held, state.held_since)


def _hold(state: QuietState, now: datetime) -> Quieted:
    held = replace(state, held=state.held + 1, held_since=state.held_since or now)
    return Quieted(QuietDecision.HOLD, held)


def _free_at(rule: NotificationRule, state: QuietState, now: datetime) -> datetime | None:
    """Return the time from which the rule may send again; None if it may send now."""
    most, recent = rule.quiet.max_per_hour, _recent(state.sent_at, now)
    if most is None or len(recent) < most:
        return None
    return recent[-most] + _HOUR


def _recent(sent_at: Sequence[datetime], now: datetime) -> tuple[datetime, ...]:
    return tuple(at for at in sent_at if now - at < _HOUR)
