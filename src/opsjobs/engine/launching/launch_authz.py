"""Current rights of identities, for launches that happen later in their name.

A firing or a step may do what its owner may do now, not what the owner could do when it was
written.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping

from opsjobs.model.access import Principal, Requester
from opsjobs.model.access_bounds import Bounds
from opsjobs.model.errors import Forbidden
from opsjobs.model.identity import Identity

PrincipalLookup = Callable[[Identity], Awaitable[Principal | None]]
"""Return an identity with its current rights.

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
        self._found: dict[Identity, Principal | None] = {}
        self._locks: defaultdict[Identity, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def launching(self, identity: Identity, labels: Mapping[str, str], job: str) -> Bounds:
        """Return the bounds of this identity for a launch of the job with these labels.

        Raises OwnerGone, Forbidden if it may not launch this job now, Unavailable.
        """
        principal = await self.find(identity)
        if principal is None:
            raise OwnerGone(
                "out_of_reach",
                f"{identity.name} ({identity.noun}) is gone, disabled or expired, "
                "and nothing is launched in that name",
            )
        bounds = Bounds.for_principal(principal, EXECUTE)
        if not bounds.act.scopes:
            raise Forbidden("out_of_reach", f"{identity.name} no longer holds {EXECUTE}")
        bounds.check_labels(labels, f"The job {job}")
        return bounds

    async def sees_all_files(self, identity: Identity) -> bool:
        """Return True if this identity may use files that others uploaded. Raises Unavailable."""
        principal = await self.find(identity)
        return principal is not None and principal.reach(FILES).everywhere

    async def uses_credentials(self, identity: Identity) -> bool:
        """Return True if this identity may name credentials in jobs. Raises Unavailable."""
        principal = await self.find(identity)
        return principal is not None and principal.reach(CREDENTIALS).everywhere

    async def requester(self, identity: Identity) -> Requester:
        """Return this identity as a requester, with its human if known. Raises Unavailable."""
        principal = await self.find(identity)
        if principal is None:
            return Requester(identity.name, identity.kind)
        return Requester.from_principal(principal)

    async def find(self, identity: Identity) -> Principal | None:
        """Return the identity with its current rights; None if it is gone. Raises Unavailable."""
        if identity.kind == "system":
            return None
        async with self._locks[identity]:
            if identity not in self._found:
                self._found[identity] = await self._lookup(identity)
            return self._found[identity]
