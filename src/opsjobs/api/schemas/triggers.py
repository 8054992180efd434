"""Schemas of triggers, and of answers to their calls."""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from opsjobs.api.schemas.base import (
    ActionsOut,
    AnswerModel,
    PageModel,
    StoredModel,
    Timestamp,
)
from opsjobs.model.execution import ExecutionStatus
from opsjobs.model.identity import IdentityKind
from opsjobs.model.parameter import Scalar
from opsjobs.model.trigger import CallOutcome, CallVerification


class MappedParameterOut(AnswerModel):
    """The source of a parameter's value: the one field that it has."""

    pointer: str = ""
    header: str = ""
    value: Scalar | list[Scalar] = ""


class CallConditionOut(AnswerModel):
    """A condition: a place, and the one test that it has."""

    pointer: str = ""
    header: str = ""
    equals: Scalar = ""
    any_of: list[Scalar] = Field(default=[])
    matches: str = ""
    exists: bool = True


class TriggerCallOut(AnswerModel):
    """A call of a trigger, and its outcome."""

    id: int
    at: Timestamp
    outcome: CallOutcome
    code: str | None = Field(description="The error code of a refused call")
    reason: str | None
    times: int = Field(description="The number of refused calls that this entry represents")
    delivery: str | None = Field(description="The id that the sender gave it")
    address: str | None
    execution_id: int | None


class TriggerCallListOut(AnswerModel):
    """The last calls of a trigger."""

    items: list[TriggerCallOut]
    next: None


class TriggerOut(StoredModel):
    """A trigger without its secret."""

    job_id: int
    job_name: str
    name: str
    description: str
    verify: CallVerification
    parameters: dict[str, MappedParameterOut]
    when: list[CallConditionOut]
    max_calls_per_minute: int
    expires_at: Timestamp | None
    enabled: bool
    path: str = Field(description="The path of the URL that launches the job")
    owner: str
    owner_kind: IdentityKind
    calls: int = Field(description="All calls by holders of the secret")
    last_call: TriggerCallOut | None
    created_at: Timestamp
    updated_at: Timestamp


class TriggerDetailOut(TriggerOut, ActionsOut):
    """A trigger, and what the caller may do: update, enable, disable, rotate, delete."""


class NewTriggerOut(TriggerOut):
    """A trigger with its secret."""

    secret: str | None = Field(
        description="Shown this once; null in the answer to a repeated request"
    )


class TriggerPageOut(PageModel):
    """A page of triggers."""

    items: list[TriggerOut]


class LaunchedExecutionOut(AnswerModel):
    """The execution of a call, as it was launched."""

    id: int
    uuid: UUID
    number: int | None
    status: ExecutionStatus


class HookResultOut(AnswerModel):
    """The answer to a call of a trigger."""

    outcome: CallOutcome
    reason: str | None
    execution: LaunchedExecutionOut | None
