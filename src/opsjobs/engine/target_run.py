"""One target run from top to bottom: its way to the machine, the actions one after another, and the record of it.

Whatever can stop a run (a cancel, a timeout, the worker's end, the loss of its lease) comes in through `interrupt`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from opsjobs import failpoints
from opsjobs.clock import Clock, Timer
from opsjobs.engine import ends
from opsjobs.engine.become import become_of, check_direct
from opsjobs.engine.direct import DirectCommand, Work
from opsjobs.engine.durable import DurableCommand, renewed
from opsjobs.engine.interrupt import Interrupted, Left, Stops, Why
from opsjobs.engine.link import Link
from opsjobs.engine.output import Capture
from opsjobs.engine.record import ActionEnd, RunRecord
from opsjobs.model.durable import Become, Order, RunKey, durability
from opsjobs.model.execution import CancelProof, ErrorCode, RunStatus
from opsjobs.model.failures import RemoteFailure
from opsjobs.model.secret import Credential
from opsjobs.model.target import Endpoint
from opsjobs.model.units import parse_duration, parse_size
from opsjobs.remote.session import ContactLost, NoSpool, Sessions
from opsjobs.store.ledger import Progress, Spec
from opsjobs.telemetry import Metrics, log


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Defaults of an action, and the seconds between TERM and KILL. The rest of the output is awaited as long after a kill.

    `reattach_seconds`: how long a durable command whose contact was lost is looked for. `spool_bytes`: of each stream that
    the target keeps. `attempts`: how often `on_lost: retry` may start an action in all.
    """

    command_seconds: float = 300.0
    output_bytes: int = 10 << 20
    kill_grace_seconds: float = 5.0
    reattach_seconds: float = 900.0
    spool_bytes: int = 2 << 30
    attempts: int = 11


