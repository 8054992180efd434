"""Envelope encryption of stored secrets, and the secret parameters of executions.

Each secret has its own random key, wrapped by a key-encryption key and bound to its row. A
sealed parameter is bound to its execution and its name.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from opsjobs.model.audit_chain import SigningKeys, ring_key
from opsjobs.model.errors import Failure
from opsjobs.model.secret import KEY_BYTES, JobSecret, Secret, encode_key, is_secret, key_id

NONCE_BYTES = 12


class KeyMissing(Failure):
    """The secret was sealed under a key that ENCRYPTION_KEYS no longer holds."""


class Tampered(Failure):
    """The sealed bytes are not those that were stored in this row at this version."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret as it is stored; both byte strings begin with their nonce.

    `key_id` names the key-encryption key.
    """

    key_id: str
    wrapped_key: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class SealPlace:
    """The place where a secret is stored.

    Bytes that were moved to another place, or back to an older version, cannot be decrypted.
    """

    table: str
    row: UUID
    version: int

    def aad(self, part: str) -> bytes:
        """Return the additional authenticated data; `part` distinguishes key and content."""
        return f"opsjobs/{self.table}/{self.row}/{self.version}/{part}".encode()


class KeyRing:
    """The key-encryption keys: the first one encrypts, all of them decrypt.

    `ids`: the names of all keys; `current`: that of the first. `signing`: the keys for the audit
    log, derived from these.
    """

    def __init__(self, keys: Sequence[Secret]) -> None:
        raw = [ring_key(key, position) for position, key in enumerate(keys, start=1)]
        if not raw:
            raise ValueError(
                "ENCRYPTION_KEYS is empty: it needs at least one key of 32 bytes in base64url"
            )
        self.current = key_id(raw[0])
        self._blind = hmac.digest(raw[0], b"opsjobs/blinded", "sha256")
        self._ciphers = {key_id(one): AESGCM(one) for one in raw}
        self.ids = tuple(self._ciphers)
        self.signing = SigningKeys(keys)

    def seal(self, plaintext: bytes, place: SealPlace) -> Sealed:
        """Encrypt under a fresh random key, and that key under the current key-encryption key."""
        data_key = secrets.token_bytes(KEY_BYTES)
        return Sealed(
            self.current,
            _encrypt(self._ciphers[self.current], data_key, place.aad("key")),
            _encrypt(AESGCM(data_key), plaintext, place.aad("content")),
        )

    def open(self, sealed: Sealed, place: SealPlace) -> bytes:
        """Decrypt. Raises KeyMissing, Tampered."""
        data_key = self._unwrapped(sealed, place)
        try:
            return _decrypt(AESGCM(data_key), sealed.sealed, place.aad("content"))
        except (InvalidTag, ValueError):
            raise _tampered(place) from None

    def rewrapped(self, sealed: Sealed, place: SealPlace) -> Sealed:
        """Wrap the same content's key under the current key. Raises KeyMissing, Tampered.

        A content that cannot be decrypted is not wrapped again.
        """
        self.open(sealed, place)
        wrapped = _encrypt(
            self._ciphers[self.current], self._unwrapped(sealed, place), place.aad("key")
        )
        return Sealed(self.current, wrapped, sealed.sealed)

    def _unwrapped(self, sealed: Sealed, place: SealPlace) -> bytes:
        cipher = self._ciphers.get(sealed.key_id)
        if cipher is None:
            raise KeyMissing(
                f"{place.table} {place.row} is sealed under key {sealed.key_id}, which is not in "
                f"ENCRYPTION_KEYS"
            )
        try:
            return _decrypt(cipher, sealed.wrapped_key, place.aad("key"))
        except (InvalidTag, ValueError):
            raise _tampered(place) from None

    def blinded(self, digest: bytes) -> bytes:
        """Return a keyed digest of a digest: 32 bytes that cannot be guessed without the key."""
        return hmac.digest(self._blind, digest, "sha256")

    def self_test(self) -> None:
        """Seal and open once. Raises RuntimeError if the result is wrong."""
        place = SealPlace("self_test", UUID(int=0), 1)
        plaintext = secrets.token_bytes(64)
        self.check(plaintext, self.seal(plaintext, place), place)

    def check(self, plaintext: bytes, stored: Sealed, place: SealPlace) -> None:
        """Raise RuntimeError if the stored form contains, or does not decrypt to, the plaintext."""
        shown = stored.wrapped_key + stored.sealed
        if (
            plaintext in shown
            or base64.b64encode(plaintext) in shown
            or self.open(stored, place) != plaintext
        ):
            raise RuntimeError("the vault's self-test failed: what would be stored is not sealed")


def new_key() -> Secret:
    """Return a new key-encryption key, in the form of ENCRYPTION_KEYS."""
    return Secret(encode_key(secrets.token_bytes(KEY_BYTES)))


def _tampered(place: SealPlace) -> Tampered:
    return Tampered(
        f"{place.table} {place.row} version {place.version} does not open: it was changed outside "
        f"opsjobs"
    )


def _encrypt(cipher: AESGCM, plaintext: bytes, aad: bytes) -> bytes:
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, plaintext, aad)


def _decrypt(cipher: AESGCM, sealed: bytes, aad: bytes) -> bytes:
    return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], aad)


MASKED = "***"
_SEALED = "sealed"
_CREDENTIAL = "credential"


def seal_parameters(ring: KeyRing, execution: UUID, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of `execution_specs.parameters`.

    A secret is a JSON object; a plain value never is.
    """
    return {name: _store_value(ring, execution, name, value) for name, value in values.items()}


def open_parameters(ring: KeyRing, execution: UUID, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values, secrets as `Secret` or `JobSecret`. Raises KeyMissing, Tampered."""
    return {
        name: _open(ring, execution, name, value) if isinstance(value, dict) else value
        for name, value in stored.items()
    }


def key_ids(stored: Mapping[str, Any]) -> set[str]:
    """Return the ids of the keys that at least one value is sealed under."""
    return {value[_SEALED][0] for value in stored.values() if _is_sealed(value)}


def job_secrets(stored: Mapping[str, Any]) -> dict[str, JobSecret]:
    """Return the parameters whose values come from credentials, by name."""
    return {
        name: _job_secret(value)
        for name, value in stored.items()
        if isinstance(value, dict) and _CREDENTIAL in value
    }


def rewrap_parameters(ring: KeyRing, execution: UUID, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Reseal each sealed value under the current key. Raises KeyMissing, Tampered."""
    return {
        name: _to_json(ring.rewrapped(_from_json(value), _place(execution, name)))
        if _is_sealed(value)
        else value
        for name, value in stored.items()
    }


def mask_parameters(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters with `***` in place of each secret."""
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
