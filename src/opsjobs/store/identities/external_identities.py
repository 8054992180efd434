"""External people: the rights in their last valid token, stored while they own something.

The platform's people have no other row here.
"""

from __future__ import annotations

from psycopg.types.json import Jsonb

from opsjobs.model.access import Principal
from opsjobs.model.grants import grants_of, kept_of
from opsjobs.store.transaction import Connection, Database

_REMEMBER = """
insert into external_people as e (name, roles, grants, person, issued_at)
values (%(name)s, %(roles)s, %(grants)s, %(person)s, %(issued_at)s)
on conflict (name) do update set roles = excluded.roles, grants = excluded.grants, person = excluded.person,
  issued_at = excluded.issued_at, seen_at = opsjobs_now()
where (e.issued_at is null or excluded.issued_at >= e.issued_at)
  and ((e.roles, e.grants, e.issued_at) is distinct from (excluded.roles, excluded.grants, excluded.issued_at)
    or e.seen_at < (select opsjobs_now()) - interval '1 minute')"""

_REFRESH = """
update external_people set roles = %(roles)s, grants = %(grants)s, person = %(person)s, issued_at = %(issued_at)s,
  seen_at = opsjobs_now()
where name = %(name)s and (issued_at is null or %(issued_at)s::float8 >= issued_at) returning name"""

_STANDING = """
select name, roles, grants, person from external_people
where name = %s and seen_at > (select opsjobs_now()) - make_interval(secs => %s)"""


class Seen:
    """The external people who launched or own something.

    `kept_seconds`: how long the rights of the last token count.
    """

    def __init__(self, database: Database, kept_seconds: float) -> None:
        self._database = database
        self._kept_seconds = kept_seconds

    async def remember(self, connection: Connection | None, principal: Principal) -> None:
        """Store the principal's rights, in the given transaction or in one of its own."""
        if connection is not None:
            await connection.execute(_REMEMBER, _values(principal))
            return
        async with self._database.connection() as own:
            await own.execute(_REMEMBER, _values(principal))

    async def refresh(self, principal: Principal) -> None:
        """Update stored rights, if there are any, from a token that is not older."""
        await self._database.fetch(_REFRESH, _values(principal))

    async def standing(self, name: str) -> Principal | None:
        """Return the rights of the last token; None if it is too old, or nothing is stored."""
        row = await self._database.fetch_one(_STANDING, [name, self._kept_seconds])
        if row is None:
            return None
        return Principal(
            row["name"], "external", grants_of(row["grants"]), tuple(row["roles"]), row["person"]
        )


def _values(principal: Principal) -> dict[str, object]:
    return {
        "name": principal.name,
        "roles": list(principal.roles),
        "grants": Jsonb(kept_of(principal.grants)),
        "person": principal.person,
        "issued_at": principal.issued_at,
    }
