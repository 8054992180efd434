"""Credentials as they may be shown, without their secrets, and their uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opsjobs.clock import Clock
from opsjobs.model.credential import CredentialType
from opsjobs.model.errors import Conflict, Invalid
from opsjobs.model.execution import moment
from opsjobs.store.paging import ListColumn, Listing
from opsjobs.store.reference import check_unused
from opsjobs.store.transaction import Connection, Database
from opsjobs.store.vault.uses import JOBS, USERS


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
 from unnest(credentials.{column}) as b(id) left join {table} t
   on t.id = b.id::bigint) as {shown}"""
SHOWN = f"""id, uuid, name, type, username, source, version, last_used_at, created_at, updated_at,
bound_groups,
{_NAMES.format(column="bound_targets", table="targets", shown="target_names")},
{_NAMES.format(column="bound_jobs", table="jobs", shown="job_names")}"""
CREDENTIALS = Listing(
    f"select {SHOWN} from credentials",
    {
        "id": ListColumn("integer", sort=True),
        "uuid": ListColumn("uuid"),
        "name": ListColumn("text", sort=True, natural=True),
        "type": ListColumn("text"),
        "username": ListColumn("text", sort=True),
        "created_at": ListColumn("moment", sort=True),
        "last_used_at": ListColumn("moment"),
        "updated_at": ListColumn("moment", sort=True),
    },
    default_sort="name",
)


def stored(row: Mapping[str, Any]) -> StoredCredential:
    """Return the credential of a row with the columns `SHOWN`; other columns are ignored."""
    plain = {
        name: row[name] for name in StoredCredential.__dataclass_fields__ if name != "bound_to"
    }
    bound_to = {
        "targets": row["target_names"],
        "groups": sorted(row["bound_groups"]),
        "jobs": row["job_names"],
    }
    kind = CredentialType(row["type"])
    # A job secret is not a login.
    username = row["username"] or None
    return StoredCredential(
        **{
            **plain,
            "uuid": str(row["uuid"]),
            "type": kind,
            "username": username,
            "bound_to": bound_to,
        }
    )


SHOWN_MAX = 200
NOTED_SECONDS = 60.0
"""Interval in which a process records the use of a credential at most once."""

NOTED_MAX = 10_000

_NAMED = f"""
select name, count(*) over () as n from (
  select name from ({USERS.replace("%s", "%(id)s")}) t union all select name
    from ({JOBS.replace("%s", "%(name)s")}) j
  union all select name from credentials where source->>'authority' = %(name)s
) users order by name limit %(limit)s"""

# The holder of a row's lock writes to it anyway: do not wait for the lock only to record a time.
_USED = """
with due as (
  select id from credentials where id = any(%s::bigint[])
    and (last_used_at is null or last_used_at < (select opsjobs_now()) - make_interval(secs => %s))
      order by id for no key update skip locked
)
update credentials c set last_used_at = opsjobs_now() from due where c.id = due.id returning c.id"""


@dataclass(frozen=True, slots=True)
class Usage:
    """Targets that log in with it, and jobs with the actions and parameters that name it.

    At most 200 of each are shown, and the total numbers.
    """

    targets: Sequence[Mapping[str, Any]]
    jobs: Sequence[Mapping[str, Any]]

    def data(self) -> dict[str, Any]:
        """Return the body of GET /credentials/{id}/usage."""
        return {
            "targets": [
                {"id": str(row["id"]), "name": row["name"]} for row in self.targets[:SHOWN_MAX]
            ],
            "jobs": [
                {
                    "id": row["id"],
                    "name": row["name"],
                    "actions": sorted(row["actions"]),
                    "parameters": sorted(row["parameters"]),
                }
                for row in self.jobs[:SHOWN_MAX]
            ],
            "total": {"targets": len(self.targets), "jobs": len(self.jobs)},
        }


async def find_usage(connection: Connection, credential_id: int, name: str) -> Usage:
    """Return the current usage of the credential."""
    targets = await (await connection.execute(USERS, [credential_id])).fetchall()
    return Usage(targets, await (await connection.execute(JOBS, [name])).fetchall())


async def check_unused_credential(connection: Connection, credential_id: int, name: str) -> None:
    """Raise Conflict("credential_in_use"), naming the first users, if it is in use."""
    values = {"id": credential_id, "name": name}
    await check_unused(
        connection, "credential_in_use", f"The credential {name!r} is used by", _NAMED, values
    )


def check_rotatable(name: str, type_: CredentialType, source: Mapping[str, Any] | None) -> None:
    """Raise Invalid("nothing_to_rotate") if the credential's secrets are not stored here."""
    if source is not None:
        detail = (
            f"The secrets of {name!r} are elsewhere: change them there, and new sessions have "
            f"them within a minute."
        )
        raise Invalid("nothing_to_rotate", detail)
    if type_ is CredentialType.AGENT:
        detail = (
            "A credential of type agent holds no secret: what the agent offers is changed "
            "in the agent (ssh-add)."
        )
        raise Invalid("nothing_to_rotate", detail)


async def check_unnamed(connection: Connection, name: str) -> None:
    """Raise Conflict if jobs refer to it by this name, which is about to change."""
    jobs = await (await connection.execute(JOBS, [name])).fetchall()
    if jobs:
        first = ", ".join(row["name"] for row in jobs[:5])
        detail = (
            f"{len(jobs)} jobs call the credential {name!r} by this name ({first}): change "
            f"those first, or keep it."
        )
        raise Conflict("credential_in_use", detail)


class Uses:
    """Records when credentials were opened: at most once a minute for each."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._noted: dict[int, float] = {}

    async def note(self, ids: Sequence[int]) -> None:
        """Record that these were opened now, unless that was recorded within the last minute."""
        now = self._clock.monotonic()
        due = [i for i in ids if now - self._noted.get(i, -NOTED_SECONDS) >= NOTED_SECONDS]
        if not due:
            return
        if len(self._noted) > NOTED_MAX:
            self._noted.clear()
        self._noted |= dict.fromkeys(due, now)
        await self._database.fetch(_USED, [due, NOTED_SECONDS])
