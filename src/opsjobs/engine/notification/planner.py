"""The planner of notifications: apply the rules to committed events, queue messages.

A turn reads the next events, decides by rules, last outcomes and quiet rules, and queues the
messages, in one transaction: an event is decided once, whatever process is killed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from opsjobs.engine.loop import Counts
from opsjobs.engine.notification.messages import ReceiverBook, store_form
from opsjobs.model.delivery import Message, NewDelivery
from opsjobs.model.errors import Unavailable
from opsjobs.model.events import EventType
from opsjobs.model.execution import TriggeredBy
from opsjobs.model.notification import (
    JobOutcome,
    NotificationEvent,
    NotificationRule,
    QuietDecision,
    decide,
    decide_digest,
    events_of,
    outcome_of,
)
from opsjobs.model.notification_message import (
    DIGEST_LINES,
    NotificationFacts,
    digest_entry,
    render,
    render_digest,
)
from opsjobs.store.notifications import (
    ENDED,
    DueDigest,
    LastOutcome,
    NotableEvent,
    NotableExecution,
    Notifications,
    NotificationTurn,
    RuleScope,
    RuleState,
)
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics

EVENTS_A_TURN = 50
DIGESTS_A_TURN = 50
DEFAULT = RuleScope("default", 0)


@dataclass(frozen=True, slots=True)
class AppliedRules:
    """The rules that apply to an event, and where their outcomes and states are kept."""

    rules: Sequence[NotificationRule]
    scope: RuleScope
    """The scope of the states of the rules."""
    outcomes: RuleScope | None
    """The scope of the last outcome; None: there is none, as with ad-hoc executions."""


class NotificationPlanner:
    """Applies the rules of jobs, schedules and the default.

    `link`: returns the address of an execution for people; None if there is none.
    """

    def __init__(
        self,
        notifications: Notifications,
        receivers: ReceiverBook,
        metrics: Metrics,
        *,
        link: Callable[[int], str | None],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._notifications = notifications
        self._receivers = receivers
        self._metrics = metrics
        self._link = link
        self.wake = wake

    async def run_once(self) -> Counts:
        """Plan all new events; return how many events were read and deliveries queued.

        `wake` is called if there are new deliveries.
        """
        read = queued = 0
        while True:
            events, made, digests = await self._notifications.retry(self._turn)
            read += events
            queued += made
            if events < EVENTS_A_TURN and digests < DIGESTS_A_TURN:
                break
        if queued:
            self.wake()
        return {"notable_events": read, "notifications": queued}

    async def _turn(self) -> tuple[int, int, int]:
        async with self._notifications.turn() as turn:
            if turn is None:
                return 0, 0, 0
            now = await turn.now()
            digests = await turn.due_digests(DIGESTS_A_TURN)
            for digest in digests:
                await self._try_digest(turn, digest, now)
            events = await turn.read(EVENTS_A_TURN)
            default = _parse(await turn.default_rules(), "the default")
            planned = await self._plan_events(turn, events, default, now)
            queued = await turn.queue()
        return planned, queued, len(digests)

    async def _try_digest(self, turn: NotificationTurn, digest: DueDigest, now: datetime) -> None:
        """Send a digest; one that cannot be sent is deleted, so that it does not block others."""
        try:
            async with turn.savepoint():
                await self._send_digest(turn, digest, now)
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001  a bug loses the digest, not what comes after it
            self._metrics.bugs.labels("notification_planner").inc()
            log.exception("notification_digest_failed", of=f"{digest.scope.kind} {digest.scope.id}")
            await turn.delete_state(digest.scope, digest.key)

    async def _plan_events(
        self,
        turn: NotificationTurn,
        events: Sequence[NotableEvent],
        default: Sequence[NotificationRule],
        now: datetime,
    ) -> int:
        """Plan events in order; return how many were planned."""
        for count, event in enumerate(events):
            try:
                async with turn.savepoint():
                    await self._plan(turn, event, default, now)
            except Unavailable:
                raise
            except Exception:  # noqa: BLE001  a bug of one event
                # It delays what follows for an hour, which keeps the order; then it is given up.
                self._metrics.bugs.labels("notification_planner").inc()
                log.exception("notification_planning_failed", fact=event.id, given_up=event.stale)
                if not event.stale:
                    turn.stop_before(event)
                    return count
        return len(events)

    async def _plan(
        self,
        turn: NotificationTurn,
        event: NotableEvent,
        default: Sequence[NotificationRule],
        now: datetime,
    ) -> None:
        if event.fault is not None:
            raise event.fault
        applied = _applied_rules(event, default)
        if applied is None or not applied.rules:
            return
        if event.type in ENDED:
            await self._plan_end(turn, event, applied, now)
            return
        happened = _happened(event)
        facts = _facts(event, happened, self._link)
        occasion = _Occasion(turn, event, applied.scope, now)
        for rule in applied.rules:
            if happened in rule.on and _is_late_enough(facts, rule):
                await self._apply(occasion, rule, facts)

    async def _plan_end(
        self, turn: NotificationTurn, event: NotableEvent, applied: AppliedRules, now: datetime
    ) -> None:
        """Plan the end of an execution, and remember its outcome."""
        execution = event.execution
        assert execution is not None
        end = await self._find_end(turn, execution, applied.outcomes)
        if end is None:
            return
        named = [(rule, rule.find_event(end.events)) for rule in applied.rules]
        wanted = [(rule, found) for rule, found in named if found is not None]
        if not wanted:
            return
        facts = replace(
            _facts(event, wanted[0][1], self._link), failures_in_a_row=end.failures_in_a_row
        )
        if end.outcome is JobOutcome.FAILED:
            facts = replace(facts, failures=await turn.failures(execution))
        occasion = _Occasion(turn, event, applied.scope, now)
        for rule, found in wanted:
            about = replace(facts, event=found)
            await self._apply(occasion, rule, about, changed=end.changed)

    async def _find_end(
        self, turn: NotificationTurn, execution: NotableExecution, scope: RuleScope | None
    ) -> _End | None:
        """Store the outcome of an execution's end; return its event, or None."""
        outcome = outcome_of(execution.status)
        if outcome is None or execution.finished_at is None:
            return None
        last = None if scope is None else (await turn.outcomes([scope])).get(scope)
        failed = outcome is JobOutcome.FAILED
        if last is not None and last.finished_at > execution.finished_at:
            # It ended before one that is known already: it changes nothing any more.
            return _End(outcome, events_of(outcome, None), changed=False, failures_in_a_row=1)
        before = last.failures if last is not None else 0
        after = before + 1 if failed else 0
        if scope is not None:
            kept = LastOutcome(outcome, after, execution.finished_at)
            await turn.set_outcome(scope, execution.id, kept)
        return _End(
            outcome,
            events_of(outcome, last.outcome if last is not None else None),
            changed=failed != (before > 0),
            failures_in_a_row=max(before, after),
        )

    async def _apply(
        self,
        occasion: _Occasion,
        rule: NotificationRule,
        facts: NotificationFacts,
        *,
        changed: bool = False,
    ) -> None:
        """Send, gather or hold back one notification of a rule."""
        turn, scope = occasion.turn, occasion.scope
        state = await turn.state(scope, rule)
        made = decide(rule, facts.event, state.quiet, occasion.now, changed=changed)
        after = replace(state, quiet=made.state)
        if made.decision is QuietDecision.GATHER:
            after = after.gather(digest_entry(facts), DIGEST_LINES)
        if after != state:
            await turn.set_state(scope, rule, after)
        self._metrics.notifications.labels(facts.event.value, made.decision.value).inc()
        if made.decision is not QuietDecision.SEND:
            return
        message = render(facts, rule, held=made.held, held_since=made.held_since)
        name = f"{occasion.event.id}/{scope.kind}/{scope.id}/{rule.key}"
        stored = store_form(message, rule, name, _subject(facts), occasion.now)
        await self._add(turn, rule, stored)

    async def _send_digest(self, turn: NotificationTurn, digest: DueDigest, now: datetime) -> None:
        scope, rule, state = digest.scope, digest.rule, digest.state
        made = decide_digest(rule, state.quiet, now)
        if made.decision is not QuietDecision.SEND:
            await turn.set_state(scope, rule, replace(state, quiet=made.state))
            return
        await turn.set_state(scope, rule, RuleState(made.state))
        message = render_digest(
            state.gathered,
            rule,
            count=state.gathered_count,
            at=now,
            held=made.held,
            held_since=made.held_since,
        )
        # The next digest of the rule is due at another time, and is another message.
        name = f"digest/{scope.kind}/{scope.id}/{rule.key}/{state.quiet.digest_due_at}"
        stored = store_form(message, rule, name, f"{scope.kind}/{scope.id}", now)
        await self._add(turn, rule, stored)

    async def _add(self, turn: NotificationTurn, rule: NotificationRule, message: Message) -> None:
        turn.add(NewDelivery(message, await self._receivers.find(rule.channel, rule.to)))


