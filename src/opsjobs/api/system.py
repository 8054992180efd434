"""Health and status of the service: for probes, for people, for Prometheus."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from opsjobs import __version__
from opsjobs.api.authorization import Within, reach
from opsjobs.api.dependencies import ServicesDep, requires
from opsjobs.api.schemas.responses import TEXT, UNAVAILABLE
from opsjobs.api.schemas.system import (
    HealthOut,
    LivenessOut,
    QueueListOut,
    ServiceStatusOut,
    StatisticsOut,
    VersionOut,
    WorkerListOut,
)
from opsjobs.composition.services import Services
from opsjobs.engine.notification.messages import SERVICE
from opsjobs.model.errors import Unavailable
from opsjobs.model.execution import moment
from opsjobs.store.feeds import AUDIT_SERVICE, COUNTED_MAX
from opsjobs.store.integration_reports import IntegrationReport
from opsjobs.store.restores import NOT_FINISHED
from opsjobs.store.system_status import HEAD, Complaint, Queue, Upkeep, WorkerStatus
from opsjobs.telemetry.logs import log

SCHEDULER_LATE_SECONDS = 10.0
ZONES_SHOWN_MAX = 100
"""Zones with metrics of their own; the rest is added up."""
OTHER_ZONES = "other"
TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"

Samples = Iterable[tuple[Mapping[str, str], float]]
"""Labels and value of each sample of a metric."""

router = APIRouter(tags=["system"])


@router.get("/livez", summary="Liveness", response_model=LivenessOut)
async def livez() -> Response:
    """Return 200 while the process responds; no other server is checked."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz", summary="Readiness", response_model=HealthOut, responses=UNAVAILABLE)
async def readyz(request: Request) -> Response:
    """Return 503 if requests cannot be served.

    Reasons: PostgreSQL does not respond or cannot be used, a restore has not finished, migrations
    are missing, or the admin token is not valid yet.
    """
    trouble = await request.app.state.probes.trouble(in_a_hurry=request.state.in_a_hurry)
    if trouble is not None:
        return JSONResponse({"status": "unavailable", "reasons": [trouble]}, 503)
    reasons = _codes(request.app.state.probes.complaints)
    return JSONResponse({"status": "ok", "reasons": reasons} if reasons else {"status": "ok"})


@router.get("/health", summary="Health", response_model=HealthOut, responses=UNAVAILABLE)
async def health(request: Request) -> Response:
    """Return ok, degraded (200) or unavailable (503, as /readyz).

    Degraded: Redis does not respond, or a problem needs attention before requests fail.
    """
    probes, hurry = request.app.state.probes, request.state.in_a_hurry
    trouble, reasons = await asyncio.gather(
        probes.trouble(in_a_hurry=hurry), probes.reasons(in_a_hurry=hurry)
    )
    if trouble is not None:
        return JSONResponse({"status": "unavailable", "reasons": [trouble]}, 503)
    return JSONResponse(
        {"status": "degraded", "reasons": _codes(reasons)} if reasons else {"status": "ok"}
    )


@router.get(
    "/status",
    dependencies=[requires("system:read")],
    summary="Get the status",
    response_model=ServiceStatusOut,
)
async def status(request: Request, services: ServicesDep) -> Response:
    """Return versions, servers, schedules, workers, zones, queues and storage of the service.

    `reasons` say why it is degraded, and what to do.
    """
    reasons = await request.app.state.probes.reasons(in_a_hurry=False)
    workers = await services.system_status.workers()
    queues = await services.system_status.queues()
    upkeep = await services.system_status.upkeep()
    schema = await services.system_status.schema()
    return JSONResponse(
        {
            "status": "degraded" if reasons else "ok",
            "reasons": [{"code": reason.code, "detail": reason.detail} for reason in reasons],
            "version": __version__,
            "python": platform.python_version(),
            "database": {
                "version": await services.system_status.server_version(),
                "schema": schema,
                "schema_needed": HEAD,
            },
            "redis": _redis(services.bus.is_configured, reasons),
            "redis_version": await services.bus.server_version(),
            "scheduler": _scheduler(upkeep),
            "schedules": await services.system_status.schedules(),
            "zones": await services.system_status.zones(),
            "circuits": await services.system_status.circuits(),
            "storage": await _storage(services, upkeep),
            "workers": [worker.data() for worker in workers],
            "queues": [queue.data() for queue in queues],
            "executions": await services.system_status.open_executions(),
            "log": _log(upkeep),
            "events_unpublished": upkeep.events_unpublished,
            "oldest_snapshot_seconds": round(upkeep.oldest_snapshot_seconds, 1),
            "streams": request.app.state.followers.streams,
            "integrations": await _integrations(services),
        }
    )


