"""Stand-in Windows hosts in the test's own loop, and their endpoints."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kit.backing_servers import open_folder
from kit.certificates import KEY_OF_A_CA
from kit.loop_thread import in_thread
from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.secret import Secret
from opsjobs.model.target import Endpoint, Target, Transport
from opsjobs.model.winrm import WinrmOptions
from opsjobs.standalone.lab.wsman.server import LabLogins, WsmanServer, publish_logins
from opsjobs.standalone.lab.wsman.service import LabQuotas

USER, PASSWORD = "ada", "correct horse"
DOMAIN_USER, DOMAIN_PASSWORD = "CORP\\ben", "battery staple"
LOGINS = LabLogins(
    {USER: PASSWORD, DOMAIN_USER: DOMAIN_PASSWORD},
    certificates={"ada-certificate": USER},
)


@dataclass(frozen=True, slots=True)
class CertifiedKey:
    """A certificate with its key, in PEM form."""

    certificate: str
    key: str
    der: bytes


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA for hosts and clients."""

    ca: CertifiedKey
    host: CertifiedKey
    client: CertifiedKey


@cache
def authority() -> Authority:
    """A CA, the certificate of 127.0.0.1 and that of the client."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _sign("opsjobs test CA", ca_key, ca_key, None)
    host_key = ec.generate_private_key(ec.SECP256R1())
    client_key = ec.generate_private_key(ec.SECP256R1())
    host = _sign("127.0.0.1", host_key, ca_key, ca)
    client = _sign("ada-certificate", client_key, ca_key, ca)
    return Authority(
        _certified_key(ca, ca_key),
        _certified_key(host, host_key),
        _certified_key(client, client_key),
    )


def _sign(name: str, key: Any, signer: Any, issuer: x509.Certificate | None) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if issuer is None:
        made = made.add_extension(KEY_OF_A_CA, critical=True)
    if name == "127.0.0.1":
        addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))])
        made = made.add_extension(addresses, critical=False)
    return made.sign(signer, hashes.SHA256())


def _certified_key(certificate: x509.Certificate, key: Any) -> CertifiedKey:
    return CertifiedKey(
        certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
        certificate.public_bytes(serialization.Encoding.DER),
    )


def server_tls(folder: Path) -> ssl.SSLContext:
    """Return the TLS context of a host that also requests a certificate of the client."""
    found = authority()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=found.ca.certificate)
    tls.verify_mode = ssl.CERT_OPTIONAL
    file = folder / "host.pem"
    file.write_text(found.host.certificate + found.host.key)
    tls.load_cert_chain(file)
    return tls


def password_credential(
    user: str = USER, password: str = PASSWORD, *, version: int = 1
) -> Credential:
    """A login with a password."""
    return Credential(
        f"password-{user}",
        version,
        "windows",
        CredentialType.PASSWORD,
        user,
        password=Secret(password),
    )


def certificate_credential() -> Credential:
    """A login with a client certificate."""
    client = authority().client
    return Credential(
        "certificate",
        1,
        "windows-certificate",
        CredentialType.CLIENT_CERTIFICATE,
        USER,
        private_key=Secret(client.key),
        certificate=client.certificate,
    )


@dataclass(slots=True)
class WindowsHost:
    """A running stand-in host."""

    server: WsmanServer
    secure: bool
    folder: Path

    def endpoint(
        self, credential: Credential | None = None, *, port: int | None = None, **options: Any
    ) -> Endpoint:
        """Return this host as a target; `options` are those of WinRM."""
        scheme = "https" if self.secure else "http"
        trust = {"ca": authority().ca.certificate} if self.secure else {}
        target = Target(
            id="id-win-1",
            name="win-1",
            host="127.0.0.1",
            port=port or self.server.port,
            transport=Transport.WINRM,
            platform="windows",
            winrm=WinrmOptions(**{"scheme": scheme, **trust, **options}),
        )
        return Endpoint(target, credential or password_credential())


@asynccontextmanager
async def windows_host(
    *,
    secure: bool = False,
    quotas: LabQuotas | None = None,
    logins: LabLogins = LOGINS,
    bound_to: bytes | None = None,
) -> AsyncIterator[WindowsHost]:
    """Run a host until the block ends; `bound_to`: the certificate that logins are bound to."""
    with open_folder() as folder:
        publish_logins(logins, folder / "logins")
        certificate = (bound_to or authority().host.der) if secure else None
        tls = server_tls(folder) if secure else None
        server = WsmanServer(logins, folder, tls=tls, certificate=certificate, quotas=quotas)
        await server.start()
        try:
            yield WindowsHost(server, secure, folder)
        finally:
            await server.stop()


def at_port(endpoint: Endpoint, port: int) -> Endpoint:
    """Return the same host at another port, such as that of a proxy."""
    return replace(endpoint, target=replace(endpoint.target, port=port))


async def until(condition: Any, seconds: float = 60.0) -> None:
    """Wait until this holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@contextmanager
def host_in_thread(**options: Any) -> Iterator[WindowsHost]:
    """Run a host in a loop and thread of its own, for tests of other processes."""
    with in_thread(windows_host(**options)) as (host, _):
        yield host
