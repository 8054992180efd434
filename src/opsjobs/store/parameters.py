"""Stored parameters of an execution: plain values, sealed secrets, names of credentials.

Sealed secrets are bound to the execution and the name of the parameter.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from opsjobs.model.secret import JobSecret, Secret, is_secret
from opsjobs.store.envelope import KeyRing, Sealed, SealPlace

MASKED = "***"
_SEALED = "sealed"
_CREDENTIAL = "credential"


def sealed(ring: KeyRing, execution: UUID, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of `execution_specs.parameters`.

    A secret is an object, which no plain value ever is.
    """
    return {name: _store_value(ring, execution, name, value) for name, value in values.items()}


def opened(ring: KeyRing, execution: UUID, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values, secrets as `Secret` or `JobSecret`. Raises KeyMissing, Tampered."""
    return {
        name: _open(ring, execution, name, value) if isinstance(value, dict) else value
        for name, value in stored.items()
    }


def key_ids(stored: Mapping[str, Any]) -> set[str]:
    """Return the ids of the keys that some value is sealed under."""
    return {value[_SEALED][0] for value in stored.values() if _is_sealed(value)}


def job_secrets(stored: Mapping[str, Any]) -> dict[str, JobSecret]:
    """Return those of the parameters that credentials hold, by name."""
    return {
        name: _job_secret(value)
        for name, value in stored.items()
        if isinstance(value, dict) and _CREDENTIAL in value
    }


def rewrapped(ring: KeyRing, execution: UUID, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Reseal each sealed value under the current key. Raises KeyMissing, Tampered."""
    return {
        name: _to_json(ring.rewrapped(_from_json(value), _place(execution, name)))
        if _is_sealed(value)
        else value
        for name, value in stored.items()
    }


def masked(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters as they may be shown: `***` for each secret."""
    return {
        name: MASKED if isinstance(value, dict) or is_secret(value) else value
        for name, value in stored.items()
    }


def _is_sealed(value: Any) -> bool:
    return isinstance(value, dict) and _SEALED in value


def _place(execution: UUID, name: str) -> SealPlace:
    return SealPlace(f"execution_specs.{name}", execution, 1)


def _store_value(ring: KeyRing, execution: UUID, name: str, value: Any) -> Any:
    if isinstance(value, JobSecret):
        return {_CREDENTIAL: [value.credential_id, value.credential]}
    return _seal(ring, execution, name, value) if isinstance(value, Secret) else value


def _job_secret(stored: Mapping[str, Any]) -> JobSecret:
    credential_id, name = stored[_CREDENTIAL]
    return JobSecret(name, credential_id)


def _seal(ring: KeyRing, execution: UUID, name: str, value: Secret) -> dict[str, Any]:
    return _to_json(ring.seal(value.reveal().encode(), _place(execution, name)))


def _open(
    ring: KeyRing, execution: UUID, name: str, stored: Mapping[str, Any]
) -> Secret | JobSecret:
    if _CREDENTIAL in stored:
        return _job_secret(stored)
    return Secret(ring.open(_from_json(stored), _place(execution, name)).decode())


def _to_json(made: Sealed) -> dict[str, Any]:
    parts = (base64.b64encode(part).decode() for part in (made.wrapped_key, made.sealed))
    return {_SEALED: [made.key_id, *parts]}


def _from_json(stored: Mapping[str, Any]) -> Sealed:
    key_id, wrapped_key, content = stored[_SEALED]
    return Sealed(key_id, base64.b64decode(wrapped_key), base64.b64decode(content))
