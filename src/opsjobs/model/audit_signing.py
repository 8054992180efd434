"""The keys of the audit log: what they sign was written by opsjobs, not by somebody who may only write to the database."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from opsjobs.model.encryption_key import decoded, derived, key_id
from opsjobs.model.secret import Secret


class Part(StrEnum):
    """What is signed; a signature of one part is none of another.

    row: what was found in the log and sealed. own: what the sealing itself says there (OWN of `chain`). ends: where the chain begins
    and ends.
    """

    ROW = "row"
    OWN = "own"
    ENDS = "ends"


class Proof(StrEnum):
    """What a signature says: made by this key; not made by it; none is there; or the key is not ours to ask."""

    GOOD = "good"
    WRONG = "wrong"
    NONE = "none"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Signature:
    """The key by its id, and 32 bytes (HMAC-SHA-256) in hexadecimal."""

    key_id: str
    mac: str

    @classmethod
    def of(cls, key: str | None, mac: str | None) -> Signature | None:
        """As a row holds it, or None where it holds none."""
        return cls(key, mac) if key is not None and mac is not None else None


class SigningKeys:
    """Derived from ENCRYPTION_KEYS, a key for each part: the first signs, all of them prove. `current`: the id of the first."""

    def __init__(self, keys: Sequence[Secret]) -> None:
        raw = [ring_key(key, position) for position, key in enumerate(keys, start=1)]
        if not raw:
            raise ValueError("ENCRYPTION_KEYS is empty: the audit log is signed with one of them")
        self.current = key_id(raw[0])
        self._keys = {(key_id(one), part): derived(one, f"opsjobs audit 1 {part}".encode()) for one in raw for part in Part}

    def sign(self, part: Part, text: bytes) -> Signature:
        """Under the current key."""
        return Signature(self.current, self._mac(self.current, part, text))

    def signed(self, part: Part, texts: Iterable[bytes]) -> list[bytes]:
        """As `sign`, of many; the signatures alone, 32 bytes each."""
        key = self._keys[self.current, part]
        return [hmac.digest(key, text, "sha256") for text in texts]

    def proof(self, part: Part, text: bytes, signature: Signature | None) -> Proof:
        """What this signature says of the text."""
        if signature is None:
            return Proof.NONE
        if (signature.key_id, part) not in self._keys:
            return Proof.UNKNOWN
        same = hmac.compare_digest(self._mac(signature.key_id, part, text), signature.mac)
        return Proof.GOOD if same else Proof.WRONG

    def _mac(self, key: str, part: Part, text: bytes) -> str:
        return hmac.digest(self._keys[key, part], text, "sha256").hex()


def ring_key(key: Secret, position: int) -> bytes:
    """The bytes of one of ENCRYPTION_KEYS. Raises ValueError, without its text."""
    try:
        return decoded(key.reveal())
    except ValueError as fault:
        raise ValueError(f"key {position} of ENCRYPTION_KEYS is {fault}") from None
