"""Launch the job of a schedule: prepare the launch of firings, or launch it on request.

Firings are prepared before the ledger writes their launch: this checks the job, its targets, the
owner's rights and the calendars.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from opsjobs.engine.launching.launch import Launched, Launcher
from opsjobs.engine.launching.launch_authz import CurrentRights, OwnerGone, PrincipalLookup
from opsjobs.engine.launching.safety_service import describe_unjudged
from opsjobs.model.access_bounds import NO_BOUNDS, Bounds
from opsjobs.model.errors import Forbidden, Refusal, Unavailable
from opsjobs.model.execution import TriggeredBy
from opsjobs.model.firing import LATE_SECONDS, FiringRule, FiringStatus
from opsjobs.model.identity import Identity
from opsjobs.model.job import Job, JobState, LaunchOrder
from opsjobs.model.run_views import Execution
from opsjobs.model.target import Target
from opsjobs.store.idempotency import IdempotentRequest
from opsjobs.store.jobs import Jobs, JobSummary
from opsjobs.store.scheduling.due_firings import ReadyFiring
from opsjobs.store.scheduling.firing_transitions import Deferral, FiringEnd, FiringLaunch
from opsjobs.store.scheduling.firings import Firings
from opsjobs.store.scheduling.rows import StoredSchedule
from opsjobs.store.scheduling.schedules import Schedules
from opsjobs.store.transaction import Connection
from opsjobs.telemetry import trace_context, tracing
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics
from opsjobs.telemetry.tracing import SpanKind

PREPARE_SECONDS = 10.0
"""Time limit for preparing the firings of one transaction, well within their claim."""
BACKOFF_SECONDS = 1.0
BACKOFF_SECONDS_MAX = 60.0
JOBS_CACHED = 1_000

Prepared = FiringLaunch | FiringEnd | Deferral
_Frozen = tuple[Sequence[Target], Sequence[Mapping[str, Any]]]

_NOT_ACTIVE = {
    JobState.DRAFT: (FiringRule.JOB_DRAFT, "the job {} is a draft"),
    JobState.PAUSED: (FiringRule.JOB_PAUSED, "the job {} is paused"),
    JobState.ARCHIVED: (FiringRule.JOB_DELETED, "the job {} was deleted"),
}


class FiringPreparer:
    """Prepare for each firing a launch, or the reason why it is not launched.

    A firing that cannot be checked now is deferred, longer with each attempt.
    `current_principal` looks up the current rights of the schedule's owner at every firing.
    """

    def __init__(
        self,
        jobs: Jobs,
        launcher: Launcher,
        firings: Firings,
        metrics: Metrics,
        *,
        current_principal: PrincipalLookup,
    ) -> None:
        self._jobs = jobs
        self._launcher = launcher
        self._metrics = metrics
        self._firings = firings
        self._current_principal = current_principal
        self._jobs_cached: OrderedDict[tuple[int, int], Job] = OrderedDict()

    async def prepare(self, firings: Sequence[ReadyFiring]) -> list[Prepared]:
        """Return one result for each firing, in their order.

        Jobs are prepared side by side: if the time runs out, only the firings of slow ones are
        deferred. The others wait for them until then.
        """
        found: dict[int, Prepared] = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PREPARE_SECONDS):
                jobs = await self._jobs.summaries({ready.schedule.job_id for ready in firings})
                found |= await self._find_closed(firings)
                rights = CurrentRights(self._current_principal)
                by_job: dict[int, list[ReadyFiring]] = {}
                for ready in firings:
                    if ready.id not in found:
                        by_job.setdefault(ready.schedule.job_id, []).append(ready)
                async with asyncio.TaskGroup() as tasks:
                    for job_id, of_job in by_job.items():
                        tasks.create_task(self._prepare_job(jobs[job_id], of_job, rights, found))
        reason = f"it was not prepared within {PREPARE_SECONDS:g} s"
        return [found.get(ready.id) or defer(ready, reason) for ready in firings]

    async def _prepare_job(
        self,
        job: JobSummary,
        firings: Sequence[ReadyFiring],
        rights: CurrentRights,
        found: dict[int, Prepared],
    ) -> None:
        """Add the result of each firing of a job to `found`."""
        frozen: dict[int, _Frozen] = {}
        for ready in firings:
            found[ready.id] = await self._prepare_one(ready, job, frozen, rights)

    async def _find_closed(self, firings: Sequence[ReadyFiring]) -> dict[int, Prepared]:
        """Check the calendars again for late firings; return those to skip or defer.

        A late firing does not start at its due time, so the calendars are checked for its start.
        """
        late = [ready for ready in firings if ready.late_seconds >= LATE_SECONDS]
        if not late:
            return {}
        closed = await self._firings.load_closed_reasons([ready.schedule for ready in late])
        found: dict[int, Prepared] = {}
        for ready in late:
            try:
                starts_at = ready.fire_at + timedelta(seconds=ready.late_seconds)
                reason = closed(ready.schedule, starts_at)
            except Exception as bug:  # noqa: BLE001  one bad calendar must not block other firings
                found[ready.id] = self._defer_failed(ready, bug)
                continue
            if reason:
                found[ready.id] = FiringEnd(
                    ready, FiringStatus.SKIPPED, FiringRule.CALENDAR, reason
                )
        return found

    async def _prepare_one(
        self,
        ready: ReadyFiring,
        job: JobSummary,
        frozen: dict[int, _Frozen],
        rights: CurrentRights,
    ) -> Prepared:
        if job.state in _NOT_ACTIVE:  # the ledger checks the job once more, under its lock
            rule, reason = _NOT_ACTIVE[job.state]
            return FiringEnd(ready, FiringStatus.SKIPPED, rule, reason.format(job.name))
        schedule = ready.schedule
        try:
            bounds = await rights.launching(schedule.owner, job.labels, job.name)
            # Each launch has a trace of its own, with a link to the pass that made it.
            with tracing.entry(
                "firing",
                None,
                kind=SpanKind.INTERNAL,
                links=trace_context.current_links(),
                schedule=schedule.id,
                firing=ready.id,
            ):
                return await self._prepare_launch(ready, job, frozen, bounds, rights)
        except Forbidden as forbidden:
            reason = f"{schedule.owner.name} may not execute the job {job.name}: {forbidden}"
            return FiringEnd(
                ready,
                FiringStatus.SKIPPED,
                FiringRule.OWNER,
                reason,
                pauses=isinstance(forbidden, OwnerGone),
            )
        except Refusal as refusal:
            return end_refused(ready, refusal)
        except Unavailable as away:
            return defer(ready, str(away))
        except Exception as bug:  # noqa: BLE001  one firing that fails must not block the others
            return self._defer_failed(ready, bug)

    def _defer_failed(self, ready: ReadyFiring, bug: Exception) -> Deferral:
        self._metrics.bugs.labels("firing").inc()
        log.error("firing_not_prepared", schedule=ready.schedule.id, firing=ready.id, exc_info=bug)
        return defer(ready, f"a fault of opsjobs: {bug!r}")

    async def _prepare_launch(
        self,
        ready: ReadyFiring,
        current: JobSummary,
        frozen: dict[int, _Frozen],
        bounds: Bounds,
        rights: CurrentRights,
    ) -> Prepared:
        job = await self._load_version(current)
        order = order_of(job, ready.schedule)
        # Schedules of the same job share one selection: all of them are due now.
        if job.id not in frozen:
            selected = await self._launcher.select_targets(order)
            frozen[job.id] = selected, await self._launcher.freeze_actions(order, selected)
        targets, actions = frozen[job.id]
        bounds.check_targets(targets)
        order = await self._launcher.bind_parameters(order)
        owner = ready.schedule.owner
        new = self._launcher.draft(
            order,
            actions,
            targets,
            triggered_by=TriggeredBy.SCHEDULE,
            requested_by=owner,
            uuid=ready.uuid,
        )
        new = await self._launcher.vet(new, order)
        reason = describe_unjudged(new.judgement)
        if reason is not None:
            # Each of its due times would request an approval, for a text that was not checked.
            return FiringEnd(ready, FiringStatus.FAILED, FiringRule.REFUSED, reason)
        # No user acts now: the identity that may not approve the launch is the owner of the
        # schedule.
        return FiringLaunch(ready, replace(new, requester=await rights.requester(owner)))

    async def _load_version(self, current: JobSummary) -> Job:
        """Return the job's current version; versions never change, so each is read once."""
        key = (current.id, current.version)
        cached = self._jobs_cached.get(key)
        if cached is not None:
            self._jobs_cached.move_to_end(key)
            return cached
        job = (await self._jobs.get(str(current.id))).job
        self._jobs_cached[job.id, job.version] = job
        if len(self._jobs_cached) > JOBS_CACHED:
            self._jobs_cached.popitem(last=False)
        return job


