"""Keys and drafts that the tests of the store and of the API share."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from opsjobs.model.credential_draft import CredentialDraft
from opsjobs.model.job import JobDraft
from opsjobs.model.target import TargetDraft


def private_key(*, pem: bool = False, passphrase: str | None = None) -> str:
    """Return a new Ed25519 key; with a passphrase as PKCS #8: OpenSSH's form needs bcrypt."""
    form = PrivateFormat.PKCS8 if pem or passphrase else PrivateFormat.OpenSSH
    lock: KeySerializationEncryption = (
        BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    )
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, form, lock).decode()


def host_key() -> str:
    """Return a new host key, `ssh-ed25519 AAAA…`."""
    return (
        Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        .decode()
    )


def target(name: str, **fields: Any) -> TargetDraft:
    return TargetDraft.model_validate({"name": name, "host": "10.0.0.5", **fields})


def password(name: str, **fields: Any) -> CredentialDraft:
    body = {"name": name, "type": "password", "username": "deploy", "password": "pw-of-" + name}
    return CredentialDraft.model_validate({**body, **fields})


def job(name: str, **fields: Any) -> JobDraft:
    body = {
        "name": name,
        "actions": [{"type": "command", "command": "uptime"}],
        "targets": {"groups": ["web"]},
    }
    return JobDraft.model_validate({**body, **fields})
