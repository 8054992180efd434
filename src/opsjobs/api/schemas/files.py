"""Schemas of uploaded files and of artifacts."""

from __future__ import annotations

from opsjobs.api.schemas.base import PageModel, Sha256, StoredModel, TargetRefOut, Timestamp
from opsjobs.model.identity import IdentityKind


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
