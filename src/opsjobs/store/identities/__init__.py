"""Who may speak to us and what he may: API keys, users and their logins, services, and who the platform's tokens told of."""

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

__all__ = ["API_KEYS", "TOKEN_PREFIX", "ApiKey", "ApiKeys", "IdentityStore", "LockoutPolicy", "new_token"]

EXTERNAL_KEPT_SECONDS = 30 * 86_400.0

_SERVICE = """
select name, grants, answers_to, answers_to_kind, makers from service_clients where name = %s and disabled_at is null"""
_USER = "select name, grants from users where name = %s and disabled_at is null"


class IdentityStore(ApiKeys):
    """The API keys, and by name the others: `users`, `sessions`, `attempts`, `services`, `seen`."""

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
        """What this identity may now; None where it is gone, disabled or expired, or its last token is too old to speak for it.

        A service that speaks for somebody (`portal/user/ada`) may what both of them may.
        """
        match kind:
            case "api_key":
                return await self.by_key_name(name)
            case "user":
                return await self._kept(_USER, name, kind, name)
            case "external":
                return await self.seen.standing(name)
            case "service":
                return await self._service(name)

    async def remember(self, connection: Connection | None, principal: Principal) -> None:
        """Call it where somebody launches or comes to own something: of the platform's people nothing else is kept.

        `connection`: of the transaction that does it; None: one of its own. Of all others this is nothing to do.
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
        return replace(itself, name=name, grants=both(itself, other), roles=both_roles(itself, other), person=other.person)

    async def _registered(self, name: str) -> Principal | None:
        """The service, as far as whoever registered it may now. None: it is unknown or disabled, or that one is."""
        row = await self._database.fetch_one(_SERVICE, [name])
        if row is None:
            return None
        itself = replace(principal_of(row["name"], "service", row["grants"], None), makers=tuple(row["makers"]))
        if row["answers_to"] is None:
            return itself
        maker = await self.standing(row["answers_to"], row["answers_to_kind"])
        return None if maker is None else within(itself, maker)

    async def _kept(self, query: str, name: str, kind: PrincipalKind, person: str | None) -> Principal | None:
        row = await self._database.fetch_one(query, [name])
        return None if row is None else principal_of(row["name"], kind, row["grants"], person)
