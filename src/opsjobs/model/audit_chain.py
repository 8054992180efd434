"""The hash chain of the audit log, which makes changed and missing rows detectable.

Each row's hash covers the row and the hash before it, and is signed. A signature proves that
opsjobs wrote a row, and not a person with write access to the database only."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from opsjobs.model.secret import Secret, decode_key, derive_key, key_id


class Part(StrEnum):
    """The kind of signed text; a signature of one part is invalid for another.

    row: a row that was found in the log and sealed. own: a row written by the sealer itself (OWN
    of audit_chain). ends: the first and the last link of the chain."""

    ROW = "row"
    OWN = "own"
    ENDS = "ends"


class Proof(StrEnum):
    """The result of a signature check.

    good: made by this key. wrong: not made by it. none: there is no signature. unknown: the key
    is not configured here."""

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
            (key_id(one), part): derive_key(one, f"opsjobs audit 1 {part}".encode())
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
        return decode_key(key.reveal())
    except ValueError as fault:
        raise ValueError(f"key {position} of ENCRYPTION_KEYS is {fault}") from None


# The columns that a row's hash covers, in addition to the hash before it.
FIELDS = (
    "seal",
    "id",
    "at",
    "actor",
    "actor_kind",
    "person",
    "address",
    "request_id",
    "action",
    "thing",
    "thing_id",
    "thing_name",
    "before",
    "after",
    "reason",
)
# Actions that only the sealer writes: it signs these rows with its own key part, which rows
# written by others do not get.
OWN = ("audit.retained", "audit.anchored")
# Built once: `json.dumps` builds an encoder per call, which took a sixth of the time of sealing.
_spelt = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode
# The hash before the first row.
NOTHING = "0" * 64


@dataclass(frozen=True, slots=True)
class ChainLink:
    """A place in the chain: the number of a row and its hash in hexadecimal; 0 is the start."""

    seal: int = 0
    hash: str = NOTHING

    def __str__(self) -> str:
        return f"{self.seal}:{self.hash}"

    def next(self, row: Mapping[str, Any]) -> ChainLink:
        """Return the link of the row that follows this one; `seal` holds the row's number."""
        return ChainLink(
            row["seal"], hashlib.sha256(bytes.fromhex(self.hash) + canonical(row)).hexdigest()
        )


@dataclass(frozen=True, slots=True)
class Ends:
    """The first and the last link of the chain; both are signed together."""

    base: ChainLink = ChainLink()
    """The link before the oldest row that is kept; retention deletes older rows."""
    head: ChainLink = ChainLink()
    """The link of the newest row."""
    anchor: int = 0
    """The number of the last row that was sealed before signatures existed."""
    anchor_id: int = 0
    """The highest id of a retention row that was waiting to be sealed at that time.

    Such a row is not signed as the sealer's own.
    """

    @property
    def text(self) -> bytes:
        """The bytes that are signed."""
        return f"{self.base} {self.head} {self.anchor} {self.anchor_id}".encode()


@dataclass(frozen=True, slots=True)
class ChainBreak:
    """The first break of the chain.

    `kind`: gap (a row is missing), changed (the hash does not match), unsigned (signed by no key),
    forged (a row that only the sealer may write, written by another), base (rows were deleted, but
    not by retention), tail (the newest rows are missing), head (a noted head is not in the chain),
    key (a key is missing, so nothing can be verified)."""

    seal: int
    kind: str
    detail: str

    def data(self) -> dict[str, Any]:
        """Return the JSON of API responses."""
        return {"seal": self.seal, "kind": self.kind, "detail": self.detail}


def canonical(row: Mapping[str, Any]) -> bytes:
    """Return the canonical bytes of a row for hashing.

    They are the JSON of FIELDS with sorted keys, no blanks and all non-ASCII characters escaped.
    `at` is a datetime, or already formatted by `stamp`. Numbers are as in RFC 8785, doubles, except
    for integers, which are exact."""
    body = {name: row[name] for name in FIELDS}
    if isinstance(body["at"], datetime):
        body["at"] = stamp(body["at"])
    return _spelt(body).encode()