@dataclass(frozen=True, slots=True)
class _End:
    """The end of an execution, compared with the one before it."""

    outcome: JobOutcome
    events: Sequence[NotificationEvent]
    changed: bool
    failures_in_a_row: int


@dataclass(frozen=True, slots=True)
class _Occasion:
    """An event in a turn, and the scope of the rules that apply to it."""

    turn: NotificationTurn
    event: NotableEvent
    scope: RuleScope
    now: datetime


def _parse(stored: Any, where: str) -> Sequence[NotificationRule]:
    """Return stored rules; a rule that this release cannot read is left out."""
    rules = []
    for written in stored or ():
        try:
            rules.append(NotificationRule.model_validate(written))
        except ValidationError as wrong:
            log.warning("notification_rule_unreadable", of=where, reason=str(wrong)[:500])
    return rules


def _applied_rules(event: NotableEvent, default: Sequence[NotificationRule]) -> AppliedRules | None:
    """Return the most specific list of rules; None if nothing can apply."""
    if event.execution is not None:
        return _rules_of_execution(event, event.execution, default)
    if event.job_name is None:
        return None
    return _most_specific(
        schedule=(event.data.get("notify"), event.data["id"]),
        job=(event.job_rules, event.data["job_id"]),
        default=default,
    )


def _rules_of_execution(
    event: NotableEvent, execution: NotableExecution, default: Sequence[NotificationRule]
) -> AppliedRules | None:
    # The end of a child is part of its parent's; an approval needs a person wherever it is.
    if execution.triggered_by is TriggeredBy.WORKFLOW and event.type in ENDED:
        return None
    if execution.job_id is None:
        rules = _parse(execution.rules, f"execution {execution.id}")
        return AppliedRules(rules, RuleScope("execution", execution.id), None)
    return _most_specific(
        schedule=(execution.schedule_rules, execution.schedule_id),
        job=(execution.rules, execution.job_id),
        default=default,
    )


