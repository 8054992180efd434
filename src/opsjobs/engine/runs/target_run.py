"""Perform one target run: walk its actions, in parallel if they branch, and record it.

Every reason to stop a run (a cancel, a timeout, the worker's stop, the loss of its lease) is
passed to `interrupt`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from opsjobs import failpoints
from opsjobs.clock import Timer
from opsjobs.engine.compiled_spec import CompiledSpec
from opsjobs.engine.runs import outcomes
from opsjobs.engine.runs.action_run import ActionRun, HandedOver
from opsjobs.engine.runs.cancellation import DETACHING, Interrupted, StopReason, StopSignal
from opsjobs.engine.runs.output import OUTPUTS_BYTES_MAX, decode_head
from opsjobs.engine.runs.run_connection import RunConnections
from opsjobs.engine.runs.run_journal import ActionEnd, RunJournal
from opsjobs.engine.runs.run_state import Deferred, RunHistory, RunState
from opsjobs.engine.runs.run_tools import RunTools
from opsjobs.model.credential import Credential
from opsjobs.model.errors import Gone, RemoteFailure, Unavailable
from opsjobs.model.execution import ANSWERED_WAITS, ErrorCode, RunStatus, WaitingFor
from opsjobs.model.expression import Fault, Unfit
from opsjobs.model.target import Endpoint
from opsjobs.model.workflow import WorkflowWalk
from opsjobs.store.ledger.claim import Progress
from opsjobs.telemetry import trace_context, tracing
from opsjobs.telemetry.logs import bound, log
from opsjobs.telemetry.trace_context import TraceContext
from opsjobs.telemetry.tracing import SpanKind

# If branches wait for several events, the first event wakes the run. In case a wake-up is missed,
# the run also checks them itself, at growing intervals.
LOOK_SECONDS = 10.0
LOOK_SECONDS_MAX = 300.0
# Maximum length of the names of awaited approvals and executions in the index, if the run also
# waits for a time. Names beyond that are found by the periodic check.
NAMES_CHARACTERS_MAX = 2_000


class TargetRunner:
    """A claimed run that this process is performing."""

    def __init__(
        self,
        journal: RunJournal,
        compiled_spec: CompiledSpec,
        endpoint: Endpoint | None,
        progress: Sequence[Progress],
        tools: RunTools,
        *,
        asked_at: float,
        lost_reason: str | None = None,
        opened: Mapping[str, Credential] | None = None,
    ) -> None:
        """Prepare the run; `perform` does it.

        `asked_at`: a time before its claim was sent (monotonic). `lost_reason`: why the outcome of
        the run's command is unknown, if it was started directly. `opened`: credentials that its
        actions need, with their passwords.
        """
        self.claimed = journal.claimed
        self.journal = journal
        # Another worker may have started the next action.
        inherited = self.claimed.taken_over or lost_reason is not None
        self._state = RunState(
            journal,
            compiled_spec,
            endpoint,
            RunHistory(self.claimed, progress),
            tools,
            RunConnections(tools.sessions, endpoint, tools.clock, self._refresh_credentials),
            opened or {},
            lost_reason,
            inherited,
            asked_at - self.claimed.age_seconds,
            direct=self.claimed.direct,
            in_spool=inherited and self.claimed.identity is not None,
            attempt=self.claimed.attempt,
        )
        self._walk = WorkflowWalk(compiled_spec.workflow, self._applies)
        self._condition_faults: dict[str, str] = {}
        self._reported_skips: set[str] = set()
        self._active: dict[str, ActionRun] = {}
        """Running actions, by key."""
        self._waiting: dict[str, tuple[ActionRun, Deferred]] = {}
        """Actions that wait for a time or an event, by key."""
        self._stop_reason: StopReason | None = None
        # Requests to leave the run end `_resume`, before any action is running.
        self._detach_signal = StopSignal()
        self._handed_over = False
        self._asked_at = asked_at
        self.began = time.monotonic()

    async def _refresh_credentials(self, endpoint: Endpoint) -> Endpoint:
        now = await self._state.tools.refresh_credentials(endpoint)
        self._state.redact(set(now.logins) - set(endpoint.logins))
        return now

    @property
    def job_type(self) -> str:
        """The type of its job, for metrics."""
        return self._state.compiled_spec.job_type

    # --- requests from outside

    def interrupt(self, reason: StopReason) -> None:
        """Stop at the next point where the run can be interrupted.

        The first reason is kept, except that the loss of the run overrides all others.
        """
        if self._stop_reason is None or reason is StopReason.OWNERSHIP_LOST:
            self._stop_reason = reason
        if reason in DETACHING:
            self._detach_signal.request(reason)
        for action in self._active.values():
            action.stop_signal.request(reason)

    def drain(self) -> None:
        """Start nothing more and leave durable commands running.

        A direct command that is running may finish.
        """
        self._state.draining = True
        self._detach_signal.request(StopReason.WORKER_STOPS)
        for action in self._active.values():
            if not action.runs_direct_command:
                action.stop_signal.request(StopReason.WORKER_STOPS)

    # --- perform

    async def perform(self) -> None:
        """Perform the run to its end, or until it waits or belongs to another worker.

        Raises nothing for failures of machines or decisions of people; a bug in opsjobs is recorded
        as `internal`.
        """
        claimed = self.claimed
        with (
            tracing.entry(
                "target_run",
                self._launch_trace(),
                kind=SpanKind.CONSUMER,
                began=self._asked_at,
                execution=claimed.execution_id,
                target_run=claimed.id,
                target=claimed.target_id,
                attempt=claimed.attempt,
            ) as span,
            bound(execution=claimed.execution_id, target_run=claimed.id),
        ):
            self.journal.trace = trace_context.current()
            tracing.record("claim", self._asked_at, self.began, fence=claimed.fence)
            await self._perform()
            if (status := self.journal.status) is not None:
                span.annotate(status=status.value)
                self._log_end(status)

    def _log_end(self, status: RunStatus) -> None:
        level = logging.INFO if status.final else logging.DEBUG
        error = self.journal.error
        log.log(
            level,
            "run_ended" if status.final else "run_deferred",
            status=status.value,
            target=self.claimed.target_id,
            attempt=self._state.attempt,
            ms=round((time.monotonic() - self.began) * 1000, 1),
            **({} if error is None else {"code": error.code.value}),
        )

    def _launch_trace(self) -> TraceContext | None:
        """Return the trace of the launch; measure how long the run was queued."""
        spec = self._state.compiled_spec.spec
        launch = TraceContext.parse(spec.traceparent)
        if self.claimed.fence > 1:
            return launch
        waited = max((self._state.tools.clock.now() - spec.created_at).total_seconds(), 0.0)
        self._state.tools.metrics.run_queue_seconds.observe(waited)
        if launch is not None:
            since = self._state.tools.clock.monotonic() - waited
            tracing.record(
                "queue", since, self._asked_at, parent=launch, target_run=self.claimed.id
            )
        return launch

    async def _perform(self) -> None:
        deadline = self._start_deadline_timer()
        self._detach_signal.bind()
        try:
            await self._walk_actions()
            await self._conclude()
        except Interrupted:
            self._release()
        except Unavailable as handed_over:
            log.warning("run_handed_over", target_run=self.claimed.id, reason=str(handed_over))
            self.journal.detach()
            await self.journal.flush()  # the next claim resumes the run from its recorded state
        except Exception as bug:  # noqa: BLE001  a bug ends this run, on record, and no other
            self._state.tools.metrics.bugs.labels("target_run").inc()
            log.exception(
                "target_run_failed", execution=self.claimed.execution_id, target_run=self.claimed.id
            )
            self._fail(
                outcomes.from_failure(
                    RemoteFailure(ErrorCode.INTERNAL, f"a fault of opsjobs: {type(bug).__name__}")
                )
            )
        finally:
            if deadline is not None:
                deadline.cancel()
            await self._state.connections.close()

    def _start_deadline_timer(self) -> Timer | None:
        left = self.claimed.seconds_left
        return (
            None
            if left is None
            else self._state.tools.clock.later(left, lambda: self.interrupt(StopReason.DEADLINE))
        )

    # --- the walk

    async def _walk_actions(self) -> None:
        todo = await self._resume()
        branches: set[asyncio.Task[None]] = set()
        try:
            while True:
                todo += self._next_actions()
                if len(todo) == 1 and not branches and not self._waiting:
                    await self._perform_action(todo.pop())
                elif todo:
                    branches |= {
                        asyncio.create_task(self._perform_action(action)) for action in todo
                    }
                    todo = []
                elif branches:
                    done, branches = await self._wait_for_branch(branches)
                    for branch in done:
                        branch.result()
                else:
                    return
        finally:
            for branch in branches:
                branch.cancel()

    async def _wait_for_branch(
        self, branches: set[asyncio.Task[None]]
    ) -> tuple[set[asyncio.Task[None]], set[asyncio.Task[None]]]:
        """Wait for a branch to end; return the finished and the running branches.

        The first set is empty if a deferred action becomes due first.
        """
        clock = self._state.tools.clock
        due = [
            deferred.at - clock.monotonic()
            for _, deferred in self._waiting.values()
            if deferred.at is not None
        ]
        alarm = asyncio.create_task(clock.sleep(max(min(due), 0.0))) if due else None
        done, _ = await asyncio.wait(
            {*branches, alarm} if alarm else branches, return_when=asyncio.FIRST_COMPLETED
        )
        if alarm is not None:
            alarm.cancel()
        return done & branches, branches - done

    async def _resume(self) -> list[ActionRun]:
        """Restore the recorded results, and return the actions that were open.

        Open actions are resumed whatever the state of other actions is now. Raises Interrupted if
        this worker has to leave before everything was read.
        """
        state = self._state
        state.attempt = max(state.attempt, state.history.attempt)
        for progress in state.history.final_results():
            state.note_end(
                progress.action,
                outcomes.from_progress(progress),
                1 if progress.inherited_from is not None else progress.attempt,
            )
            self._walk.record(progress.action, progress.status)
            state.sweep = state.sweep or progress.unknown
            if progress.action in state.compiled_spec.heard:
                await self._hear(progress)
        return [
            self._create_action(key)
            for key in state.history.open_actions()
            if key in state.compiled_spec.actions
        ]

    async def _hear(self, progress: Progress) -> None:
        """Load the stored stdout of an ended action. Raises Interrupted."""
        try:
            with self._detach_signal.interruptible():
                head = await self._state.tools.read_stdout(
                    self.claimed, progress, OUTPUTS_BYTES_MAX
                )
        except Gone as gone:
            self._state.forgotten[progress.action] = str(gone)
        else:
            self._state.stdouts[progress.action] = decode_head(head)

    def _next_actions(self) -> list[ActionRun]:
        """Return the actions to perform now: those whose wait is over, and those that may start."""
        if self._handed_over or self._state.draining or self._stop_reason in DETACHING:
            return []
        due = self._due_actions()
        ready = self._walk.ready()
        self._record_skipped()
        return due + [self._create_action(key) for key in ready if not self._behind_barrier(key)]

    def _due_actions(self) -> list[ActionRun]:
        now = self._state.tools.clock.monotonic()
        if self._walk.stopped and self._stop_reason is None:
            self._give_up_waits()
        due = [
            key
            for key, (_, at) in self._waiting.items()
            if self._stop_reason is not None or (at.at is not None and at.at <= now)
        ]
        return [self._waiting.pop(key)[0] for key in due]

    def _give_up_waits(self) -> None:
        """Close waiting actions after a failure has ended the run.

        Child executions are still awaited, and so are actions that undo earlier ones.
        """
        undoing = self._state.compiled_spec.workflow.undoing
        idle = [
            key
            for key, (_, deferred) in self._waiting.items()
            if deferred.waiting_for is not WaitingFor.CHILD
        ]
        for key in [key for key in idle if key not in undoing]:
            action, _ = self._waiting.pop(key)
            self._note_end(action, action.give_up())

    def _behind_barrier(self, key: str) -> bool:
        return (
            self._state.compiled_spec.workflow.steps[key].barrier
            and key not in self.claimed.passed
            and self._stop_reason is None
        )

    def _create_action(self, key: str) -> ActionRun:
        self._walk.begin(key)
        return ActionRun(self._state, self._state.compiled_spec.actions[key])

    async def _perform_action(self, action: ActionRun) -> None:
        """Perform an action and record the result."""
        self._active[action.key] = action
        if self._stop_reason is not None:
            action.stop_signal.request(self._stop_reason)
        if self._state.draining:
            action.stop_signal.request(StopReason.WORKER_STOPS)
        try:
            if (unfit := self._condition_faults.get(action.key)) is not None:
                found: ActionEnd | Deferred = action.end(
                    outcomes.from_failure(RemoteFailure(ErrorCode.INTERNAL, unfit))
                )
            else:
                found = await action.perform()
        except HandedOver as handed_over:
            self._handed_over = self._handed_over or handed_over.may_have_started
            self._state.draining = True
            return
        finally:
            del self._active[action.key]
        if isinstance(found, Deferred):
            self._waiting[action.key] = (action, found)
        else:
            self._note_end(action, found)

    def _note_end(self, action: ActionRun, end: ActionEnd) -> None:
        self._state.note_end(action.key, end, action.number)
        self._walk.record(action.key, end.status)

    # --- conditions

    def _applies(self, key: str) -> bool:
        """Return True if an action is for this target and its condition is true.

        A condition that cannot be evaluated fails the action.
        """
        state = self._state
        before = state.history.of_action(key)
        if before.skipped or before.open is not None or before.tries:
            return not before.skipped
        targets = state.compiled_spec.actions[key].target_ids
        if targets is not None and self.claimed.target_id not in targets:
            return False
        condition = state.compiled_spec.conditions.get(key)
        if condition is None:
            return True
        if isinstance(condition, Fault):
            self._condition_faults[key] = f"its condition cannot be read {condition}"
            return True
        try:
            state.check_heard(key)
            return condition.holds(state.values(key))
        except (Unfit, RemoteFailure) as unfit:
            self._condition_faults[key] = f"its condition cannot be judged: {unfit}"
            return True

    def _record_skipped(self) -> None:
        now = self._state.tools.clock.now()
        for key in self._walk.skipped():
            if key in self._reported_skips or self._state.history.of_action(key).skipped:
                continue
            self._reported_skips.add(key)
            if key not in self._state.ends:
                entry = self.journal.begin(
                    key, self._state.history.of_action(key).attempt, None, uses_spool=False
                )
                entry.end(ActionEnd(RunStatus.SKIPPED), now)

    # --- the end of it

    async def _conclude(self) -> None:
        """Record the state of the run, once none of its actions is running here."""
        if self._handed_over or self._stop_reason is StopReason.OWNERSHIP_LOST:
            self.journal.detach()
            if self._stop_reason is None:  # the next owner reads the recorded state
                await self.journal.flush()
            return None
        if (key := self._walk.outcome()) is not None:
            async with failpoints.at("finish"):
                return self._finish(key)
        if self._waiting:
            return self._defer()
        if self._state.draining or self._stop_reason is StopReason.WORKER_STOPS:
            return self._release()
        return self.journal.defer(WaitingFor.BARRIER, awaits=self._walk.ready()[0])

    def _release(self) -> None:
        """Return the run to the queue, or detach if part of it may have been started before."""
        if self._state.inherited or self._stop_reason is StopReason.OWNERSHIP_LOST:
            self.journal.detach()
        else:
            self.journal.give_back()

    def _finish(self, key: str) -> None:
        end = self._state.ends.get(key, ActionEnd(RunStatus.SUCCEEDED))
        if end.status is RunStatus.SKIPPED:
            end = replace(end, status=RunStatus.SUCCEEDED)
        if key in self._state.dead_actions and self._stop_reason is None:
            end = replace(end, status=RunStatus.DEAD)
        attempt = self._state.attempt if self._state.attempt > self.claimed.attempt else None
        state = self._state
        self.journal.finish(
            end,
            direct=not state.in_spool,
            sweep=state.sweep,
            release=state.releases_output,
            attempt=attempt,
        )

    def _defer(self) -> None:
        """Let the run wait without a slot; the ledger wakes it."""
        waits = [deferred for _, deferred in self._waiting.values()]
        clock = self._state.tools.clock
        at = min((deferred.at for deferred in waits if deferred.at is not None), default=None)
        first = next(deferred for deferred in waits if deferred.at == at)
        if at is not None and any(deferred.at is None for deferred in waits):
            at = min(at, clock.monotonic() + self._look_seconds())
        elif at is None and len(waits) > 1:
            first = replace(first, waiting_for=WaitingFor.TIMER, awaits=None)
            at = clock.monotonic() + self._look_seconds()
        seconds = None if at is None else max(at - clock.monotonic(), 0.0)
        awaits = first.awaits or _names(waits)
        self.journal.defer(first.waiting_for, seconds=seconds, awaits=awaits, attempt=first.attempt)

    def _look_seconds(self) -> float:
        """Return the pause until the next check: the age of the youngest wait, within limits.

        Each check costs a claim and rows of the log.
        """
        waits = (
            self._state.history.of_action(key).open
            for key, (_, deferred) in self._waiting.items()
            if deferred.at is None
        )
        lasted = min(
            (progress.age_seconds if progress is not None else 0.0 for progress in waits),
            default=0.0,
        )
        return min(max(lasted, LOOK_SECONDS), LOOK_SECONDS_MAX)

    def _fail(self, end: ActionEnd) -> None:
        """End the run, and everything that is open, after a bug in opsjobs.

        If the run has an outcome already, the bug came too late to change it.
        """
        if (key := self._walk.outcome()) is not None:
            return self._finish(key)
        open_ = [*self._active.values(), *(action for action, _ in self._waiting.values())]
        for action in open_:
            action.end(end)
        if not open_:
            key = next(
                (k for k in self._state.compiled_spec.actions if k not in self._state.ends), None
            )
            if key is not None:
                ActionRun(self._state, self._state.compiled_spec.actions[key]).end(end)
        return self.journal.finish(end, sweep=self._state.sweep)


def _names(waits: Sequence[Deferred]) -> str | None:
    """Return the names of the approvals and executions that are awaited."""
    names, size = list[str](), 0
    for deferred in waits:
        if (
            deferred.awaits is not None
            and deferred.waiting_for in ANSWERED_WAITS
            and size + len(deferred.awaits) < NAMES_CHARACTERS_MAX
        ):
            names.append(deferred.awaits)
            size += len(deferred.awaits) + 1
    return " ".join(names) or None
