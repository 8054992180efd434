"""The worker: claims as much as it has room for, performs it, and keeps its lease; bells wake it, a slow poll does, too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from opsjobs.bus import Bus
from opsjobs.clock import Clock, uuid7
from opsjobs.engine.heart import Heart
from opsjobs.engine.recorder import Recorder
from opsjobs.engine.service import Loop
from opsjobs.engine.target_run import RunLimits, TargetRun, Why
from opsjobs.model.failures import Unavailable
from opsjobs.peers.targets import Targets
from opsjobs.remote.session import Sessions
from opsjobs.store.ledger import Claim, Claimed, Flush, Ledger, Settled, Spec
from opsjobs.store.workers import Incarnation, Lease, Renewal, Workers
from opsjobs.telemetry import Metrics, log

# One claim asks for at most so many; a free place is filled at once, so several claims follow each other while there is work.
CLAIM_RUNS = 100
SPECS_KEPT = 256
# How long closing channels and the last flush may take when a worker stops.
LET_GO_SECONDS = 5.0
CONTROL = "opsjobs.control"


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
    sessions: Sessions
    bus: Bus
    clock: Clock
    metrics: Metrics
    limits: RunLimits
    ring: Callable[[str], None]


class Worker:
    """One process's share of the work. After its burial (it was frozen or cut off too long) it begins a new life."""

    def __init__(self, options: WorkerOptions, tools: WorkerTools, background: Sequence[Loop]) -> None:
        self._options = options
        self._tools = tools
        self._background = background
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._life: _Life | None = None
        self._stopping = False

    @property
    def may_bury(self) -> bool:
        """Whether this process may call others dead."""
        return self._life is not None and self._life.heart.may_bury

    async def start(self) -> None:
        """Begin; a database that is not there yet is waited for in the background."""
        self._loop = asyncio.get_running_loop()
        self._tasks = [
            asyncio.create_task(self._live(), name="claims"),
            asyncio.create_task(self._hear_orders(), name="control"),
        ]
        for loop in self._background:
            loop.start()

    def bell(self) -> None:
        """There may be work. May be called from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._woken.set)

    async def stop(self) -> None:
        """Claim no more, give back what has not begun, let commands end for a while, write everything down."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for loop in self._background:
            await loop.stop()
        if self._life is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._options.drain_seconds + 2 * LET_GO_SECONDS):
                    await self._life.end(self._options.drain_seconds)

    async def _live(self) -> None:
        while True:
            life = await self._born()
            self._life = life
            await life.work(self._woken)
            log.warning("worker_buried", worker=self._options.name, runs=len(life.runs))
            self._life = None
            await life.abandon()

    async def _born(self) -> _Life:
        incarnation = Incarnation(
            uuid7(self._tools.clock.now()), self._options.name, self._options.zone, os.getpid(), self._options.concurrency
        )
        while True:
            try:
                await self._tools.workers.register(incarnation, lease_seconds=self._options.lease_seconds)
            except Unavailable as away:
                log.warning("worker_not_registered", reason=str(away))
                await asyncio.sleep(1)
            else:
                return _Life(incarnation, self._options, self._tools)

    async def _hear_orders(self) -> None:
        async with self._tools.bus.listen(CONTROL) as orders:
            async for _, message in orders:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    if self._life is not None:
                        self._life.stop_executions({int(json.loads(message)["cancel"])})


