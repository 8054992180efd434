"""One session of a worker, from registration to stop or lease expiry.

It owns the lease, the claims, the runs in progress and the batch writer.
"""

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
from opsjobs.engine.runs.cancellation import StopReason
from opsjobs.engine.runs.run_connection import refresh_credentials
from opsjobs.engine.runs.run_setup import Prepared, RefusedRun, RunSetup, SetupRefused
from opsjobs.engine.runs.run_tools import (
    ApprovalRequests,
    ChildLauncher,
    RunLimits,
    RunTools,
    TargetCheck,
    TransferTools,
)
from opsjobs.engine.runs.target_run import TargetRunner
from opsjobs.engine.worker.batch_writer import BatchWriter
from opsjobs.engine.worker.lease_heartbeat import Heartbeat
from opsjobs.integrations.targets import Targets
from opsjobs.model.errors import Locked, Unavailable
from opsjobs.remote.session import Fetch, Sessions, refuse_external
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger import claim as claiming
from opsjobs.store.ledger.claim import Claim, Claimed
from opsjobs.store.ledger.flush import Flush, RunMove
from opsjobs.store.ledger.settle import Settled
from opsjobs.store.ledger.takeover import SUSPECT_CLAIMS
from opsjobs.store.vault.credentials import Vault
from opsjobs.store.workers import Incarnation, Lease, Renewal, Workers
from opsjobs.task_cancellation import Endings, ended
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics

# The maximum number of runs per claim. A free slot is filled at once, so several claims follow
# each other while there is work.
CLAIM_RUNS = 200
# How many cancelled executions, and single runs, are kept in memory: for runs that are between
# claim and start at that time.
STOPPED_KEPT = 1_000
# How long closing channels and the last flush may take when a worker stops.
STOP_GRACE_SECONDS = 5.0
# After taking over a run whose last workers died, no other such run is taken for this long, unless
# it is found alive before.
SUSPECT_SECONDS = 10.0
# The pause after a failed claim.
CLAIM_RETRY_SECONDS = 0.5

_TAKEN_OVER = (
    "its worker died while the command was perhaps running: whether it ran to its end is unknown"
)
_OUT_OF_STEP = (
    "its worker fell out of step with the ledger while the command was perhaps running: whether "
    "it ran to its end is unknown"
)
_SUSPENDED = (
    "its worker lost PostgreSQL while the command was perhaps running: whether it ran to its end "
    "is unknown"
)

Run = TargetRunner | RefusedRun


def log_channel(execution_id: int) -> str:
    """Return the pub/sub channel that announces new log entries of an execution."""
    return f"opsjobs.log.{execution_id}"


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """The settings of a worker."""

    name: str
    zone: str = "default"
    concurrency: int = 200
    """The maximum number of concurrent runs."""
    lease_seconds: float = 15.0
    poll_seconds: float = 1.0
    drain_seconds: float = 5.0
    """Time for which running commands may continue after the order to stop."""


@dataclass(frozen=True, slots=True)
class WorkerTools:
    """The services that a worker depends on."""

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
    child_executions: ChildLauncher
    approvals: ApprovalRequests
    pin_check: TargetCheck
    notify: Callable[[str], None]
    fetch: Fetch = refuse_external


