"""Users of the platform, confirmed by the User Service when work starts in their name.

Their tokens have the rights of the time of issue; the service has the present rights. If it does
not answer, nothing is launched in their name.
"""

from __future__ import annotations

from dataclasses import replace

from opsjobs.integrations.json_client import ServiceUnavailable
from opsjobs.integrations.services.users import PlatformUser, UserService
from opsjobs.model.access import Principal
from opsjobs.model.errors import Forbidden, Unauthorised, Unavailable
from opsjobs.model.grants import both, both_roles
from opsjobs.model.identity import Identity
from opsjobs.model.token_claims import ClaimRules, external
from opsjobs.store.identities import IdentityStore
from opsjobs.store.identities.services import split_name

CONFIRMED = frozenset(
    {
        "jobs:execute",
        "commands:run",
        "executions:retry",
        "dead_letters:manage",
        "approvals:decide",
        "safety:override",
    }
)
"""Permissions that start work, and whose use is confirmed.

Stopping work never waits for a service.
"""


class PlatformUsers:
    """The current rights of identities; `service` is None if there is no User Service.

    `execute_runs_commands`: as of ClaimRules, for the rights in its answers.
    """

    def __init__(
        self,
        identities: IdentityStore,
        service: UserService | None,
        *,
        execute_runs_commands: bool = True,
    ) -> None:
        self._identities = identities
        self._service = service
        self._rules = ClaimRules(execute_runs_commands=execute_runs_commands)

    async def current_principal(self, identity: Identity) -> Principal | None:
        """Return an identity with its current rights, or None if they have ended.

        Raises Forbidden for a user that the service does not know, and Unavailable.
        """
        principal = await self._identities.current_principal(identity)
        if principal is None or self._service is None:
            return principal
        for user in _users_of(principal):
            found = await self._load(user)
            if not found.active:
                return None
            principal = _limit(principal, found, user, self._rules)
        return principal

    async def has_ended(self, identity: Identity) -> bool:
        """Return True if an identity launches nothing any more. Raises Unavailable."""
        try:
            return await self.current_principal(identity) is None
        except Forbidden:
            return True

    async def confirm(self, principal: Principal) -> Principal:
        """Return the caller with the rights that the service confirms.

        Raises Forbidden("user_disabled", "user_unknown"), and Unavailable.
        """
        if self._service is None:
            return principal
        for user in _users_of(principal):
            found = await self._load(user)
            if not found.active:
                raise Forbidden(
                    "user_disabled",
                    f"{user} is disabled in the User Service, so nothing is launched in that name. "
                    "Ask an administrator of the platform.",
                )
            principal = _limit(principal, found, user, self._rules)
        return principal

    async def _load(self, user: str) -> PlatformUser:
        assert self._service is not None, "asked only if there is one"
        try:
            found = await self._service.load(user)
        except ServiceUnavailable as away:
            raise _unavailable(str(away)) from None
        if found is None:
            raise Forbidden(
                "user_unknown",
                f"The User Service does not know {user}. It is asked for the user's name here: "
                "check OPSJOBS_JWT_NAME_CLAIM, which says what claim of a token that is.",
            )
        return found


def _users_of(principal: Principal) -> list[str]:
    """Return the users of the platform behind a principal.

    They are itself, the one that a service acts for, and the maker of a key or a service.
    """
    users = [principal.platform_maker]
    if principal.kind == "external":
        users.append(principal.name)
    if principal.kind == "service":
        _, user = split_name(principal.name)
        if user is not None and user.kind == "external":
            users.append(user.name)
    return [user for user in dict.fromkeys(users) if user is not None]


def _limit(principal: Principal, found: PlatformUser, user: str, rules: ClaimRules) -> Principal:
    """Return the principal limited to the rights in the answer, if it has any."""
    if not found.claims:
        return principal
    try:
        now = external({"sub": user, **found.claims}, rules)
    except Unauthorised as unfit:
        raise _unavailable(f"the rights of {user} cannot be read: {unfit}") from None
    return replace(principal, grants=both(principal, now), roles=both_roles(principal, now))


def _unavailable(reason: str) -> Unavailable:
    return Unavailable(
        reason,
        detail="The User Service does not answer, so it is not known what the user may do now: "
        "nothing was launched. Try again when it does; `opsjobs status` shows its state.",
    )
