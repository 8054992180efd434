"""Schemas of jobs, their versions and validation, and the files that they take and leave."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, RootModel

from opsjobs.api.schemas.base import (
    ActionsOut,
    AnswerModel,
    FindingOut,
    Json,
    PageModel,
    Sha256,
    StoredModel,
    TargetRefOut,
    Timestamp,
)
from opsjobs.model.action import Action, JobType
from opsjobs.model.execution import ExecutionStatus
from opsjobs.model.identity import IdentityKind
from opsjobs.model.job import JobState
from opsjobs.model.parameter import ParameterDraft
from opsjobs.model.policy import Policy
from opsjobs.model.safety_verdict import SafetyVerdict
from opsjobs.model.selection import SelectionDraft

JobStatus = Literal[
    "deleted",
    "draft",
    "running",
    "failed",
    "partial",
    "timeout",
    "scheduled",
    "new",
    "completed",
    "cancelled",
]


class JobOut(StoredModel):
    """A job at its current version, with all defaults filled in."""

    version: int
    status: JobStatus = Field(description="By its state, its last execution and its schedules")
    actions: list[Action]
    targets: SelectionDraft
    policy: Policy
    name: str
    description: str
    job_type: JobType
    state: JobState
    tags: list[str]
    parameters: list[ParameterDraft]
    created_at: Timestamp
    updated_at: Timestamp
    created_by: str
    verdict: SafetyVerdict | None
    findings: list[FindingOut]


class JobDetailOut(JobOut, ActionsOut):
    """A job, and what the caller may do: execute, update, pause, clone, delete and others."""


class RecentExecutionOut(AnswerModel):
    """One of the last executions of a job."""

    id: int
    number: int | None
    status: ExecutionStatus
    created_at: Timestamp
    finished_at: Timestamp | None


class ListedJobOut(JobOut):
    """A job, with its last executions if `recent` was asked for."""

    recent: list[RecentExecutionOut] = Field(default=[])


class JobPageOut(PageModel):
    """A page of jobs."""

    items: list[ListedJobOut]


class JobVersionOut(AnswerModel):
    """One version of a job, as it was written."""

    version: int
    actions: list[Action]
    targets: SelectionDraft
    policy: Policy
    name: str
    description: str
    job_type: JobType
    tags: list[str]
    parameters: list[ParameterDraft]
    created_at: Timestamp
    created_by: str


class JobVersionPageOut(PageModel):
    """A page of versions."""

    items: list[JobVersionOut]


class DraftErrorOut(AnswerModel):
    """A finding about a part of a body."""

    pointer: str = Field(description="JSON Pointer into the body")
    detail: str
    code: str


class ValidationOut(AnswerModel):
    """Result of a validation; `errors` would refuse the job, `warnings` would not."""

    valid: bool
    errors: list[DraftErrorOut]
    warnings: list[DraftErrorOut]
    verdict: SafetyVerdict | None


class JobDefinitionOut(RootModel[Json]):
    """A job as a body of POST /jobs, without defaults."""


class JobExportOut(AnswerModel):
    """Jobs as bodies of POST /jobs, without defaults."""

    jobs: list[Json]


class AppliedJobOut(AnswerModel):
    """Result of POST /jobs/apply for one job, or its preview."""

    name: str
    change: Literal["created", "updated", "unchanged"]
    paths: list[str] = Field(description="JSON Pointers to what differs")
    id: int | None
    version: int | None
    verdict: SafetyVerdict | None
    findings: list[FindingOut]
    warnings: list[DraftErrorOut]


class AppliedOut(AnswerModel):
    """Result of POST /jobs/apply for all jobs, or its preview."""

    items: list[AppliedJobOut]
    dry_run: bool


# --- uploaded files, and artifacts


class StoredFileOut(StoredModel):
    """An uploaded file."""

    name: str
    size: int
    sha256: Sha256
    created_by: str
    created_by_kind: IdentityKind
    created_at: Timestamp


class FilePageOut(PageModel):
    """A page of files."""

    items: list[StoredFileOut]


class ArtifactOut(StoredModel):
    """A file that an execution downloaded from a target."""

    execution_id: int
    target: TargetRefOut
    action_key: str
    attempt: int
    path: str
    size: int
    sha256: Sha256
    created_at: Timestamp


class ArtifactPageOut(PageModel):
    """A page of artifacts, in the order in which they came."""

    items: list[ArtifactOut]
