"""Firing: due times become pending firings, and pending firings become executions.

Any number of processes can do this concurrently.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Sequence

from opsjobs import failpoints
from opsjobs.engine.firing.schedule_launch import (
    PREPARE_SECONDS,
    FiringPreparer,
    Prepared,
    defer,
    end_refused,
)
from opsjobs.engine.launching.launch import Launcher
from opsjobs.engine.loop import Counts
from opsjobs.model.errors import Conflict, NotFound, Refusal, Unavailable
from opsjobs.model.firing import LATE_SECONDS, FiringRule, FiringStatus
from opsjobs.store.ledger import Ledger
from opsjobs.store.scheduling.due_firings import CLAIM_SECONDS, Fired, ReadyFiring
from opsjobs.store.scheduling.firing_transitions import (
    Deferral,
    FiringEnd,
    FiringLaunch,
    LaunchBatch,
    LaunchedFiring,
)
from opsjobs.store.scheduling.firings import Firings, FiringsDue
from opsjobs.store.scheduling.schedules import Schedules
from opsjobs.store.workers import Workers
from opsjobs.task_cancellation import Task, ended
from opsjobs.telemetry import tracing
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics
from opsjobs.telemetry.tracing import SpanKind

# Schedules that one transaction fires: fewer if they are late, since after a downtime more than a
# thousand due times of one schedule may have to be examined.
FIRE_SCHEDULES = 50
FIRE_LATE_SCHEDULES = 5
# Firings that one transaction launches, how many such batches are prepared at a time, and how many
# transactions run at a time. They share the connections of the process with its other work.
LAUNCH_FIRINGS = 25
PREPARED_AT_ONCE = 4
LAUNCHES_AT_ONCE = 3
# A batch that has waited longer to be prepared is dropped: its claims could end before it is
# prepared. A later pass launches its firings.
QUEUE_SECONDS_MAX = CLAIM_SECONDS - PREPARE_SECONDS
# How long a pass waits for its launches. Slow ones go on beside the next passes.
PATIENCE_SECONDS = 0.25
# A prepared batch that takes longer is given up. Its claims have ended by then, so that a later
# pass launches its firings.
LAUNCH_SECONDS_MAX = 60.0
# Limits of one pass. Catch-ups come few at a time, so that a downtime does not end in a stampede.
ROUNDS_A_PASS = 40
CATCH_UPS_A_PASS = 20
EXPIRE_FIRINGS = 200
RECOMPUTE_SCHEDULES = 200
LATE_SECONDS_A_PASS = 0.5
RULES_SECONDS = 60.0
# Pause between two passes: until the next due time, a second at most; less if work was left over,
# or if other processes are working on it.
REST_SECONDS = 1.0
LEFT_OVER_SECONDS = 0.05
OTHERS_AT_IT_SECONDS = 0.25
SILENT_SECONDS = 10.0
"""A worker fires if no scheduler has ticked for this long."""
SCHEDULER = "scheduler"
OWNER_IS_GONE = (
    "its owner {} is gone, disabled or expired: the caller who resumes it becomes its owner"
)


class FiringService:
    """Fire due schedules; `run_once` is one query if nothing is due.

    Every step is a separate transaction: the process may be killed before or after it.
    A pass waits for its launches for `patience_seconds`. A slow one goes on beside the next passes,
    so that schedules that come due meanwhile are not late; claims keep its firings from them.
    """

    def __init__(
        self,
        *,
        firings: Firings,
        schedules: Schedules,
        preparer: FiringPreparer,
        launcher: Launcher,
        ledger: Ledger,
        metrics: Metrics,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._firings = firings
        self._schedules = schedules
        self._preparer = preparer
        self._launcher = launcher
        self._ledger = ledger
        self._metrics = metrics
        self._patience_seconds = patience_seconds
        self._preparing = asyncio.Semaphore(PREPARED_AT_ONCE)
        self._launching = asyncio.Semaphore(LAUNCHES_AT_ONCE)
        self._on_time: set[Task] = set()
        self._waited: set[Task] = set()
        self._catch_ups: set[Task] = set()
        self._turn = 0
        self._done: Counter[str] = Counter()
        self._patient_until = 0.0
        self._next_at = 0.0
        self._rules_at = 0.0

    @property
    def rest_seconds(self) -> float:
        """Seconds until the next due time, as of the last pass; a second at most."""
        return min(max(self._next_at - time.monotonic(), 0.0), REST_SECONDS)

    async def run_once(self) -> Counts:
        """Run one pass; return counts by kind, also of launches that earlier passes have left.

        While as many launches are under way as may be, it begins no more. Raises its failure and
        those of the launches that have ended.
        """
        failures: list[Exception] = []
        try:
            await self._pass()
        except Exception as failed:  # noqa: BLE001  it is raised with those of the launches
            failures.append(failed)
        failures += self._collect_ended()
        if failures:
            raise _merge_failures(failures)
        done, self._done = self._done, Counter()
        if done["missed"]:
            log.warning("schedule_firings_missed", firings=done["missed"])
        return {kind: count for kind, count in done.items() if count}

    async def stop(self) -> None:
        """Abort the launches that are under way; other processes continue them."""
        await ended(*self._on_time, *self._waited)
        self._on_time.clear()
        self._waited.clear()

    async def _pass(self) -> None:
        self._next_at = time.monotonic() + REST_SECONDS
        self._patient_until = time.monotonic() + self._patience_seconds
        if time.monotonic() >= self._rules_at:
            recomputed = await self._firings.recompute(RECOMPUTE_SCHEDULES)
            self._done["recomputed"] += recomputed
            if recomputed < RECOMPUTE_SCHEDULES:
                self._rules_at = time.monotonic() + RULES_SECONDS
        look = await self._firings.check_due()
        if (look.due or look.pending) and await self._room(set()):
            with tracing.entry("firing_pass", None, kind=SpanKind.INTERNAL) as span:
                await self._work(look)
                span.annotate(triggered=self._done["triggered"])
            look = await self._firings.check_due()
        self._set_rest(look, worked=any(self._done.values()))

    def _set_rest(self, look: FiringsDue, *, worked: bool) -> None:
        if look.due:
            rest = LEFT_OVER_SECONDS if worked else OTHERS_AT_IT_SECONDS
        else:
            rest = REST_SECONDS if look.next_seconds is None else look.next_seconds
        self._next_at = time.monotonic() + min(rest, REST_SECONDS)

    async def _room(self, kind: set[Task]) -> int:
        """Return how many more batches of this kind can be prepared at once.

        If there is no room, wait for it, as long as the pass has patience left. Of the two kinds,
        launches on time and those of firings that have waited, each leaves the other a place.
        """
        share = max(PREPARED_AT_ONCE - 1, 1)
        while True:
            left = {task for task in self._on_time | self._waited if not task.done()}
            room = min(PREPARED_AT_ONCE - len(left), share - len(left & kind))
            if room > 0 or not (seconds := self._patience_left()):
                return max(room, 0)
            await asyncio.wait(left, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    def _patience_left(self) -> float:
        return max(self._patient_until - time.monotonic(), 0.0)

    def _collect_ended(self) -> list[Exception]:
        """Forget the launches that have ended; return their failures."""
        ended_now = {task for task in self._on_time | self._waited if task.done()}
        self._on_time -= ended_now
        self._waited -= ended_now
        failures = [task.exception() for task in ended_now if not task.cancelled()]
        return [failure for failure in failures if isinstance(failure, Exception)]

    async def _work(self, look: FiringsDue) -> None:
        if look.due:
            await self._fire()
        if look.pending:
            await self._expire()
        # These share their places, so each of them is the first in turn.
        parts = [self._take, self._fire_late, self._catch_up]
        self._turn = (self._turn + 1) % len(parts)
        for part in parts[self._turn :] + parts[: self._turn]:
            await part(look)

    async def _fire(self) -> None:
        """Fire the schedules that are on time; launch while the next ones are fired.

        Those that find no room stay for the next pass.
        """
        launches: set[Task] = set()
        for _ in range(ROUNDS_A_PASS):
            limit = min(await self._room(self._on_time) * LAUNCH_FIRINGS, FIRE_SCHEDULES)
            if not limit:
                break
            fired = await self._firings.fire(limit, to_seconds=LATE_SECONDS)
            self._count_fired(fired)
            launches |= self._begin_launch(fired.ready, self._on_time)
            if fired.schedules < limit:
                break
        await self._wait(launches)

    async def _take(self, look: FiringsDue) -> None:
        """Launch firings that have waited, as many as find room."""
        if look.pending and (room := await self._room(self._waited)):
            limit = room * LAUNCH_FIRINGS
            ready = await self._firings.claim(limit, catch_up=False)
            await self._wait(self._begin_launch(ready, self._waited))

    async def _fire_late(self, look: FiringsDue) -> None:
        """Fire some of the schedules that are long overdue, after all that are on time."""
        until = time.monotonic() + LATE_SECONDS_A_PASS
        while look.due and time.monotonic() < until and await self._room(self._waited):
            fired = await self._firings.fire(FIRE_LATE_SCHEDULES, from_seconds=LATE_SECONDS)
            self._count_fired(fired)
            await self._wait(self._begin_launch(fired.ready, self._waited))
            if fired.schedules < FIRE_LATE_SCHEDULES:
                return

    async def _catch_up(self, _: FiringsDue) -> None:
        """Launch some catch-ups, in their order: none while earlier ones are under way."""
        left = CATCH_UPS_A_PASS
        while left > 0 and all(task.done() for task in self._catch_ups):
            if not await self._room(self._waited):
                return
            ready = await self._firings.claim(min(left, LAUNCH_FIRINGS), catch_up=True)
            if not ready:
                return
            left -= len(ready)
            self._catch_ups = self._begin_launch(ready, self._waited)
            await self._wait(self._catch_ups)

    async def _expire(self) -> None:
        if failed := await self._firings.expire(EXPIRE_FIRINGS):
            self._done["failed"] += failed
            self._metrics.schedule_failed.inc(failed)
            log.warning("schedule_firings_expired", firings=failed)

    def _begin_launch(self, ready: Sequence[ReadyFiring], kind: set[Task]) -> set[Task]:
        """Launch these firings in the background, a few per transaction."""
        begun = {
            asyncio.create_task(
                self._launch_some(ready[first : first + LAUNCH_FIRINGS]), name="launch_firings"
            )
            for first in range(0, len(ready), LAUNCH_FIRINGS)
        }
        kind |= begun
        return begun

    async def _wait(self, launches: set[Task]) -> None:
        """Wait for these launches, as long as the pass has patience left."""
        if launches:
            await asyncio.wait(launches, timeout=self._patience_left())

    async def _launch_some(self, ready: Sequence[ReadyFiring]) -> None:
        claimed_at = time.monotonic()
        async with self._preparing, failpoints.at("firing.prepare"):
            if time.monotonic() - claimed_at > QUEUE_SECONDS_MAX:
                return
            prepared = await self._preparer.prepare(ready)
        try:
            async with asyncio.timeout(LAUNCH_SECONDS_MAX):
                await self._launch_prepared(prepared)
        except TimeoutError:
            seconds = f"{LAUNCH_SECONDS_MAX:g} s"
            raise Unavailable(f"due firings were not launched within {seconds}") from None

    async def _launch_prepared(self, prepared: Sequence[Prepared]) -> None:
        async with self._launching:
            await self._end([one for one in prepared if isinstance(one, FiringEnd)])
            await self._firings.defer([one for one in prepared if isinstance(one, Deferral)])
            orders = [one for one in prepared if isinstance(one, FiringLaunch)]
            batches = await self._start(orders) if orders else ()
        for batch in batches:
            self._count_launched(batch)
            await self._stop_orphans(batch.ended)
            await self._cancel_before(batch)

    async def _start(self, orders: Sequence[FiringLaunch]) -> list[LaunchBatch]:
        """Launch these in one transaction; if that fails, each in its own transaction.

        So one that cannot be launched does not block the others.
        """
        try:
            batch = await self._firings.launch(orders)
        except Unavailable:
            raise
        except Exception as wrong:  # noqa: BLE001  one firing that fails must not lose the others
            if len(orders) > 1:
                return [batch for order in orders for batch in await self._start([order])]
            await self._end_or_defer(orders[0].ready, wrong)
            return []
        launched = {ran.ready.id for ran in batch.ran}
        self._launcher.notify(
            [t for order in orders if order.ready.id in launched for t in order.new.targets]
        )
        return [batch]

    async def _end_or_defer(self, ready: ReadyFiring, wrong: Exception) -> None:
        if isinstance(wrong, Refusal):
            await self._end([end_refused(ready, wrong)])
            return
        self._metrics.bugs.labels("firing").inc()
        log.error(
            "firing_not_launched", schedule=ready.schedule.id, firing=ready.id, exc_info=wrong
        )
        await self._firings.defer([defer(ready, f"a fault of opsjobs: {type(wrong).__name__}")])

    async def _end(self, ends: Sequence[FiringEnd]) -> None:
        await self._firings.settle(ends)
        self._count_ended(ends)
        await self._stop_orphans(ends)
        await self._pause_orphans(ends)

    async def _stop_orphans(self, ends: Sequence[FiringEnd]) -> None:
        """Delete schedules whose job was deleted by a process that does not know schedules."""
        for job in {
            move.ready.schedule.job_id for move in ends if move.rule is FiringRule.JOB_DELETED
        }:
            await self._schedules.delete_of_deleted_job(job)

    async def _pause_orphans(self, ends: Sequence[FiringEnd]) -> None:
        """Pause schedules whose owner is deleted, disabled or expired.

        Their due times are skipped, and recorded, until another identity becomes the owner.
        """
        for schedule, move in {
            move.ready.schedule.id: move for move in ends if move.pauses
        }.items():
            owner = move.ready.schedule.owner.name
            log.warning("schedule_paused_for_its_owner", schedule=schedule, owner=owner)
            with contextlib.suppress(NotFound):
                await self._schedules.pause(schedule, reason=OWNER_IS_GONE.format(owner))

    async def _cancel_before(self, batch: LaunchBatch) -> None:
        """Cancel the previous executions of these schedules; their firings wait for the end."""
        for before in batch.before:
            schedule = before.ready.schedule
            reason = (
                f"the schedule {schedule.name} is due again, and its overlap is cancel_previous"
            )
            for execution in before.executions:
                with contextlib.suppress(Conflict, NotFound):  # it ended meanwhile
                    await self._ledger.cancel(execution, by=schedule.owner.name, reason=reason)
        await self._firings.defer(
            [
                Deferral(
                    before.ready,
                    0.0,
                    f"execution {before.executions[-1]} of the schedule is being cancelled",
                    before.executions[-1],
                )
                for before in batch.before
            ]
        )

    def _count_fired(self, fired: Fired) -> None:
        for (status, rule), moments in fired.counts.items():
            self._done[status] += moments
            if status == FiringStatus.MISSED:
                self._metrics.schedule_missed.inc(moments)
            elif status == FiringStatus.SKIPPED:
                self._metrics.schedule_skipped.labels(rule).inc(moments)

    def _count_ended(self, ends: Sequence[FiringEnd]) -> None:
        for move in ends:
            self._done[move.status.value] += 1
            if move.status is FiringStatus.FAILED:
                self._metrics.schedule_failed.inc()
                log.warning(
                    "schedule_firing_failed",
                    schedule=move.ready.schedule.id,
                    firing=move.ready.id,
                    reason=move.reason,
                )
            else:
                self._metrics.schedule_skipped.labels(move.rule.value).inc()

    def _count_launched(self, batch: LaunchBatch) -> None:
        self._count_ended(batch.ended)
        for ran in batch.ran:
            self._done["triggered"] += 1
            self._metrics.schedule_fired.inc()
            self._metrics.schedule_start_lag.observe(ran.late_ms / 1000)
            log.info(
                "schedule_fired",
                schedule=ran.ready.schedule.id,
                execution=ran.execution_id,
                late_ms=ran.late_ms,
            )
            self._alarm_late(ran)

    def _alarm_late(self, ran: LaunchedFiring) -> None:
        if ran.late_ms >= LATE_SECONDS * 1000:
            self._metrics.schedule_late_starts.inc()
            log.warning(
                "schedule_late_start",
                schedule=ran.ready.schedule.id,
                execution=ran.execution_id,
                late_ms=ran.late_ms,
            )


def _merge_failures(failures: Sequence[Exception]) -> Exception:
    """Return one failure for those of a pass and its launches.

    The first if all of them are Unavailable: an outage of PostgreSQL is one failure, and not a bug
    of opsjobs.
    """
    failed = ExceptionGroup("a pass and its launches failed", failures)
    away, others = failed.split(Unavailable)
    if away is None or others is not None:
        return failures[0] if len(failures) == 1 else failed
    first: Exception = away
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    return first


class StandIn:
    """Fire schedules in a worker while no scheduler has ticked for 10 seconds."""

    def __init__(self, firing: FiringService, workers: Workers) -> None:
        self._firing = firing
        self._workers = workers
        self._standing_in = False

    async def run_once(self) -> Counts:
        """Fire on time for about a second, as the scheduler does; do nothing if that is alive."""
        silent = await self._workers.seconds_since_tick(SCHEDULER)
        if silent is not None and silent < SILENT_SECONDS:
            self._set_standing_in(standing_in=False)
            return {}
        self._set_standing_in(standing_in=True)
        done: Counter[str] = Counter()
        until = time.monotonic() + REST_SECONDS
        while True:
            done.update(await self._firing.run_once())
            rest = self._firing.rest_seconds
            if time.monotonic() + rest >= until:
                return done
            await asyncio.sleep(max(rest, 0.01))

    async def stop(self) -> None:
        """Abort the launches that are under way; other processes continue them."""
        await self._firing.stop()

    def _set_standing_in(self, *, standing_in: bool) -> None:
        if standing_in != self._standing_in:
            self._standing_in = standing_in
            log.warning("scheduler_stand_in_started" if standing_in else "scheduler_stand_in_ended")
