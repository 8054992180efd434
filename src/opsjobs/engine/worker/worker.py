"""The worker: lives, claims what it has room for, and when it was buried lives again; bells wake it, a slow poll does, too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Sequence

from opsjobs.clock import uuid7
from opsjobs.engine.service import Loop
from opsjobs.engine.worker.worker_session import LET_GO_SECONDS, WorkerOptions, WorkerSession, WorkerTools
from opsjobs.model.errors import Unavailable
from opsjobs.store.workers import Incarnation
from opsjobs.task_cancellation import ended
from opsjobs.telemetry import log

__all__ = ["CONTROL", "LET_GO_SECONDS", "Worker", "WorkerOptions", "WorkerTools"]

CONTROL = "opsjobs.control"
# How long a claim that is under way may take to come to its end when the worker stops.
LAST_CLAIM_SECONDS = 2.0
# The pause after a life, or the hearing of orders, that ended by a fault of ours.
AGAIN_SECONDS = 1.0


class Worker:
    """One process's share of the work. After its burial (it was frozen or cut off too long) it begins a new life."""

    def __init__(self, options: WorkerOptions, tools: WorkerTools, background: Sequence[Loop]) -> None:
        self._options = options
        self._tools = tools
        self._background = background
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._living: asyncio.Task[None] | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._life: WorkerSession | None = None
        self._stopping = False

    @property
    def may_reap(self) -> bool:
        """Whether this process may call others dead."""
        return self._life is not None and self._life.heart.may_reap

    @property
    def database_now(self) -> float | None:
        """What the database's clock should show now, as seconds since 1970; None if that is not known."""
        return self._life.heart.database_now if self._life is not None else None

    async def start(self) -> None:
        """Begin; a database that is not there yet is waited for in the background."""
        self._loop = asyncio.get_running_loop()
        self._living = asyncio.create_task(self._live(), name="claims")
        self._hearing = asyncio.create_task(self._hear_orders(), name="control")
        for loop in self._background:
            loop.start()

    def bell(self) -> None:
        """There may be work. May be called from any thread, at any time."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
                self._loop.call_soon_threadsafe(self._woken.set)

    async def stop(self) -> None:
        """Claim no more, give back what has not begun, let commands end for a while, write everything down.

        Done within `drain_seconds` + 2 x LET_GO_SECONDS, whatever PostgreSQL and the machines do.
        """
        self._stopping = True
        tasks = {task for task in (self._living, self._hearing) if task is not None}
        try:
            async with asyncio.timeout(self._options.drain_seconds + 2 * LET_GO_SECONDS):
                await self._wind_down(tasks)
        except TimeoutError:
            log.warning("worker_stop_cut_short", runs=len(self._life.runs) if self._life is not None else 0)
        finally:
            await ended(*tasks)

    async def _wind_down(self, tasks: set[asyncio.Task[None]]) -> None:
        if self._life is not None:
            self._life.close_door()
        # A claim that is broken off may be committed all the same: better it comes to its end.
        if self._living is not None:
            await asyncio.wait({self._living}, timeout=LAST_CLAIM_SECONDS)
        await asyncio.gather(ended(*tasks), *(loop.stop() for loop in self._background), return_exceptions=True)
        if self._life is not None:
            await self._life.end(self._options.drain_seconds)

    async def _live(self) -> None:
        while not self._stopping:
            try:
                await self._live_once()
            except Exception:  # noqa: BLE001  a fault of ours ends this life, the lease saves its runs, and another one begins
                self._tools.metrics.bugs.labels("worker").inc()
                log.exception("worker_life_failed", worker=self._options.name)
                await asyncio.sleep(AGAIN_SECONDS)

    async def _live_once(self) -> None:
        self._life = life = await self._born()
        if self._stopping:
            life.close_door()
        try:
            await life.work()
            if self._stopping:
                return
            event = "worker_buried" if life.buried else "worker_gives_its_runs_up"
            log.warning(event, worker=self._options.name, runs=len(life.runs))
        except Exception:
            await self._abandon(life)
            raise
        await self._abandon(life)

    async def _abandon(self, life: WorkerSession) -> None:
        self._life = None
        await life.abandon()

    async def _born(self) -> WorkerSession:
        options = self._options
        incarnation = Incarnation(uuid7(self._tools.clock.now()), options.name, options.zone, os.getpid(), options.concurrency)
        while True:
            sent_at = time.monotonic()
            try:
                await self._tools.workers.register(incarnation, lease_seconds=options.lease_seconds)
            except Unavailable as away:
                log.warning("worker_not_registered", reason=str(away))
                await asyncio.sleep(1)
            else:
                return WorkerSession(incarnation, options, self._tools, self._woken, registered_at=sent_at)

    async def _hear_orders(self) -> None:
        while True:
            try:
                async with self._tools.bus.listen(CONTROL) as orders:
                    async for _, message in orders:
                        self._obey(message)
            except Exception:  # noqa: BLE001  without orders a cancel takes until the next renewal, so hear on
                self._tools.metrics.bugs.labels("control").inc()
                log.exception("orders_not_heard")
                await asyncio.sleep(AGAIN_SECONDS)

    def _obey(self, message: bytes) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
            if self._life is not None:
                self._life.stop_executions({int(json.loads(message)["cancel"])})