def _most_specific(
    *,
    schedule: tuple[Any, int | None],
    job: tuple[Any, int],
    default: Sequence[NotificationRule],
) -> AppliedRules:
    rules, schedule_id = schedule
    if rules is not None and schedule_id is not None:
        scope = RuleScope("schedule", schedule_id)
        return AppliedRules(_parse(rules, f"schedule {schedule_id}"), scope, scope)
    rules, job_id = job
    scope = RuleScope("job", job_id)
    if rules is not None:
        return AppliedRules(_parse(rules, f"job {job_id}"), scope, scope)
    return AppliedRules(default, DEFAULT, scope)


def _happened(event: NotableEvent) -> NotificationEvent:
    match event.type:
        case EventType.APPROVAL_REQUESTED:
            return NotificationEvent.APPROVAL_NEEDED
        case EventType.SCHEDULE_TRIGGERED:
            return NotificationEvent.LATE
        case _:
            return NotificationEvent.MISSED


def _is_late_enough(facts: NotificationFacts, rule: NotificationRule) -> bool:
    return facts.event is not NotificationEvent.LATE or facts.late_seconds >= rule.late_after


def _subject(facts: NotificationFacts) -> str:
    """Return the subject of a notification: messages of one job arrive in order at a receiver."""
    return f"job/{facts.job_id}" if facts.job_id is not None else f"execution/{facts.execution_id}"


def _facts(
    event: NotableEvent, happened: NotificationEvent, link: Callable[[int], str | None]
) -> NotificationFacts:
    execution, data = event.execution, event.data
    if execution is None:
        return _schedule_facts(event, happened, link)
    is_approval = happened is NotificationEvent.APPROVAL_NEEDED
    expires = data.get("expires_at") if is_approval else None
    return NotificationFacts(
        happened,
        event.at,
        execution.job_name,
        job_id=execution.job_id,
        execution_id=execution.id,
        uuid=execution.uuid,
        number=execution.number,
        status=execution.status.value,
        requested_by=execution.requested_by,
        started_at=execution.started_at,
        finished_at=execution.finished_at,
        total=execution.total,
        counts=execution.counts,
        schedule_name=execution.schedule_name,
        reason=data.get("message") if is_approval else None,
        expires_at=None if expires is None else datetime.fromisoformat(expires),
        link=link(execution.id),
    )


def _schedule_facts(
    event: NotableEvent, happened: NotificationEvent, link: Callable[[int], str | None]
) -> NotificationFacts:
    firing = event.data["firing"]
    execution_id = firing.get("execution_id")
    return NotificationFacts(
        happened,
        event.at,
        event.job_name or "",
        job_id=event.data["job_id"],
        execution_id=execution_id,
        uuid=event.data["uuid"],
        schedule_name=event.data.get("name"),
        due_at=datetime.fromisoformat(firing["due_at"]),
        late_seconds=(firing.get("late_ms") or 0) / 1_000,
        reason=firing.get("reason"),
        link=None if execution_id is None else link(execution_id),
    )
