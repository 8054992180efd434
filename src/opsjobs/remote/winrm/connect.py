"""Connect to a Windows host: dial, verify its certificate and log in, with deadlines."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from opsjobs.model.credential import Credential
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.masking import NOTHING, Forms, Mask
from opsjobs.model.target import Endpoint, Target
from opsjobs.model.winrm import WinrmAuth, WinrmOptions, spell_fingerprint
from opsjobs.remote.dial import Allow, dial
from opsjobs.remote.session import Fetch, HostKey, LoginTimes, refuse_external
from opsjobs.remote.winrm.connection import Connection
from opsjobs.remote.winrm.http import Broken, HttpStream
from opsjobs.remote.winrm.kerberos import TicketCaches
from opsjobs.remote.winrm.login import Login, check_credential

SERVICE = "WinRM"


@dataclass(slots=True)
class ConnectPhases:
    """When (monotonic) the phases of one connect ended."""

    started: float = field(default_factory=time.monotonic)
    connected: float | None = None
    finished: float | None = None


def _ignore(*_: Any) -> None:
    """Ignore a report."""


class WinrmConnector:
    """Connects to endpoints; keeps nothing but Kerberos tickets and one TLS context."""

    def __init__(
        self,
        *,
        connect_seconds: float = 30.0,
        allow: Allow = _ignore,
        observe: Callable[[float], None] = _ignore,
        fetch: Fetch = refuse_external,
        alarm: Callable[[Target, str], None] = _ignore,
        fail: Callable[[ErrorCode], None] = _ignore,
    ) -> None:
        self._fail = fail
        self._seconds = connect_seconds
        self._allow = allow
        self._observe = observe
        self._fetch = fetch
        self._alarm = alarm
        self._tickets = TicketCaches()
        self._plain_tls: ssl.SSLContext | None = None

    async def connect(self, endpoint: Endpoint, phases: ConnectPhases | None = None) -> Connection:
        """Return a connection that is logged in.

        Raises RemoteFailure: DNS, CONNECT_TIMEOUT, CONNECTION_REFUSED, CONNECTION_LOST, HOST_KEY,
        AUTH_FAILED, CREDENTIAL_MISSING, SAFETY_BLOCKED (the address policy).
        """
        credential = check_credential(endpoint.target, endpoint.credential)
        if credential.source is not None:
            credential = await self._fetch(credential, endpoint.purpose)
        try:
            return await self._connect(
                endpoint.target, credential, phases if phases is not None else ConnectPhases()
            )
        except RemoteFailure as failure:
            self._fail(failure.code)
            # The host received the secrets and may repeat them in its refusal.
            secrets = [secret.reveal() for secret in credential.secrets]
            mask = Mask([Forms(secrets)]) if secrets else NOTHING
            raise RemoteFailure(
                failure.code, mask.text(failure.message), because=failure.because
            ) from None

    async def _connect(
        self, target: Target, credential: Credential, phases: ConnectPhases
    ) -> Connection:
        tls = await self._tls(target, credential)
        async with self._dialled(target, tls) as (http, certificate):
            self._check_pin(target, certificate)
            phases.connected = time.monotonic()
            login = Login(target, credential, certificate, self._seconds, self._tickets)
            try:
                authenticated = await login.perform(http)
            except TimeoutError:
                raise _too_slow(
                    target, f"did not answer the login of {credential.username}"
                ) from None
            except Broken as broken:
                raise _broken(target, f"ended the connection during the login ({broken})") from None
            phases.finished = time.monotonic()
            self._observe(phases.finished - phases.started)
            times = LoginTimes(phases.connected, phases.finished)
            return Connection(http, target, authenticated, times)

    def close(self) -> None:
        """Destroy the Kerberos tickets."""
        self._tickets.close()

    async def scan(self, target: Target) -> list[HostKey]:
        """Return the certificate that the host shows now, without a login.

        Raises RemoteFailure.
        """
        assert target.winrm is not None, "every WinRM target has its options"
        if target.winrm.scheme != "https":
            raise RemoteFailure(
                ErrorCode.HOST_KEY,
                f"{target.name} is reached over http, which has no certificate to trust.",
            )
        async with self._dialled(target, _trust_anything()) as (http, certificate):
            http.close()
        assert certificate is not None, "TLS shows one"
        digits = hashlib.sha256(certificate).hexdigest()
        return [HostKey(f"x509 {digits}", spell_fingerprint(digits))]

    @asynccontextmanager
    async def _dialled(
        self, target: Target, tls: ssl.SSLContext | None
    ) -> AsyncIterator[tuple[HttpStream, bytes | None]]:
        """Yield the connection, and its certificate; it is closed if the block fails."""
        deadline = asyncio.get_running_loop().time() + self._seconds
        connected = await dial(target.host, target.port, self._allow, deadline, service=SERVICE)
        try:
            async with asyncio.timeout_at(deadline):
                reader, writer = await asyncio.open_connection(
                    sock=connected,
                    ssl=tls,
                    server_hostname=target.host if tls is not None else None,
                )
        except TimeoutError:
            raise _too_slow(target, "did not begin to speak TLS") from None
        except ssl.SSLCertVerificationError as error:
            raise self._untrusted(target, error) from None
        except (OSError, ssl.SSLError) as error:
            raise _broken(
                target, f"ended the connection during the TLS handshake ({error})"
            ) from None
        http = HttpStream(reader, writer, f"{target.host}:{target.port}")
        try:
            peer = writer.get_extra_info("ssl_object")
            yield http, peer.getpeercert(binary_form=True) if peer is not None else None
        except BaseException:
            http.close()
            raise

    async def _tls(self, target: Target, credential: Credential) -> ssl.SSLContext | None:
        options = target.winrm
        assert options is not None, "every WinRM target has its options"
        if options.scheme != "https":
            return None
        if options.auth is WinrmAuth.CERTIFICATE:
            tls = await asyncio.to_thread(_verifying, options)
            await asyncio.to_thread(_load_client_certificate, tls, credential)
            return tls
        if options.ca is not None or not options.verify or options.fingerprint is not None:
            return await asyncio.to_thread(_verifying, options)
        if self._plain_tls is None:  # the system's certificates take some 20 ms to load
            self._plain_tls = await asyncio.to_thread(ssl.create_default_context)
        return self._plain_tls

    def _check_pin(self, target: Target, certificate: bytes | None) -> None:
        assert target.winrm is not None, "every WinRM target has its options"
        pinned = target.winrm.fingerprint
        if pinned is None or certificate is None:
            return
        shown = hashlib.sha256(certificate).hexdigest()
        if shown != pinned:
            words = (
                f"{target.name} shows another certificate than the pinned one: "
                f"{spell_fingerprint(shown)}. If the host has a new certificate, verify it, then "
                f"use: opsjobs targets trust {target.name}"
            )
            self._alarm(target, words)
            raise RemoteFailure(ErrorCode.HOST_KEY, words)

    def _untrusted(self, target: Target, error: ssl.SSLCertVerificationError) -> RemoteFailure:
        words = (
            f"The certificate of {target.name} ({target.host}:{target.port}) is not trusted: "
            f"{error.verify_message}. Set `winrm.ca` to the CA that signed it, or pin it with: "
            f"opsjobs targets trust {target.name}"
        )
        self._alarm(target, words)
        return RemoteFailure(ErrorCode.HOST_KEY, words)


def _verifying(options: WinrmOptions) -> ssl.SSLContext:
    # A pin is checked after the handshake.
    if not options.verify or options.fingerprint is not None:
        return _trust_anything()
    try:
        return ssl.create_default_context(cadata=options.ca)
    except ssl.SSLError as error:
        raise RemoteFailure(
            ErrorCode.HOST_KEY, f"`winrm.ca` of the target cannot be read: {error}."
        ) from None


def _trust_anything() -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    return tls


def _load_client_certificate(tls: ssl.SSLContext, credential: Credential) -> None:
    """Load the client's certificate and key, which `ssl` reads only from a file."""
    assert credential.private_key is not None, "a client certificate has a key"
    passphrase = credential.passphrase
    with tempfile.NamedTemporaryFile("w", prefix="opsjobs-") as file:  # 0600, removed at once
        file.write(f"{credential.certificate}\n{credential.private_key.reveal()}\n")
        file.flush()
        try:
            tls.load_cert_chain(
                file.name, password=passphrase.reveal() if passphrase is not None else ""
            )
        except (ssl.SSLError, OSError) as error:
            raise RemoteFailure(
                ErrorCode.CREDENTIAL_MISSING,
                f"The client certificate of the credential {credential.name} cannot be used: "
                f"{error}.",
            ) from None


def _too_slow(target: Target, what: str) -> RemoteFailure:
    return RemoteFailure(
        ErrorCode.CONNECT_TIMEOUT,
        f"{target.name} ({target.host}:{target.port}) {what} in time: it may be overloaded, "
        "or not a WinRM listener.",
    )


def _broken(target: Target, what: str) -> RemoteFailure:
    return RemoteFailure(
        ErrorCode.CONNECTION_LOST,
        f"{target.name} ({target.host}:{target.port}) {what}. Check that this port is a WinRM "
        "listener of this scheme.",
    )