class WorkerSession:
    """One incarnation of a worker: its lease and everything it does under that lease."""

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
        self.incarnation_id = incarnation.id
        self._options = options
        self._tools = tools
        self._wake = wake
        """Set when there may be work to claim, or the session may be over."""
        self._loop = asyncio.get_running_loop()
        """The loop of the session; the heartbeat's thread passes renewals to it."""
        self._expired = False
        """True once a renewal found the lease expired; ends `work`."""
        self._stopping = False
        """True once `stop_claiming` was called; ends `work`, and new runs start nothing."""
        self._floor = 0
        """The lowest turn seen by the last claim: the next one starts there."""
        self._floor_at = 0.0
        """When (monotonic) a claim last looked below the floor."""
        self._take_over_at = 0.0
        """When (monotonic) runs of dead workers were last looked for."""
        self._suspect_at = -SUSPECT_SECONDS
        """When (monotonic) a suspected poison run was last taken over."""
        self._claiming_since: float | None = None
        """Since when (monotonic) a claim has been pending; None if none is."""
        self._may_own_unknown_runs = False
        """True if the ledger may list runs of this session not in `runs`: adopt them first."""
        self._out_of_step: set[int] = set()
        """Runs dropped without a record of their end: no longer owned, or mismatched.

        Those that the ledger still assigns to this session are adopted as lost, and never twice.
        """
        self._suspended: set[int] = set()
        """Runs left in a PostgreSQL outage: adopted as if started by others, however often."""
        self._given_up: set[int] = set()
        """Runs assigned to this session by the ledger, ended as lost, and unwritable even then."""
        self._stopped_executions: dict[int, None] = {}
        """Recently cancelled executions, oldest first: for runs between claim and start."""
        self._stopped_runs: dict[int, None] = {}
        """Recently cancelled single runs, likewise."""
        self._setup = RunSetup(tools.ledger, tools.targets, tools.vault, tools.clock, tools.metrics)
        self.runs: dict[int, Run] = {}
        """Runs in progress, by id."""
        self._tasks: set[asyncio.Task[None]] = set()
        """The tasks of runs; a task may outlive its place in `runs`."""
        self._batch_writer = BatchWriter(
            tools.ledger,
            tools.metrics,
            tools.clock,
            owner=incarnation.id,
            worker=options.name,
            on_flushed=self._on_flushed,
        )
        self.heartbeat = Heartbeat(
            tools.lease(incarnation),
            self._on_renewal_in_thread,
            lease_seconds=options.lease_seconds,
            registered_at=registered_at,
            waiting_since=self._waiting_since,
        )
        # First: if no thread can be started, nothing of this session is left behind.
        self.heartbeat.start()
        self._run_tools = RunTools(
            ledger=tools.ledger,
            sessions=tools.sessions,
            clock=tools.clock,
            limits=tools.limits,
            metrics=tools.metrics,
            transfers=tools.transfers,
            child_executions=tools.child_executions,
            approvals=tools.approvals,
            may_start=lambda: self.heartbeat.may_start,
            refresh_credentials=partial(refresh_credentials, tools.targets),
            pin_check=tools.pin_check,
            fetch=tools.fetch,
        )
        self._writer_task = asyncio.create_task(self._batch_writer.run(), name="batch_writer")
        self._writer_task.add_done_callback(lambda _: wake.set())
        self._endings = Endings()

    async def work(self) -> None:
        """Claim and perform runs until the session is over.

        Returns if the lease has expired, `stop_claiming` was called, or a statement of this worker
        does not return. Raises RuntimeError if the batch writer or the heartbeat has ended by
        itself.
        """
        while not (self._expired or self._stopping):
            if self._writer_task.done():
                bug = None if self._writer_task.cancelled() else self._writer_task.exception()
                raise RuntimeError("the batch writer has ended by itself") from bug
            if self.heartbeat.stuck:
                return
            if not self.heartbeat.alive:
                raise RuntimeError("the heartbeat has stopped by itself")
            self._wake.clear()
            if not await self._claim_once():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._options.poll_seconds):
                        await self._wake.wait()

    def stop_claiming(self) -> None:
        """Claim and start nothing more; `work` returns once its current claim is done."""
        self._stopping = True
        for run in self.runs.values():
            run.drain()
        self._wake.set()

    async def _claim_once(self) -> bool:
        """Make one claim; return True if another one right now may return more runs."""
        if self._claiming_since is None:
            self._claiming_since = time.monotonic()
        try:
            more = await self._claim()
        except Unavailable as unavailable:
            if isinstance(unavailable, Locked):
                self._claiming_since = None  # the statement returned
            log.warning("claim_failed", reason=str(unavailable))
        except Exception:  # noqa: BLE001  a bug must not end the loop: the next round retries
            self._claiming_since = None  # the statement returned
            self._tools.metrics.bugs.labels("claim").inc()
            log.exception("claim_failed")
        else:
            self._claiming_since = None
            return more
        # The claim may have been committed nevertheless: look for unknown runs of this session
        # before the next one.
        self._may_own_unknown_runs = True
        await asyncio.sleep(CLAIM_RETRY_SECONDS)
        return False

    def _waiting_since(self) -> float | None:
        """Return since when a claim or flush is pending. Called on the heartbeat's thread."""
        since = [
            at
            for at in (self._claiming_since, self._batch_writer.committing_since)
            if at is not None
        ]
        return min(since, default=None)

    @property
    def expired(self) -> bool:
        """True if the ledger has expired this session's lease."""
        return self._expired

    @property
    def _free_slots(self) -> int:
        return self._options.concurrency - len(self.runs)

    async def _claim(self) -> bool:
        if not self.heartbeat.may_start or self._free_slots <= 0:
            return False
        if self._may_own_unknown_runs:
            await self._adopt_unknown_runs()
        taken = await self._take_over()
        if self._free_slots <= 0:
            return False
        asked_at, floor = self._tools.clock.monotonic(), self._turn_floor()
        with self._tools.metrics.claim_seconds.time():
            claim = await self._claim_ready(floor)
        if claim.miscounted:
            self._tools.metrics.bugs.labels("counters").inc()
            log.error("executions_set_aside", executions=list(claim.miscounted))
        # After a claim that was not full nothing is left above: the next one begins below.
        self._floor = (claim.lowest_turn or 0) if claim.more else 0
        await self._start_runs(claim.runs, asked_at)
        if claim.more and self._free_slots <= 0:
            self._tools.notify(self._options.zone)
        # An empty claim above a floor does not imply that there is no work: a new launch may have a
        # lower turn.
        below = claim.lowest_turn is None and floor > 0
        return (claim.more or bool(taken) or below) and self._free_slots > 0

    async def _claim_ready(self, floor: int) -> Claim:
        return await self._tools.ledger.claim(
            owner=self._incarnation.id,
            worker=self._options.name,
            zone=self._options.zone,
            limit=min(self._free_slots, CLAIM_RUNS),
            floor=floor,
        )

    def _turn_floor(self) -> int:
        """Return the lowest turn seen last; once a second 0, to find new turns below it."""
        if time.monotonic() - self._floor_at >= 1.0:
            self._floor_at, self._floor = time.monotonic(), 0
        return self._floor

    async def _take_over(self) -> Sequence[Claimed]:
        if (
            self._free_slots <= 0
            or time.monotonic() - self._take_over_at < self._options.poll_seconds
        ):
            return ()
        self._take_over_at, asked_at = time.monotonic(), self._tools.clock.monotonic()
        taken = await self._tools.ledger.take_over(
            owner=self._incarnation.id,
            worker=self._options.name,
            zone=self._options.zone,
            limit=min(self._free_slots, CLAIM_RUNS),
            waited=time.monotonic() - self._suspect_at >= SUSPECT_SECONDS,
        )
        if any(run.claims >= SUSPECT_CLAIMS for run in taken):
            self._suspect_at = time.monotonic()
        await self._start_runs(taken, asked_at)
        return taken

    async def _adopt_unknown_runs(self) -> None:
        """Adopt runs that the ledger assigns to this session but that are not in `runs`.

        The response of a claim was lost, or a run's state diverged from the log.
        """
        self._may_own_unknown_runs = False
        asked = frozenset(self._out_of_step)
        left = frozenset(self._suspended)
        asked_at = self._tools.clock.monotonic()
        unknown = await self._unknown_runs()
        lost_reasons = {run.id for run in unknown if run.id in asked}
        await self._start_runs(
            unknown,
            asked_at,
            dict.fromkeys(left, _SUSPENDED) | dict.fromkeys(lost_reasons, _OUT_OF_STEP),
        )
        self._given_up |= lost_reasons
        if len(unknown) >= claiming.UNKNOWN_MAX:  # there may be more
            self._may_own_unknown_runs = True
            asked = asked & {run.id for run in unknown}
            left = left & {run.id for run in unknown}
        # The others are no longer owned; they return only through a new claim.
        self._out_of_step -= asked
        self._suspended -= left

    async def _unknown_runs(self) -> Sequence[Claimed]:
        return await self._tools.ledger.find_unknown_runs(
            owner=self._incarnation.id, known=[*self.runs, *self._given_up]
        )

    async def _start_runs(
        self,
        claimed: Sequence[Claimed],
        asked_at: float,
        lost_reasons: Mapping[int, str] | None = None,
    ) -> None:
        """Start a task for each run; their data is read for all of them at once.

        `lost_reasons` holds, by run id, the reason why a run can only be ended as lost.
        """
        if not claimed:
            return
        async with failpoints.at("begin"):
            found = await self._setup.prepare(
                claimed, [run.id for run in claimed if run.fence > 1 or lost_reasons]
            )
        why = {run.id: _TAKEN_OVER for run in claimed if run.taken_over} | {**(lost_reasons or {})}
        for one in found:
            self._start_run(self._create_run(one, asked_at, why.get(one.claimed.id)))
        self._tools.metrics.claims.inc(len(claimed))
        self._tools.metrics.runs_running.set(len(self.runs))

    def _create_run(
        self, found: Prepared | SetupRefused, asked_at: float, lost_reason: str | None
    ) -> Run:
        if isinstance(found, SetupRefused):
            return RefusedRun(
                self._batch_writer.open_journal(found.claimed),
                found,
                self._tools.clock,
                inherited=lost_reason is not None,
            )
        return TargetRunner(
            self._batch_writer.open_journal(found.claimed, found.mask),
            found.compiled_spec,
            found.endpoint,
            found.progress,
            self._run_tools,
            asked_at=asked_at,
            lost_reason=lost_reason,
            opened=found.opened,
        )

    def _start_run(self, run: Run) -> None:
        if (previous := self.runs.get(run.claimed.id)) is not None:
            # Another worker had it meanwhile, without a notification to this one.
            self._batch_writer.discard(previous.journal)
            previous.interrupt(StopReason.OWNERSHIP_LOST)
        self.runs[run.claimed.id] = run
        if (
            run.claimed.execution_id in self._stopped_executions
            or run.claimed.id in self._stopped_runs
        ):
            run.interrupt(StopReason.CANCEL)
        if self._stopping:
            run.drain()
        task = asyncio.create_task(run.perform(), name=f"target_run {run.claimed.id}")
        self._tasks.add(task)
        task.add_done_callback(partial(self._on_run_done, run))

    def _on_run_done(self, run: Run, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._tools.metrics.bugs.labels("target_run").inc()
            log.error("target_run_bug", target_run=run.claimed.id, exc_info=bug)
        if self._batch_writer.dirty_runs >= len(self._tasks):
            self._batch_writer.flush_now()
        if run.journal.ended or run.journal.stale:
            return
        if not run.journal.detached:
            self._drop_run(run.claimed.id, run.claimed.fence)
        elif not self._stopping:
            self._suspend_run(run)

    def _on_flushed(self, flush: Flush, settled: Settled) -> None:
        """Remove finished runs after a flush, notify followers, wake claims for ready runs."""
        for move in flush.runs:
            if move.run_id in settled.stale:
                self._drop_run(move.run_id, move.fence)
            elif move.status is not None:
                self._remove_finished(move)
        for execution_id in {move.execution_id for move in flush.runs}:
            self._tools.bus.publish(log_channel(execution_id), b"")
        self.stop_executions(settled.stopping)
        self.stop_runs(settled.stopping_runs)
        self._tools.metrics.runs_running.set(len(self.runs))
        for zone in settled.admitted:
            if zone != self._options.zone or self._stopping or self._free_slots <= 0:
                self._tools.notify(zone)
        if settled.stale or settled.admitted or any(move.status is not None for move in flush.runs):
            self._wake.set()

    def _remove_finished(self, move: RunMove) -> None:
        # The fence distinguishes claims: a run that was given back may be claimed by this session
        # again before this response arrives.
        if (
            move.status is None
            or (run := self.runs.get(move.run_id)) is None
            or run.claimed.fence != move.fence
        ):
            return
        del self.runs[move.run_id]
        if move.status.final:
            metrics, kind = self._tools.metrics, run.job_type
            metrics.runs_finished.labels(move.status.value, kind).inc()
            metrics.run_seconds.labels(kind).observe(time.monotonic() - run.began)

    def _drop_run(self, run_id: int, fence: int) -> None:
        """Drop a run that this session no longer owns, or that does not match the ledger.

        The next claim finds out which of the two applies.
        """
        run = self.runs.get(run_id)
        if run is None or run.claimed.fence != fence:
            return
        del self.runs[run_id]
        self._batch_writer.discard(run.journal)
        run.interrupt(StopReason.OWNERSHIP_LOST)
        if run_id in self._given_up:
            self._tools.metrics.bugs.labels("given_up").inc()
            log.error("run_given_up", execution=run.claimed.execution_id, target_run=run_id)
        self._out_of_step.add(run_id)
        self._may_own_unknown_runs = True

    def _suspend_run(self, run: Run) -> None:
        """Drop a run that a PostgreSQL outage stopped; the next claim resumes it."""
        if self.runs.get(run.claimed.id) is run:
            del self.runs[run.claimed.id]
            self._suspended.add(run.claimed.id)
            self._may_own_unknown_runs = True

    def stop_executions(self, executions: frozenset[int] | set[int]) -> None:
        """Stop this session's runs of these executions, which are being cancelled.

        Deadlines are not handled here: each run has a timer of its own.
        """
        if not executions:
            return
        _remember(self._stopped_executions, executions)
        for run in self.runs.values():
            if run.claimed.execution_id in executions:
                run.interrupt(StopReason.CANCEL)

    def stop_runs(self, runs: frozenset[int] | set[int]) -> None:
        """Stop these runs, which are being cancelled one by one, as far as they are here."""
        _remember(self._stopped_runs, runs)
        for run_id in runs & self.runs.keys():
            self.runs[run_id].interrupt(StopReason.CANCEL)

    def _on_renewal_in_thread(self, renewal: Renewal) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: the process is ending
            self._loop.call_soon_threadsafe(partial(self._on_renewal, renewal))

    def _on_renewal(self, renewal: Renewal) -> None:
        if not renewal.alive:
            self._expired = True
            self._wake.set()
        self.stop_executions(renewal.stopping)
        self.stop_runs(renewal.stopping_runs)

    async def abandon(self) -> None:
        """End a session whose lease has expired: write nothing more, its runs belong to others."""
        self.heartbeat.stop()
        for run in list(self.runs.values()):
            self._drop_run(run.claimed.id, run.claimed.fence)
        self._endings.begin(self._writer_task)
        # A task that does not end in time (a start that hangs) is left running: it cannot write any
        # more.
        await asyncio.wait({*self._tasks, self._writer_task}, timeout=STOP_GRACE_SECONDS)

    async def stop(self, drain_seconds: float) -> None:
        """Give back unstarted runs, wait for commands, flush, and deregister."""
        self.stop_claiming()
        giving_back = asyncio.create_task(self._give_back_unstarted())
        try:
            await asyncio.wait({*self._tasks, giving_back}, timeout=drain_seconds)
            for run in self.runs.values():
                # Direct commands, which no other worker could follow: they end as lost.
                run.interrupt(StopReason.WORKER_STOPS)
            await asyncio.wait({*self._tasks, giving_back}, timeout=STOP_GRACE_SECONDS)
            await self._batch_writer.drain()
            await self._tools.workers.stop(self._incarnation.id)
        finally:
            self.heartbeat.stop()
            await ended(giving_back, self._writer_task)

    async def _give_back_unstarted(self) -> None:
        """Give back the runs of a claim that the stop interrupted; none of them was started."""
        try:
            unknown = await self._unknown_runs()
        except Unavailable as unavailable:
            log.warning("give_back_failed", reason=str(unavailable))
            return
        for run in unknown:
            if not run.taken_over and run.id not in self._out_of_step:
                self._batch_writer.open_journal(run).give_back()


def _remember(kept: dict[int, None], ids: frozenset[int] | set[int]) -> None:
    kept |= dict.fromkeys(ids)
    while len(kept) > STOPPED_KEPT:
        del kept[next(iter(kept))]