def end_refused(ready: ReadyFiring, refusal: Refusal) -> FiringEnd:
    """Return the end of a firing whose launch was refused."""
    if refusal.code == "no_targets":
        return FiringEnd(ready, FiringStatus.SKIPPED, FiringRule.NO_TARGETS, str(refusal))
    return FiringEnd(ready, FiringStatus.FAILED, FiringRule.REFUSED, f"{refusal.code}: {refusal}")


def defer(ready: ReadyFiring, reason: str) -> Deferral:
    """Return the deferral of a firing, longer with each attempt."""
    doublings = min(ready.attempts - 1, 10)
    seconds = min(BACKOFF_SECONDS * 2**doublings, BACKOFF_SECONDS_MAX)
    return Deferral(ready, seconds, reason)


class Triggers:
    """Launch the job of a schedule on request."""

    def __init__(
        self, firings: Firings, schedules: Schedules, jobs: Jobs, launcher: Launcher
    ) -> None:
        self._firings = firings
        self._schedules = schedules
        self._jobs = jobs
        self._launcher = launcher

    async def trigger(
        self,
        ref: str,
        *,
        triggered_by: TriggeredBy,
        requested_by: Identity,
        bounds: Bounds = NO_BOUNDS,
        reason: str | None = None,
        override: str | None = None,
        idem: IdempotentRequest | None = None,
    ) -> Launched:
        """Launch the schedule's job now, regardless of its calendars and its overlap.

        It is launched even if the schedule is paused, and is not counted by `max_firings`.
        Raises NotFound, and the exceptions of a launch.
        """
        schedule = await self._schedules.get(ref)
        job = (await self._jobs.get(str(schedule.job_id))).job
        order = replace(order_of(job, schedule), bounds=bounds, override=override)
        order = order if reason is None else replace(order, reason=f"{order.reason}: {reason}")
        new = await self._launcher.prepare(
            order,
            triggered_by=triggered_by,
            requested_by=requested_by,
        )

        async def record(connection: Connection, execution: Execution) -> None:
            await self._firings.record_trigger(connection, schedule, execution)

        return await self._launcher.start(new, idem, also=record)


def order_of(job: Job, schedule: StoredSchedule) -> LaunchOrder:
    """Return the launch order of a schedule for its job."""
    definition = job.definition
    return LaunchOrder(
        definition.actions,
        definition.targets,
        definition.policy,
        definition.name,
        job.id,
        job.version,
        reason=f"schedule {schedule.name}",
        parameters=schedule.definition.parameters,
        declared=definition.parameters,
        tags=definition.tags,
    )
