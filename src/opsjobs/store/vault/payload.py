"""The sealed content of a credential: its validated parts, packed and unpacked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from opsjobs.model.secret import Credential, CredentialType, Secret, source_of
from opsjobs.store.key_validation import (
    check_certificate,
    check_client_certificate,
    check_keytab,
    check_private_key,
    tidy,
)
from opsjobs.store.vault.binding import binding_of

_HIDDEN = ("password", "private_key", "passphrase", "keytab", "value")
_TEXTS = ("private_key", "certificate")


def check(type_: CredentialType, login: str, parts: Mapping[str, str], now: datetime) -> None:
    """Raise Invalid, pointing to the field at fault, if the parts cannot be used together."""
    if "source" in parts:
        return
    key, passphrase, certificate = (
        parts.get("private_key", ""),
        parts.get("passphrase"),
        parts.get("certificate", ""),
    )
    match type_:
        case CredentialType.SSH_KEY:
            check_private_key(key, passphrase)
        case CredentialType.SSH_CERTIFICATE:
            check_certificate(certificate, key, passphrase, username=login, now=now)
        case CredentialType.CLIENT_CERTIFICATE:
            check_client_certificate(certificate, key, passphrase, now=now)
        case CredentialType.KERBEROS if "keytab" in parts:
            check_keytab(parts["keytab"], login)


def packed(parts: Mapping[str, str]) -> bytes:
    """Return the bytes to seal."""
    return json.dumps(
        {name: tidy(text) if name in _TEXTS else text for name, text in parts.items()}
    ).encode()


def parts_of(content: bytes) -> dict[str, str]:
    """Return the sealed parts, by the names of the draft's fields."""
    parts: dict[str, str] = json.loads(content)
    return parts


def unpacked(row: Mapping[str, Any], content: bytes) -> Credential:
    """Return the credential of this row, with its sealed secrets."""
    parts = parts_of(content)
    hidden: dict[str, Any] = {name: Secret(parts[name]) for name in _HIDDEN if name in parts}
    if "source" not in parts:
        return Credential(**_plain(row), certificate=parts.get("certificate"), **hidden)
    try:
        # The sealed source counts, not the one that the row shows: write access to the row is not
        # enough to turn it to another secret.
        return Credential(**_plain(row), source=source_of(json.loads(parts["source"])))
    except ValueError:
        return closed(row, "where its secrets are cannot be read: another release has written it")


def closed(row: Mapping[str, Any], fault: str) -> Credential:
    """Return the credential of this row without its secrets; `fault` is the reason."""
    return Credential(**_plain(row), fault=fault)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "version": row["version"],
        "name": row["name"],
        "type": CredentialType(row["type"]),
        "username": row["username"],
        "bound": binding_of(row),
    }
