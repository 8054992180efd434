"""Schemas of executions, their runs, results, timelines and logs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from opsjobs.api.schemas.base import (
    ActionsOut,
    AnswerModel,
    Cursor,
    ErrorOut,
    FindingOut,
    Json,
    LateResultOut,
    PageModel,
    StoredModel,
    Summary,
    TargetRefOut,
    Timestamp,
)
from opsjobs.model.execution import (
    CancelProof,
    ErrorCode,
    ExecutionStatus,
    RunStatus,
    TriggeredBy,
    WaitingFor,
)
from opsjobs.model.identity import IdentityKind
from opsjobs.model.run_views import Phase
from opsjobs.model.safety_verdict import SafetyVerdict


class ExecutionLinksOut(AnswerModel):
    """Addresses of what belongs to an execution."""

    self: str
    events: str
    targets: str
    results: str
    log: str
    cancel: str
    job: str | None


class WavesOut(AnswerModel):
    """Number of open waves and of all waves."""

    open: int
    total: int


class WaitingOnOut(AnswerModel):
    """Reason why an execution makes no progress; the optional fields depend on `kind`."""

    kind: str = Field(
        description="pause, confirm, max_fail, check, exclusive, approval, workers, maintenance, "
        "slot or hold"
    )
    reason: str | None
    by: str | None = None
    name: str = ""
    execution: int = 0
    approval: int = 0
    action: str | None = None
    targets: int = 0
    target: str | None = None
    zones: list[str] = Field(default=[])
    until: Timestamp | None = None


class ExecutionOut(StoredModel):
    """One launch of a job, or of actions without a stored job."""

    number: int | None = Field(description="Counts the executions of a job from 1")
    job_id: int | None
    job_version: int | None
    job_name: str
    summary: Summary
    status: ExecutionStatus
    triggered_by: TriggeredBy
    requested_by: str
    requested_by_kind: IdentityKind
    labels: dict[str, str] = Field(description="Labels that all of its targets had at the launch")
    parameters: Json = Field(description="Secrets are masked")
    counts: dict[str, int] = Field(description="Runs by status; without zeros")
    total_targets: int
    created_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    duration_ms: int | None
    reason: str | None
    error: str | None = Field(description="Why runs that had not begun were skipped")
    paused_by: str | None
    pause_reason: str | None
    waves: WavesOut | None
    waiting_on: WaitingOnOut | None
    verdict: SafetyVerdict | None
    findings: list[FindingOut]
    parent: int | None = Field(description="The execution that this one retries or is a step of")
    retries: list[int] = Field(description="The first 100 executions that retry runs of this one")
    links: ExecutionLinksOut


class ExecutionDetailOut(ExecutionOut, ActionsOut):
    """An execution, and what the caller may do: cancel, pause, resume, retry."""


class ExecutionPageOut(PageModel):
    """A page of executions."""

    items: list[ExecutionOut]


class AcceptedFailuresOut(AnswerModel):
    """The failures over `max_fail` that a resume accepts."""

    failures: int
    max_fail: int | str


class ResumedOut(ExecutionOut):
    """A resumed execution."""

    accepted: AcceptedFailuresOut | None


class CancelledRunsOut(AnswerModel):
    """The outcome of a cancel of single targets."""

    cancelled: int = Field(description="Targets that have ended as cancelled")
    stopping: int = Field(description="Targets whose runs a worker is stopping")
    ended_before: int = Field(description="Targets that had ended before, and keep their outcome")


class CancelledOut(ExecutionOut):
    """An execution of which all or some targets are being cancelled."""

    targets: CancelledRunsOut | None = Field(description="null: all targets are cancelled")


class PlannedCommandOut(AnswerModel):
    """Preview of one action on one target."""

    target: str
    action: str
    command: str


class ChangesOut(AnswerModel):
    """Differences between these targets and those of the last execution that the caller sees."""

    since: int | None
    added: list[str]
    removed: list[str]


class EstimateOut(AnswerModel):
    """Expected duration, from earlier executions that the caller sees; null if there are none."""

    seconds: float | None
    executions: int


class PreviewOut(AnswerModel):
    """Preview of an execution."""

    targets: list[TargetRefOut]
    waves: list[list[str]]
    commands: list[PlannedCommandOut] = Field(description="At most 2,000")
    commands_total: int
    parameters: Json
    verdict: SafetyVerdict | None
    findings: list[FindingOut]
    changes: ChangesOut
    estimate: EstimateOut


class RetryTargetOut(TargetRefOut):
    """A target that a retry would run on, and how its run ended."""

    status: RunStatus
    error: str | None


class RetryRefOut(AnswerModel):
    """A retry that was launched before."""

    id: int
    status: ExecutionStatus | None = Field(description="Null if the caller may not see it")


class RetryPreviewOut(AnswerModel):
    """The runs that a retry would repeat."""

    execution: int
    targets: list[RetryTargetOut]
    total_targets: int
    retries: list[RetryRefOut]
    needs_approval: bool


class CancelRequestOut(AnswerModel):
    """The person and the reason of the cancel of one target."""

    by: str
    reason: str | None


class TargetRunOut(StoredModel):
    """The run of an execution on one target."""

    target: TargetRefOut
    status: RunStatus
    waiting_for: WaitingFor | None
    awaits: str | None
    not_before: Timestamp | None
    attempt: int
    wave: int
    step: str | None = Field(description="The key of the action that it is at")
    last_stderr: str | None
    worker: str | None
    contact_lost_at: Timestamp | None = Field(
        description="Since when its worker cannot reach the target"
    )
    error: ErrorOut | None
    exit_code: int | None
    started_at: Timestamp | None
    finished_at: Timestamp | None
    cancel: CancelRequestOut | None = Field(
        description="Set if it was cancelled by itself, not with its whole execution"
    )
    cancel_proof: CancelProof | None
    late_result: LateResultOut | None


class TargetRunPageOut(PageModel):
    """A page of runs, in the order of launch."""

    items: list[TargetRunOut]


class PastExecutionOut(AnswerModel):
    """The execution that a run belongs to."""

    id: int
    number: int | None
    job_id: int | None
    job_name: str
    summary: Summary
    triggered_by: TriggeredBy
    requested_by: str
    created_at: Timestamp


class TargetPastRunOut(TargetRunOut):
    """A run on a target, and its execution."""

    execution: PastExecutionOut


class TargetPastRunPageOut(PageModel):
    """A page of the runs on a target, the newest first."""

    items: list[TargetPastRunOut]


class RunColumnsOut(AnswerModel):
    """The runs of an execution, one list per field; equal positions belong to one run."""

    id: list[int]
    target: list[str] = Field(description="The id of the target")
    name: list[str]
    status: list[RunStatus]
    waiting_for: list[WaitingFor | None]
    attempt: list[int]
    wave: list[int]
    exit_code: list[int | None]
    error_code: list[ErrorCode | None]
    cancel_proof: list[CancelProof | None]
    started_ms: list[int | None] = Field(description="Milliseconds since `created_at`")
    finished_ms: list[int | None] = Field(description="Milliseconds since `created_at`")


class MatrixOut(AnswerModel):
    """All runs of an execution as columns, and the position of its log."""

    seq: int
    created_at: Timestamp
    columns: RunColumnsOut
    labels: dict[str, list[str | None]] = Field(
        description="The labels that were asked for, as the targets have them now"
    )


class SpecificationOut(AnswerModel):
    """The work that was launched, as it was fixed at that time."""

    actions: list[Json]
    parameters: Json = Field(description="Secrets are masked")
    policy: Json


class ResultOut(AnswerModel):
    """One attempt of one action on one target, with the first 64 KiB of its output."""

    id: int
    execution_id: int
    target_run: int
    target: TargetRefOut
    action_key: str
    attempt: int
    status: RunStatus
    exit_code: int | None
    stdout: str
    stdout_truncated: bool
    stdout_bytes: int
    stderr: str
    stderr_truncated: bool
    stderr_bytes: int
    error: ErrorOut | None
    started_at: Timestamp | None
    finished_at: Timestamp | None
    duration_ms: int | None
    command: str | None
    worker: str | None
    cancel_proof: CancelProof | None
    inherited_from: int | None


class ResultPageOut(PageModel):
    """A page of results."""

    items: list[ResultOut]


class ResultGroupOut(AnswerModel):
    """Targets with the same result."""

    digest: str
    exit_code: int | None
    status: RunStatus
    error_code: str | None
    error_message: str | None = Field(description="Of the error of its first target")
    stdout: str
    stdout_truncated: bool
    stdout_bytes: int
    stderr: str = Field(description="Only of targets that did not succeed")
    stderr_truncated: bool
    stderr_bytes: int
    count: int
    targets: list[TargetRefOut]


class ResultGroupPageOut(PageModel):
    """A page of groups, the largest first."""

    items: list[ResultGroupOut]


class BaselineOut(AnswerModel):
    """The last good run of the same job on a target."""

    execution: ExecutionOut
    target_run: TargetRunOut


class TimelinePhaseOut(AnswerModel):
    """A stretch of the time that a run took."""

    target_run: int
    target: TargetRefOut
    action: str | None
    attempt: int
    phase: Phase
    started_at: Timestamp
    duration_ms: int | None


class TimelineOut(PageModel):
    """The phases of a page of targets."""

    phases: list[TimelinePhaseOut]


class OutputLineOut(AnswerModel):
    """One line of output, without its line end."""

    line: Annotated[int, Field(description="Its number in the part that was asked for")]
    seq: Annotated[int, Field(description="The position of the log at which it begins")]
    at: Timestamp
    target_run: int
    target: Annotated[str, Field(description="The target's name")]
    action: str | None
    attempt: int | None
    stream: str
    text: Annotated[str, Field(description="At most 16 KiB; bytes that are not UTF-8 are U+FFFD")]
    complete: Annotated[bool, Field(description="False: no line feed has followed yet")]
    cut: Annotated[bool, Field(description="True: the line is longer than `text`")]
    dropped: Annotated[
        int | None, Field(description="Instead of a text: bytes that were not kept here")
    ]


class LineWindowOut(AnswerModel):
    """Lines of output, in order."""

    from_: Annotated[int, Field(alias="from", description="The number of the first line")]
    lines: list[OutputLineOut]
    next: Annotated[int | None, Field(description="`from` of the next window")]
    total: Annotated[int, Field(description="Lines so far")]
    seq: Annotated[int, Field(description="The position of the log that `total` is of")]


class LogEntryOut(AnswerModel):
    """An entry of the log. `data` depends on `event`: docs/reference/events.md."""

    seq: int
    at: Timestamp
    event: Annotated[str, Field(description="`output`, or the type of an event")]
    data: dict[str, Any]


class LogPageOut(AnswerModel):
    """A page of the log, in order."""

    items: list[LogEntryOut]
    next: Cursor
