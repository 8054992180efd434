"""Register as a worker, claim runs while slots are free, re-register after lease expiry.

Wake-ups announce new work to it; a slow poll finds work whose wake-up was missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Sequence
from uuid import UUID

from opsjobs.clock import uuid7
from opsjobs.engine.loop import Loop
from opsjobs.engine.worker.worker_session import (
    STOP_GRACE_SECONDS,
    WorkerOptions,
    WorkerSession,
    WorkerTools,
)
from opsjobs.model.errors import Unavailable
from opsjobs.store.workers import Incarnation
from opsjobs.task_cancellation import ended
from opsjobs.telemetry.logs import log

__all__ = ["CONTROL", "STOP_GRACE_SECONDS", "Worker", "WorkerOptions", "WorkerTools"]

CONTROL = "opsjobs.control"
# How long a claim in flight may take to finish when the worker stops.
LAST_CLAIM_SECONDS = 2.0
# The pause after a session, or the listener for orders, ended by a bug in opsjobs.
RESTART_SECONDS = 1.0


class Worker:
    """A worker process. After a lease expiry (it was frozen or disconnected) it re-registers."""

    def __init__(
        self, options: WorkerOptions, tools: WorkerTools, background: Sequence[Loop]
    ) -> None:
        self._options = options
        self._tools = tools
        self._background = background
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._claim_task: asyncio.Task[None] | None = None
        self._control_task: asyncio.Task[None] | None = None
        self.session: WorkerSession | None = None
        """The current session; None before the first one, and between two."""
        self._stopping = False

    @property
    def fault(self) -> str | None:
        """The reason that this worker will never claim again, although it should; or None."""
        if self._claim_task is None or self._stopping or not self._claim_task.done():
            return None
        return "the claim loop has ended by itself"

    @property
    def unready(self) -> str | None:
        """The reason that this worker cannot start runs now; or None."""
        if self.session is None:
            return "no lease: PostgreSQL has not registered this worker"
        return None if self.session.heartbeat.may_start else "the lease is not fresh"

    @property
    def incarnation_id(self) -> UUID | None:
        """The id under which this process is registered now."""
        return self.session.incarnation_id if self.session is not None else None

    @property
    def may_reap(self) -> bool:
        """True if this process may expire the leases of other workers."""
        return self.session is not None and self.session.heartbeat.may_reap

    @property
    def database_now(self) -> float | None:
        """The expected time of the database's clock, in Unix seconds; None if unknown."""
        return self.session.heartbeat.database_now if self.session is not None else None

    async def start(self) -> None:
        """Start in the background.

        If the database is not up yet, the background task waits for it.
        """
        self._loop = asyncio.get_running_loop()
        self._claim_task = asyncio.create_task(self._run_sessions(), name="claims")
        self._control_task = asyncio.create_task(self._listen_for_orders(), name="control")
        for loop in self._background:
            loop.start()

    def wake(self) -> None:
        """Look for work now. Safe to call from any thread, at any time."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
                self._loop.call_soon_threadsafe(self._woken.set)

    async def stop(self) -> None:
        """Stop claiming, give back unstarted runs, let commands end for a while, and flush.

        Returns within `drain_seconds` + 2 x STOP_GRACE_SECONDS, whatever PostgreSQL and the
        machines do.
        """
        self._stopping = True
        tasks = {task for task in (self._claim_task, self._control_task) if task is not None}
        try:
            async with asyncio.timeout(self._options.drain_seconds + 2 * STOP_GRACE_SECONDS):
                await self._wind_down(tasks)
        except TimeoutError:
            log.warning(
                "worker_stop_timed_out",
                runs=len(self.session.runs) if self.session is not None else 0,
            )
        finally:
            await ended(*tasks)

    async def _wind_down(self, tasks: set[asyncio.Task[None]]) -> None:
        if self.session is not None:
            self.session.stop_claiming()
        # A cancelled claim may be committed nevertheless, so it should finish.
        if self._claim_task is not None:
            await asyncio.wait({self._claim_task}, timeout=LAST_CLAIM_SECONDS)
        await asyncio.gather(
            ended(*tasks), *(loop.stop() for loop in self._background), return_exceptions=True
        )
        if self.session is not None:
            await self.session.stop(self._options.drain_seconds)

    async def _run_sessions(self) -> None:
        while not self._stopping:
            try:
                await self._run_session()
            except Exception:  # noqa: BLE001  a bug ends this session only
                # The lease protects its runs, and another session begins.
                self._tools.metrics.bugs.labels("worker").inc()
                log.exception("worker_session_failed", worker=self._options.name)
                await asyncio.sleep(RESTART_SECONDS)

    async def _run_session(self) -> None:
        self.session = session = await self._register()
        if self._stopping:
            session.stop_claiming()
        try:
            await session.work()
            if self._stopping:
                return
            event = "worker_lease_expired" if session.expired else "worker_gives_its_runs_up"
            log.warning(event, worker=self._options.name, runs=len(session.runs))
        except Exception:
            await self._abandon_session(session)
            raise
        await self._abandon_session(session)

    async def _abandon_session(self, session: WorkerSession) -> None:
        self.session = None
        await session.abandon()

    async def _register(self) -> WorkerSession:
        options = self._options
        incarnation = Incarnation(
            uuid7(self._tools.clock.now()),
            options.name,
            options.zone,
            os.getpid(),
            options.concurrency,
        )
        while True:
            sent_at = time.monotonic()
            try:
                await self._tools.workers.register(incarnation, lease_seconds=options.lease_seconds)
            except Unavailable as away:
                log.warning("worker_not_registered", reason=str(away))
                await asyncio.sleep(1)
            else:
                return WorkerSession(
                    incarnation, options, self._tools, self._woken, registered_at=sent_at
                )

    async def _listen_for_orders(self) -> None:
        while True:
            try:
                async with self._tools.bus.listen(CONTROL) as orders:
                    async for _, message in orders:
                        self.handle_order(message)
            except Exception:  # noqa: BLE001  keep listening
                # Without orders, a cancel takes effect only with the next renewal.
                self._tools.metrics.bugs.labels("control").inc()
                log.exception("order_subscription_failed")
                await asyncio.sleep(RESTART_SECONDS)

    def handle_order(self, message: bytes) -> None:
        """Execute an order from the control channel, if it is well-formed.

        It is to cancel an execution, or single runs.
        """
        with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
            order = json.loads(message)
            if self.session is None:
                return
            if "cancel_runs" in order:
                self.session.stop_runs({int(run) for run in order["cancel_runs"]})
            else:
                self.session.stop_executions({int(order["cancel"])})
