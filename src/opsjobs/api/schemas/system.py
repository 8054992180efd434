"""Schemas of the health of the service; the audit log."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import ConfigDict, Field

from opsjobs.api.schemas.base import AnswerModel, PageModel, Seconds, Sha256, Timestamp

IntegrationStateWord = Literal["unused", "ok", "failing", "open"]


class LivenessOut(AnswerModel):
    """The process answers."""

    status: Literal["ok"]


class HealthOut(AnswerModel):
    """The health of the service, with a code for each reason why it is not ok."""

    status: Literal["ok", "degraded", "unavailable"]
    reasons: list[str] = Field(default=[])


class WorkerOut(AnswerModel):
    """A worker. `room`: how many more runs it would start."""

    id: UUID
    name: str
    zone: str
    pid: int
    alive: bool
    concurrency: int
    running: int
    room: int
    started_at: Timestamp
    age_seconds: float
    renewed_seconds_ago: float


class WorkerListOut(AnswerModel):
    """All workers."""

    items: list[WorkerOut]
    next: None


class QueueOut(AnswerModel):
    """Waiting and running target runs of a zone."""

    zone: str
    waiting: int
    ready: int
    running: int
    oldest_ready_seconds: float | None
    workers: int


class QueueListOut(AnswerModel):
    """All queues."""

    items: list[QueueOut]
    next: None


class ReasonOut(AnswerModel):
    """A reason for a degraded service."""

    code: str
    detail: str


class DatabaseStatusOut(AnswerModel):
    """PostgreSQL and its migrations."""

    model_config = ConfigDict(validate_by_name=True)

    version: str
    schema_: Annotated[
        str | None, Field(alias="schema", description="The revision of its migrations")
    ]
    schema_needed: str


class SchedulerStatusOut(AnswerModel):
    """State of the scheduler."""

    status: Literal["ok", "late"]
    ticked_seconds_ago: Seconds | None


class LogStatusOut(AnswerModel):
    """The storage of execution logs."""

    partitions: int
    days_ahead: int
    bytes: int
    default_rows: int


class IntegrationViewOut(AnswerModel):
    """A connected service as one process sees it; `asked_at`: the end of its last request."""

    process: str
    state: IntegrationStateWord
    last_error: str | None
    since: Timestamp
    asked_at: Timestamp | None


class IntegrationOut(AnswerModel):
    """A connected service of the platform: the worst view that a living process has of it.

    `state` is open after several failures in a row: the service is then not asked for a while. A
    failure counts no longer if another process was answered five minutes later.
    """

    name: str
    host: str
    profile: str
    state: IntegrationStateWord
    last_error: str | None
    since: Timestamp
    waiting: int | None = Field(
        description="Messages not delivered to it yet, for the Audit and the Notification Service"
    )
    processes: list[IntegrationViewOut]


class SchedulesStatusOut(AnswerModel):
    """The schedules; `late`: due for a minute, and not fired."""

    total: int
    paused: int
    late: int
    next_due_at: Timestamp | None


class ZoneOut(AnswerModel):
    """The live workers of a zone; `capacity`: runs that they take at a time."""

    zone: str
    workers: int
    capacity: int


class StorageOut(AnswerModel):
    """Stored bytes and their limits; a limit of 0 is none."""

    database_bytes: int
    log_bytes: int
    file_bytes: int
    file_bytes_limit: int = Field(description="OPSJOBS_FILES_LIMIT_BYTES")
    output_bytes_limit: int = Field(
        description="OPSJOBS_OUTPUT_LIMIT_BYTES, of each stream of an action"
    )


class ServiceStatusOut(AnswerModel):
    """The state of the service in full."""

    status: Literal["ok", "degraded"]
    reasons: list[ReasonOut]
    version: str
    python: str
    database: DatabaseStatusOut
    redis: Literal["ok", "away", "not configured"]
    redis_version: str | None
    scheduler: SchedulerStatusOut
    schedules: SchedulesStatusOut
    zones: list[ZoneOut]
    circuits: dict[str, int] = Field(description="Circuits that are not closed, by state")
    storage: StorageOut
    workers: list[WorkerOut]
    queues: list[QueueOut]
    executions: dict[str, int]
    log: LogStatusOut
    events_unpublished: int
    oldest_snapshot_seconds: float
    streams: int
    integrations: list[IntegrationOut]


class VersionOut(AnswerModel):
    """The version of a process."""

    version: str
    python: str
    schema_needed: str = Field(description="The revision of the migrations that it needs")


class StatusCountsOut(AnswerModel):
    """Numbers by status."""

    total: int
    by_status: dict[str, int]


class QuantilesOut(AnswerModel):
    """Seconds that half, and 95 per cent, did not exceed; null without any."""

    median: float | None
    p95: float | None


class FiguresOut(AnswerModel):
    """Figures of executions that ended; shares are null if none ended by itself."""

    executions: StatusCountsOut
    runs: StatusCountsOut
    success_share: float | None = Field(description="Completed, of those not cancelled or rejected")
    run_success_share: float | None
    duration_seconds: QuantilesOut
    queue_seconds: QuantilesOut = Field(description="From the launch to the first run")


class JobTypeFiguresOut(FiguresOut):
    """Figures of one type of jobs; `ad_hoc`: executions without a stored job."""

    job_type: str


class BusyJobOut(AnswerModel):
    """A job with many executions."""

    job_id: int | None
    job_name: str
    executions: int
    success_share: float | None


class PeriodOut(FiguresOut):
    """Figures of the last hour, day or week."""

    period: Literal["hour", "day", "week"]
    since: Timestamp
    job_types: list[JobTypeFiguresOut]
    busiest_jobs: list[BusyJobOut]


class HourCountOut(AnswerModel):
    """The executions that ended in one hour."""

    hour: Timestamp = Field(description="Its beginning")
    by_status: dict[str, int]


class StatisticsOut(AnswerModel):
    """Figures of the executions that the caller may see."""

    at: Timestamp
    periods: list[PeriodOut]
    hours: list[HourCountOut] = Field(description="The hours of the last day in which some ended")


# --- the audit log


class AuditEntryOut(AnswerModel):
    """An entry of the audit log."""

    id: int
    at: Timestamp
    actor: str
    actor_kind: str
    person: str | None
    address: str | None
    request_id: str | None
    action: str
    thing: str
    thing_id: str | None
    thing_name: str | None
    before: Any
    after: Any
    reason: str | None
    seal: int | None = Field(description="Its number in the chain; null until it is sealed")
    hash: Sha256 | None


class AuditPageOut(PageModel):
    """A page of the audit log."""

    items: list[AuditEntryOut]


class ChainBreakOut(AnswerModel):
    """The first entry that does not fit into the chain."""

    seal: int
    kind: str
    detail: str


class VerificationOut(AnswerModel):
    """Result of the verification of one part of the chain."""

    whole: bool
    checked: int
    at: str
    next: int | None = Field(description="The `after` of the next call; null at the end")
    broken: ChainBreakOut | None
    base: str
    anchor: int | None
    head: str
    unsealed: int
    noted_at: int | None
    keys_missing: list[str]


class AnchorOut(AnswerModel):
    """The entry that the chain begins behind from now on."""

    base: str
