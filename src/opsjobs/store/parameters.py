"""Parameters of an execution as they lie in its row: values as they are, secrets sealed, each bound to execution and name."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from opsjobs.model.secret import Secret
from opsjobs.store.envelope import KeyRing, Place, Sealed

MASKED = "***"
_SEALED = "sealed"


def sealed(ring: KeyRing, execution: UUID, values: Mapping[str, Any]) -> dict[str, Any]:
    """What `execution_specs.parameters` holds: a sealed one is an object, which no value ever is."""
    return {name: _seal(ring, execution, name, value) if isinstance(value, Secret) else value for name, value in values.items()}


def opened(ring: KeyRing, execution: UUID, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The values, secrets as `Secret`. Raises KeyMissing, Tampered."""
    return {name: _open(ring, execution, name, value) if isinstance(value, dict) else value for name, value in stored.items()}


def key_ids(stored: Mapping[str, Any]) -> set[str]:
    """The keys that something in it is sealed under."""
    return {value[_SEALED][0] for value in stored.values() if isinstance(value, dict)}


def rewrapped(ring: KeyRing, execution: UUID, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The same values, each sealed one under the current key. Raises KeyMissing, Tampered."""
    return {
        name: _told(ring.rewrapped(_made(value), _place(execution, name))) if isinstance(value, dict) else value
        for name, value in stored.items()
    }


def masked(stored: Mapping[str, Any]) -> dict[str, Any]:
    """As it may be shown: `***` for each secret."""
    return {name: MASKED if isinstance(value, dict | Secret) else value for name, value in stored.items()}


def _place(execution: UUID, name: str) -> Place:
    return Place(f"execution_specs.{name}", execution, 1)


def _seal(ring: KeyRing, execution: UUID, name: str, value: Secret) -> dict[str, Any]:
    return _told(ring.seal(value.reveal().encode(), _place(execution, name)))


def _open(ring: KeyRing, execution: UUID, name: str, stored: Mapping[str, Any]) -> Secret:
    return Secret(ring.open(_made(stored), _place(execution, name)).decode())


def _told(made: Sealed) -> dict[str, Any]:
    parts = (base64.b64encode(part).decode() for part in (made.wrapped_key, made.sealed))
    return {_SEALED: [made.key_id, *parts]}


def _made(stored: Mapping[str, Any]) -> Sealed:
    key_id, wrapped_key, content = stored[_SEALED]
    return Sealed(key_id, base64.b64decode(wrapped_key), base64.b64decode(content))