@router.get(
    "/version",
    dependencies=[requires("system:read", Within.ANYWHERE)],
    summary="Get the version",
    response_model=VersionOut,
)
async def version() -> Response:
    """Return the version of this process, of its Python, and the schema that it needs."""
    return JSONResponse(
        {"version": __version__, "python": platform.python_version(), "schema_needed": HEAD}
    )


@router.get(
    "/stats",
    dependencies=[requires("executions:read", Within.LIST)],
    summary="Get statistics",
    response_model=StatisticsOut,
)
async def statistics(request: Request, services: ServicesDep) -> Response:
    """Return figures of the executions that ended in the last hour, day and week.

    `hours` counts those of the last day by the hour. Counts only executions that the caller may
    see. A day and a week begin with a whole hour. Medians and 95th percentiles are at most 5 per
    cent off.
    """
    return JSONResponse(await services.statistics.read(reach(request)))


@router.get(
    "/workers",
    dependencies=[requires("system:read")],
    summary="List workers",
    response_model=WorkerListOut,
)
async def workers(services: ServicesDep) -> Response:
    """List workers, those alive first; ended ones stay for an hour. At most 1,000, not paged."""
    return JSONResponse(
        {"items": [w.data() for w in await services.system_status.workers()], "next": None}
    )


@router.get(
    "/queues",
    dependencies=[requires("system:read")],
    summary="List queues",
    response_model=QueueListOut,
)
async def queues(services: ServicesDep) -> Response:
    """List what waits and runs, one item a zone that has work or workers."""
    return JSONResponse(
        {"items": [q.data() for q in await services.system_status.queues()], "next": None}
    )


@router.get(
    "/metrics",
    dependencies=[requires("system:read")],
    response_class=Response,
    responses=TEXT,
    summary="Get metrics",
)
async def metrics(services: ServicesDep) -> Response:
    """Return the metrics of this process and of the fleet, in the Prometheus text format.

    Without PostgreSQL, those of this process alone, and opsjobs_database_up 0.
    """
    try:
        fleet = services.system_status
        gauges = fleet_gauges(
            await fleet.open_executions(),
            await fleet.queues(),
            await fleet.workers(),
            await fleet.upkeep(),
        )
    except Unavailable:
        gauges = _database_up(0).encode()
    return Response(services.metrics.text() + gauges, media_type=TEXT_FORMAT)


