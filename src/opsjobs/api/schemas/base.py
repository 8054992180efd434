"""Common parts of the response models."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from opsjobs.model import text_patterns

Cursor = Annotated[
    str | None, Field(description="The `cursor` of the next page; null on the last one")
]
Seconds = Annotated[float, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=text_patterns.SHA256)]
Summary = Annotated[
    str | None,
    Field(
        description="Of an ad-hoc execution: the first line of its first action, and how many "
        "follow"
    ),
]


class AnswerModel(BaseModel):
    """An object in an answer. Fields without a default are always there.

    Models describe answers and never validate them, so their validators are not built.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the model without defaults: an optional field of an answer is there or not."""
        described = handler.resolve_ref_schema(handler(core_schema))
        for field in described.get("properties", {}).values():
            field.pop("default", None)
        return described


class StoredModel(AnswerModel):
    """Fields common to all stored resources."""

    id: int
    uuid: UUID


class PageModel(AnswerModel):
    """A page of a list. Subclasses add `items`."""

    next: Cursor
    total: int = Field(
        default=0, description="The number of all items; only if `page` was asked for"
    )
    facets: dict[str, dict[str, int]] = Field(
        default={}, description="The number of items by value; only if `facets` was asked for"
    )


class TargetRefOut(AnswerModel):
    """A target as it was named at the launch."""

    id: str
    name: str
    host: str


class ErrorOut(AnswerModel):
    """Error of a run or an action; docs/reference/error-codes.md explains the codes."""

    code: str
    message: str


class FindingOut(AnswerModel):
    """One finding of the safety check."""

    rule: str
    severity: str
    reason: str
    excerpt: str
    pointer: str = Field(default="", description="JSON Pointer to the text that was checked")


class LateResultOut(AnswerModel):
    """Outcome of a run that was determined after the run had ended as lost."""

    status: str
    exit_code: int | None
    at: datetime | None = None


class StepOut(AnswerModel):
    """One step of a test."""

    name: str
    ok: bool
    ms: float
    error: str | None


Timestamp = datetime
"""RFC 3339 in UTC, with milliseconds."""
Json = dict[str, Any]


class RefusedActionOut(AnswerModel):
    """The refusal that an action would get now, in the words of its request."""

    code: str
    detail: str


class ActionsOut(AnswerModel):
    """Actions of the caller on this object.

    Those that the caller's permissions never allow are in neither field.
    Another request may change the object in between, so an action may still be refused.
    """

    can: list[str] = Field(description="The actions that would be accepted now")
    cannot: dict[str, RefusedActionOut] = Field(
        description="The actions that would be refused now, and why"
    )
