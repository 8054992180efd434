"""The chain of the audit log: each row's hash covers the row and the hash before it, so that none changes or goes unseen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

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
# The hash before the first row.
NOTHING = "0" * 64


@dataclass(frozen=True, slots=True)
class Link:
    """A place in the chain: the number of a row and its hash, in hexadecimal. Number 0 is before the first row."""

    seal: int = 0
    hash: str = NOTHING

    def __str__(self) -> str:
        return f"{self.seal}:{self.hash}"

    def next(self, row: Mapping[str, Any]) -> Link:
        """The link that a row makes which follows on this one; the row has its number in `seal`."""
        return Link(row["seal"], hashlib.sha256(bytes.fromhex(self.hash) + canonical(row)).hexdigest())


@dataclass(frozen=True, slots=True)
class Break:
    """Where the chain is broken first. `kind`: gap (a row is missing), changed (it does not fit), tail (the newest are missing), head."""

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
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def stamp(at: datetime) -> str:
    """A moment to the microsecond, as PostgreSQL keeps it: what is hashed may not be rounded."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Walk:
    """Goes along the chain row by row, from a place that is trusted, to the first row that does not fit."""

    def __init__(self, start: Link) -> None:
        self.at = start
        self.checked = 0
        self.broken: Break | None = None

    def step(self, row: Mapping[str, Any], noted: str) -> bool:
        """Judge the next row, whose hash is noted as this; False where the chain is broken."""
        if row["seal"] != self.at.seal + 1:
            missing = self.at.seal + 1
            self.broken = Break(missing, "gap", f"Row {missing} is missing: after {self.at.seal} comes {row['seal']}.")
            return False
        link = self.at.next(row)
        if link.hash != noted:
            detail = (
                f"Row {link.seal} ({row['action']} by {row['actor']}) is not what was sealed: it, or the one before, was changed."
            )
            self.broken = Break(link.seal, "changed", detail)
            return False
        self.at = link
        self.checked += 1
        return True

    def end(self, head: Link) -> None:
        """Judge the end of the chain by the head that is on record."""
        if self.broken is None and self.at != head:
            missing = min(self.at.seal + 1, head.seal + 1)
            detail = (
                f"The chain ends at {self.at.seal}, but was sealed to {head.seal}: the newest rows are missing or were made anew."
            )
            self.broken = Break(missing, "tail", detail)
