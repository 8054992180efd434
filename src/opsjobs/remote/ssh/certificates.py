"""OpenSSH user certificates: a key generated for one login and signed for a few minutes.

This module also reads the terms of a certificate.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import ssh

from opsjobs.model.secret import Secret

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
