"""Convert a credential to the material that asyncssh authenticates with.

Stored keys are parsed once per credential version.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncssh

from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.secret import Secret
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import Fetch, refuse_external
from opsjobs.remote.ssh.certificates import CertificateTerms, Unusable, parse_terms

PARSED_KEYS_LIMIT = 1000
_OF_SSH = (
    CredentialType.PASSWORD,
    CredentialType.SSH_KEY,
    CredentialType.SSH_CERTIFICATE,
    CredentialType.AGENT,
)

ClientKey = asyncssh.SSHKey | asyncssh.SSHKeyPair | tuple[asyncssh.SSHKey, asyncssh.SSHCertificate]


@dataclass(frozen=True, slots=True)
class AuthMaterial:
    """A user name with either keys or a password, which is sent only once.

    `terms` are those of the certificate, if there is one.
    """

    username: str
    keys: tuple[ClientKey, ...] = ()
    password: Secret | None = None
    terms: CertificateTerms | None = None

    @property
    def expires_at(self) -> datetime | None:
        """The expiry of the certificate; None = never."""
        return self.terms.valid_before if self.terms is not None else None


class AuthMaterials:
    """Prepares logins, with a cache of parsed keys: decrypting one costs 0.1 s of CPU.

    Credentials with secrets fetched from an external store are not cached.
    """

    def __init__(self, fetch: Fetch = refuse_external) -> None:
        self._fetch = fetch
        self._parsed: OrderedDict[tuple[str, int], asyncio.Task[AuthMaterial]] = OrderedDict()

    @asynccontextmanager
    async def open(self, endpoint: Endpoint) -> AsyncIterator[AuthMaterial]:
        """Yield the login for this machine, valid inside the block.

        Raises RemoteFailure(CREDENTIAL_MISSING).
        """
        credential = endpoint.credential
        if credential is None:
            raise _missing(
                f"{endpoint.target.name} has no credential: "
                "name one in its `credential` (PUT /targets/…)."
            )
        if credential.fault is not None:
            raise _missing(f"The credential {credential.name} cannot be used: {credential.fault}.")
        if credential.type not in _OF_SSH:
            raise _missing(
                f"The credential {credential.name} is of type {credential.type.value}, "
                "which SSH does not log in with."
            )
        if credential.source is not None:
            credential = await self._fetch(credential, endpoint.purpose)
        if credential.type is CredentialType.AGENT:
            async with _agent(credential) as login:
                yield login
        elif credential.type is CredentialType.PASSWORD:
            if credential.password is None:
                raise _missing(f"The credential {credential.name} holds no password.")
            yield AuthMaterial(credential.username, password=credential.password)
        else:
            yield await self._keyed(credential)

    async def _keyed(self, credential: Credential) -> AuthMaterial:
        login = await self._opened(credential)
        if login.expires_at is not None and login.expires_at <= datetime.now(UTC):
            # Not attempted: a machine would count it as a rejected login.
            raise _missing(
                f"The certificate of the credential {credential.name} "
                f"was good until {login.expires_at:%Y-%m-%d %H:%M}Z."
            )
        return login

    async def _opened(self, credential: Credential) -> AuthMaterial:
        if credential.source is not None:
            return await asyncio.to_thread(_parse, credential)
        where = (credential.id, credential.version)
        task = self._parsed.get(where)
        if task is None:
            # In a thread, because bcrypt is slow; in its own task, because many may wait for it and
            # some may be cancelled.
            task = self._parsed[where] = asyncio.create_task(asyncio.to_thread(_parse, credential))
            task.add_done_callback(lambda done: self._forget_failure(where, done))
            if len(self._parsed) > PARSED_KEYS_LIMIT:
                self._parsed.popitem(last=False)
        return await asyncio.shield(task)

    def _forget_failure(self, where: tuple[str, int], task: asyncio.Task[AuthMaterial]) -> None:
        if (task.cancelled() or task.exception() is not None) and self._parsed.get(where) is task:
            del self._parsed[where]


def _parse(credential: Credential) -> AuthMaterial:
    if credential.private_key is None:
        raise _missing(f"The credential {credential.name} holds no private key.")
    key = _private_key(credential, credential.private_key)
    if credential.type is not CredentialType.SSH_CERTIFICATE:
        return AuthMaterial(credential.username, keys=(key,))
    if credential.certificate is None:
        raise _missing(f"The credential {credential.name} holds no certificate.")
    try:
        certificate = asyncssh.import_certificate(credential.certificate)
        asyncssh.load_keypairs([(key, certificate)])
        terms = parse_terms(credential.certificate)
    except (asyncssh.KeyImportError, Unusable, ValueError) as error:
        raise _missing(
            f"The certificate of the credential {credential.name} cannot be used: {error}."
        ) from None
    return AuthMaterial(credential.username, keys=((key, certificate),), terms=terms)


def _private_key(credential: Credential, text: Secret) -> asyncssh.SSHKey:
    passphrase = credential.passphrase.reveal() if credential.passphrase is not None else None
    try:
        return asyncssh.import_private_key(text.reveal(), passphrase)
    except asyncssh.KeyEncryptionError as error:
        raise _missing(
            f"The passphrase of {credential.name} does not open its private key ({error})."
        ) from None
    except (asyncssh.KeyImportError, ValueError) as error:
        reason = "it is not a private key that we can read"
        if passphrase is not None:
            reason += ", or its passphrase does not open it"
        elif "assphrase" in str(error):
            reason = "it is encrypted and there is no passphrase"
        raise _missing(
            f"The private key of the credential {credential.name} cannot be used: {reason}."
        ) from None


@asynccontextmanager
async def _agent(credential: Credential) -> AsyncIterator[AuthMaterial]:
    path = os.environ.get("SSH_AUTH_SOCK", "")
    if not path:
        raise _missing(
            f"The credential {credential.name} needs an SSH agent, "
            "but the worker has no SSH_AUTH_SOCK."
        )
    try:
        agent = await asyncssh.connect_agent(path)
        keys = await agent.get_keys()
    except (OSError, ValueError) as error:
        raise _missing(
            f"The credential {credential.name} needs the SSH agent at {path}, which fails: {error}."
        ) from None
    try:
        if not keys:
            raise _missing(
                f"The credential {credential.name} needs the SSH agent at {path}, "
                "which holds no key."
            )
        yield AuthMaterial(credential.username, keys=tuple(keys))
    finally:
        agent.close()
        await agent.wait_closed()


def _missing(message: str) -> RemoteFailure:
    return RemoteFailure(ErrorCode.CREDENTIAL_MISSING, message)
