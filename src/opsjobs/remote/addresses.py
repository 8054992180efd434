"""The policy of addresses that the worker may connect to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from opsjobs.model.addresses import LOOPBACK, METADATA, NO_MACHINE, Network, forms, networks, within
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """The check of each resolved address just before it is connected to.

    `deny` wins over everything. `allow` lists exceptions to the built-in refusals: link-local,
    metadata and similar addresses that no machine has are always refused, loopback if `production`.
    """

    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()
    production: bool = False

    @classmethod
    def parse(
        cls, *, allow: Iterable[str] = (), deny: Iterable[str] = (), production: bool = False
    ) -> AddressPolicy:
        """Return a policy from CIDR texts. Raises ValueError for an invalid one."""
        return cls(networks(allow), networks(deny), production)

    def __call__(self, address: str) -> None:
        """Raise RemoteFailure(SAFETY_BLOCKED) if this address may not be connected to."""
        reason = self._refusal(address)
        if reason is not None:
            raise RemoteFailure(
                ErrorCode.SAFETY_BLOCKED, f"The host's address may not be connected to: {reason}."
            )

    def _refusal(self, text: str) -> str | None:
        found = forms(text)
        if any(within(form, self.deny) for form in found):
            return "it is in OPSJOBS_TARGET_DENY"
        if all(within(form, self.allow) for form in found):
            return None
        if any(within(form, METADATA) for form in found):
            return "it is a link-local or metadata address; list it in OPSJOBS_TARGET_ALLOW if it is really meant"
        if any(within(form, NO_MACHINE) for form in found):
            return "no machine has such an address, or what is behind it cannot be known; list it in OPSJOBS_TARGET_ALLOW if it is meant"
        if self.production and any(within(form, LOOPBACK) for form in found):
            return "it is this machine itself, refused in production; list it in OPSJOBS_TARGET_ALLOW if it is meant"
        return None
