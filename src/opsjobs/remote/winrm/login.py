"""Log in to a connection with pyspnego's tokens (NTLM, Kerberos), Basic, or a certificate.

An authentication belongs to one connection. It makes one attempt: a refused password is never sent
again, so that no account is locked out.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
from dataclasses import dataclass, field
from typing import Any

import spnego
import spnego.channel_bindings
import spnego.exceptions
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from spnego._ntlm_raw.crypto import ntowfv1

from opsjobs.model.credential import Credential
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.target import Target, login_types
from opsjobs.model.winrm import WinrmAuth
from opsjobs.remote.winrm.http import HttpResponse, HttpStream
from opsjobs.remote.winrm.kerberos import (
    NO_CACHE,
    KdcError,
    KerberosFailure,
    TicketCaches,
    explain,
    may_have_tickets,
    principal,
)
from opsjobs.remote.winrm.sealing import CREDSSP, KERBEROS, SPNEGO

# At level debug it logs the tokens of logins, from which a password could be guessed.
logging.getLogger("spnego").setLevel(logging.INFO)

ROUNDS_MAX = 10
"""CredSSP takes six requests, all others two."""
SERVICE = "host"
CERTIFICATE_SCHEME = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual"

_PROTOCOLS = {
    WinrmAuth.NEGOTIATE: ("negotiate", "Negotiate"),
    WinrmAuth.NTLM: ("ntlm", "Negotiate"),
    WinrmAuth.KERBEROS: ("kerberos", "Kerberos"),
    WinrmAuth.CREDSSP: ("credssp", "CredSSP"),
}
_CONTENT = {WinrmAuth.CREDSSP: CREDSSP, WinrmAuth.KERBEROS: KERBEROS}


@dataclass(slots=True)
class Authenticated:
    """The result of a login: headers of each request, and the context that encrypts messages.

    `context` is None over https, where TLS encrypts.
    """

    headers: dict[str, str] = field(default_factory=dict)
    context: Any = None
    protocol: str = SPNEGO


def check_credential(target: Target, credential: Credential | None) -> Credential:
    """Return the credential if this target's authentication can use it.

    Raises RemoteFailure(CREDENTIAL_MISSING).
    """
    assert target.winrm is not None, "every WinRM target has its options"
    auth = target.winrm.auth
    if credential is None:
        raise _missing(
            f"{target.name} has no credential: name one in its `credential` (PUT /targets/…)."
        )
    if credential.fault is not None:
        raise _missing(f"The credential {credential.name} cannot be used: {credential.fault}.")
    wanted = login_types(auth)
    if credential.type not in wanted:
        raise _missing(
            f"The credential {credential.name} is of type {credential.type.value}, and "
            f"{target.name} logs in with auth {auth.value}: name one of type "
            f"{' or '.join(wanted)}, or change `winrm.auth` of the target."
        )
    return credential


def _missing(message: str) -> RemoteFailure:
    return RemoteFailure(ErrorCode.CREDENTIAL_MISSING, message)


class Login:
    """One login on one connection."""

    def __init__(
        self,
        target: Target,
        credential: Credential,
        certificate: bytes | None,
        seconds: float,
        tickets: TicketCaches,
    ) -> None:
        assert target.winrm is not None, "every WinRM target has its options"
        self._tickets = tickets
        self._cache: str | None = None
        self._target = target
        self._auth = target.winrm.auth
        self._credential = credential
        self._certificate = certificate
        self._seconds = seconds

    async def perform(self, connection: HttpStream) -> Authenticated:
        """Log in.

        Raises RemoteFailure(AUTH_FAILED, CREDENTIAL_MISSING, CONNECT_TIMEOUT: no KDC), Broken,
        TimeoutError.
        """
        if self._auth is WinrmAuth.CERTIFICATE:
            return await self._try(connection, CERTIFICATE_SCHEME)
        if self._auth is WinrmAuth.BASIC:
            password = self._credential.password
            assert password is not None, "a credential of type password has one"
            pair = f"{self._credential.username}:{password.reveal()}".encode()
            return await self._try(connection, f"Basic {base64.b64encode(pair).decode()}")
        return await self._negotiate(connection)

    async def _try(self, connection: HttpStream, header: str) -> Authenticated:
        """Send the header with an empty request, which starts nothing."""
        headers = {"Authorization": header}
        response = await connection.post(headers, b"", self._seconds)
        if response.status in (401, 403):
            raise self._refusal(response)
        return Authenticated(headers)

    async def _negotiate(self, connection: HttpStream) -> Authenticated:
        protocol, scheme = _PROTOCOLS[self._auth]
        self._cache = await self._find_tickets()
        try:
            context = self._context(protocol)
            token = await self._step(context, None)
            for count in range(ROUNDS_MAX):
                if token is None:
                    break
                headers = {"Authorization": f"{scheme} {base64.b64encode(token).decode()}"}
                response = await connection.post(headers, b"", self._seconds)
                theirs = _token(response, scheme)
                if response.status == 401 and theirs is None:
                    if self._cache is not None:
                        self._tickets.forget(self._credential)
                    raise self._refusal(response, offered=count > 0 or _offers(response, scheme))
                if response.status == 403:
                    raise self._refusal(response)
                if response.status not in (200, 401):
                    raise self._unexpected(response)
                token = await self._step(context, theirs) if theirs is not None else None
            if not context.complete:
                raise self._failed("the host ended the exchange too early")
        except spnego.exceptions.SpnegoError as error:
            raise self._unfinished(error) from None
        sealed = self._certificate is None
        return Authenticated({}, context if sealed else None, _CONTENT.get(self._auth, SPNEGO))

    async def _find_tickets(self) -> str | None:
        """Return the name of the credential's Kerberos cache; None if NTLM is to log in.

        A password that the KDC refused is not sent to the host as well.
        """
        if self._auth is WinrmAuth.KERBEROS:
            return await self._tickets.name(self._credential, self._seconds)
        if self._auth is WinrmAuth.NEGOTIATE and may_have_tickets(self._target, self._credential):
            try:
                return await self._tickets.name(self._credential, self._seconds)
            except KerberosFailure as failure:
                if not failure.elsewhere:
                    raise
        return None

    async def _step(self, context: Any, token: bytes | None) -> bytes | None:
        if self._cache is not None:  # the KDC is asked for a ticket of the host
            try:
                return await self._tickets.call(lambda: context.step(token), self._seconds)
            except TimeoutError:
                raise explain(
                    KdcError.UNREACHABLE, "", self._credential.username, self._realm
                ) from None
        if self._auth is WinrmAuth.CREDSSP:  # it has a TLS handshake of its own
            made: bytes | None = await asyncio.to_thread(context.step, token)
            return made
        stepped: bytes | None = context.step(token)
        return stepped

    def _context(self, protocol: str) -> Any:
        bindings = None
        if self._certificate is not None and protocol != "credssp":
            bindings = spnego.channel_bindings.GssChannelBindings(
                application_data=b"tls-server-end-point:" + digest_certificate(self._certificate)
            )
        sealed = self._certificate is None
        return spnego.client(
            self._credentials(),
            hostname=self._target.host,
            service=SERVICE,
            channel_bindings=bindings,
            protocol=protocol,
            options=(
                spnego.NegotiateOptions.wrapping_winrm
                if sealed and protocol != "credssp"
                else spnego.NegotiateOptions.none
            ),
        )

    def _credentials(self) -> list[Any]:
        """Return what pyspnego may use.

        The first one is for Kerberos: without tickets it is an empty cache, as a password alone
        would make pyspnego ask a KDC, on this thread. A hash of a password serves NTLM only.
        """
        tickets = spnego.KerberosCCache(self._cache or NO_CACHE)
        password = self._credential.password
        if password is None or self._auth is WinrmAuth.KERBEROS:
            return [tickets]
        if self._auth is WinrmAuth.CREDSSP:  # it sends the password to the host
            return [tickets, spnego.Password(self._credential.username, password.reveal())]
        # From a password pyspnego makes the LM hash as well, in 0.6 ms, and does not use it.
        nt_hash = ntowfv1(password.reveal()).hex()
        found = spnego.NTLMHash(self._credential.username, nt_hash=nt_hash)
        return [tickets, found] if self._cache is not None else [found]

    def _refusal(self, response: HttpResponse, *, offered: bool = True) -> RemoteFailure:
        if not offered:
            schemes = ", ".join(_schemes(response)) or "none"
            return RemoteFailure(
                ErrorCode.AUTH_FAILED,
                f"{self._where} does not offer auth {self._auth.value}; it offers: {schemes}. "
                "Change `winrm.auth` of the target, or allow it on the host.",
            )
        if response.status == 403:
            return RemoteFailure(
                ErrorCode.AUTH_FAILED,
                f"{self._where} knows {self._credential.username}, who may not use WinRM there. "
                "Add the user to the group Remote Management Users.",
            )
        return RemoteFailure(
            ErrorCode.AUTH_FAILED,
            f"{self._where} refused the login of {self._credential.username} "
            f"(auth {self._auth.value}). Check the credential.",
        )

    def _unfinished(self, error: spnego.exceptions.SpnegoError) -> RemoteFailure:
        code = getattr(error.__cause__, "min_code", None)
        if self._cache is None or not code:
            return self._failed(str(error))
        service = f"{SERVICE}/{self._target.host}"
        return explain(code, str(error), self._credential.username, self._realm, service)

    @property
    def _realm(self) -> str:
        return (principal(self._credential) or "").rpartition("@")[2]

    def _failed(self, reason: str) -> RemoteFailure:
        return RemoteFailure(
            ErrorCode.AUTH_FAILED,
            f"The login of {self._credential.username} to {self._where} failed: {reason}.",
        )

    def _unexpected(self, response: HttpResponse) -> RemoteFailure:
        return RemoteFailure(
            ErrorCode.CONNECTION_LOST,
            f"{self._where} answered the login with HTTP status {response.status}. "
            "Check that this port is a WinRM listener.",
        )

    @property
    def _where(self) -> str:
        return f"{self._target.name} ({self._target.host}:{self._target.port})"


_CHALLENGE = re.compile(r'(?:[^,"]|"[^"]*")+')
_SCHEME = re.compile(r"([A-Za-z]+)(?:\s+(.*))?")


def _challenges(response: HttpResponse) -> list[tuple[str, str]]:
    """Return schemes and what follows each; a host or a proxy may put several in one header."""
    parts = [
        part[0].strip()
        for value in response.all("www-authenticate")
        for part in _CHALLENGE.finditer(value)
    ]
    found = [_SCHEME.fullmatch(part) for part in parts]  # others are parameters of the one before
    return [(scheme[1], scheme[2] or "") for scheme in found if scheme is not None]


def _schemes(response: HttpResponse) -> list[str]:
    return [scheme for scheme, _ in _challenges(response)]


def _offers(response: HttpResponse, scheme: str) -> bool:
    return scheme.lower() in (offered.lower() for offered in _schemes(response))


def _token(response: HttpResponse, scheme: str) -> bytes | None:
    """Return the token of this scheme in a response; None if there is none."""
    for offered, data in _challenges(response):
        if offered.lower() == scheme.lower() and data:
            try:
                return base64.b64decode(data.strip(), validate=True)
            except binascii.Error:
                continue
    return None


def digest_certificate(certificate: bytes) -> bytes:
    """Return the hash of a certificate that a login is bound to (RFC 5929, section 4.1)."""
    try:
        algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    except UnsupportedAlgorithm:
        algorithm = None
    if algorithm is None or algorithm.name in ("md5", "sha1"):
        algorithm = hashes.SHA256()
    digest = hashes.Hash(algorithm)
    digest.update(certificate)
    return digest.finalize()