class TargetRun:
    """A claimed run at work in this process.

    `may_start`: whether this worker's lease is fresh enough to start something on a machine. `lost`: why it is unknown what
    became of the run's command, should it have been started directly. `opened`: credentials with passwords to become others by.
    """

    def __init__(
        self,
        record: RunRecord,
        spec: Spec,
        endpoint: Endpoint | None,
        progress: Sequence[Progress],
        *,
        sessions: Sessions,
        clock: Clock,
        limits: RunLimits,
        metrics: Metrics,
        may_start: Callable[[], bool],
        lost: str | None = None,
        opened: Mapping[str, Credential] | None = None,
    ) -> None:
        self.claimed = record.claimed
        self.record = record
        self._spec = spec
        self._endpoint = endpoint
        self._unfinished = next((seen for seen in progress if seen.status is RunStatus.RUNNING), None)
        self._ends = {seen.action: ends.recorded(seen) for seen in progress if self._counts(seen)}
        self._sessions = sessions
        self._clock = clock
        self._limits = limits
        self._metrics = metrics
        self._may_start = may_start
        self._lost = lost
        self._opened = opened or {}
        self._direct = self.claimed.direct
        # Somebody before us may have started the next action in this store.
        self._again = (self.claimed.taken_over or lost is not None) and self.claimed.identity is not None
        self._stops = Stops()
        self._draining = False
        self._open_action: str | None = None
        self._attempt = self.claimed.attempt
        self._gone = False
        # Whether anything of it may lie in a store of its machine.
        self._kept = self._again
        self.began = time.monotonic()
        self.commanding = False

    def _counts(self, seen: Progress) -> bool:
        """Whether an earlier end of an action still stands: not where it was lost, or never began, in an attempt before this."""
        again = seen.status in (RunStatus.LOST, RunStatus.SKIPPED) and seen.attempt < self.claimed.attempt
        return seen.status.final and seen.status is not RunStatus.SKIPPED and not again

    def interrupt(self, why: Why) -> None:
        """Stop at the next place where that is possible. The first reason stays, but losing the run overrules all."""
        self._stops.order(why)

    def drain(self) -> None:
        """Begin nothing more and let go of what goes on by itself; a direct command at work may end."""
        self._draining = True
        if not self.commanding:
            self.interrupt(Why.WORKER_STOPS)

    async def perform(self) -> None:
        """Do it all. Never raises for what a machine or a person does; what is a bug of ours is recorded as `internal`."""
        self._stops.bind()
        deadline = self._until_deadline()
        end: ActionEnd | None
        try:
            end = await self._walk()
        except Left:
            return self.record.leave()
        except Interrupted as stopped:
            end = self._tell(ends.unstarted(stopped.why)) if stopped.why is not Why.WORKER_STOPS else None
        except RemoteFailure as failure:
            end = self._tell(ends.failed(failure))
        except Exception as bug:  # noqa: BLE001  a bug ends this run, on record, and no other
            self._metrics.bugs.labels("target_run").inc()
            log.exception("target_run_failed", execution=self.claimed.execution_id, target_run=self.claimed.id)
            end = self._tell(ends.failed(RemoteFailure(ErrorCode.INTERNAL, f"a fault of opsjobs: {type(bug).__name__}")))
        finally:
            if deadline is not None:
                deadline.cancel()
        self._finish(end)
        return None

    def _finish(self, end: ActionEnd | None) -> None:
        if end is None:
            self.record.give_back()
        elif end.status is not RunStatus.LOST or self._stops.why is not None:
            self.record.finish(end, direct=not self._kept)
        else:
            self._finish_lost(end)

    def _finish_lost(self, end: ActionEnd) -> None:
        """What the author said of a command whose end nobody knows: it is repeated only where it surely runs no more."""
        on_lost = self._spec.policy.get("on_lost", "ask")
        if on_lost == "retry" and self._gone and self._attempt < self._limits.attempts:
            self.record.retry(self._attempt + 1)
        elif on_lost == "bury" or (on_lost == "retry" and self._gone):
            self.record.finish(replace(end, status=RunStatus.DEAD), direct=not self._kept)
        else:
            self.record.finish(end, direct=not self._kept)

    def _until_deadline(self) -> Timer | None:
        left = self.claimed.seconds_left
        return None if left is None else self._clock.later(left, lambda: self.interrupt(Why.DEADLINE))

    def _tell(self, end: ActionEnd) -> ActionEnd:
        """Record an end that came from outside an action: the open or else the next action has it as its result.

        Where the actions have ended already, it comes too late to change anything.
        """
        if (known := self._outcome()) is not None:
            return known
        if self._open_action is None:
            self._begin(self._remaining()[0]["key"], started=False)
        self._open_action = None
        self.record.end(end, self._clock.now())
        return end

    def _remaining(self) -> Sequence[Mapping[str, Any]]:
        return [action for action in self._spec.actions if action["key"] not in self._ends]

    def _outcome(self) -> ActionEnd | None:
        """How the run ends by its actions; None while there is one to do: the first that went wrong says it, else the last."""
        bad = [
            action
            for action in self._spec.actions
            if (end := self._ends.get(action["key"])) and end.status is not RunStatus.SUCCEEDED
        ]
        unlike = [action for action in bad if self._ends[action["key"]].status is not RunStatus.FAILED]
        stopped = unlike or any(action["on_failure"] != "continue" for action in bad)
        if not stopped and self._remaining():
            return None
        # What ended otherwise than by its exit status says more than a failure that was to be passed over.
        return self._ends[(unlike or bad or self._spec.actions[-1:])[0]["key"]]

    async def _walk(self) -> ActionEnd:
        if (known := self._outcome()) is not None:
            return known
        if self._endpoint is None:
            if self._lost is not None:
                raise RemoteFailure(ErrorCode.LOST, self._lost)
            raise RemoteFailure(
                ErrorCode.INTERNAL, f"target {self.claimed.target_name} was removed from the inventory after the launch"
            )
        async with Link(self._sessions, self._endpoint) as link:
            while (known := self._outcome()) is None:
                await self._action(link, self._remaining()[0])
            async with failpoints.at("finish"):
                return known

    async def _action(self, link: Link, action: Mapping[str, Any]) -> None:
        wish = durability(action.get("durable"), self._spec.policy.get("durable"), link.endpoint.target.durable)
        durable = wish != "off" and not self._direct
        if not durable and self._lost is not None:
            raise RemoteFailure(ErrorCode.LOST, self._lost)
        if not (durable and self._again):
            await self._ready(link)
        capture = self._begin(action["key"], action["output_limit"])
        work = self._work(action, capture)
        try:
            end = await (self._durably(link, work, required=wish == "required") if durable else self._directly(link, work))
        except RemoteFailure as failure:
            self._gone = durable and failure.code is ErrorCode.LOST and not isinstance(failure, ContactLost)
            end = ends.failed(failure)
        end = replace(end, written=capture.finish())
        self._open_action = None
        self._ends[action["key"]] = end
        self.record.end(end, self._clock.now())

    async def _ready(self, link: Link) -> None:
        """Reach the machine before anything is said of the action; turn back where it must not be started."""
        with self._stops.here():
            await link.session()
        with self._stops.here():
            pass
        if self._draining or not self._may_start():
            raise Interrupted(Why.WORKER_STOPS)

    def _begin(self, key: str, output_limit: str | None = None, *, started: bool = True) -> Capture:
        seen, self._unfinished = self._unfinished, None
        if seen is not None and seen.action != key:
            seen = None
        self._attempt = seen.attempt if seen else max(self._attempt, self.claimed.attempt)
        self._open_action = key
        started_at = seen.started_at if seen else self._clock.now() if started else None
        self.record.begin(key, self._attempt, started_at, seen=seen)
        limit = self._limits.output_bytes if output_limit is None else parse_size(output_limit)
        return Capture(self.record, limit, seen.stored if seen else (0, 0))

    def _work(self, action: Mapping[str, Any], capture: Capture) -> Work:
        seconds = self._limits.command_seconds if action["timeout"] is None else parse_duration(action["timeout"])
        return Work(action, capture, self.record, self._stops, self._clock, seconds, self._limits.kill_grace_seconds)

    async def _durably(self, link: Link, work: Work, *, required: bool) -> ActionEnd:
        command = DurableCommand(
            work,
            link,
            self._order(work),
            self.record.identity,
            again=self._again,
            window_seconds=self._limits.reattach_seconds,
            may_start=self._may_start,
            next_attempt=self._next_attempt,
        )
        self._kept = True
        try:
            return await command.perform()
        except NoSpool as reason:
            check_direct(work.action, f"{self.claimed.target_name} cannot keep one: {reason}")
            if required:
                words = f"durable is required, and {self.claimed.target_name} cannot keep a durable run: {reason}"
                raise RemoteFailure(ErrorCode.INTERPRETER_MISSING, words) from None
            log.info("no_durable_runs", target=self.claimed.target_name, reason=str(reason))
        # On record before the start: who takes the run over can know nothing of a direct command.
        self._direct = True
        self.record.identify(None)
        await self.record.written()
        if self.record.stale:
            raise Left(Why.NOT_OURS)
        return await self._directly(link, work)

    async def _directly(self, link: Link, work: Work) -> ActionEnd:
        check_direct(work.action, f"on {self.claimed.target_name} this run goes directly (durable is off, or cannot be)")
        with self._stops.here():
            session = await link.session()
        self.commanding = True
        try:
            return await DirectCommand(work).perform(session)
        finally:
            self.commanding = False

    def _order(self, work: Work) -> Order:
        return Order(
            RunKey(self.claimed.uuid, work.action["key"], self._attempt),
            work.action["command"],
            timeout_seconds=work.timeout_seconds,
            grace_seconds=work.grace_seconds,
            limit_bytes=self._limits.spool_bytes,
            become=self._become(work.action),
        )

    def _become(self, action: Mapping[str, Any]) -> Become | None:
        try:
            return become_of(action, self._opened)
        except RemoteFailure as missing:
            if not self._again:
                raise
            raise ContactLost(f"the command was perhaps started, and nobody may look after it now: {missing.message}") from None

    def _next_attempt(self, order: Order) -> Order:
        """The start that was voided is on record as never begun; the next one goes by the next number."""
        now, key = self._clock.now(), order.key.action
        self.record.end(ActionEnd(RunStatus.SKIPPED, cancel_proof=CancelProof.NEVER_STARTED), now)
        self._attempt = order.key.attempt + 1
        self.record.begin(key, self._attempt, now)
        return renewed(order)
