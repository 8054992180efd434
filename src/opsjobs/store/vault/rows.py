"""A credential as it may be shown: what its row holds beside the secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opsjobs.model.execution import moment
from opsjobs.model.secret import CredentialType
from opsjobs.store.paging import Column, Listing


@dataclass(frozen=True, slots=True)
class StoredCredential:
    """A credential as it may be shown: without its secrets. `source`: where they are if not here."""

    id: int
    uuid: str
    name: str
    type: CredentialType
    username: str
    source: Mapping[str, Any] | None
    version: int
    created_at: datetime
    updated_at: datetime

    def data(self) -> dict[str, Any]:
        """The body of GET /credentials/{id}."""
        return {
            "id": self.id,
            "uuid": self.uuid,
            "name": self.name,
            "type": self.type.value,
            "username": self.username,
            "source": self.source,
            "version": self.version,
            "created_at": moment(self.created_at),
            "updated_at": moment(self.updated_at),
        }


SHOWN = "id, uuid, name, type, username, source, version, created_at, updated_at"
CREDENTIALS = Listing(
    f"select {SHOWN} from credentials",
    {
        "id": Column("integer", sort=True),
        "uuid": Column("uuid"),
        "name": Column("text", sort=True),
        "type": Column("text"),
        "username": Column("text", sort=True),
        "created_at": Column("moment", sort=True),
        "updated_at": Column("moment", sort=True),
    },
    default_sort="name",
)


def stored(row: Mapping[str, Any]) -> StoredCredential:
    """From a row with the columns `SHOWN`, and perhaps others."""
    shown = {name: row[name] for name in StoredCredential.__dataclass_fields__}
    return StoredCredential(**{**shown, "uuid": str(row["uuid"]), "type": CredentialType(row["type"])})
