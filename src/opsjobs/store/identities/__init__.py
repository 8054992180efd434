"""Identities: API keys, users and their logins, services, and external people."""

from __future__ import annotations

from dataclasses import replace

from opsjobs.clock import Clock, SystemClock
from opsjobs.model.access import Principal, PrincipalKind
from opsjobs.model.grants import both, both_roles, principal_of, within
from opsjobs.store.identities.api_keys import API_KEYS, TOKEN_PREFIX, ApiKey, ApiKeys, new_token
from opsjobs.store.identities.external_identities import Seen
from opsjobs.store.identities.login_throttle import Attempts, LockoutPolicy
from opsjobs.store.identities.services import ServiceIdentities, parted
from opsjobs.store.identities.sessions import LoginSessions
from opsjobs.store.identities.users import Users
from opsjobs.store.transaction import Connection, Database

__all__ = [
    "API_KEYS",
    "TOKEN_PREFIX",
    "ApiKey",
    "ApiKeys",
    "IdentityStore",
    "LockoutPolicy",
    "new_token",
]

EXTERNAL_KEPT_SECONDS = 30 * 86_400.0

_SERVICE = """
select name, grants, answers_to, answers_to_kind, makers from service_clients where name = %s and disabled_at is null"""
_USER = "select name, grants from users where name = %s and disabled_at is null"


class IdentityStore(ApiKeys):
    """The API keys, and the others as `users`, `sessions`, `attempts`, `services`, `seen`."""

    def __init__(
        self,
        database: Database,
        clock: Clock | None = None,
        *,
        external_kept_seconds: float = EXTERNAL_KEPT_SECONDS,
        session_seconds: float = 7 * 86_400.0,
        lock_out: LockoutPolicy | None = None,
    ) -> None:
        clock = clock or SystemClock()
        super().__init__(database, clock)
        self.users = Users(database, clock)
        self.sessions = LoginSessions(database, clock, kept_seconds=session_seconds)
        self.attempts = Attempts(database, lock_out or LockoutPolicy())
        self.services = ServiceIdentities(database, clock)
        self.seen = Seen(database, external_kept_seconds)

    async def standing(self, name: str, kind: PrincipalKind) -> Principal | None:
        """Return the current rights of an identity, or None if they have ended.

        They have ended if it is deleted, disabled or expired, or if its last token is too old. A
        service that acts on behalf of an identity (`portal/user/ada`) has the rights that both
        have.
        """
        match kind:
            case "api_key":
                return await self.by_key_name(name)
            case "user":
                return await self._load(_USER, name, kind, name)
            case "external":
                return await self.seen.standing(name)
            case "service":
                return await self._service(name)

    async def remember(self, connection: Connection | None, principal: Principal) -> None:
        """Store the rights of an external person when it launches or comes to own something.

        Nothing else is stored of the platform's people. `connection`: that of the transaction that
        does it; None to use one of its own. For all other identities this does nothing.
        """
        if principal.kind == "external":
            await self.seen.remember(connection, principal)

    async def _service(self, name: str) -> Principal | None:
        service, kind, user = parted(name)
        itself = await self._registered(service)
        if itself is None or kind is None or user is None:
            return itself
        if kind not in ("user", "external"):
            return None
        other = await self.standing(user, "user" if kind == "user" else "external")
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
        maker = await self.standing(row["answers_to"], row["answers_to_kind"])
        return None if maker is None else within(itself, maker)

    async def _load(
        self, query: str, name: str, kind: PrincipalKind, person: str | None
    ) -> Principal | None:
        row = await self._database.fetch_one(query, [name])
        return None if row is None else principal_of(row["name"], kind, row["grants"], person)
