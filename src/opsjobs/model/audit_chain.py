"""The chain of the audit log: each row's hash covers the row and the hash before it, and is signed; so none changes or goes unseen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from opsjobs.model.audit_signing import Part, Proof, Signature, SigningKeys

# What a row's hash covers, besides the hash before it.
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
# What only the sealing itself says: such a row is signed as its own, and one that somebody else wrote is not.
OWN = ("audit.retained", "audit.anchored")
# Made once: `json.dumps` makes an encoder at each call, which took a sixth of sealing.
_spelt = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode
# The hash before the first row.
NOTHING = "0" * 64


@dataclass(frozen=True, slots=True)
class ChainLink:
    """A place in the chain: the number of a row and its hash, in hexadecimal. Number 0 is before the first row."""

    seal: int = 0
    hash: str = NOTHING

    def __str__(self) -> str:
        return f"{self.seal}:{self.hash}"

    def next(self, row: Mapping[str, Any]) -> ChainLink:
        """The link that a row makes which follows on this one; the row has its number in `seal`."""
        return ChainLink(row["seal"], hashlib.sha256(bytes.fromhex(self.hash) + canonical(row)).hexdigest())


@dataclass(frozen=True, slots=True)
class Ends:
    """Where the chain begins (what was before has been let go of) and where it ends; it is signed as a whole.

    `anchor`: the number up to which rows were sealed before there were signatures; `anchor_id`: the highest id of a row of retention
    that waited to be sealed then, and so is not signed as the sealing's own.
    """

    base: ChainLink = ChainLink()
    head: ChainLink = ChainLink()
    anchor: int = 0
    anchor_id: int = 0

    @property
    def text(self) -> bytes:
        """What is signed."""
        return f"{self.base} {self.head} {self.anchor} {self.anchor_id}".encode()


@dataclass(frozen=True, slots=True)
class ChainBreak:
    """Where the chain is broken first.

    `kind`: gap (a row is missing), changed (it does not fit), unsigned (no key's), forged (what only the sealing says, by somebody
    else), base (rows were let go of, and not by retention), tail (the newest are missing), head (a noted one is not in it), key (a
    key is missing: nothing can be said).
    """

    seal: int
    kind: str
    detail: str

    def data(self) -> dict[str, Any]:
        """As answers show it."""
        return {"seal": self.seal, "kind": self.kind, "detail": self.detail}


def canonical(row: Mapping[str, Any]) -> bytes:
    """The one spelling of a row that is hashed: JSON of FIELDS, keys sorted, no blanks, all beyond ASCII escaped.

    `at` is a moment, or already in the spelling of `stamp`. Numbers are as in RFC 8785, doubles, but for whole ones, which are exact.
    """
    body = {name: row[name] for name in FIELDS}
    if isinstance(body["at"], datetime):
        body["at"] = stamp(body["at"])
    return _spelt(body).encode()


def stamp(at: datetime) -> str:
    """A moment to the microsecond, as PostgreSQL keeps it: what is hashed may not be rounded."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class ChainWalk:
    """Goes along the chain row by row, from a place that is trusted, to the first row that does not fit.

    With `keys` each row's signature is looked at, too. What a missing key has signed is proven by what follows: a hash covers all
    rows before. `ends`: what is said of the chain, and proven; without, unsigned rows may only come before all others.
    """

    def __init__(self, start: ChainLink, keys: SigningKeys | None = None, ends: Ends | None = None) -> None:
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
        """Judge the next row, whose hash is noted as this; False where the chain is broken. `row` may have `key_id` and `mac`."""
        if row["seal"] != self.at.seal + 1:
            missing = self.at.seal + 1
            self.broken = ChainBreak(missing, "gap", f"Row {missing} is missing: after {self.at.seal} comes {row['seal']}.")
            return False
        link = self.at.next(row)
        self.broken = _changed(row) if link.hash != noted else self._unsigned(row, link)
        if self.broken is not None:
            return False
        self.at = link
        self.checked += 1
        return True

    def begin(self, row: Mapping[str, Any]) -> None:
        """Judge the row behind which the walk begins, as far as its signature goes: its hash was found right by another walk."""
        self.broken = self._unsigned(row, self.at)

    def _unsigned(self, row: Mapping[str, Any], link: ChainLink) -> ChainBreak | None:
        if self._keys is None:
            return None
        signature = Signature.of(row.get("key_id"), row.get("mac"))
        own = row["action"] in OWN and self._ends is not None and row["id"] > self._ends.anchor_id
        text = bytes.fromhex(link.hash)
        proof = self._keys.proof(Part.OWN if own else Part.ROW, text, signature)
        if proof is Proof.WRONG and self._keys.proof(Part.ROW if own else Part.OWN, text, signature) is Proof.GOOD:
            # A copy does not say since when it is that the sealing signs its own rows in another way.
            return _forged(row) if own else None
        return self._judged(row, proof, signature)

    def _judged(self, row: Mapping[str, Any], proof: Proof, signature: Signature | None) -> ChainBreak | None:
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
        """Judge the end of the chain by the head that is on record."""
        if self.broken is None and self.at != head:
            missing = self.unproven or min(self.at.seal + 1, head.seal + 1)
            detail = (
                f"The chain ends at {self.at.seal}, but was sealed to {head.seal}: the newest rows are missing or were made anew"
                f", from {missing} on."
            )
            self.broken = ChainBreak(missing, "tail", detail)


def went_back(seen: ChainLink, head: ChainLink) -> ChainBreak | None:
    """What a process says that has seen another head before than it finds now; None where the chain has only grown, or is as it was."""
    if head.seal > seen.seal or head == seen:
        return None
    detail = (
        f"The chain ends at {head.seal}, but this process has seen it end at {seen}: what followed was taken away, or an older copy of "
        "the database was put back. Where that was you, restart the process."
    )
    return ChainBreak(min(head.seal + 1, seen.seal), "tail", detail)


def _changed(row: Mapping[str, Any]) -> ChainBreak:
    said = f"Row {row['seal']} ({row['action']} by {row['actor']}) is not what was sealed: it, or the one before, was changed."
    return ChainBreak(row["seal"], "changed", said)


def _bare(row: Mapping[str, Any]) -> ChainBreak:
    said = (
        f"Row {row['seal']} ({row['action']} by {row['actor']}) is signed by no key: it was sealed by somebody else than opsjobs."
    )
    return ChainBreak(row["seal"], "unsigned", said)


def _forged(row: Mapping[str, Any]) -> ChainBreak:
    said = f"Row {row['seal']} says {row['action']}, but opsjobs did not write it: somebody put it there by hand."
    return ChainBreak(row["seal"], "forged", said)
