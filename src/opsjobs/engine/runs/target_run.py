"""One target run from top to bottom: the walk through its actions, branches of it side by side, and the record of it.

Whatever can stop a run (a cancel, a timeout, the worker's end, the loss of its lease) comes in through `interrupt`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from opsjobs import failpoints
from opsjobs.clock import Timer
from opsjobs.engine.compiled_spec import CompiledSpec
from opsjobs.engine.runs import outcomes
from opsjobs.engine.runs.action_run import ActionRun, HandedOver
from opsjobs.engine.runs.cancellation import LEAVING, Interrupted, StopReason, StopSignal
from opsjobs.engine.runs.run_connection import RunConnections
from opsjobs.engine.runs.run_history import RunHistory
from opsjobs.engine.runs.run_journal import ActionEnd, RunJournal
from opsjobs.engine.runs.run_state import Later, RunLimits, RunState, RunTools
from opsjobs.engine.runs.stdout_capture import text_of
from opsjobs.model.errors import Gone, RemoteFailure, Unavailable
from opsjobs.model.execution import ErrorCode, RunStatus, WaitingFor
from opsjobs.model.expression import Fault, Unfit
from opsjobs.model.outputs import OUTPUTS_BYTES_MAX
from opsjobs.model.secret import Credential
from opsjobs.model.target import Endpoint
from opsjobs.model.workflow import WorkflowWalk
from opsjobs.store.ledger import Progress
from opsjobs.telemetry import log

__all__ = ["RunLimits", "RunTools", "TargetRunner"]

# Where branches wait for several things the first answer wakes the run. Should it be missed, they are looked after, ever less
# often.
LOOK_SECONDS = 10.0
LOOK_SECONDS_MAX = 300.0
# So much of the names of what is awaited beside a timer goes into an index; who is awaited beyond that is looked after.
NAMES_CHARACTERS_MAX = 2_000
_ANSWERED = (WaitingFor.APPROVAL, WaitingFor.CHILD)


class TargetRunner:
    """A claimed run at work in this process.

    `asked_at`: a moment before its claim was asked for (monotonic). `lost`: why it is unknown what became of the run's command,
    should it have been started directly. `opened`: credentials with passwords to become others by.
    """

    def __init__(
        self,
        record: RunJournal,
        course: CompiledSpec,
        endpoint: Endpoint | None,
        progress: Sequence[Progress],
        tools: RunTools,
        *,
        asked_at: float,
        lost: str | None = None,
        opened: Mapping[str, Credential] | None = None,
    ) -> None:
        self.claimed = record.claimed
        self.record = record
        # Somebody before us may have started the next action.
        inherited = self.claimed.taken_over or lost is not None
        self._state = RunState(
            record,
            course,
            endpoint,
            RunHistory(self.claimed, progress),
            tools,
            RunConnections(tools.sessions, endpoint, tools.clock, self._renewed),
            opened or {},
            lost,
            inherited,
            asked_at - self.claimed.age_seconds,
            direct=self.claimed.direct,
            kept=inherited and self.claimed.identity is not None,
            attempt=self.claimed.attempt,
        )
        self._walk = WorkflowWalk(course.workflow, self._applies)
        self._unfit: dict[str, str] = {}
        self._told: set[str] = set()
        self._at_work: dict[str, ActionRun] = {}
        self._waiting: dict[str, tuple[ActionRun, Later]] = {}
        self._why: StopReason | None = None
        # Orders that take the run from this worker: they end the take-up, before any action is at work.
        self._leaving = StopSignal()
        self._left = False
        self.began = time.monotonic()

    async def _renewed(self, endpoint: Endpoint) -> Endpoint:
        now = await self._state.tools.renew(endpoint)
        self._state.learn(set(now.logins) - set(endpoint.logins))
        return now

    # --- what comes from outside

    def interrupt(self, why: StopReason) -> None:
        """Stop at the next place where that is possible. The first reason stays, but losing the run overrules all."""
        if self._why is None or why is StopReason.NOT_OURS:
            self._why = why
        if why in LEAVING:
            self._leaving.order(why)
        for action in self._at_work.values():
            action.stops.order(why)

    def drain(self) -> None:
        """Begin nothing more and let go of what goes on by itself; a direct command at work may end."""
        self._state.draining = True
        self._leaving.order(StopReason.WORKER_STOPS)
        for action in self._at_work.values():
            if not action.commanding:
                action.stops.order(StopReason.WORKER_STOPS)

    # --- the whole of it

    async def perform(self) -> None:
        """Do it all. Never raises for what a machine or a person does; what is a bug of ours is recorded as `internal`."""
        deadline = self._until_deadline()
        self._leaving.bind()
        try:
            await self._walk_on()
            await self._conclude()
        except Interrupted:
            self._turn_back()
        except Unavailable as away:
            log.warning("run_left", target_run=self.claimed.id, reason=str(away))
            self.record.leave()
            await self.record.written()  # the run is taken up again from what is on record
        except Exception as bug:  # noqa: BLE001  a bug ends this run, on record, and no other
            self._state.tools.metrics.bugs.labels("target_run").inc()
            log.exception("target_run_failed", execution=self.claimed.execution_id, target_run=self.claimed.id)
            self._fail(outcomes.failed(RemoteFailure(ErrorCode.INTERNAL, f"a fault of opsjobs: {type(bug).__name__}")))
        finally:
            if deadline is not None:
                deadline.cancel()
            await self._state.links.close()

    def _until_deadline(self) -> Timer | None:
        left = self.claimed.seconds_left
        return None if left is None else self._state.tools.clock.later(left, lambda: self.interrupt(StopReason.DEADLINE))

    # --- the walk

    async def _walk_on(self) -> None:
        todo = await self._take_up()
        branches: set[asyncio.Task[None]] = set()
        try:
            while True:
                todo += self._next()
                if len(todo) == 1 and not branches and not self._waiting:
                    await self._branch(todo.pop())
                elif todo:
                    branches |= {asyncio.create_task(self._branch(action)) for action in todo}
                    todo = []
                elif branches:
                    done, branches = await self._some_end(branches)
                    for branch in done:
                        branch.result()
                else:
                    return
        finally:
            for branch in branches:
                branch.cancel()

    async def _some_end(self, branches: set[asyncio.Task[None]]) -> tuple[set[asyncio.Task[None]], set[asyncio.Task[None]]]:
        """Those that ended, and those at work; none has ended where something else that waited is due."""
        clock = self._state.tools.clock
        due = [later.at - clock.monotonic() for _, later in self._waiting.values() if later.at is not None]
        alarm = asyncio.create_task(clock.sleep(max(min(due), 0.0))) if due else None
        done, _ = await asyncio.wait({*branches, alarm} if alarm else branches, return_when=asyncio.FIRST_COMPLETED)
        if alarm is not None:
            alarm.cancel()
        return done & branches, branches - done

    async def _take_up(self) -> list[ActionRun]:
        """What the record says: ends that stand, and actions that are open, whatever became of others meanwhile.

        Raises Interrupted where this worker must go before all of it was read.
        """
        state = self._state
        state.attempt = max(state.attempt, state.past.attempt)
        for seen in state.past.ended():
            state.note(seen.action, outcomes.recorded(seen), 1 if seen.inherited_from is not None else seen.attempt)
            self._walk.record(seen.action, seen.status)
            state.sweep = state.sweep or seen.unknown
            if seen.action in state.course.heard:
                await self._hear(seen)
        return [self._begun(key) for key in state.past.open() if key in state.course.actions]

    async def _hear(self, seen: Progress) -> None:
        """Read what an action said before. Raises Interrupted."""
        try:
            with self._leaving.here():
                head = await self._state.tools.stdout(self.claimed, seen, OUTPUTS_BYTES_MAX)
        except Gone as gone:
            self._state.forgotten[seen.action] = str(gone)
        else:
            self._state.stdouts[seen.action] = text_of(head)

    def _next(self) -> list[ActionRun]:
        """What is to be done now: whatever is due of what waited, and what may start."""
        if self._left or self._state.draining or self._why in LEAVING:
            return []
        due = self._due()
        ready = self._walk.ready()
        self._tell_skipped()
        return due + [self._begun(key) for key in ready if not self._behind_barrier(key)]

    def _due(self) -> list[ActionRun]:
        now = self._state.tools.clock.monotonic()
        if self._walk.stopped and self._why is None:
            self._give_up_waits()
        due = [key for key, (_, at) in self._waiting.items() if self._why is not None or (at.at is not None and at.at <= now)]
        return [self._waiting.pop(key)[0] for key in due]

    def _give_up_waits(self) -> None:
        """A failure has ended the run: nobody waits any more, but for what goes on elsewhere, and to undo what was done."""
        undoing = self._state.course.workflow.undoing
        idle = [key for key, (_, later) in self._waiting.items() if later.waiting_for is not WaitingFor.CHILD]
        for key in [key for key in idle if key not in undoing]:
            action, _ = self._waiting.pop(key)
            self._ended(action, action.give_up())

    def _behind_barrier(self, key: str) -> bool:
        return self._state.course.workflow.steps[key].barrier and key not in self.claimed.passed and self._why is None

    def _begun(self, key: str) -> ActionRun:
        self._walk.begin(key)
        return ActionRun(self._state, self._state.course.actions[key])

    async def _branch(self, action: ActionRun) -> None:
        """Perform an action, and note what came of it."""
        self._at_work[action.key] = action
        if self._why is not None:
            action.stops.order(self._why)
        if self._state.draining:
            action.stops.order(StopReason.WORKER_STOPS)
        try:
            if (unfit := self._unfit.get(action.key)) is not None:
                found: ActionEnd | Later = action.close(outcomes.failed(RemoteFailure(ErrorCode.INTERNAL, unfit)))
            else:
                found = await action.perform()
        except HandedOver as away:
            self._left = self._left or away.begun
            self._state.draining = True
            return
        finally:
            del self._at_work[action.key]
        if isinstance(found, Later):
            self._waiting[action.key] = (action, found)
        else:
            self._ended(action, found)

    def _ended(self, action: ActionRun, end: ActionEnd) -> None:
        self._state.note(action.key, end, action.number)
        self._walk.record(action.key, end.status)

    # --- conditions

    def _applies(self, key: str) -> bool:
        """Whether an action concerns this target and its condition holds. What cannot be said of it fails the action."""
        state = self._state
        before = state.past.of(key)
        if before.skipped or before.open is not None or before.tries:
            return not before.skipped
        targets = state.course.actions[key].get("target_ids")
        if targets is not None and self.claimed.target_id not in targets:
            return False
        condition = state.course.conditions.get(key)
        if condition is None:
            return True
        if isinstance(condition, Fault):
            self._unfit[key] = f"its condition cannot be read {condition}"
            return True
        try:
            state.check_heard(key)
            return condition.holds(state.values(key))
        except (Unfit, RemoteFailure) as unfit:
            self._unfit[key] = f"its condition cannot be judged: {unfit}"
            return True

    def _tell_skipped(self) -> None:
        now = self._state.tools.clock.now()
        for key in self._walk.skipped():
            if key in self._told or self._state.past.of(key).skipped:
                continue
            self._told.add(key)
            if key not in self._state.ends:
                page = self.record.begin(key, self._state.past.of(key).attempt, None, known=False)
                page.end(ActionEnd(RunStatus.SKIPPED), now)

    # --- the end of it

    async def _conclude(self) -> None:
        """Say how the run stands, now that nothing of it is at work here."""
        if self._left or self._why is StopReason.NOT_OURS:
            self.record.leave()
            if self._why is None:  # whoever takes it up reads what is on record
                await self.record.written()
            return None
        if (key := self._walk.outcome()) is not None:
            async with failpoints.at("finish"):
                return self._finish(key)
        if self._waiting:
            return self._defer()
        if self._state.draining or self._why is StopReason.WORKER_STOPS:
            return self._turn_back()
        return self.record.defer(WaitingFor.BARRIER, awaits=self._walk.ready()[0])

    def _turn_back(self) -> None:
        """Let go of a run of which nothing is at work here: it goes back, unless something of it may have been begun before."""
        if self._state.inherited or self._why is StopReason.NOT_OURS:
            self.record.leave()
        else:
            self.record.give_back()

    def _finish(self, key: str) -> None:
        end = self._state.ends.get(key, ActionEnd(RunStatus.SUCCEEDED))
        if end.status is RunStatus.SKIPPED:
            end = replace(end, status=RunStatus.SUCCEEDED)
        if key in self._state.dead and self._why is None:
            end = replace(end, status=RunStatus.DEAD)
        attempt = self._state.attempt if self._state.attempt > self.claimed.attempt else None
        state = self._state
        self.record.finish(end, direct=not state.kept, sweep=state.sweep, release=state.releases_output, attempt=attempt)

    def _defer(self) -> None:
        """What waits holds nothing: the ledger wakes the run."""
        laters = [later for _, later in self._waiting.values()]
        clock = self._state.tools.clock
        at = min((later.at for later in laters if later.at is not None), default=None)
        first = next(later for later in laters if later.at == at)
        if at is not None and any(later.at is None for later in laters):
            at = min(at, clock.monotonic() + self._look_seconds())
        elif at is None and len(laters) > 1:
            first, at = replace(first, waiting_for=WaitingFor.TIMER, awaits=None), clock.monotonic() + self._look_seconds()
        seconds = None if at is None else max(at - clock.monotonic(), 0.0)
        awaits = first.awaits or _names(laters)
        self.record.defer(first.waiting_for, seconds=seconds, awaits=awaits, attempt=first.attempt)

    def _look_seconds(self) -> float:
        """As long again as the youngest wait has lasted: each look takes a claim, and rows of the log."""
        waits = (self._state.past.of(key).open for key, (_, later) in self._waiting.items() if later.at is None)
        lasted = min((seen.age_seconds if seen is not None else 0.0 for seen in waits), default=0.0)
        return min(max(lasted, LOOK_SECONDS), LOOK_SECONDS_MAX)

    def _fail(self, end: ActionEnd) -> None:
        """A fault of ours: whatever is open ends so, and the run with it, unless it came too late to change anything."""
        if (known := self._walk.outcome()) is not None:
            return self._finish(known)
        open_ = [*self._at_work.values(), *(action for action, _ in self._waiting.values())]
        for action in open_:
            action.close(end)
        if not open_:
            key = next((k for k in self._state.course.actions if k not in self._state.ends), None)
            if key is not None:
                ActionRun(self._state, self._state.course.actions[key]).close(end)
        return self.record.finish(end, sweep=self._state.sweep)


def _names(laters: Sequence[Later]) -> str | None:
    """Whose answers these wait for."""
    names, size = list[str](), 0
    for later in laters:
        if later.awaits is not None and later.waiting_for in _ANSWERED and size + len(later.awaits) < NAMES_CHARACTERS_MAX:
            names.append(later.awaits)
            size += len(later.awaits) + 1
    return " ".join(names) or None
