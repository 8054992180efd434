"""The parts of credentials of all types."""

from __future__ import annotations

import base64
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
)

NOW = datetime.now(UTC)
PRINCIPAL = "deploy@CORP.EXAMPLE"


def pem_of(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def ssh_certificate(
    key: Ed25519PrivateKey,
    *,
    users: tuple[str, ...] = ("deploy",),
    days: int = 1,
    kind: SSHCertificateType = SSHCertificateType.USER,
) -> str:
    """Return the line of a -cert.pub file, signed by a CA of its own."""
    made = (
        SSHCertificateBuilder()
        .public_key(key.public_key())
        .serial(1)
        .type(kind)
        .key_id(b"ada")
        .valid_principals([user.encode() for user in users])
        .valid_after(0)
        .valid_before(int((NOW + timedelta(days=days)).timestamp()))
        .sign(Ed25519PrivateKey.generate())
    )
    return made.public_bytes().decode()


def x509_certificate(key: Ed25519PrivateKey, *, days: int = 1) -> str:
    """Return a certificate in PEM form, signed by its own key."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "deploy")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW - timedelta(days=9))
        .not_valid_after(NOW + timedelta(days=days))
        .sign(key, None)
    )
    return made.public_bytes(Encoding.PEM).decode()


def keytab(*principals: str, cut: int = 0) -> str:
    """Return a keytab with a key for each of these, in base64.

    `cut`: the number of its last bytes that are missing.
    """
    content = b"\x05\x02" + b"".join(_entry(p) for p in principals)
    return base64.b64encode(content[: len(content) - cut]).decode()


def _entry(principal: str) -> bytes:
    name, _, realm = principal.rpartition("@")
    parts = name.split("/")
    texts = b"".join(struct.pack(">H", len(t)) + t.encode() for t in (realm, *parts))
    key = struct.pack(">IIBHH", 1, 0, 3, 18, 32) + b"k" * 32
    entry = struct.pack(">H", len(parts)) + texts + key
    return struct.pack(">i", len(entry)) + entry


def login(type_: str, **fields: Any) -> dict[str, Any]:
    """Return a valid body of POST /credentials for this type; fields that are None are left out."""
    key = Ed25519PrivateKey.generate()
    of_key = {"username": "deploy", "private_key": pem_of(key)}
    body = {
        "password": {"username": "deploy", "password": "canary-7f3a"},
        "ssh_key": of_key,
        "ssh_certificate": {**of_key, "certificate": ssh_certificate(key)},
        "client_certificate": {**of_key, "certificate": x509_certificate(key)},
        "kerberos": {"principal": PRINCIPAL, "keytab": keytab("HTTP/web@CORP.EXAMPLE", PRINCIPAL)},
        "agent": {"username": "deploy"},
    }[type_]
    return {
        k: v for k, v in {"name": type_, "type": type_, **body, **fields}.items() if v is not None
    }
