"""Convert a credential to the material that asyncssh authenticates with.

Stored keys are parsed once per credential version. A certificate of the own CA is for a key that is
generated for one login, and signed for a few minutes. The terms of a certificate are read here.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncssh
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import ssh

from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.secret import Secret
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import Fetch, refuse_external

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
                f"was valid until {login.expires_at:%Y-%m-%d %H:%M}Z."
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


SKEW_SECONDS = 60
"""The maximum clock skew of a machine behind this one."""
_ENDLESS = 253_402_300_799  # the last second that a datetime can hold


class Unusable(ValueError):
    """The key or the certificate cannot be used, for the given reason."""


@dataclass(frozen=True, slots=True)
class FreshKey:
    """A newly generated key pair, never stored: private key in OpenSSH format, public line."""

    private: Secret
    public: str


@dataclass(frozen=True, slots=True)
class CertificateTerms:
    """The terms of a certificate. `principals` [] = any user; `public` is its key, as a line."""

    key_id: str
    serial: int
    principals: tuple[str, ...]
    valid_after: datetime
    valid_before: datetime
    user: bool
    public: str

    @property
    def words(self) -> str:
        """Return a text for messages: the users that the certificate is for, and its expiry."""
        users = ", ".join(self.principals[:5]) or "anybody"
        until = f"{self.valid_before:%Y-%m-%d %H:%M:%S}Z"
        return f"its certificate (serial {self.serial}) is for {users} and good until {until}"


def generate_key() -> FreshKey:
    """Return a new Ed25519 key."""
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    ).decode()
    return FreshKey(Secret(private), _format_key(key.public_key()))


def sign(
    authority: Secret,
    passphrase: Secret | None,
    public: str,
    *,
    principals: Sequence[str],
    key_id: str,
    now: datetime,
    seconds: float,
    port_forwarding: bool = False,
    source_addresses: Sequence[str] = (),
) -> str:
    """Return a certificate of the public key, as one line, valid for `seconds` from now.

    It allows only commands and files: OpenSSH allows agent, X11 and port forwarding, a terminal and
    the user's rc file by extensions, and the certificate has none, except port forwarding if a jump
    host needs it. Raises Unusable if the authority's key cannot sign.
    """
    key = _authority(authority, passphrase)
    builder = (
        ssh.SSHCertificateBuilder()
        .public_key(_public(public))
        .type(ssh.SSHCertificateType.USER)
        .serial(secrets.randbits(63) | 1)
        .key_id(key_id.encode())
        .valid_principals([principal.encode() for principal in principals])
        .valid_after(int(now.timestamp()) - SKEW_SECONDS)
        .valid_before(int((now + timedelta(seconds=seconds)).timestamp()))
    )
    if source_addresses:
        builder = builder.add_critical_option(
            b"source-address", ",".join(source_addresses).encode()
        )
    if port_forwarding:
        builder = builder.add_extension(b"permit-port-forwarding", b"")
    return builder.sign(key).public_bytes().decode()


def public_key_of(private: Secret, passphrase: Secret | None = None) -> str:
    """Return the public half of a private key, as a line. Raises Unusable."""
    return _format_key(_load(private, passphrase).public_key())


def parse_terms(certificate: str) -> CertificateTerms:
    """Return the terms of the certificate. Raises Unusable if it is not a certificate."""
    try:
        found = ssh.load_ssh_public_identity(certificate.strip().encode())
    except (ValueError, UnsupportedAlgorithm):
        raise Unusable("it is no OpenSSH certificate") from None
    if not isinstance(found, ssh.SSHCertificate):
        raise Unusable("it is a public key and no certificate")
    return CertificateTerms(
        found.key_id.decode(errors="replace"),
        found.serial,
        tuple(name.decode(errors="replace") for name in found.valid_principals),
        _parse_time(found.valid_after),
        _parse_time(found.valid_before),
        found.type is ssh.SSHCertificateType.USER,
        _format_key(found.public_key()),
    )


def _parse_time(seconds: int) -> datetime:
    return datetime.fromtimestamp(min(seconds, _ENDLESS), UTC)


def _load(private: Secret, passphrase: Secret | None) -> ssh.SSHPrivateKeyTypes:
    text = private.reveal().encode()
    word = passphrase.reveal().encode() if passphrase is not None else None
    try:
        if b"BEGIN OPENSSH PRIVATE KEY" in text:
            return ssh.load_ssh_private_key(text, word)
        found = serialization.load_pem_private_key(text, word)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Unusable("its private key does not open") from None
    if not isinstance(
        found, ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    ):
        raise Unusable("its private key is of a kind that SSH does not use")
    return found


def _authority(private: Secret, passphrase: Secret | None) -> ssh.SSHCertPrivateKeyTypes:
    found = _load(private, passphrase)
    if not isinstance(
        found, ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    ):
        raise Unusable("its private key is of a kind that cannot sign certificates")
    return found


def _public(line: str) -> ssh.SSHCertPublicKeyTypes:
    found = ssh.load_ssh_public_key(line.encode())
    if not isinstance(
        found, ed25519.Ed25519PublicKey | rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    ):
        raise Unusable("the key is of a kind that certificates are not made for")
    return found


def _format_key(key: object) -> str:
    form = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    raw: bytes = key.public_bytes(*form)  # type: ignore[attr-defined]  # of any kind
    return raw.decode()