class _Life:
    """One incarnation: its lease, its recorder, its runs."""

    def __init__(self, incarnation: Incarnation, options: WorkerOptions, tools: WorkerTools) -> None:
        self._incarnation = incarnation
        self._options = options
        self._tools = tools
        self._loop = asyncio.get_running_loop()
        self._buried = asyncio.Event()
        self._wake: asyncio.Event = asyncio.Event()
        self._floor = 0
        self._floor_at = 0.0
        self._take_over_at = 0.0
        self._unsure = False
        self._specs: dict[int, Spec] = {}
        self.runs: dict[int, TargetRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._recorder = Recorder(tools.ledger, tools.metrics, owner=incarnation.id, worker=options.name, settled=self._settled)
        self._recording = asyncio.create_task(self._recorder.run(), name="recorder")
        self.heart = Heart(tools.lease(incarnation), self._renewed_in_thread, lease_seconds=options.lease_seconds)
        self.heart.start()

    async def work(self, wake: asyncio.Event) -> None:
        """Claim and perform until the ledger says that this life is over."""
        self._wake = wake
        burial = asyncio.create_task(self._buried.wait())
        try:
            while not self._buried.is_set():
                wake.clear()
                if not await self._claim_what_fits():
                    bell = asyncio.create_task(wake.wait())
                    await asyncio.wait({bell, burial}, timeout=self._options.poll_seconds, return_when=asyncio.FIRST_COMPLETED)
                    bell.cancel()
        finally:
            burial.cancel()

    async def _claim_what_fits(self) -> bool:
        """One claim; True where another one right now may bring more."""
        try:
            return await self._claim()
        except Unavailable as away:
            log.warning("claim_failed", reason=str(away))
        except Exception:  # noqa: BLE001  a bug must not end the claim loop: the next round tries again
            self._tools.metrics.bugs.labels("claim").inc()
            log.exception("claim_failed")
        # The claim may have been committed all the same: look for runs that are ours before the next one.
        self._unsure = True
        await asyncio.sleep(0.5)
        return False

    async def _claim(self) -> bool:
        room = self._options.concurrency - len(self.runs)
        if not self.heart.may_start or room <= 0:
            return False
        if self._unsure:
            await self._adopt()
        taken = await self._take_over(room)
        with self._tools.metrics.claim_seconds.time():
            claim = await self._claim_ready(room)
        if claim.lowest_turn is not None:
            self._floor = claim.lowest_turn
        await self._begin(claim.runs)
        if claim.more and len(self.runs) >= self._options.concurrency:
            self._tools.ring(self._options.zone)
        return (claim.more or bool(taken)) and len(self.runs) < self._options.concurrency

    async def _claim_ready(self, room: int) -> Claim:
        return await self._tools.ledger.claim(
            owner=self._incarnation.id,
            worker=self._options.name,
            zone=self._options.zone,
            limit=min(room, CLAIM_RUNS),
            floor=self._turn_floor(),
        )

    def _turn_floor(self) -> int:
        """The smallest turn seen last; once a second none, to see what came in below it."""
        if time.monotonic() - self._floor_at >= 1.0:
            self._floor_at = time.monotonic()
            self._floor = 0
        return self._floor

    async def _take_over(self, room: int) -> Sequence[Claimed]:
        if time.monotonic() - self._take_over_at < self._options.poll_seconds:
            return ()
        self._take_over_at = time.monotonic()
        taken = await self._tools.ledger.take_over(
            owner=self._incarnation.id, worker=self._options.name, zone=self._options.zone, limit=min(room, CLAIM_RUNS)
        )
        await self._begin(taken)
        return taken

    async def _adopt(self) -> None:
        unknown = await self._tools.ledger.unknown_runs(owner=self._incarnation.id, known=list(self.runs))
        self._unsure = False
        await self._begin(unknown)

    async def _begin(self, claimed: Sequence[Claimed]) -> None:
        """Start a coroutine for each; what they need is read for all of them at once."""
        if not claimed:
            return
        self._unsure = True
        await self._learn_specs({run.execution_id for run in claimed})
        endpoints = await self._tools.targets.endpoints(sorted({run.target_id for run in claimed}))
        again = [run.id for run in claimed if run.fence > 1]
        progress = await self._tools.ledger.progress(again) if again else {}
        self._unsure = False
        for run in claimed:
            target_run = TargetRun(
                self._recorder.open(run),
                self._specs[run.execution_id],
                endpoints.get(run.target_id),
                progress.get(run.id, ()),
                sessions=self._tools.sessions,
                clock=self._tools.clock,
                limits=self._tools.limits,
                metrics=self._tools.metrics,
            )
            self.runs[run.id] = target_run
            task = asyncio.create_task(target_run.perform(), name=f"target_run {run.id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._tools.metrics.claims.inc(len(claimed))
        self._tools.metrics.runs_running.set(len(self.runs))

    async def _learn_specs(self, executions: set[int]) -> None:
        missing = sorted(executions - self._specs.keys())
        if missing:
            self._specs |= await self._tools.ledger.specs(missing)
        while len(self._specs) > SPECS_KEPT + len(executions):
            oldest = next(e for e in self._specs if e not in executions)
            del self._specs[oldest]

    def _settled(self, flush: Flush, settled: Settled) -> None:
        """After a flush: forget what is over, ring for followers, claim what became ready."""
        for move in flush.runs:
            if move.run_id in settled.stale:
                self._lose(move.run_id)
            elif move.status is not None and (run := self.runs.pop(move.run_id, None)) is not None:
                self._tools.metrics.runs_finished.labels(move.status.value).inc()
                self._tools.metrics.run_seconds.observe(time.monotonic() - run.began)
        for execution_id in {move.execution_id for move in flush.runs}:
            self._tools.bus.publish(bell_channel(execution_id), b"")
        self.stop_executions(settled.stopping)
        self._tools.metrics.runs_running.set(len(self.runs))
        for zone in settled.admitted:
            if zone != self._options.zone or len(self.runs) >= self._options.concurrency:
                self._tools.ring(zone)
        self._wake.set()

    def _lose(self, run_id: int) -> None:
        run = self.runs.pop(run_id, None)
        if run is not None:
            self._recorder.forget(run.record)
            run.interrupt(Why.NOT_OURS)

    def stop_executions(self, executions: frozenset[int] | set[int]) -> None:
        """Stop our runs of these executions: they are being cancelled. (A deadline is each run's own timer.)"""
        for run in list(self.runs.values()) if executions else ():
            if run.claimed.execution_id in executions:
                run.interrupt(Why.CANCEL)

    def _renewed_in_thread(self, renewal: Renewal) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(partial(self._renewed, renewal))

    def _renewed(self, renewal: Renewal) -> None:
        if not renewal.alive:
            self._buried.set()
        self.stop_executions(renewal.stopping)

    async def abandon(self) -> None:
        """This life is over by the ledger: whatever it still has to say is not wanted any more."""
        for run_id in list(self.runs):
            self._lose(run_id)
        self.heart.stop()
        self._recording.cancel()
        await asyncio.gather(*self._tasks, self._recording, return_exceptions=True)

    async def end(self, drain_seconds: float) -> None:
        """Give back what has not begun, wait for commands, and stop in order."""
        for run in self.runs.values():
            if not run.commanding:
                run.interrupt(Why.WORKER_STOPS)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=drain_seconds)
        for run in self.runs.values():
            run.interrupt(Why.WORKER_STOPS)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LET_GO_SECONDS)
        await self._recorder.drained()
        self._recording.cancel()
        self.heart.stop()
        await self._tools.workers.stop(self._incarnation.id)
