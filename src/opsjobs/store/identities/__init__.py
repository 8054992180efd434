"""Identities: API keys, users and their logins, services, and external people.

Of external people only the rights in their last valid token are stored, while they own something.
"""

from __future__ import annotations

from dataclasses import replace

from psycopg.types.json import Jsonb

from opsjobs.clock import Clock, SystemClock
from opsjobs.model.access import Principal
from opsjobs.model.grants import both, both_roles, grants_of, kept_of, principal_of, within
from opsjobs.model.identity import Identity
from opsjobs.store.identities.api_keys import ApiKeys
from opsjobs.store.identities.cookie_sessions import CookieSessions
from opsjobs.store.identities.provider import OidcLoginStore, People
from opsjobs.store.identities.services import ServiceIdentities, split_name
from opsjobs.store.identities.sessions import Attempts, LockoutPolicy, LoginSessions
from opsjobs.store.identities.users import Users
from opsjobs.store.transaction import Connection, Database

EXTERNAL_KEPT_SECONDS = 30 * 86_400.0

_SERVICE = """
select name, grants, answers_to, answers_to_kind, makers from service_clients where name = %s
  and disabled_at is null"""
_USER = "select name, grants from users where name = %s and disabled_at is null"


class IdentityStore(ApiKeys):
    """The API keys, and the others as `users`, `services`, `external_people`.

    Logins are `sessions` (of tokens), `cookies` (of browsers), `oidc_logins` (begun at the
    OpenID Connect provider) and `attempts`. `issuer`: that provider, if there is one. `people`:
    those who have logged in there.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock | None = None,
        *,
        external_kept_seconds: float = EXTERNAL_KEPT_SECONDS,
        session_seconds: float = 7 * 86_400.0,
        idle_seconds: float = 12 * 3_600.0,
        issuer: str | None = None,
        external_session_seconds: float | None = None,
        lock_out: LockoutPolicy | None = None,
    ) -> None:
        clock = clock or SystemClock()
        super().__init__(database, clock)
        self.users = Users(database, clock)
        self.sessions = LoginSessions(database, clock, kept_seconds=session_seconds)
        self.cookies = CookieSessions(
            database,
            clock,
            self.by_hash,
            kept_seconds=session_seconds,
            idle_seconds=idle_seconds,
            issuer=issuer,
            external_seconds=external_session_seconds,
        )
        self.oidc_logins = OidcLoginStore(database)
        self.people = People(database, issuer=issuer, idle_seconds=idle_seconds)
        self.attempts = Attempts(database, lock_out or LockoutPolicy())
        self.services = ServiceIdentities(database, clock)
        self.external_people = ExternalPeople(database, external_kept_seconds)

    async def current_principal(self, identity: Identity) -> Principal | None:
        """Return an identity with its current rights, or None if they have ended.

        They have ended if it is deleted, disabled or expired, or if its last token is too old. A
        service that acts on behalf of an identity (`portal/user/ada`) has the rights that both
        have.
        """
        match identity.kind:
            case "api_key":
                return await self.by_key_name(identity.name)
            case "user":
                return await self._user(identity.name)
            case "external":
                return await self.external_people.find(identity.name)
            case "service":
                return await self._service(identity.name)
            case "system":
                return None

    async def remember(self, connection: Connection | None, principal: Principal) -> None:
        """Store the rights of an external person that launches or becomes the owner of something.

        No other data about users of the platform is stored. `connection`: that of the transaction
        that does it; None to use a separate one. For all other identities this does nothing.
        """
        if principal.kind == "external":
            await self.external_people.remember(connection, principal)

    async def _service(self, name: str) -> Principal | None:
        service, user = split_name(name)
        itself = await self._registered(service)
        if itself is None or user is None:
            return itself
        if user.kind not in ("user", "external"):
            return None
        other = await self.current_principal(user)
        if other is None:
            return None
        return replace(
            itself,
            name=name,
            grants=both(itself, other),
            roles=both_roles(itself, other),
            person=other.person,
        )

    async def _registered(self, name: str) -> Principal | None:
        """Return the service, limited to the current rights of the identity that registered it.

        None if the service is unknown or disabled, or if that identity is.
        """
        row = await self._database.fetch_one(_SERVICE, [name])
        if row is None:
            return None
        itself = replace(
            principal_of(row["name"], "service", row["grants"], None), makers=tuple(row["makers"])
        )
        if row["answers_to"] is None:
            return itself
        maker = await self.current_principal(Identity(row["answers_to_kind"], row["answers_to"]))
        return None if maker is None else within(itself, maker)

    async def _user(self, name: str) -> Principal | None:
        row = await self._database.fetch_one(_USER, [name])
        return None if row is None else principal_of(row["name"], "user", row["grants"], name)


_REMEMBER = """
insert into external_people as e (name, roles, grants, person, issued_at)
values (%(name)s, %(roles)s, %(grants)s, %(person)s, %(issued_at)s)
on conflict (name) do update set roles = excluded.roles, grants = excluded.grants,
  person = excluded.person,
  issued_at = excluded.issued_at, seen_at = opsjobs_now()
where (e.issued_at is null or excluded.issued_at >= e.issued_at)
  and ((e.roles, e.grants, e.issued_at) is distinct from (excluded.roles, excluded.grants,
    excluded.issued_at)
    or e.seen_at < (select opsjobs_now()) - interval '1 minute')"""

_REFRESH = """
update external_people set roles = %(roles)s, grants = %(grants)s, person = %(person)s,
issued_at = %(issued_at)s,
  seen_at = opsjobs_now()
where name = %(name)s and (issued_at is null or %(issued_at)s::float8 >= issued_at)
  returning name"""

_FIND_PERSON = """
select name, roles, grants, person from external_people
where name = %s and seen_at > (select opsjobs_now()) - make_interval(secs => %s)"""


class ExternalPeople:
    """The external people who launched or own something.

    `kept_seconds`: how long the rights of the last token are valid.
    """

    def __init__(self, database: Database, kept_seconds: float) -> None:
        self._database = database
        self._kept_seconds = kept_seconds

    async def remember(self, connection: Connection | None, principal: Principal) -> None:
        """Store the principal's rights, in the given transaction or in a separate one."""
        if connection is not None:
            await connection.execute(_REMEMBER, _values(principal))
            return
        async with self._database.connection() as own:
            await own.execute(_REMEMBER, _values(principal))

    async def refresh(self, principal: Principal) -> None:
        """Update stored rights, if there are any, from a token that is not older."""
        await self._database.fetch(_REFRESH, _values(principal))

    async def find(self, name: str) -> Principal | None:
        """Return the rights of the last token; None if it is too old, or nothing is stored."""
        row = await self._database.fetch_one(_FIND_PERSON, [name, self._kept_seconds])
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
