"""Current rights of identities, for launches that happen later in their name.

A firing or a step may do what its owner may do now, not what the owner could do when it was
written.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from opsjobs.model.access import IdentityKind, Principal, PrincipalKind, Requester
from opsjobs.model.access_bounds import Bounds
from opsjobs.model.errors import Forbidden

PrincipalLookup = Callable[[str, PrincipalKind], Awaitable[Principal | None]]
"""Return the current rights of an identity, given its name and kind.

None: it is deleted, disabled or expired. Raises Unavailable.
"""
EXECUTE = "jobs:execute"
FILES = "jobs:read"
CREDENTIALS = "credentials:use"


class OwnerGone(Forbidden):
    """The owner of a launch no longer exists.

    Nothing is launched in that name until another identity takes over.
    """


class CurrentRights:
    """Look up current rights, once for each identity.

    Use an instance only briefly and make a new one for the next use: it never looks up again.
    """

    def __init__(self, lookup: PrincipalLookup) -> None:
        self._lookup = lookup
        self._known: dict[tuple[str, str], Principal | None] = {}

    async def launching(
        self, name: str, kind: IdentityKind, labels: Mapping[str, str], job: str
    ) -> Bounds:
        """Return the bounds of this identity for a launch of the job with these labels.

        Raises OwnerGone, Forbidden if it may not launch this job now, Unavailable.
        """
        principal = await self.find(name, kind)
        if principal is None:
            raise OwnerGone(
                "out_of_reach",
                f"{name} ({describe_kind(kind)}) is gone, disabled or expired, "
                "and nothing is launched in that name",
            )
        bounds = Bounds.for_principal(principal, EXECUTE)
        if not bounds.act.scopes:
            raise Forbidden("out_of_reach", f"{name} no longer holds {EXECUTE}")
        bounds.check_labels(labels, f"The job {job}")
        return bounds

    async def sees_all_files(self, name: str, kind: IdentityKind) -> bool:
        """Return True if this identity may use files that others uploaded. Raises Unavailable."""
        principal = await self.find(name, kind)
        return principal is not None and principal.reach(FILES).everywhere

    async def uses_credentials(self, name: str, kind: IdentityKind) -> bool:
        """Return True if this identity may name credentials in jobs. Raises Unavailable."""
        principal = await self.find(name, kind)
        return principal is not None and principal.reach(CREDENTIALS).everywhere

    async def requester(self, name: str, kind: IdentityKind) -> Requester:
        """Return this identity as a requester, with its human if known. Raises Unavailable."""
        principal = await self.find(name, kind)
        return (
            Requester.from_principal(principal) if principal is not None else Requester(name, kind)
        )

    async def find(self, name: str, kind: IdentityKind) -> Principal | None:
        """Return the identity with its current rights; None if it is gone. Raises Unavailable."""
        if kind == "system":
            return None
        if (name, kind) not in self._known:
            self._known[name, kind] = await self._lookup(name, kind)
        return self._known[name, kind]


def describe_kind(kind: str) -> str:
    """Return the kind of an identity as a noun for messages."""
    return {
        "api_key": "an API key",
        "user": "a user",
        "service": "a service",
        "external": "a user of the platform",
    }.get(kind, kind)
