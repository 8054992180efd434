"""Key-encryption keys: count rows sealed under each, and rotate online to the current."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opsjobs.model.secret import Secret
from opsjobs.store import audit
from opsjobs.store.envelope import KeyRing
from opsjobs.store.transaction import Database
from opsjobs.store.vault.sealed import KINDS, SealedBatch, SealedKind, rewrap
from opsjobs.telemetry import log

BATCH_ROWS = 100
"""Rows sealed anew in one transaction: their locks are held for some milliseconds."""

BROKEN_SHOWN = 20


@dataclass(frozen=True, slots=True)
class KeyState:
    """One key by its id.

    `known`: it is in ENCRYPTION_KEYS. `sealed`: how many rows of each kind are sealed under it.
    """

    id: str
    current: bool
    known: bool
    sealed: Mapping[str, int]

    @property
    def rows(self) -> int:
        """Return how many rows cannot be read without this key."""
        return sum(self.sealed.values())

    def data(self) -> dict[str, Any]:
        """Return an item of GET /keys. `removable`: nothing needs the key any more."""
        removable = self.known and not self.current and self.rows == 0
        return {
            "id": self.id,
            "current": self.current,
            "known": self.known,
            "sealed": dict(self.sealed),
            "removable": removable,
        }


@dataclass(frozen=True, slots=True)
class Rotated:
    """The result of one stretch of a rotation.

    `left`: rows under older keys, of which `broken` do not open.
    """

    rewrapped: int
    left: int
    broken: Sequence[Mapping[str, Any]]
    keys: Sequence[KeyState]

    def data(self) -> dict[str, Any]:
        """Return the body of POST /keys/rotate. `done`: a further rotation has nothing to do."""
        return {
            "rewrapped": self.rewrapped,
            "left": self.left,
            "done": self.left <= len(self.broken),
            "broken": list(self.broken[:BROKEN_SHOWN]),
            "keys": [key.data() for key in self.keys],
        }


class KeyRotation:
    """Inspects and rotates the keys of ENCRYPTION_KEYS (current first)."""

    def __init__(self, database: Database, keys: Sequence[Secret]) -> None:
        self._database = database
        self._ring = KeyRing(keys)

    async def states(self) -> list[KeyState]:
        """Return the keys of ENCRYPTION_KEYS in their order, then other keys still in use."""
        counts = {kind.name: await self._count(kind) for kind in KINDS}
        found = {key for counted in counts.values() for key in counted}
        ids = [*self._ring.ids, *sorted(found - set(self._ring.ids))]
        return [
            KeyState(
                key,
                key == self._ring.current,
                key in self._ring.ids,
                {name: counted.get(key, 0) for name, counted in counts.items()},
            )
            for key in ids
        ]

    async def missing(self) -> list[KeyState]:
        """Return the keys that rows are sealed under and that ENCRYPTION_KEYS does not hold."""
        return [state for state in await self.states() if not state.known]

    async def rotate(self, seconds: float, batch_rows: int = BATCH_ROWS) -> Rotated:
        """Reseal rows of older keys under the current key, for about `seconds`.

        A further call continues. In transactions of `batch_rows`, concurrently with other readers
        and writers. What does not open stays as it is, and is reported.
        """
        until = time.monotonic() + seconds
        rewrapped, broken = 0, list[Mapping[str, Any]]()
        for kind in KINDS:
            after: int | None = 0
            while after is not None and time.monotonic() < until:
                batch = await self._batch(kind, after, batch_rows)
                rewrapped, after = rewrapped + batch.rewrapped, batch.after
                broken += batch.broken
        states = await self.states()
        left = sum(key.rows for key in states if key.known and not key.current)
        return Rotated(rewrapped, left, broken, states)

    async def _batch(self, kind: SealedKind, after: int, batch_rows: int) -> SealedBatch:
        async with self._database.transaction() as connection:
            batch = await rewrap(connection, kind, self._ring, after, batch_rows)
            if batch.rewrapped:
                told = {"kind": kind.name, "rewrapped": batch.rewrapped}
                await audit.record(connection, "key.rotated", "key", self._ring.current, after=told)
        for row in batch.broken:
            log.error("sealed_row_does_not_open", **row)
        return batch

    async def _count(self, kind: SealedKind) -> dict[str, int]:
        return {row["key_id"]: row["n"] for row in await self._database.fetch(kind.count)}
