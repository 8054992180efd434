"""Launch the job of a schedule on request, and the order that it is launched with."""

from __future__ import annotations

from dataclasses import replace

from opsjobs.engine.launching.launch import Launched, Launcher
from opsjobs.model.access_bounds import NO_BOUNDS, Bounds
from opsjobs.model.execution import TriggeredBy
from opsjobs.model.identity import Identity
from opsjobs.model.job import Job, LaunchOrder
from opsjobs.model.run_views import Execution
from opsjobs.store.idempotency import IdempotentRequest
from opsjobs.store.jobs import Jobs
from opsjobs.store.scheduling.firings import Firings
from opsjobs.store.scheduling.schedule_rows import StoredSchedule
from opsjobs.store.scheduling.schedules import Schedules
from opsjobs.store.transaction import Connection


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
