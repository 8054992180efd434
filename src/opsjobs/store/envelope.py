"""The envelope of a stored secret: a random key for each one, wrapped by a key-encryption key, bound to its row."""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from opsjobs.model.audit_signing import SigningKeys, ring_key
from opsjobs.model.encryption_key import KEY_BYTES, encoded, key_id
from opsjobs.model.errors import Failure
from opsjobs.model.secret import Secret

NONCE_BYTES = 12


class KeyMissing(Failure):
    """The secret was sealed under a key that ENCRYPTION_KEYS no longer holds."""


class Tampered(Failure):
    """The sealed bytes are not what was stored in this row at this version."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret as it is stored: `key_id` names the key-encryption key; both byte strings begin with their nonce."""

    key_id: str
    wrapped_key: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class SealPlace:
    """Where a secret is stored. Bytes that were moved to another place, or back to an older version, do not open."""

    table: str
    row: UUID
    version: int

    def aad(self, part: str) -> bytes:
        """The bytes that the seal is bound to; `part` keeps key and content apart."""
        return f"opsjobs/{self.table}/{self.row}/{self.version}/{part}".encode()


class KeyRing:
    """The key-encryption keys: the first seals, all of them open. `ids`: the names of all, that of the first is `current`.

    `signing`: what is derived of them for the audit log.
    """

    def __init__(self, keys: Sequence[Secret]) -> None:
        raw = [ring_key(key, position) for position, key in enumerate(keys, start=1)]
        if not raw:
            raise ValueError("ENCRYPTION_KEYS is empty: it needs at least one key of 32 bytes in base64url")
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
        """The plaintext. Raises KeyMissing, Tampered."""
        data_key = self._unwrapped(sealed, place)
        try:
            return _decrypt(AESGCM(data_key), sealed.sealed, place.aad("content"))
        except (InvalidTag, ValueError):
            raise _tampered(place) from None

    def rewrapped(self, sealed: Sealed, place: SealPlace) -> Sealed:
        """The same content under the current key; what does not open is not wrapped again. Raises KeyMissing, Tampered."""
        self.open(sealed, place)
        wrapped = _encrypt(self._ciphers[self.current], self._unwrapped(sealed, place), place.aad("key"))
        return Sealed(self.current, wrapped, sealed.sealed)

    def _unwrapped(self, sealed: Sealed, place: SealPlace) -> bytes:
        cipher = self._ciphers.get(sealed.key_id)
        if cipher is None:
            raise KeyMissing(f"{place.table} {place.row} is sealed under key {sealed.key_id}, which is not in ENCRYPTION_KEYS")
        try:
            return _decrypt(cipher, sealed.wrapped_key, place.aad("key"))
        except (InvalidTag, ValueError):
            raise _tampered(place) from None

    def blinded(self, digest: bytes) -> bytes:
        """32 bytes that stand for these among ours, and from which nobody without the key can try out what they are of."""
        return hmac.digest(self._blind, digest, "sha256")

    def self_test(self) -> None:
        """Seal and open once; raises RuntimeError where the result is not what it must be."""
        place = SealPlace("self_test", UUID(int=0), 1)
        plaintext = secrets.token_bytes(64)
        self.check(plaintext, self.seal(plaintext, place), place)

    def check(self, plaintext: bytes, stored: Sealed, place: SealPlace) -> None:
        """Raises RuntimeError where what is stored for this plaintext shows it, or does not open to it in this place."""
        shown = stored.wrapped_key + stored.sealed
        if plaintext in shown or base64.b64encode(plaintext) in shown or self.open(stored, place) != plaintext:
            raise RuntimeError("the vault's self-test failed: what would be stored is not sealed")


def new_key() -> Secret:
    """A new key-encryption key, as ENCRYPTION_KEYS spells it."""
    return Secret(encoded(secrets.token_bytes(KEY_BYTES)))


def _tampered(place: SealPlace) -> Tampered:
    return Tampered(f"{place.table} {place.row} version {place.version} does not open: it was changed outside opsjobs")


def _encrypt(cipher: AESGCM, plaintext: bytes, aad: bytes) -> bytes:
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, plaintext, aad)


def _decrypt(cipher: AESGCM, sealed: bytes, aad: bytes) -> bytes:
    return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], aad)
