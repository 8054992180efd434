"""The status of this service, and of the platform's services that it is connected to.

`Inspection` checks that the service can work with its database and keys, and reports problems. The
check is made at start and periodically after that.

`IntegrationReporter` has the state of the platform's services over all processes: each reports its
own view. A process knows only the services that it asks itself: the scheduler the Audit Service,
workers the credentials of the Target Service. So each process writes its view, and GET /status
reads them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from opsjobs.clock import Clock
from opsjobs.engine.loop import Counts
from opsjobs.integrations.services.health import IntegrationState, IntegrationStatus
from opsjobs.model.errors import Unavailable
from opsjobs.store.integration_reports import IntegrationReport, IntegrationReports
from opsjobs.store.system_status import Complaint, Fitness
from opsjobs.telemetry.logs import log

INSPECTION_SECONDS = 10.0
SECRETS_SECONDS = 3_600.0
"""Interval of counting the secrets sealed under each key, which reads every sealed row."""


class Inspection:
    """Periodic checks of the database and the keys.

    Each problem is logged once when it appears, and once more when it is resolved.
    `space`: also check whether the database's volume is full, which writes to it.
    """

    def __init__(self, fitness: Fitness, clock: Clock, *, space: bool = False) -> None:
        self._fitness = fitness
        self._clock = clock
        self._space = space
        self._secrets: Sequence[Complaint] = ()
        self._secrets_at = float("-inf")
        self.complaints: Sequence[Complaint] = ()
        """Findings of the last check; empty before the first."""

    async def run_once(self) -> Counts:
        """Check once. Raises Unavailable while the database is unavailable."""
        found = [*await self._fitness.faults()]
        if not any(complaint.fatal for complaint in found):
            if self._space:
                found += await self._fitness.space()
            found += await self._check_secrets()
        self._log_changes(found)
        self.complaints = found
        return {"complaints": len(found)}

    async def _check_secrets(self) -> Sequence[Complaint]:
        now = self._clock.monotonic()
        if now - self._secrets_at >= SECRETS_SECONDS:
            self._secrets_at = now  # set first: a count that takes too long is not retried at once
            self._secrets = await self._fitness.secrets()
        return self._secrets

    def _log_changes(self, found: Sequence[Complaint]) -> None:
        for complaint in found:
            if complaint not in self.complaints:
                write = log.error if complaint.fatal else log.warning
                write("service_check_failed", code=complaint.code, reason=complaint.detail)
        for code in {c.code for c in self.complaints} - {c.code for c in found}:
            log.info("service_check_recovered", code=code)


REPORT_SECONDS = 2.0
"""Interval at which a process looks for changes of its view."""
REPEAT_SECONDS = 20.0
"""Interval at which a view that has not changed is reported again; under KEPT_SECONDS."""
SUPERSEDED = timedelta(minutes=5)
"""A failure counts no longer if another process was answered so much later."""
# From the best to the worst.
_ORDER = ("unused", "ok", "failing", "open")


@dataclass(frozen=True, slots=True)
class Integration:
    """One service of the platform, as all processes see it."""

    worst: IntegrationReport
    """The view that counts: the worst one, unless others were answered much later."""
    views: Sequence[IntegrationReport]


class IntegrationReporter:
    """Report the view of this process, and merge the views of all.

    `statuses` returns the view of this process, whose name is `process`.
    """

    def __init__(
        self,
        reports: IntegrationReports,
        statuses: Callable[[], Sequence[IntegrationStatus]],
        clock: Clock,
        *,
        process: str,
    ) -> None:
        self._reports = reports
        self._statuses = statuses
        self._clock = clock
        self._process = process
        self._reported: Sequence[IntegrationReport] = ()
        self._reported_at = float("-inf")

    async def run_once(self) -> Counts:
        """Report the view if it has changed, or was not reported for 20 seconds."""
        view, now = self._view(), self._clock.monotonic()
        due = now - self._reported_at >= REPEAT_SECONDS
        if not due and _states(view) == _states(self._reported):
            return {}
        if view:
            await self._reports.report(self._process, view)
        self._reported, self._reported_at = view, now
        return {"reported": len(view)}

    async def withdraw(self) -> None:
        """Delete the reports of this process, which ends; without PostgreSQL they expire."""
        if not self._reported:
            return
        try:
            await self._reports.withdraw(self._process)
        except Unavailable as away:
            log.warning("integration_reports_not_withdrawn", reason=str(away))

    async def load(self) -> Sequence[Integration]:
        """Return the services that any living process is connected to, by name."""
        stored = [each for each in await self._reports.read() if each.process != self._process]
        by_name = dict[str, list[IntegrationReport]]()
        for view in (*self._view(), *stored):
            by_name.setdefault(view.name, []).append(view)
        return [Integration(_worst(views), views) for _, views in sorted(by_name.items())]

    def _view(self) -> Sequence[IntegrationReport]:
        return [
            IntegrationReport(
                self._process,
                each.name,
                each.host,
                each.profile,
                each.state.value,
                each.last_error,
                each.since,
                each.asked_at,
            )
            for each in self._statuses()
        ]


def _states(view: Sequence[IntegrationReport]) -> Sequence[tuple[str, str, str | None]]:
    return [(each.name, each.state, each.last_error) for each in view]


def _worst(views: Sequence[IntegrationReport]) -> IntegrationReport:
    """Return the worst view, without failures that answers to others have superseded."""
    answered = [
        view.asked_at
        for view in views
        if view.state == IntegrationState.OK and view.asked_at is not None
    ]
    latest = max(answered, default=None)
    counted = [
        view
        for view in views
        if latest is None or view.asked_at is None or latest - view.asked_at < SUPERSEDED
    ]
    return max(counted, key=lambda view: _ORDER.index(view.state))
