"""Credentials that a run uses: to become another user, and to get the secrets of its job.

They are pinned by id at launch. The worker opens them just before a session, withholds those that
are bound to other machines or jobs, and fetches those that are stored externally.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from opsjobs.engine.compiled_spec import CompiledSpec
from opsjobs.model.action_base import FrozenBecome, FrozenRunningAction
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.program import Become
from opsjobs.model.credential import ANYWHERE, Credential, not_for_that, not_there
from opsjobs.model.secret import JobSecret, Secret
from opsjobs.model.target import Endpoint, Target
from opsjobs.remote.session import Fetch
from opsjobs.store.vault.credentials import Vault

# The credentials of an execution.


def credential_ids(compiled_spec: CompiledSpec) -> set[str]:
    """Return the ids of all credentials that the actions of an execution need."""
    requests = [
        action.become
        for action in compiled_spec.actions.values()
        if isinstance(action, FrozenRunningAction) and action.become is not None
    ]
    return become_credential_ids(requests) | secret_credential_ids(compiled_spec)


def become_credential_ids(requests: Iterable[FrozenBecome]) -> set[str]:
    """Return the ids of the credentials that these `become` requests need."""
    return {request.credential_id for request in requests if request.credential_id is not None}


def secret_credential_ids(compiled_spec: CompiledSpec) -> set[str]:
    """Return the ids of the credentials that hold secrets of an execution."""
    return {
        secret.credential_id
        for secret in compiled_spec.job_secrets.values()
        if secret.credential_id is not None
    }


# Bindings: a credential may have been bound to other machines or jobs since the launch.


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


# Secrets that are stored externally.


async def fetch_become_password(
    request: FrozenBecome | None, opened: Mapping[str, Credential], fetch: Fetch, purpose: str
) -> Mapping[str, Credential]:
    """Return `opened` with the password of this `become` request.

    It is fetched now if it is stored externally. If it cannot be fetched, its credential has a
    fault instead.
    """
    if request is None or request.credential_id is None:
        return opened
    return await fetch_secret(request.credential_id, opened, fetch, purpose)


async def fetch_secret(
    credential_id: str, opened: Mapping[str, Credential], fetch: Fetch, purpose: str
) -> Mapping[str, Credential]:
    """Return `opened` with the secrets of the credential of this id.

    They are fetched now if they are stored externally. If they cannot be fetched, the credential
    has a fault instead.
    """
    credential = opened.get(credential_id)
    if credential is None or credential.source is None or credential.fault is not None:
        return opened
    try:
        return {**opened, credential_id: await fetch(credential, purpose)}
    except RemoteFailure as missing:
        return {**opened, credential_id: replace(credential, fault=missing.message.rstrip("."))}


# Use: to become another user, and as job secrets.


def resolve_become(request: FrozenBecome | None, opened: Mapping[str, Credential]) -> Become | None:
    """Return the user that an action becomes; None if it runs as the login user.

    Raises RemoteFailure(CREDENTIAL_MISSING) if its password is unavailable.
    """
    if request is None:
        return None
    if request.credential_id is None:
        return Become(request.user, request.method)
    credential = opened.get(request.credential_id)
    if credential is None or credential.password is None:
        raise _missing(
            f"{request.credential!r}, named at launch to become {request.user},",
            credential,
            "it holds no password",
        )
    return Become(request.user, request.method, credential.password)


def check_direct(action: FrozenRunningAction, reason: str) -> None:
    """Raise RemoteFailure(BECOME_FAILED) if a direct command should have run as another user.

    A direct command runs as the login user.
    """
    if action.become is not None:
        user = action.become.user
        message = f"to become {user} needs a durable run, and {reason}; nothing was started"
        raise RemoteFailure(ErrorCode.BECOME_FAILED, message)


def resolve_job_secrets(
    secrets: Mapping[str, JobSecret], opened: Mapping[str, Credential]
) -> dict[str, Secret]:
    """Return the values of these secrets, by parameter.

    Raises RemoteFailure(CREDENTIAL_MISSING) if one is unavailable.
    """
    return {
        parameter: _resolve_job_secret(parameter, secret, opened.get(secret.credential_id or ""))
        for parameter, secret in secrets.items()
    }


def _resolve_job_secret(parameter: str, secret: JobSecret, credential: Credential | None) -> Secret:
    if credential is None or credential.value is None or credential.fault is not None:
        raise _missing(
            f"{secret.credential!r}, which gives the parameter {parameter},",
            credential,
            "it holds no secret of jobs",
        )
    return credential.value


def _missing(subject: str, credential: Credential | None, reason: str) -> RemoteFailure:
    fault = "is gone" if credential is None else f"cannot be used: {credential.fault or reason}"
    return RemoteFailure(ErrorCode.CREDENTIAL_MISSING, f"the credential {subject} {fault}")
