"""Credentials as they may be shown: the columns of their rows beside the secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opsjobs.model.execution import moment
from opsjobs.model.secret import CredentialType
from opsjobs.store.paging import ListColumn, Listing


@dataclass(frozen=True, slots=True)
class StoredCredential:
    """A credential as it may be shown: without its secrets.

    `source`: the external source of the secrets, if they are not stored here.
    """

    id: int
    uuid: str
    name: str
    type: CredentialType
    username: str | None
    source: Mapping[str, Any] | None
    version: int
    bound_to: Mapping[str, list[str]]
    last_used_at: datetime | None
    created_at: datetime
    updated_at: datetime

    def data(self) -> dict[str, Any]:
        """Return the body of GET /credentials/{id}."""
        return {
            "id": self.id,
            "uuid": self.uuid,
            "name": self.name,
            "type": self.type.value,
            "username": self.username,
            "source": self.source,
            "version": self.version,
            "bound_to": self.bound_to,
            "last_used_at": moment(self.last_used_at),
            "created_at": moment(self.created_at),
            "updated_at": moment(self.updated_at),
        }


# Targets and jobs are stored by id, so that a later one of the same name is not meant; they are
# shown by name.
_NAMES = """
(select coalesce(array_agg(coalesce(t.name, b.id || ' (deleted)') order by t.name), '{{}}')
 from unnest(credentials.{column}) as b(id) left join {table} t on t.id = b.id::bigint) as {shown}"""
SHOWN = f"""id, uuid, name, type, username, source, version, last_used_at, created_at, updated_at, bound_groups,
{_NAMES.format(column="bound_targets", table="targets", shown="target_names")},
{_NAMES.format(column="bound_jobs", table="jobs", shown="job_names")}"""
CREDENTIALS = Listing(
    f"select {SHOWN} from credentials",
    {
        "id": ListColumn("integer", sort=True),
        "uuid": ListColumn("uuid"),
        "name": ListColumn("text", sort=True),
        "type": ListColumn("text"),
        "username": ListColumn("text", sort=True),
        "created_at": ListColumn("moment", sort=True),
        "last_used_at": ListColumn("moment"),
        "updated_at": ListColumn("moment", sort=True),
    },
    default_sort="name",
)


def stored(row: Mapping[str, Any]) -> StoredCredential:
    """Return the credential of a row with the columns `SHOWN`, and perhaps others."""
    plain = {
        name: row[name] for name in StoredCredential.__dataclass_fields__ if name != "bound_to"
    }
    bound_to = {
        "targets": row["target_names"],
        "groups": sorted(row["bound_groups"]),
        "jobs": row["job_names"],
    }
    kind, username = (
        CredentialType(row["type"]),
        row["username"] or None,
    )  # a secret of jobs is no login
    return StoredCredential(
        **{
            **plain,
            "uuid": str(row["uuid"]),
            "type": kind,
            "username": username,
            "bound_to": bound_to,
        }
    )
