"""The signing keys of the audit log.

A signature proves that opsjobs wrote a row, and not a person with write access to the database
only."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from opsjobs.model.encryption_key import decoded, derived, key_id
from opsjobs.model.secret import Secret


class Part(StrEnum):
    """The kind of signed text; a signature of one part is invalid for another.

    row: a row that was found in the log and sealed. own: a row written by the sealer itself (OWN of
    audit_chain). ends: the first and the last link of the chain."""

    ROW = "row"
    OWN = "own"
    ENDS = "ends"


class Proof(StrEnum):
    """The result of a signature check.

    good: made by this key. wrong: not made by it. none: there is no signature. unknown: the key is
    not configured here."""

    GOOD = "good"
    WRONG = "wrong"
    NONE = "none"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Signature:
    """A key id and 32 bytes of HMAC-SHA-256 in hexadecimal."""

    key_id: str
    mac: str

    @classmethod
    def from_columns(cls, key: str | None, mac: str | None) -> Signature | None:
        """Return the signature of a row, or None if it has none."""
        return cls(key, mac) if key is not None and mac is not None else None


class SigningKeys:
    """Keys derived from ENCRYPTION_KEYS, one for each part.

    The first one signs, all of them verify. `current`: the id of the first."""

    def __init__(self, keys: Sequence[Secret]) -> None:
        raw = [ring_key(key, position) for position, key in enumerate(keys, start=1)]
        if not raw:
            raise ValueError("ENCRYPTION_KEYS is empty: the audit log is signed with one of them")
        self.current = key_id(raw[0])
        self._keys = {
            (key_id(one), part): derived(one, f"opsjobs audit 1 {part}".encode())
            for one in raw
            for part in Part
        }

    def sign(self, part: Part, text: bytes) -> Signature:
        """Sign a text with the current key."""
        return Signature(self.current, self._mac(self.current, part, text))

    def signed(self, part: Part, texts: Iterable[bytes]) -> list[bytes]:
        """Sign many texts as `sign` does; return the signatures alone, 32 bytes each."""
        key = self._keys[self.current, part]
        return [hmac.digest(key, text, "sha256") for text in texts]

    def proof(self, part: Part, text: bytes, signature: Signature | None) -> Proof:
        """Check a signature of a text."""
        if signature is None:
            return Proof.NONE
        if (signature.key_id, part) not in self._keys:
            return Proof.UNKNOWN
        same = hmac.compare_digest(self._mac(signature.key_id, part, text), signature.mac)
        return Proof.GOOD if same else Proof.WRONG

    def _mac(self, key: str, part: Part, text: bytes) -> str:
        return hmac.digest(self._keys[key, part], text, "sha256").hex()


def ring_key(key: Secret, position: int) -> bytes:
    """Return the bytes of one of ENCRYPTION_KEYS. Raises ValueError, without the key's text."""
    try:
        return decoded(key.reveal())
    except ValueError as fault:
        raise ValueError(f"key {position} of ENCRYPTION_KEYS is {fault}") from None
