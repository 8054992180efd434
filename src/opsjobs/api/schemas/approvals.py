"""Schemas of approvals, the safety check and dead letters."""

from __future__ import annotations

from pydantic import Field

from opsjobs.api.schemas.base import (
    ActionsOut,
    AnswerModel,
    ErrorOut,
    FindingOut,
    Json,
    LateResultOut,
    PageModel,
    Sha256,
    StoredModel,
    Summary,
    TargetRefOut,
    Timestamp,
)
from opsjobs.api.schemas.executions import ExecutionOut
from opsjobs.model.approval import ApprovalKind, ApprovalStatus
from opsjobs.model.execution import RunStatus
from opsjobs.model.safety_verdict import SafetyVerdict


class DecisionOut(AnswerModel):
    """The decision of one person."""

    by: str
    approve: bool
    reason: str | None
    at: Timestamp
    overridden: bool = Field(default=False, description="It was made by safety:override, alone")


class ApprovalOut(StoredModel):
    """An approval for which an execution waits, and the decisions on it."""

    execution_id: int
    job_name: str
    summary: Summary
    kind: ApprovalKind
    action: str | None
    message: str
    status: ApprovalStatus
    requested_by: str
    approvers: int = Field(description="How many people have to approve")
    roles: list[str]
    users: list[str]
    hash: Sha256 | None
    decisions: list[DecisionOut]
    asked_at: Timestamp
    expires_at: Timestamp | None
    decided_at: Timestamp | None
    decided_by: str | None
    reason: str | None


class ApprovalPageOut(PageModel):
    """A page of approvals."""

    items: list[ApprovalOut]


class AuthorOut(AnswerModel):
    """A person who wrote something that will run."""

    name: str
    wrote: str


class WouldRunOut(AnswerModel):
    """Preview of the actions and targets that an approval would release."""

    job_name: str
    summary: Summary
    actions: list[Json]
    parameters: Json = Field(description="Secrets are masked")
    policy: Json
    targets: list[TargetRefOut]
    total_targets: int
    authors: list[AuthorOut]
    verdict: SafetyVerdict | None
    findings: list[FindingOut]


class ApprovalDetailOut(ApprovalOut, ActionsOut):
    """An approval with what would run, and what the caller may do: approve, reject, override."""

    would_run: WouldRunOut


class DeadLetterOut(AnswerModel):
    """A run that ended as lost or dead, and was neither revived nor discarded."""

    id: int
    execution_id: int
    job_id: int | None
    job_name: str
    summary: Summary
    target: TargetRefOut
    status: RunStatus
    error: ErrorOut | None
    attempts: int
    at: Timestamp
    late_result: LateResultOut | None


class DeadLetterPageOut(PageModel):
    """A page of dead letters."""

    items: list[DeadLetterOut]


class RevivedOut(AnswerModel):
    """The executions launched by a revive; `more` is true if further letters match the filter."""

    executions: list[ExecutionOut]
    more: bool


class DiscardedLettersOut(AnswerModel):
    """The ids of the letters that were discarded."""

    discarded: list[int]


# --- the safety check


class SafetyCheckOut(AnswerModel):
    """Findings of the safety check in a text."""

    verdict: SafetyVerdict
    findings: list[FindingOut]


class StricterOut(AnswerModel):
    """A condition under which a rule has a stricter severity."""

    when: str
    severity: SafetyVerdict


class SafetyRuleOut(AnswerModel):
    """A rule of the safety check."""

    name: str
    severity: SafetyVerdict
    unknown: bool
    stricter: list[StricterOut]
    reason: str
    example: str


class SafetyRulesOut(AnswerModel):
    """All rules of the safety check."""

    items: list[SafetyRuleOut]
