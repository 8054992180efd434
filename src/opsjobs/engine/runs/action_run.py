"""One action of a run with all its attempts.

It starts from the recorded progress and ends with a result, or with a wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from opsjobs.engine.runs import outcomes, passive_actions
from opsjobs.engine.runs.attempt import ProgramAttempt
from opsjobs.engine.runs.cancellation import (
    DETACHING,
    Detached,
    Interrupted,
    StopReason,
    StopSignal,
)
from opsjobs.engine.runs.run_journal import ActionEnd, AttemptEntry
from opsjobs.engine.runs.run_state import INLINE_WAIT_SECONDS, AttemptContext, Deferred, RunState
from opsjobs.engine.runs.transfer_attempt import TransferAttempt
from opsjobs.model.action import (
    FrozenApproval,
    FrozenCommand,
    FrozenJob,
    FrozenScript,
    FrozenTransfer,
    FrozenWait,
)
from opsjobs.model.action_base import FrozenAction
from opsjobs.model.errors import RemoteFailure, Unavailable
from opsjobs.model.execution import CancelProof, ErrorCode, RunStatus, WaitingFor
from opsjobs.model.retry import NEVER
from opsjobs.telemetry import tracing
from opsjobs.telemetry.logs import log

# Pause between attempts to reach an unreachable machine for which the run is held.
HOLD_SECONDS = 30.0
_BAD = (RunStatus.FAILED, RunStatus.TIMEOUT, RunStatus.UNREACHABLE)


class ActionAttempt(Protocol):
    """One attempt at an action."""

    number: int
    """Its number; after a voided start it continues under the next number."""
    entry: AttemptEntry | None
    """The attempt's entry in the journal, once the attempt has started."""

    @property
    def direct(self) -> bool:
        """True if the program runs outside any spool."""

    @property
    def gone(self) -> bool:
        """True if the target shows that the command is not running, but not how it ended."""

    @property
    def runs_direct_command(self) -> bool:
        """True if a command is running that no other worker could follow."""

    async def perform(self) -> ActionEnd:
        """Make the attempt; raise RemoteFailure if nothing was started, Interrupted, Detached."""


@dataclass(frozen=True, slots=True)
class AttemptExecutor:
    """Performs actions in attempts: with retries, and held while the target is offline."""

    attempt: Callable[[AttemptContext, Any], ActionAttempt]
    """Takes the rendered action."""


@dataclass(frozen=True, slots=True)
class WaitExecutor:
    """Performs actions that only wait: each call returns the end, or the event awaited."""

    perform: Callable[[AttemptContext, Any], Awaitable[ActionEnd | Deferred]]
    """Takes the action as fixed at launch. Raises Interrupted, RemoteFailure."""


EXECUTORS: Mapping[type[FrozenAction], AttemptExecutor | WaitExecutor] = {
    FrozenCommand: AttemptExecutor(ProgramAttempt),
    FrozenScript: AttemptExecutor(ProgramAttempt),
    FrozenTransfer: AttemptExecutor(TransferAttempt),
    FrozenWait: WaitExecutor(passive_actions.wait),
    FrozenApproval: WaitExecutor(passive_actions.await_approval),
    FrozenJob: WaitExecutor(passive_actions.await_child),
}
"""The executor of each type of action."""


class HandedOver(Exception):
    """Raised when this worker stops work on the action without a result.

    `may_have_started`: the action is running, or another worker may have started it, so that the
    run must not be given back.
    """

    def __init__(self, *, may_have_started: bool) -> None:
        super().__init__("left" if may_have_started else "turned back")
        self.may_have_started = may_have_started


