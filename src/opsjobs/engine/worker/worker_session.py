"""One life of a worker, from its registration to its end or burial: its lease, its claims, its runs, its pen."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from opsjobs import failpoints
from opsjobs.bus import Bus
from opsjobs.clock import Clock
from opsjobs.engine.launching.approval_service import Approving
from opsjobs.engine.launching.target_pinning import Pinning
from opsjobs.engine.runs.cancellation import StopReason
from opsjobs.engine.runs.child_executions import Children
from opsjobs.engine.runs.credential_refresh import renewed
from opsjobs.engine.runs.run_setup import Prepared, RefusedRun, RunSetup, SetupRefused
from opsjobs.engine.runs.target_run import RunLimits, RunTools, TargetRunner
from opsjobs.engine.runs.transfer import TransferTools
from opsjobs.engine.worker.batch_writer import BatchWriter
from opsjobs.engine.worker.lease_heartbeat import Heartbeat
from opsjobs.integrations.targets import Targets
from opsjobs.model.errors import Locked, Unavailable
from opsjobs.remote.secret_fetcher import Fetch, nowhere
from opsjobs.remote.session import Sessions
from opsjobs.store.ledger import Claim, Claimed, Flush, Ledger, RunMove, Settled
from opsjobs.store.ledger import claim as claiming
from opsjobs.store.ledger.takeover import SUSPECT_CLAIMS
from opsjobs.store.vault import Vault
from opsjobs.store.workers import Incarnation, Lease, Renewal, Workers
from opsjobs.task_cancellation import ended
from opsjobs.telemetry import Metrics, log

# One claim asks for at most so many; a free place is filled at once, so several claims follow each other while there is work.
CLAIM_RUNS = 200
# Executions that were told to stop, remembered for runs of theirs that are between claim and start just then.
STOPS_KEPT = 1_000
# How long closing channels and the last flush may take when a worker stops.
LET_GO_SECONDS = 5.0
# For so long a run whose last workers died is in hand alone, without others of its kind, unless it gives a sign of life before.
SUSPECT_SECONDS = 10.0
# The pause after a claim that failed.
CLAIM_AGAIN_SECONDS = 0.5

_TAKEN_OVER = "its worker died while the command was perhaps running: whether it ran to its end is unknown"
_OUT_OF_STEP = "its worker lost the thread while the command was perhaps running: whether it ran to its end is unknown"
_LEFT = "its worker lost PostgreSQL while the command was perhaps running: whether it ran to its end is unknown"

Run = TargetRunner | RefusedRun


def bell_channel(execution_id: int) -> str:
    """Where followers of an execution hear that its log has grown."""
    return f"opsjobs.log.{execution_id}"


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """`concurrency`: runs at a time. `drain_seconds`: how long running commands may go on after the order to stop."""

    name: str
    zone: str = "default"
    concurrency: int = 200
    lease_seconds: float = 15.0
    poll_seconds: float = 1.0
    drain_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class WorkerTools:
    """What a worker works with."""

    ledger: Ledger
    workers: Workers
    lease: Callable[[Incarnation], Lease]
    targets: Targets
    vault: Vault
    sessions: Sessions
    bus: Bus
    clock: Clock
    metrics: Metrics
    limits: RunLimits
    transfers: TransferTools
    children: Children
    approving: Approving
    pinning: Pinning
    notify: Callable[[str], None]
    fetch: Fetch = nowhere


class WorkerSession:
    """One incarnation of a worker. `runs`: what it has in work, by id."""

    def __init__(
        self,
        incarnation: Incarnation,
        options: WorkerOptions,
        tools: WorkerTools,
        wake: asyncio.Event,
        *,
        registered_at: float,
    ) -> None:
        self._incarnation = incarnation
        self._options = options
        self._tools = tools
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._buried = False
        self._ending = False
        self._floor = 0
        self._floor_at = 0.0
        self._take_over_at = 0.0
        self._suspect_at = -SUSPECT_SECONDS
        # Since when no claim has come back; None while none is waited for.
        self._claiming_since: float | None = None
        # Whether the ledger may hold runs of ours that are not in `runs`.
        self._unsure = False
        # Runs that left `runs` without the ledger's word that they are over: adopted as lost, and never twice.
        self._out_of_step: set[int] = set()
        # Runs that were left in an outage of PostgreSQL: adopted as runs that others had begun, as often as it takes.
        self._left: set[int] = set()
        self._given_up: set[int] = set()
        self._told_to_stop: dict[int, None] = {}
        self._setup = RunSetup(tools.ledger, tools.targets, tools.vault, tools.clock, tools.metrics)
        self.runs: dict[int, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._recorder = BatchWriter(
            tools.ledger, tools.metrics, tools.clock, owner=incarnation.id, worker=options.name, settled=self._settled
        )
        self.heart = Heartbeat(
            tools.lease(incarnation),
            self._renewed_in_thread,
            lease_seconds=options.lease_seconds,
            registered_at=registered_at,
            waiting_since=self._waiting_since,
        )
        self.heart.start()  # first: where no thread can be had, nothing of this life is left behind
        self._run_tools = RunTools(
            ledger=tools.ledger,
            sessions=tools.sessions,
            clock=tools.clock,
            limits=tools.limits,
            metrics=tools.metrics,
            transfers=tools.transfers,
            children=tools.children,
            approving=tools.approving,
            may_start=lambda: self.heart.may_start,
            renew=partial(renewed, tools.targets),
            pinning=tools.pinning,
            fetch=tools.fetch,
        )
        self._recording = asyncio.create_task(self._recorder.run(), name="recorder")
        self._recording.add_done_callback(lambda _: wake.set())

    async def work(self) -> None:
        """Claim and perform until the ledger says that this life is over, `close_door` was called, or no statement comes back.

        Raises RuntimeError where a part that this life cannot do without has ended by itself.
        """
        while not (self._buried or self._ending):
            if self._recording.done():
                bug = None if self._recording.cancelled() else self._recording.exception()
                raise RuntimeError("the recorder has ended by itself") from bug
            if self.heart.stuck:
                return
            if not self.heart.beating:
                raise RuntimeError("the heart has stopped by itself")
            self._wake.clear()
            if not await self._claim_what_fits():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._options.poll_seconds):
                        await self._wake.wait()

    def close_door(self) -> None:
        """Claim no more, begin no more: `work` returns once what it is at is done."""
        self._ending = True
        for run in self.runs.values():
            run.drain()
        self._wake.set()

    async def _claim_what_fits(self) -> bool:
        """One claim; True where another one right now may bring more."""
        if self._claiming_since is None:
            self._claiming_since = time.monotonic()
        try:
            more = await self._claim()
        except Unavailable as away:
            if isinstance(away, Locked):
                self._claiming_since = None  # it came back: PostgreSQL is there, and others would wait for that lock, too
            log.warning("claim_failed", reason=str(away))
        except Exception:  # noqa: BLE001  a bug must not end the claim loop: the next round tries again
            self._claiming_since = None  # it came back
            self._tools.metrics.bugs.labels("claim").inc()
            log.exception("claim_failed")
        else:
            self._claiming_since = None
            return more
        # The claim may have been committed all the same: look for runs that are ours before the next one.
        self._unsure = True
        await asyncio.sleep(CLAIM_AGAIN_SECONDS)
        return False

    def _waiting_since(self) -> float | None:
        """Since when a claim or a flush has not come back. Called on the heart's thread."""
        since = [at for at in (self._claiming_since, self._recorder.committing_since) if at is not None]
        return min(since, default=None)

    @property
    def buried(self) -> bool:
        """Whether the ledger says that this life is over."""
        return self._buried

    @property
    def _room(self) -> int:
        return self._options.concurrency - len(self.runs)

    async def _claim(self) -> bool:
        if not self.heart.may_start or self._room <= 0:
            return False
        if self._unsure:
            await self._adopt()
        taken = await self._take_over()
        if self._room <= 0:
            return False
        asked_at, floor = self._tools.clock.monotonic(), self._turn_floor()
        with self._tools.metrics.claim_seconds.time():
            claim = await self._claim_ready(floor)
        self._floor = claim.lowest_turn or 0
        await self._begin(claim.runs, asked_at)
        if claim.more and self._room <= 0:
            self._tools.notify(self._options.zone)
        # Nothing seen above a floor does not mean that there is nothing: what was launched just now may stand below it.
        below = claim.lowest_turn is None and floor > 0
        return (claim.more or bool(taken) or below) and self._room > 0

    async def _claim_ready(self, floor: int) -> Claim:
        return await self._tools.ledger.claim(
            owner=self._incarnation.id,
            worker=self._options.name,
            zone=self._options.zone,
            limit=min(self._room, CLAIM_RUNS),
            floor=floor,
        )

    def _turn_floor(self) -> int:
        """The smallest turn seen last; once a second none, to see what came in below it."""
        if time.monotonic() - self._floor_at >= 1.0:
            self._floor_at, self._floor = time.monotonic(), 0
        return self._floor

    async def _take_over(self) -> Sequence[Claimed]:
        if self._room <= 0 or time.monotonic() - self._take_over_at < self._options.poll_seconds:
            return ()
        self._take_over_at, asked_at = time.monotonic(), self._tools.clock.monotonic()
        taken = await self._tools.ledger.take_over(
            owner=self._incarnation.id,
            worker=self._options.name,
            zone=self._options.zone,
            limit=min(self._room, CLAIM_RUNS),
            waited=time.monotonic() - self._suspect_at >= SUSPECT_SECONDS,
        )
        if any(run.claims >= SUSPECT_CLAIMS for run in taken):
            self._suspect_at = time.monotonic()
        await self._begin(taken, asked_at)
        return taken

    async def _adopt(self) -> None:
        """Take up runs that are ours by the ledger alone: a claim's answer was lost, or a run fell out of step with the log."""
        self._unsure = False
        asked, left, asked_at = frozenset(self._out_of_step), frozenset(self._left), self._tools.clock.monotonic()
        unknown = await self._unknown_runs()
        lost = {run.id for run in unknown if run.id in asked}
        await self._begin(unknown, asked_at, dict.fromkeys(left, _LEFT) | dict.fromkeys(lost, _OUT_OF_STEP))
        self._given_up |= lost
        if len(unknown) >= claiming.UNKNOWN_AT_MOST:  # there may be more
            self._unsure = True
            asked = asked & {run.id for run in unknown}
            left = left & {run.id for run in unknown}
        self._out_of_step -= asked  # the others are not ours any more: should they come back, it is by a new claim
        self._left -= left

    async def _unknown_runs(self) -> Sequence[Claimed]:
        return await self._tools.ledger.find_unknown_runs(owner=self._incarnation.id, known=[*self.runs, *self._given_up])

    async def _begin(self, claimed: Sequence[Claimed], asked_at: float, lost: Mapping[int, str] | None = None) -> None:
        """Start a coroutine for each; what they need is read for all of them at once. `lost`: why a run can only be ended."""
        if not claimed:
            return
        async with failpoints.at("begin"):
            found = await self._setup.prepare(claimed, [run.id for run in claimed if run.fence > 1 or lost])
        why = {run.id: _TAKEN_OVER for run in claimed if run.taken_over} | {**(lost or {})}
        for one in found:
            self._perform(self._run_of(one, asked_at, why.get(one.claimed.id)))
        self._tools.metrics.claims.inc(len(claimed))
        self._tools.metrics.runs_running.set(len(self.runs))

    def _run_of(self, found: Prepared | SetupRefused, asked_at: float, lost: str | None) -> Run:
        if isinstance(found, SetupRefused):
            return RefusedRun(self._recorder.open(found.claimed), found, self._tools.clock, inherited=lost is not None)
        return TargetRunner(
            self._recorder.open(found.claimed, found.mask),
            found.course,
            found.endpoint,
            found.progress,
            self._run_tools,
            asked_at=asked_at,
            lost=lost,
            opened=found.opened,
        )

    def _perform(self, run: Run) -> None:
        if (before := self.runs.get(run.claimed.id)) is not None:  # it went to another and came back, and nobody has told us
            self._recorder.forget(before.record)
            before.interrupt(StopReason.NOT_OURS)
        self.runs[run.claimed.id] = run
        if run.claimed.execution_id in self._told_to_stop:
            run.interrupt(StopReason.CANCEL)
        if self._ending:
            run.drain()
        task = asyncio.create_task(run.perform(), name=f"target_run {run.claimed.id}")
        self._tasks.add(task)
        task.add_done_callback(partial(self._performed, run))

    def _performed(self, run: Run, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._tools.metrics.bugs.labels("target_run").inc()
            log.error("target_run_broke", target_run=run.claimed.id, exc_info=bug)
        if self._recorder.waiting >= len(self._tasks):
            self._recorder.hurry()
        if run.record.ended or run.record.stale:
            return
        if not run.record.left:
            self._lose(run.claimed.id, run.claimed.fence)
        elif not self._ending:
            self._leave_for_now(run)

    def _settled(self, flush: Flush, settled: Settled) -> None:
        """After a flush: forget what is over, notify for followers, claim what became ready."""
        for move in flush.runs:
            if move.run_id in settled.stale:
                self._lose(move.run_id, move.fence)
            elif move.status is not None:
                self._over(move)
        for execution_id in {move.execution_id for move in flush.runs}:
            self._tools.bus.publish(bell_channel(execution_id), b"")
        self.stop_executions(settled.stopping)
        self._tools.metrics.runs_running.set(len(self.runs))
        for zone in settled.admitted:
            if zone != self._options.zone or self._ending or self._room <= 0:
                self._tools.notify(zone)
        if settled.stale or settled.admitted or any(move.status is not None for move in flush.runs):
            self._wake.set()

    def _over(self, move: RunMove) -> None:
        # The fence: a run that was given back may be ours again before the answer to the giving back is here.
        if move.status is None or (run := self.runs.get(move.run_id)) is None or run.claimed.fence != move.fence:
            return
        del self.runs[move.run_id]
        if move.status.final:
            self._tools.metrics.runs_finished.labels(move.status.value).inc()
            self._tools.metrics.run_seconds.observe(time.monotonic() - run.began)

    def _lose(self, run_id: int, fence: int) -> None:
        """A run is not ours any more, or is ours but does not fit the ledger: the next claim looks which."""
        run = self.runs.get(run_id)
        if run is None or run.claimed.fence != fence:
            return
        del self.runs[run_id]
        self._recorder.forget(run.record)
        run.interrupt(StopReason.NOT_OURS)
        if run_id in self._given_up:
            self._tools.metrics.bugs.labels("given_up").inc()
            log.error("run_given_up", execution=run.claimed.execution_id, target_run=run_id)
        self._out_of_step.add(run_id)
        self._unsure = True

    def _leave_for_now(self, run: Run) -> None:
        """Forget a run that PostgreSQL's outage kept from going on; the next claim takes it up from the record."""
        if self.runs.get(run.claimed.id) is run:
            del self.runs[run.claimed.id]
            self._left.add(run.claimed.id)
            self._unsure = True

    def stop_executions(self, executions: frozenset[int] | set[int]) -> None:
        """Stop our runs of these executions: they are being cancelled. (A deadline is each run's own timer.)"""
        if not executions:
            return
        self._told_to_stop |= dict.fromkeys(executions)
        while len(self._told_to_stop) > STOPS_KEPT:
            del self._told_to_stop[next(iter(self._told_to_stop))]
        for run in self.runs.values():
            if run.claimed.execution_id in executions:
                run.interrupt(StopReason.CANCEL)

    def _renewed_in_thread(self, renewal: Renewal) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(partial(self._renewed, renewal))

    def _renewed(self, renewal: Renewal) -> None:
        if not renewal.alive:
            self._buried = True
            self._wake.set()
        self.stop_executions(renewal.stopping)

    async def abandon(self) -> None:
        """This life is over by the ledger: whatever it still has to say is not wanted any more."""
        self.heart.stop()
        for run in list(self.runs.values()):
            self._lose(run.claimed.id, run.claimed.fence)
        self._recording.cancel()
        # What does not let go in time (a start that hangs) has no say any more, and is left to itself.
        await asyncio.wait({*self._tasks, self._recording}, timeout=LET_GO_SECONDS)

    async def end(self, drain_seconds: float) -> None:
        """Give back what has not begun, wait for commands, and stop in order."""
        self.close_door()
        giving_back = asyncio.create_task(self._give_back_unknown())
        try:
            await asyncio.wait({*self._tasks, giving_back}, timeout=drain_seconds)
            for run in self.runs.values():  # direct commands, which nobody could follow: they end as lost
                run.interrupt(StopReason.WORKER_STOPS)
            await asyncio.wait({*self._tasks, giving_back}, timeout=LET_GO_SECONDS)
            await self._recorder.drained()
            await self._tools.workers.stop(self._incarnation.id)
        finally:
            self.heart.stop()
            await ended(giving_back, self._recording)

    async def _give_back_unknown(self) -> None:
        """What a claim that was cut short by the stop has brought: nothing of it was started."""
        try:
            unknown = await self._unknown_runs()
        except Unavailable as away:
            log.warning("not_given_back", reason=str(away))
            return
        for run in unknown:
            if not run.taken_over and run.id not in self._out_of_step:
                self._recorder.open(run).give_back()
