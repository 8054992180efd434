"""One action of a run, with all its attempts, from where the record left it to its end, or to where it has to wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opsjobs.engine.runs import outcomes, passive_actions
from opsjobs.engine.runs.attempt import Attempt
from opsjobs.engine.runs.cancellation import LEAVING, Detached, Interrupted, StopReason, StopSignal
from opsjobs.engine.runs.programs import rendered
from opsjobs.engine.runs.run_journal import ActionEnd, AttemptEntry
from opsjobs.engine.runs.run_state import SHORT_SECONDS, Later, RunState
from opsjobs.engine.runs.transfer_attempt import TransferAttempt
from opsjobs.model.errors import RemoteFailure, Unavailable
from opsjobs.model.execution import CancelProof, ErrorCode, RunStatus, WaitingFor
from opsjobs.model.retry import NEVER
from opsjobs.telemetry import log

# How often an unreachable machine that the run is held for is tried again.
HOLD_SECONDS = 30.0
_BAD = (RunStatus.FAILED, RunStatus.TIMEOUT, RunStatus.UNREACHABLE)


class HandedOver(Exception):
    """This worker does nothing more of it. `begun`: it goes on, or may have begun before, so that it must not be given back."""

    def __init__(self, *, begun: bool) -> None:
        super().__init__("left" if begun else "turned back")
        self.begun = begun


class ActionRun:
    """An action at work, or waiting in this process; `perform` is called again after a Later whose time has come.

    `number`: of its attempt, the one at work or the last.
    """

    def __init__(self, state: RunState, action: Mapping[str, Any]) -> None:
        self._state = state
        self._action = action
        self.key: str = action["key"]
        before = state.past.of(self.key)
        self._seen = before.open
        self.number = before.attempt
        self._tries = before.tries
        self._due = state.tools.clock.monotonic() + before.again_seconds
        self._untold: int | None = None
        self._attempt: Attempt | TransferAttempt | None = None
        self._last: ActionEnd | None = None
        self.page: AttemptEntry | None = None
        self.stops = StopSignal()

    @property
    def commanding(self) -> bool:
        """Whether a command is at work that nobody else could follow."""
        return self._attempt is not None and self._attempt.commanding

    @property
    def machine(self) -> bool:
        """Whether it starts something on the target."""
        return self._action["type"] not in passive_actions.KINDS

    async def perform(self) -> ActionEnd | Later:
        """Go on with it. Raises Away; nothing else for what a machine or a person does."""
        self.stops.bind()
        try:
            return await (self._on_the_machine() if self.machine else self._waited())
        except Detached:
            raise HandedOver(begun=True) from None
        except Interrupted as stopped:
            if stopped.why in LEAVING:
                raise HandedOver(begun=stopped.why is StopReason.NOT_OURS) from None
            return self.close(outcomes.unstarted(stopped.why))
        except RemoteFailure as failure:
            return self.close(outcomes.failed(failure))
        except Unavailable as away:
            # What was begun goes on: an outage that reaches this place must not end it on record.
            log.warning("run_left", target_run=self._state.record.claimed.id, action=self.key, reason=str(away))
            raise HandedOver(begun=True) from None
        except Exception as bug:  # noqa: BLE001  a bug ends this action, on record, and no other run
            self._state.tools.metrics.bugs.labels("target_run").inc()
            claimed = self._state.record.claimed
            log.exception("target_run_failed", execution=claimed.execution_id, target_run=claimed.id, action=self.key)
            return self.close(outcomes.failed(RemoteFailure(ErrorCode.INTERNAL, f"a fault of opsjobs: {type(bug).__name__}")))

    async def _waited(self) -> ActionEnd | Later:
        if self.page is None:
            seen = self._seen
            started_at = seen.started_at if seen is not None else self._state.tools.clock.now()
            self.page = self._state.record.begin(self.key, self.number, started_at, seen=seen, known=False)
        found = await passive_actions.waited(self._state, self._action, self._seen, self.stops, self.number)
        return self.close(found) if isinstance(found, ActionEnd) else found

    async def _on_the_machine(self) -> ActionEnd | Later:
        while True:
            if (later := await self._until_due()) is not None:
                return later
            end = await self._once()
            if isinstance(end, Later):
                return end
            pause = self._pause(end)
            if pause is None:
                if self._used_up(end):
                    self._state.dead.add(self.key)
                return self.close(end)
            self._again(end, pause)

    async def _until_due(self) -> Later | None:
        """Wait for the next attempt, here if it is not for long."""
        clock = self._state.tools.clock
        left = self._due - clock.monotonic()
        if left > 0:
            # Who was told to stop waits for nothing any more. What is due may be at work already: its attempt sees to that.
            try:
                with self.stops.here():
                    if left <= SHORT_SECONDS:
                        await clock.sleep(left)
            except Interrupted as stopped:
                if stopped.why is StopReason.WORKER_STOPS:
                    return self._backing_off()
                raise
            if left > SHORT_SECONDS:
                return self._backing_off()
        if self._untold is not None:
            self._state.record.retried(self._untold)
            self._untold = None
        return None

    def _backing_off(self) -> Later:
        return Later(WaitingFor.BACKOFF, self._due, attempt=self.number)

    async def _once(self) -> ActionEnd | Later:
        state, seen = self._state, self._seen
        perhaps = seen is not None or (state.inherited and state.course.workflow.linear)
        state.attempt = max(state.attempt, self.number)
        try:
            action = rendered(state, self._action, self.number)
        except RemoteFailure as failure:
            if seen is None:
                return outcomes.failed(failure)
            words = f"it was begun before, and this worker cannot look after it: {failure.message}"
            return outcomes.failed(RemoteFailure(ErrorCode.LOST, words))
        attempt: Attempt | TransferAttempt
        if action["type"] == "file_transfer":
            attempt = TransferAttempt(state, action, self.number, self.stops, seen=seen)
        else:
            attempt = Attempt(state, action, self.number, self.stops, seen=seen, perhaps=perhaps)
        self._attempt = attempt
        try:
            return await attempt.perform()
        except RemoteFailure as failure:
            if attempt.page is None and (later := self._held(failure)) is not None:
                return later
            return outcomes.failed(failure)
        finally:
            self.page, self.number = attempt.page, attempt.number

    def _held(self, failure: RemoteFailure) -> Later | None:
        """Whether the run is held until its machine is there."""
        left = self._state.record.claimed.hold_seconds
        if not left or not failure.offline:
            return None
        words = f"{self._state.target_name} cannot be reached: {failure.message}"
        return Later(WaitingFor.HOLD, self._state.tools.clock.monotonic() + min(HOLD_SECONDS, left), awaits=words[:500])

    def _pause(self, end: ActionEnd) -> float | None:
        """Seconds until the next attempt; None where this end stands."""
        tools, attempt = self._state.tools, self._attempt
        self._tries += 1
        if end.error is None or self.stops.why is not None or self._tries >= tools.limits.attempts:
            return None
        if end.status is RunStatus.LOST:
            again = self._state.course.on_lost == "retry" and attempt is not None and attempt.gone
            return 0.0 if again else None
        if end.cancel_proof is CancelProof.UNREACHABLE:
            return None
        policy = self._state.course.retries[self.key]
        return policy.decide(end.error.code, self._tries, tools.random, usual_factor=tools.limits.retry_factor)

    def _used_up(self, end: ActionEnd) -> bool:
        """Whether all of more than one attempts were used; or it is gone, and may not be tried again any more."""
        if end.error is None or self.stops.why is not None:
            return False
        if end.status is RunStatus.LOST:
            return self._state.course.on_lost == "retry" and self._attempt is not None and self._attempt.gone
        allowed = min(self._state.course.retries[self.key].max_attempts, self._state.tools.limits.attempts)
        return self._tries >= allowed > 1 and end.status in _BAD and end.error.code not in NEVER

    def _again(self, end: ActionEnd, pause: float) -> None:
        """The end does not stand: the next attempt comes after the pause."""
        self._end(end, again_seconds=pause)
        self._last = end
        self.number += 1
        self._due = self._state.tools.clock.monotonic() + pause
        self._untold = self.number if pause <= SHORT_SECONDS else None
        self._seen = self.page = None

    def close(self, end: ActionEnd) -> ActionEnd:
        """It ends so."""
        self._end(end)
        return end

    def give_up(self) -> ActionEnd:
        """Its run has ended while it waited: what it came to stands, or it is skipped."""
        if self.page is None and self._last is not None:
            return self._last
        return self.close(ActionEnd(RunStatus.SKIPPED))

    def _end(self, end: ActionEnd, *, again_seconds: float | None = None) -> None:
        page = self.page if self.page is not None else self._opened()
        if end.status is RunStatus.LOST and self._attempt is not None and self._attempt.direct and page.identity is None:
            page.direct = True  # no store can say what became of it, nor is it to be asked
        if again_seconds is None and page.identity is not None and not page.direct:
            unknown = end.status in (RunStatus.LOST, RunStatus.DEAD) or end.cancel_proof is CancelProof.UNREACHABLE
            self._state.sweep = self._state.sweep or unknown
        page.end(end, self._state.tools.clock.now(), again_seconds=again_seconds)
        self.page = page

    def _opened(self) -> AttemptEntry:
        started_at = self._seen.started_at if self._seen is not None else None
        return self._state.record.begin(self.key, self.number, started_at, seen=self._seen, known=False)
