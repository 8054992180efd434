"""Schemas of the health of the service."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import ConfigDict, Field

from opsjobs.api.schemas.base import AnswerModel, Seconds, Timestamp


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


class IntegrationOut(AnswerModel):
    """A connected service of the platform, as the answering process sees it.

    `state` is open after several failures in a row: the service is then not asked for a while.
    """

    name: str
    host: str
    profile: str
    state: Literal["unused", "ok", "failing", "open"]
    last_error: str | None
    since: Timestamp


class ServiceStatusOut(AnswerModel):
    """The state of the service in full."""

    status: Literal["ok", "degraded"]
    reasons: list[ReasonOut]
    version: str
    database: DatabaseStatusOut
    redis: Literal["ok", "away", "not configured"]
    scheduler: SchedulerStatusOut
    workers: list[WorkerOut]
    queues: list[QueueOut]
    executions: dict[str, int]
    log: LogStatusOut
    events_unpublished: int
    oldest_snapshot_seconds: float
    streams: int
    integrations: list[IntegrationOut]
