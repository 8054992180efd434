"""What is inside of a credential's seal: made of a draft that was judged, and a `Credential` made of it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from opsjobs.model.credential import CredentialDraft
from opsjobs.model.secret import Credential, CredentialType, Secret
from opsjobs.store.keyfile import check_certificate, check_private_key, tidy

_HIDDEN = ("password", "private_key", "passphrase")


def check(draft: CredentialDraft) -> None:
    """Raises Invalid with a pointer to the field at fault, where its parts do not work together."""
    if draft.private_key is None:
        return
    key, passphrase = draft.private_key.get_secret_value(), _revealed(draft.passphrase)
    if draft.certificate is None:
        check_private_key(key, passphrase)
    else:
        check_certificate(draft.certificate, key, passphrase)


def packed(draft: CredentialDraft) -> bytes:
    """The bytes to seal."""
    key = _revealed(draft.private_key)
    parts = {
        "password": _revealed(draft.password),
        "private_key": tidy(key) if key is not None else None,
        "passphrase": _revealed(draft.passphrase),
        "certificate": tidy(draft.certificate) if draft.certificate is not None else None,
    }
    return json.dumps({name: value for name, value in parts.items() if value is not None}).encode()


def unpacked(row: Mapping[str, Any], content: bytes) -> Credential:
    """The credential of this row, with the secrets that were sealed in it."""
    parts: dict[str, str] = json.loads(content)
    hidden: dict[str, Any] = {name: Secret(parts[name]) for name in _HIDDEN if name in parts}
    return Credential(**_plain(row), certificate=parts.get("certificate"), **hidden)


def closed(row: Mapping[str, Any], fault: str) -> Credential:
    """The credential of this row without its secrets: why they cannot be had is its `fault`."""
    return Credential(**_plain(row), fault=fault)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "version": row["version"],
        "name": row["name"],
        "type": CredentialType(row["type"]),
        "username": row["username"],
    }


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None