class ActionRun:
    """An action that is running, or waiting in this process.

    If `perform` returned a Deferred, call it again when that is due.
    """

    def __init__(self, state: RunState, action: FrozenAction) -> None:
        self._state = state
        self._action = action
        self.key = action.key
        self._executor = EXECUTORS[type(action)]
        before = state.history.of_action(self.key)
        self._progress = before.open
        self.number = before.attempt
        """The number of the current or last attempt."""
        self._tries = before.tries
        self._due_at = state.tools.clock.monotonic() + before.again_seconds
        self._unreported_retry: int | None = None
        self._attempt: ActionAttempt | None = None
        self._last: ActionEnd | None = None
        self.entry: AttemptEntry | None = None
        """The journal entry of the current attempt, once it has started."""
        self.stop_signal = StopSignal()

    @property
    def runs_direct_command(self) -> bool:
        """True if a command is running that no other worker could follow."""
        return self._attempt is not None and self._attempt.runs_direct_command

    async def perform(self) -> ActionEnd | Deferred:
        """Perform or continue the action.

        Raises HandedOver, and nothing else for failures of machines or decisions of people.
        """
        self.stop_signal.bind()
        try:
            match self._executor:
                case AttemptExecutor() as executor:
                    return await self._perform_attempts(executor)
                case WaitExecutor() as executor:
                    return await self._perform_wait(executor)
        except Detached:
            raise HandedOver(may_have_started=True) from None
        except Interrupted as stopped:
            if stopped.reason in DETACHING:
                raise HandedOver(
                    may_have_started=stopped.reason is StopReason.OWNERSHIP_LOST
                ) from None
            return self.end(outcomes.never_started(stopped.reason))
        except RemoteFailure as failure:
            return self.end(outcomes.from_failure(failure))
        except Unavailable as unavailable:
            # The started command continues: an outage that reaches this point must not end it.
            log.warning(
                "run_handed_over",
                target_run=self._state.journal.claimed.id,
                action=self.key,
                reason=str(unavailable),
            )
            raise HandedOver(may_have_started=True) from None
        except Exception as bug:  # noqa: BLE001  a bug ends this action, recorded, and no other run
            self._state.tools.metrics.bugs.labels("target_run").inc()
            claimed = self._state.journal.claimed
            log.exception(
                "target_run_failed",
                execution=claimed.execution_id,
                target_run=claimed.id,
                action=self.key,
            )
            return self.end(
                outcomes.from_failure(
                    RemoteFailure(ErrorCode.INTERNAL, f"a fault of opsjobs: {type(bug).__name__}")
                )
            )

    async def _perform_wait(self, executor: WaitExecutor) -> ActionEnd | Deferred:
        if self.entry is None:
            progress = self._progress
            started_at = (
                progress.started_at if progress is not None else self._state.tools.clock.now()
            )
            self.entry = self._state.journal.begin(
                self.key, self.number, started_at, progress=progress, uses_spool=False
            )
        found = await executor.perform(
            self._context(may_have_started=self._progress is not None), self._action
        )
        return self.end(found) if isinstance(found, ActionEnd) else found

    async def _perform_attempts(self, executor: AttemptExecutor) -> ActionEnd | Deferred:
        while True:
            if (deferred := await self._wait_until_due()) is not None:
                return deferred
            end = await self._perform_attempt(executor)
            if isinstance(end, Deferred):
                return end
            pause = self._retry_pause(end)
            if pause is None:
                if self._attempts_exhausted(end):
                    self._state.dead_actions.add(self.key)
                return self.end(end)
            self._schedule_retry(end, pause)

    async def _wait_until_due(self) -> Deferred | None:
        """Wait until the next attempt is due; inline if the wait is short."""
        clock = self._state.tools.clock
        left = self._due_at - clock.monotonic()
        if left > 0:
            # A stop ends every wait. If the attempt is due it may be running already: then the
            # attempt itself handles the stop.
            try:
                with self.stop_signal.interruptible():
                    if left <= INLINE_WAIT_SECONDS:
                        await clock.sleep(left)
            except Interrupted as stopped:
                if stopped.reason is StopReason.WORKER_STOPS:
                    return self._back_off()
                raise
            if left > INLINE_WAIT_SECONDS:
                return self._back_off()
        if self._unreported_retry is not None:
            self._state.journal.note_retry(self._unreported_retry)
            self._unreported_retry = None
        return None

    def _back_off(self) -> Deferred:
        return Deferred(WaitingFor.BACKOFF, self._due_at, attempt=self.number)

    async def _perform_attempt(self, executor: AttemptExecutor) -> ActionEnd | Deferred:
        state, progress = self._state, self._progress
        may_have_started = progress is not None or (
            state.inherited and state.compiled_spec.workflow.linear
        )
        state.attempt = max(state.attempt, self.number)
        try:
            action = state.render(self._action, self.number)
        except RemoteFailure as failure:
            if progress is None:
                return outcomes.from_failure(failure)
            message = (
                f"it was begun before, and this worker cannot look after it: {failure.message}"
            )
            return outcomes.from_failure(RemoteFailure(ErrorCode.LOST, message))
        attempt = self._attempt = executor.attempt(
            self._context(may_have_started=may_have_started), action
        )
        try:
            with tracing.span("attempt", action=self.key, attempt=self.number) as span:
                end = await attempt.perform()
                outcomes.mark_span(span, end)
                return end
        except RemoteFailure as failure:
            if attempt.entry is None and (deferred := self._hold_for_target(failure)) is not None:
                return deferred
            return outcomes.from_failure(failure)
        finally:
            self.entry, self.number = attempt.entry, attempt.number

    def _context(self, *, may_have_started: bool) -> AttemptContext:
        return AttemptContext(
            self._state, self.number, self.stop_signal, self._progress, may_have_started
        )

    def _hold_for_target(self, failure: RemoteFailure) -> Deferred | None:
        """Return a wait if the run is to be held until its machine is reachable, else None."""
        left = self._state.journal.claimed.hold_seconds
        if not left or not failure.offline:
            return None
        message = f"{self._state.target_name} cannot be reached: {failure.message}"
        return Deferred(
            WaitingFor.HOLD,
            self._state.tools.clock.monotonic() + min(HOLD_SECONDS, left),
            awaits=message[:500],
        )

    def _retry_pause(self, end: ActionEnd) -> float | None:
        """Return the seconds until the next attempt; None if this end is final."""
        tools, attempt = self._state.tools, self._attempt
        self._tries += 1
        if (
            end.error is None
            or self.stop_signal.reason is not None
            or self._tries >= tools.limits.attempts
        ):
            return None
        if end.status is RunStatus.LOST:
            again = (
                self._state.compiled_spec.on_lost == "retry"
                and attempt is not None
                and attempt.gone
            )
            return 0.0 if again else None
        if end.cancel_proof is CancelProof.UNREACHABLE:
            return None
        policy = self._state.compiled_spec.retries[self.key]
        return policy.decide(
            end.error.code, self._tries, tools.random, usual_factor=tools.limits.retry_factor
        )

    def _attempts_exhausted(self, end: ActionEnd) -> bool:
        """Return True if several attempts were made and all are used up.

        Also True if the command is no longer on its machine and must not be retried any more.
        """
        if end.error is None or self.stop_signal.reason is not None:
            return False
        if end.status is RunStatus.LOST:
            return (
                self._state.compiled_spec.on_lost == "retry"
                and self._attempt is not None
                and self._attempt.gone
            )
        allowed = min(
            self._state.compiled_spec.retries[self.key].max_attempts,
            self._state.tools.limits.attempts,
        )
        return self._tries >= allowed > 1 and end.status in _BAD and end.error.code not in NEVER

    def _schedule_retry(self, end: ActionEnd, pause: float) -> None:
        """Record the end of this attempt and prepare the next one, to start after the pause."""
        self._record_end(end, again_seconds=pause)
        self._last = end
        self.number += 1
        self._due_at = self._state.tools.clock.monotonic() + pause
        self._unreported_retry = self.number if pause <= INLINE_WAIT_SECONDS else None
        self._progress = self.entry = None

    def end(self, end: ActionEnd) -> ActionEnd:
        """Record the end of the action and return it."""
        self._record_end(end)
        return end

    def give_up(self) -> ActionEnd:
        """End an action whose run ended while the action waited.

        The result of its last attempt is kept; without one it is recorded as skipped.
        """
        if self.entry is None and self._last is not None:
            return self._last
        return self.end(ActionEnd(RunStatus.SKIPPED))

    def _record_end(self, end: ActionEnd, *, again_seconds: float | None = None) -> None:
        entry = self.entry if self.entry is not None else self._open_entry()
        if (
            end.status is RunStatus.LOST
            and self._attempt is not None
            and self._attempt.direct
            and entry.identity is None
        ):
            entry.direct = True  # no spool holds its outcome, so none is queried
        if again_seconds is None and entry.identity is not None and not entry.direct:
            unknown = (
                end.status in (RunStatus.LOST, RunStatus.DEAD)
                or end.cancel_proof is CancelProof.UNREACHABLE
            )
            self._state.sweep = self._state.sweep or unknown
        entry.end(end, self._state.tools.clock.now(), again_seconds=again_seconds)
        self.entry = entry

    def _open_entry(self) -> AttemptEntry:
        started_at = self._progress.started_at if self._progress is not None else None
        return self._state.journal.begin(
            self.key, self.number, started_at, progress=self._progress, uses_spool=False
        )
