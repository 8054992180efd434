"""Schemas of the audit log."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from opsjobs.api.schemas.base import AnswerModel, PageModel, Sha256, Timestamp


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