def fleet_gauges(
    executions: Mapping[str, int],
    queues: Iterable[Queue],
    workers: Iterable[WorkerStatus],
    upkeep: Upkeep,
) -> bytes:
    """Return the metrics common to all processes, in Prometheus' text format."""
    queues, alive = _merge_zones(queues), [worker for worker in workers if worker.alive]
    samples_of: Sequence[tuple[str, str, Samples]] = [
        (
            "executions_open",
            "Executions that have not ended",
            [({"status": status}, n) for status, n in executions.items()],
        ),
        (
            "queue_runs",
            "Target runs that wait or run, by zone",
            [
                ({"zone": q.zone, "state": state}, n)
                for q in queues
                for state, n in (("waiting", q.waiting), ("ready", q.ready), ("running", q.running))
            ],
        ),
        (
            "queue_oldest_ready_seconds",
            "Age of the oldest execution with a ready run, by zone",
            [({"zone": q.zone}, q.oldest_seconds or 0) for q in queues],
        ),
        (
            "workers_alive",
            "Workers with a lease, by zone",
            [({"zone": q.zone}, q.workers) for q in queues],
        ),
        (
            "workers_capacity",
            "Target runs that all live workers can run at the same time",
            [({}, sum(worker.concurrency for worker in alive))],
        ),
        (
            "service_tick_age_seconds",
            "Seconds since a service last ran",
            [({"service": name}, age) for name, age in upkeep.ticks.items()],
        ),
        (
            "events_unpublished",
            "Events in the outbox that are not published",
            [({}, upkeep.events_unpublished)],
        ),
        (
            "oldest_event_seconds",
            "Age of the oldest event that is not published",
            [({}, upkeep.oldest_event_seconds)],
        ),
        (
            "oldest_snapshot_seconds",
            "Age of the database's oldest snapshot",
            [({}, upkeep.oldest_snapshot_seconds)],
        ),
        ("log_bytes", "Size of the execution logs", [({}, upkeep.log_bytes)]),
        (
            "log_partitions_ahead",
            "Partitions of the log beyond today, one a day",
            [({}, upkeep.days_ahead)],
        ),
        (
            "log_default_rows",
            "Log entries outside of all partitions; should be 0",
            [({}, upkeep.default_rows)],
        ),
        (
            "deliveries_pending",
            "Deliveries that are to be sent, to webhooks and others",
            [({}, upkeep.deliveries_pending)],
        ),
        (
            "oldest_delivery_seconds",
            "Age of the oldest delivery that is to be sent",
            [({}, upkeep.oldest_delivery_seconds)],
        ),
        ("circuits_open", "Circuits of logins that are not closed", [({}, upkeep.circuits_open)]),
        (
            "dead_letters",
            "Runs that ended lost or dead, not yet revived or discarded",
            [({}, upkeep.dead_letters)],
        ),
    ]
    return "".join([_database_up(1), *(_gauge(*one) for one in samples_of)]).encode()


def _merge_zones(queues: Iterable[Queue]) -> list[Queue]:
    """Return the largest queues, and one for all further zones.

    Callers that add targets name the zones: their number must not become one of time series.
    """
    by_size = sorted(queues, key=lambda q: (-q.workers, -(q.ready + q.running + q.waiting), q.zone))
    rest = by_size[ZONES_SHOWN_MAX:]
    if not rest:
        return by_size
    other = Queue(
        OTHER_ZONES,
        sum(q.waiting for q in rest),
        sum(q.ready for q in rest),
        sum(q.running for q in rest),
        max((q.oldest_seconds for q in rest if q.oldest_seconds is not None), default=None),
        sum(q.workers for q in rest),
    )
    return [*by_size[:ZONES_SHOWN_MAX], other]


def _database_up(value: int) -> str:
    return _gauge("database_up", "1 if PostgreSQL answers, 0 if not", [({}, value)])


def _gauge(name: str, description: str, samples: Samples) -> str:
    lines = "".join(f"opsjobs_{name}{_labels(labels)} {value:g}\n" for labels, value in samples)
    return f"# HELP opsjobs_{name} {description}\n# TYPE opsjobs_{name} gauge\n{lines}"


