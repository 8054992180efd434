"""The bindings of opened credentials: those bound to other machines or jobs are withheld.

A credential may have been bound since the launch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from opsjobs.model.credential import ANYWHERE, Credential, not_for_that, not_there
from opsjobs.model.target import Endpoint, Target
from opsjobs.store.vault.credentials import Vault


@dataclass(frozen=True, slots=True)
class Purpose:
    """The job that a credential is used for; `job_id` None: commands without a stored job."""

    job_id: int | None
    job: str


@dataclass(frozen=True, slots=True)
class CredentialScopes:
    """The machines on which opened credentials may not be used."""

    outside: frozenset[tuple[str, str]] = frozenset()
    """Pairs of the id of a credential and the id of a target that it may not be used on."""

    @classmethod
    async def load(
        cls, vault: Vault, endpoints: Iterable[Endpoint], opened: Mapping[str, Credential]
    ) -> CredentialScopes:
        """Return the scopes of these credentials; PostgreSQL is queried only if one is bound.

        Logins are checked against their own machines, `opened` against all of these machines.
        """
        uses: dict[str, tuple[Credential, set[str]]] = {}
        for hop in [hop for endpoint in endpoints for hop in (endpoint, *endpoint.jumps)]:
            logins = [hop.credential] if hop.credential is not None else []
            for credential in (*logins, *opened.values()):
                if credential.bound != ANYWHERE:
                    uses.setdefault(credential.id, (credential, set()))[1].add(hop.target.id)
        return cls(
            frozenset(
                [
                    (credential_id, target_id)
                    for credential_id, (credential, target_ids) in uses.items()
                    for target_id in await vault.outside(credential.bound, target_ids)
                ]
            )
        )

    def apply_to_endpoint(self, endpoint: Endpoint, purpose: Purpose | None) -> Endpoint:
        """Return the endpoint with each login closed that may not be used there or for this job.

        `purpose` None: a connection test, which belongs to no job.
        """
        hops = (endpoint, *endpoint.jumps)
        if all(hop.credential is None or hop.credential.bound == ANYWHERE for hop in hops):
            return endpoint
        jumps = tuple(self._apply_to_hop(jump, purpose) for jump in endpoint.jumps)
        return replace(self._apply_to_hop(endpoint, purpose), jumps=jumps)

    def apply(
        self, opened: Mapping[str, Credential], target: Target, purpose: Purpose
    ) -> Mapping[str, Credential]:
        """Return these credentials, closing each that may not be used there or for this job."""
        if all(credential.bound == ANYWHERE for credential in opened.values()):
            return opened
        return {
            credential_id: self._restrict(credential, target, purpose)
            for credential_id, credential in opened.items()
        }

    def _apply_to_hop(self, hop: Endpoint, purpose: Purpose | None) -> Endpoint:
        if hop.credential is None:
            return hop
        return replace(hop, credential=self._restrict(hop.credential, hop.target, purpose))

    def _restrict(
        self, credential: Credential, target: Target, purpose: Purpose | None
    ) -> Credential:
        if (credential.id, target.id) in self.outside:
            return credential.closed(not_there(credential.name, target.name))
        if purpose is not None and not credential.bound.holds_job(purpose.job_id):
            job = purpose.job if purpose.job_id is not None else None
            return credential.closed(not_for_that(credential.name, job))
        return credential
