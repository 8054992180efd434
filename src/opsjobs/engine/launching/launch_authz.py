"""Rights asked again where something is launched later in somebody's name: what he may now, not what he might when he asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from opsjobs.model.access import IdentityKind, Principal, PrincipalKind
from opsjobs.model.access_bounds import Bounds
from opsjobs.model.approval import Requester
from opsjobs.model.errors import Forbidden

PrincipalLookup = Callable[[str, PrincipalKind], Awaitable[Principal | None]]
"""What an identity, by name and kind, may now; None: it is gone, disabled or expired. Raises Unavailable."""
EXECUTE = "jobs:execute"
FILES = "jobs:read"
CREDENTIALS = "credentials:use"


class OwnerGone(Forbidden):
    """Whoever it would be done for is not there any more: nothing is done in his name until somebody else takes it over."""


class CurrentRights:
    """Asked once for each identity: make a new one for what belongs to one moment, and throw it away."""

    def __init__(self, ask: PrincipalLookup) -> None:
        self._ask = ask
        self._known: dict[tuple[str, str], Principal | None] = {}

    async def launching(
        self, name: str, kind: IdentityKind, labels: Mapping[str, str], job: str
    ) -> Bounds:
        """How far this identity may go with a launch of the job, which has these labels.

        Raises Gone, Forbidden where it may not launch this job now, Unavailable.
        """
        principal = await self._standing(name, kind)
        if principal is None:
            raise OwnerGone(
                "out_of_reach",
                f"{name} ({in_words(kind)}) is gone, disabled or expired, and nothing is launched in that name",
            )
        bounds = Bounds.of(principal, EXECUTE)
        if not bounds.act.scopes:
            raise Forbidden("out_of_reach", f"{name} does not hold {EXECUTE} any more")
        bounds.check_labels(labels, f"The job {job}")
        return bounds

    async def sees_all_files(self, name: str, kind: IdentityKind) -> bool:
        """Whether this identity sees files that others have uploaded. Raises Unavailable."""
        principal = await self._standing(name, kind)
        return principal is not None and principal.reach(FILES).everywhere

    async def uses_credentials(self, name: str, kind: IdentityKind) -> bool:
        """Return whether this identity may name credentials in jobs. Raises Unavailable."""
        principal = await self._standing(name, kind)
        return principal is not None and principal.reach(CREDENTIALS).everywhere

    async def requester(self, name: str, kind: IdentityKind) -> Requester:
        """This identity as who asks, with the human behind it where that is known. Raises Unavailable."""
        principal = await self._standing(name, kind)
        return Requester.of(principal) if principal is not None else Requester(name, kind)

    async def _standing(self, name: str, kind: IdentityKind) -> Principal | None:
        if kind == "system":
            return None
        if (name, kind) not in self._known:
            self._known[name, kind] = await self._ask(name, kind)
        return self._known[name, kind]


def in_words(kind: str) -> str:
    """What kind of identity it is, for people."""
    return {
        "api_key": "an API key",
        "user": "a user",
        "service": "a service",
        "external": "somebody of the platform",
    }.get(kind, kind)
