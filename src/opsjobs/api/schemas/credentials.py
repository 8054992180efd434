"""Schemas of credentials and encryption keys; no secret is in any of them."""

from __future__ import annotations

from pydantic import Field

from opsjobs.api.schemas.base import (
    ActionsOut,
    AnswerModel,
    Json,
    PageModel,
    StepOut,
    StoredModel,
    Timestamp,
)
from opsjobs.model.credential import CredentialType


class BindingOut(AnswerModel):
    """Targets, groups and jobs to which a credential is bound; three empty lists: no limit."""

    targets: list[str] = Field(default=[])
    groups: list[str] = Field(default=[])
    jobs: list[str] = Field(default=[])


class CredentialOut(StoredModel):
    """A credential without its secrets."""

    name: str
    type: CredentialType
    username: str | None
    source: Json | None = Field(description="Where its secrets are, if they are not stored here")
    version: int
    bound_to: BindingOut
    last_used_at: Timestamp | None
    created_at: Timestamp
    updated_at: Timestamp


class CredentialDetailOut(CredentialOut, ActionsOut):
    """A credential, and what the caller may do: update, rotate, test, bind, delete."""


class CredentialPageOut(PageModel):
    """A page of credentials."""

    items: list[CredentialOut]


class CertificateOut(AnswerModel):
    """The terms of an SSH certificate."""

    key_id: str
    serial: str
    principals: list[str]
    valid_from: Timestamp | None
    valid_until: Timestamp | None


class CredentialTestOut(AnswerModel):
    """Result of a credential test, step by step."""

    ok: bool
    steps: list[StepOut]
    public_key: str | None
    certificate: CertificateOut | None


class UsingTargetOut(AnswerModel):
    """A target that logs in with a credential."""

    id: str
    name: str


class UsingJobOut(AnswerModel):
    """A job whose actions or parameters name a credential."""

    id: int
    name: str
    actions: list[str]
    parameters: list[str]


class UsageTotalOut(AnswerModel):
    """Numbers of targets and jobs."""

    targets: int
    jobs: int


class CredentialUsageOut(AnswerModel):
    """Users of a credential; `total` includes those that are not shown."""

    targets: list[UsingTargetOut]
    jobs: list[UsingJobOut]
    total: UsageTotalOut


class KeyOut(AnswerModel):
    """An encryption key, by its id."""

    id: str
    current: bool
    known: bool = Field(description="It is one of ENCRYPTION_KEYS")
    sealed: dict[str, int] = Field(description="Rows that are sealed under it, by kind")
    removable: bool


class KeyListOut(AnswerModel):
    """All encryption keys."""

    items: list[KeyOut]
    next: None


class KeyRotationOut(AnswerModel):
    """Progress of a key rotation."""

    rewrapped: int
    left: int
    done: bool
    broken: list[Json] = Field(description="Rows that cannot be opened")
    keys: list[KeyOut]
