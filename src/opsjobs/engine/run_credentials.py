"""Credentials that a run uses: to become another user, and to get the secrets of its job.

They are pinned by id at launch. The worker opens them just before a session, and fetches those that
are stored externally.

The secrets of a run are redacted from its output, and from the log of this process. These are the
secrets of the execution, of its logins, and of the users it becomes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from opsjobs.clock import Clock
from opsjobs.engine.compiled_spec import CompiledSpec
from opsjobs.model.action_base import FrozenBecome, FrozenRunningAction
from opsjobs.model.credential import Credential, TargetServiceSource, VaultSource
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.masking import Forms, Mask
from opsjobs.model.program import Become
from opsjobs.model.secret import JobSecret, Secret
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import Fetch
from opsjobs.telemetry.logs import hide

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


async def fetch_logins(endpoint: Endpoint | None, fetch: Fetch, purpose: str) -> list[Credential]:
    """Return the externally stored logins of a machine and its jump hosts, with secrets.

    Keys created for a single login are left out: they are never sent to a machine. Raises
    RemoteFailure(CREDENTIAL_MISSING).
    """
    logins = endpoint.logins if endpoint is not None else ()
    return [
        await fetch(credential, purpose)
        for credential in logins
        if isinstance(credential.source, VaultSource | TargetServiceSource)
    ]


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


KEPT_SECONDS = 60.0
"""Cache time of a credential's forms after their last use by a starting run."""
KEPT_MAX = 256


class MaskFactory:
    """Builds the mask of a run; the forms of a credential are shared by all its runs."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[Credential, tuple[float, Forms]] = OrderedDict()

    def mask_for(
        self,
        compiled_spec: CompiledSpec,
        endpoint: Endpoint | None,
        opened: Mapping[str, Credential],
    ) -> Mask:
        """Return the mask of a run of this execution on this machine.

        `opened`: credentials that its actions need; it may include those of other executions.
        """
        others = credential_ids(compiled_spec)
        logins = endpoint.logins if endpoint is not None else ()
        credentials = dict.fromkeys(
            [*logins, *(opened[used] for used in sorted(others) if used in opened)]
        )
        return Mask([compiled_spec.forms, *(self._forms(credential) for credential in credentials)])

    def _forms(self, credential: Credential) -> Forms:
        now = self._clock.monotonic()
        kept = self._kept.pop(credential, None)
        forms = hide_secrets(credential.secrets) if kept is None else kept[1]
        self._kept[credential] = now, forms
        while len(self._kept) > KEPT_MAX or next(iter(self._kept.values()))[0] < now - KEPT_SECONDS:
            self._kept.popitem(last=False)
        return forms


def hide_secrets(secrets: Iterable[Secret]) -> Forms:
    """Return the forms of secrets, and redact them from the log of this process, too.

    The log is redacted as long as the forms are in use.
    """
    forms = Forms(secret.reveal() for secret in secrets)
    if forms:
        hide(forms)
    return forms