def stamp(at: datetime) -> str:
    """Return a time to the microsecond, as PostgreSQL stores it.

    Hashed values must not be rounded."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class ChainWalk:
    """A walk along the chain from a trusted link to the first row that does not match.

    With `keys` each row's signature is also checked. Rows signed by a missing key are proven by the
    rows after them, because a hash covers all rows before. `ends`: the verified ends of the chain;
    without them, unsigned rows may only precede all signed ones."""

    def __init__(
        self, start: ChainLink, keys: SigningKeys | None = None, ends: Ends | None = None
    ) -> None:
        self.at = start
        self.checked = 0
        self.broken: ChainBreak | None = None
        self.keys_missing: set[str] = set()
        self.unproven: int | None = None
        """The first row that waits for a later one to prove it."""
        self._keys = keys
        self._ends = ends
        self.signed = False

    def step(self, row: Mapping[str, Any], noted: str) -> bool:
        """Check the next row against its noted hash; return False if the chain is broken.

        `row` may have `key_id` and `mac`."""
        if row["seal"] != self.at.seal + 1:
            missing = self.at.seal + 1
            self.broken = ChainBreak(
                missing,
                "gap",
                f"Row {missing} is missing: after {self.at.seal} comes {row['seal']}.",
            )
            return False
        link = self.at.next(row)
        self.broken = _changed(row) if link.hash != noted else self._unsigned(row, link)
        if self.broken is not None:
            return False
        self.at = link
        self.checked += 1
        return True

    def begin(self, row: Mapping[str, Any]) -> None:
        """Check the signature of the row that the walk starts after.

        Its hash has been verified by another walk."""
        self.broken = self._unsigned(row, self.at)

    def _unsigned(self, row: Mapping[str, Any], link: ChainLink) -> ChainBreak | None:
        if self._keys is None:
            return None
        signature = Signature.from_columns(row.get("key_id"), row.get("mac"))
        own = row["action"] in OWN and self._ends is not None and row["id"] > self._ends.anchor_id
        text = bytes.fromhex(link.hash)
        proof = self._keys.proof(Part.OWN if own else Part.ROW, text, signature)
        if (
            proof is Proof.WRONG
            and self._keys.proof(Part.ROW if own else Part.OWN, text, signature) is Proof.GOOD
        ):
            # A copy does not show from which row on the sealer signs its own rows as Part.OWN.
            return _forged(row) if own else None
        return self._check_proof(row, proof, signature)

    def _check_proof(
        self, row: Mapping[str, Any], proof: Proof, signature: Signature | None
    ) -> ChainBreak | None:
        if proof is Proof.WRONG:
            return _changed(row)
        if proof is Proof.NONE:
            return None if self._may_be_bare(row["seal"]) else _bare(row)
        if signature is not None and proof is Proof.UNKNOWN:
            self.keys_missing.add(signature.key_id)
            self.unproven = self.unproven or row["seal"]
        else:
            self.unproven = None
        self.signed = True
        return None

    def _may_be_bare(self, seal: int) -> bool:
        return seal <= self._ends.anchor if self._ends is not None else not self.signed

    def end(self, head: ChainLink) -> None:
        """Check the end of the chain against the head on record."""
        if self.broken is None and self.at != head:
            missing = self.unproven or min(self.at.seal + 1, head.seal + 1)
            detail = (
                f"The chain ends at {self.at.seal}, but was sealed to {head.seal}: the newest rows "
                "are missing or were replaced"
                f", from {missing} on."
            )
            self.broken = ChainBreak(missing, "tail", detail)


def went_back(seen: ChainLink, head: ChainLink) -> ChainBreak | None:
    """Return the break if the head is behind one that this process has seen before.

    Returns None if the chain has only grown, or is unchanged."""
    if head.seal > seen.seal or head == seen:
        return None
    detail = (
        f"The chain ends at {head.seal}, but this process has seen it end at {seen}: what followed "
        "was taken away, or an older copy of "
        "the database was put back. If that was you, restart the process."
    )
    return ChainBreak(min(head.seal + 1, seen.seal), "tail", detail)


def _changed(row: Mapping[str, Any]) -> ChainBreak:
    detail = (
        f"Row {row['seal']} ({row['action']} by {row['actor']}) is not what was sealed: it, or the "
        "one before, was changed."
    )
    return ChainBreak(row["seal"], "changed", detail)


def _bare(row: Mapping[str, Any]) -> ChainBreak:
    detail = (
        f"Row {row['seal']} ({row['action']} by {row['actor']}) is signed by no key: it was not "
        "sealed by opsjobs."
    )
    return ChainBreak(row["seal"], "unsigned", detail)


def _forged(row: Mapping[str, Any]) -> ChainBreak:
    detail = (
        f"Row {row['seal']} says {row['action']}, but opsjobs did not write it: it was inserted by "
        "hand."
    )
    return ChainBreak(row["seal"], "forged", detail)
