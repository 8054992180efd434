"""Requests to cancel runs, and to retry those of an ended execution or dead letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BeforeValidator, Field, model_validator

from opsjobs.model.api_model import ApiModel, Moment, Overriding
from opsjobs.model.execution import CancelProof, ErrorCode, RunError, RunStatus, moment
from opsjobs.model.run_views import TargetName

IDS_MAX = 10_000


class Which(StrEnum):
    """The runs of an execution to retry, by how they ended."""

    FAILED = "failed"
    UNREACHABLE = "unreachable"
    NOT_STARTED = "not_started"
    LOST = "lost"
    UNSUCCESSFUL = "unsuccessful"


def _id_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


TargetRef = Annotated[str, BeforeValidator(_id_as_text), Field(min_length=1, max_length=200)]


class CancelDraft(ApiModel):
    """Body of POST /executions/{id}/cancel. `targets`: only these, ids or names; none: all."""

    targets: list[TargetRef] | None = Field(default=None, min_length=1, max_length=IDS_MAX)
    reason: str | None = Field(default=None, max_length=2_000)


class RetryDraft(Overriding):
    """Body of POST /executions/{id}/retry: either `which` runs, or those of these `targets`.

    `targets` are ids or names. `again`: include runs that were retried already. `dry_run`: launch
    nothing; the answer is 200 with what would be retried."""

    which: Which | None = None
    targets: list[TargetRef] | None = Field(default=None, min_length=1, max_length=IDS_MAX)
    again: bool = False
    dry_run: bool = False

    @model_validator(mode="after")
    def _one_of_the_two(self) -> RetryDraft:
        if (self.which is None) == (self.targets is None):
            raise ValueError(f"write either which ({', '.join(Which)}) or targets (a list of ids)")
        return self


class LetterFilter(ApiModel):
    """A filter of dead letters; all named fields must match.

    `job` and `target` are an id or a name."""

    job: str | None = Field(default=None, min_length=1, max_length=200)
    target: str | None = Field(default=None, min_length=1, max_length=200)
    error: ErrorCode | None = None
    status: Literal[RunStatus.LOST, RunStatus.DEAD] | None = None
    execution: int | None = Field(default=None, ge=1, le=(1 << 63) - 1)
    since: Moment | None = None

    @model_validator(mode="before")
    @classmethod
    def _ids_may_be_numbers(cls, body: object) -> object:
        if not isinstance(body, dict):
            return body
        numbers = {
            k: str(v)
            for k, v in body.items()
            if k in ("job", "target") and isinstance(v, int) and v is not True
        }
        return {**body, **numbers}


class LettersDraft(ApiModel):
    """A choice of dead letters: `ids`, or a `filter` (an empty one: all)."""

    ids: list[Annotated[int, Field(ge=1, le=(1 << 63) - 1)]] | None = Field(
        default=None, min_length=1, max_length=IDS_MAX
    )
    filter: LetterFilter | None = None

    @model_validator(mode="after")
    def _one_of_the_two(self) -> LettersDraft:
        if (self.ids is None) == (self.filter is None):
            raise ValueError("write either ids or a filter")
        return self


class ReviveDraft(Overriding, LettersDraft):
    """Body of POST /dead-letters/revive."""


class DiscardDraft(LettersDraft):
    """Body of POST /dead-letters/discard: as of revive, with a reason."""

    reason: str = Field(min_length=1, max_length=2_000)


@dataclass(frozen=True, slots=True)
class PastRun:
    """An ended run, with the data needed to launch a retry of it."""

    id: int
    execution_id: int
    target: TargetName
    zone: str
    status: RunStatus
    error_code: ErrorCode | None = None
    cancel_proof: CancelProof | None = None

    @property
    def ended_as(self) -> RunStatus:
        """The status of the run; if it is dead, the status of its last error.

        The outcome of a poison run is unknown, so it counts as lost."""
        if self.status is not RunStatus.DEAD or self.error_code is None:
            return self.status
        return RunStatus.LOST if self.error_code is ErrorCode.POISON else self.error_code.run_status

    def fits(self, which: Which) -> bool:
        """Return True if the run belongs to this choice.

        >>> web_1 = TargetName("1", "web-1", "10.0.0.1")
        >>> run = PastRun(1, 1, web_1, "default", RunStatus.DEAD, ErrorCode.CONNECT_TIMEOUT)
        >>> run.fits(Which.UNREACHABLE)
        True"""
        match which:
            case Which.UNSUCCESSFUL:
                return self.status.final and self.status is not RunStatus.SUCCEEDED
            case Which.NOT_STARTED:
                return self.status in (RunStatus.SKIPPED, RunStatus.BLOCKED) or (
                    self.status in (RunStatus.CANCELLED, RunStatus.TIMEOUT)
                    and self.cancel_proof is CancelProof.NEVER_STARTED
                )
            case _:
                return self.ended_as.value == which.value


@dataclass(frozen=True, slots=True)
class Parent:
    """An execution as it was launched, from which a retry is made. Secrets are encrypted."""

    id: int
    uuid: UUID
    job_id: int | None
    job_version: int | None
    job_name: str
    actions: Sequence[Mapping[str, Any]]
    policy: Mapping[str, Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    status: str = "completed"
    ended: bool = True
    tags: Sequence[str] = ()
    summary: str | None = None
    """The line that describes an ad-hoc execution."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A run that ended lost or dead and has not been handled. `id` is the run's."""

    id: int
    execution_id: int
    job_id: int | None
    job_name: str
    target: TargetName
    status: RunStatus
    error: RunError | None
    attempts: int
    at: datetime
    late_result: Mapping[str, Any] | None = None
    summary: str | None = None
    """The line that describes an ad-hoc execution."""

    def data(self) -> dict[str, Any]:
        """Return an item of GET /dead-letters."""
        return {
            "id": self.id,
            "execution_id": self.execution_id,
            "job_id": self.job_id,
            "job_name": self.job_name,
            "summary": self.summary,
            "target": self.target.data(),
            "status": self.status.value,
            "error": None
            if self.error is None
            else {"code": self.error.code.value, "message": self.error.message},
            "attempts": self.attempts,
            "at": moment(self.at),
            "late_result": self.late_result,
        }