def _labels(labels: Mapping[str, str]) -> str:
    def quoted(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return (
        "{" + ",".join(f'{name}="{quoted(value)}"' for name, value in labels.items()) + "}"
        if labels
        else ""
    )


def _codes(reasons: Iterable[Complaint]) -> list[str]:
    return list(dict.fromkeys(reason.code for reason in reasons))


def _redis(configured: bool, reasons: Iterable[Complaint]) -> str:
    if not configured:
        return "not configured"
    return "away" if REDIS_AWAY in reasons else "ok"


def _scheduler(upkeep: Upkeep) -> dict[str, Any]:
    age = upkeep.ticks.get("scheduler")
    late = age is None or age > SCHEDULER_LATE_SECONDS
    return {
        "status": "late" if late else "ok",
        "ticked_seconds_ago": None if age is None else round(age, 1),
    }


async def _integrations(services: Services) -> list[dict[str, Any]]:
    """Return the connected services, with what waits for those that messages are sent to."""
    return [
        {
            "name": found.worst.name,
            "host": found.worst.host,
            "profile": found.worst.profile,
            **_view(found.worst),
            "waiting": await _count_waiting(services, found.worst.name),
            "processes": [
                {"process": view.process, **_view(view), "asked_at": moment(view.asked_at)}
                for view in found.views
            ],
        }
        for found in await services.integration_reporter.load()
    ]


def _view(report: IntegrationReport) -> dict[str, Any]:
    return {
        "state": report.state,
        "last_error": report.last_error,
        "since": moment(report.since),
    }


async def _count_waiting(services: Services, name: str) -> int | None:
    match name:
        case "audit":
            return await services.audit_feed.backlog(AUDIT_SERVICE)
        case "notification":
            return await services.audit_feed.count_pending(SERVICE, COUNTED_MAX)
    return None


async def _storage(services: Services, upkeep: Upkeep) -> dict[str, int]:
    """Return what is stored, and the limits; a limit of 0 is none."""
    return {
        **await services.system_status.storage(),
        "log_bytes": upkeep.log_bytes,
        "file_bytes_limit": services.limits.files_bytes,
        "output_bytes_limit": services.limits.output_bytes,
    }


def _log(upkeep: Upkeep) -> dict[str, int]:
    return {
        "partitions": upkeep.partitions,
        "days_ahead": upkeep.days_ahead,
        "bytes": upkeep.log_bytes,
        "default_rows": upkeep.default_rows,
    }


PROBE_SECONDS = 2.0
"""Time limit of the response to a probe, whatever PostgreSQL does."""
KEPT_SECONDS = 1.0
"""Maximum age of the result for a caller that is over its rate limit."""

REDIS_AWAY = Complaint(
    "redis_away", "Redis does not answer: work continues, by polling once a second."
)

Found = TypeVar("Found")


class HealthProbe(Generic[Found]):
    """One check of a server, with its last result."""

    def __init__(self, ask: Callable[[], Awaitable[Found]]) -> None:
        self._ask = ask
        self._asking = asyncio.Lock()
        self._found: list[Found] = []
        self._at = 0.0

    async def __call__(self, *, in_a_hurry: bool) -> Found:
        """Return the current result.

        `in_a_hurry`: accept a result that is up to one second old, so that any number of such calls
        causes only one check a second.
        """
        if not in_a_hurry:
            return await self._ask()
        async with self._asking:
            loop = asyncio.get_running_loop()
            if not self._found or loop.time() >= self._at + KEPT_SECONDS:
                self._found = [await self._ask()]
                self._at = loop.time()
            return self._found[0]


class Probes:
    """The probes of one process.

    `admin_waits`: the admin token of the settings is not valid yet.
    `trouble`: the reason why no request can be served, or None. `redis`: True if Redis responds.
    """

    def __init__(self, services: Services, *, admin_waits: bool = False) -> None:
        self._services = services
        self.admin_waits = admin_waits
        self.trouble = HealthProbe(self._trouble)
        self.redis = HealthProbe(self._redis)

    @property
    def complaints(self) -> Sequence[Complaint]:
        """The findings of the last inspection of the database and the keys."""
        found: Sequence[Complaint] = self._services.inspection.complaints
        return found

    async def reasons(self, *, in_a_hurry: bool) -> Sequence[Complaint]:
        """Return the reasons why the service is degraded although requests are served."""
        found = list(self.complaints)
        if self._services.bus.is_configured and not await self.redis(in_a_hurry=in_a_hurry):
            found.append(REDIS_AWAY)
        return found

    async def _redis(self) -> bool:
        answers: bool = await self._services.bus.ping()
        return answers

    async def _trouble(self) -> str | None:
        # The reason goes to the log, not to the caller.
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                schema = await self._services.system_status.schema()
                unfinished = await self._services.system_status.restore_unfinished()
        except (Unavailable, TimeoutError) as away:
            log.warning("not_ready", reason="PostgreSQL does not answer", error=str(away))
            return "database"
        if unfinished:
            log.warning("not_ready", reason=NOT_FINISHED)
            return "restore_not_finished"
        if schema is None or schema < HEAD:
            log.warning(
                "not_ready",
                reason="migrations are missing: run `opsjobs db upgrade`",
                schema=schema,
                needed=HEAD,
            )
            return "migrations"
        fatal = next((complaint.code for complaint in self.complaints if complaint.fatal), None)
        return fatal or ("admin_token" if self.admin_waits else None)
