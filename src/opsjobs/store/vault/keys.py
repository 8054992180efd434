"""Key-encryption keys: count rows sealed under each, and rotate online to the current.

Each kind of sealed rows is resealed in batches.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from opsjobs.model.audit_chain import Part, Proof
from opsjobs.model.secret import Secret
from opsjobs.store import audit, audit_chain
from opsjobs.store.envelope import (
    KeyMissing,
    KeyRing,
    Sealed,
    SealPlace,
    Tampered,
    rewrap_parameters,
)
from opsjobs.store.transaction import Connection, Database
from opsjobs.telemetry.logs import log


@dataclass(frozen=True, slots=True)
class SealedKind:
    """One kind of sealed rows, with the statements that work on it.

    `count`: returns `key_id` and `n`. `find`: returns rows after `%(after)s` with a value sealed
    under a key of `%(old)s`, by id, at most `%(limit)s`, locked; rows that others have locked are
    left to a later walk, so there are no deadlocks. `write`: accepts `%(id)s` and the values that
    `rewrapped` returns.
    """

    name: str
    count: str
    find: str
    write: str
    rewrapped: Callable[[KeyRing, DictRow], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class SealedBatch:
    """The result of one batch.

    `after`: the id after which the next batch starts, None at the end. `broken`: rows that cannot
    be decrypted, and why.
    """

    rewrapped: int
    broken: Sequence[Mapping[str, Any]]
    after: int | None


async def rewrap(
    connection: Connection, kind: SealedKind, ring: KeyRing, after: int, limit: int
) -> SealedBatch:
    """Reseal at most `limit` rows under the current key, in the caller's transaction."""
    old = [key for key in ring.ids if key != ring.current]
    rows = await (
        await connection.execute(kind.find, {"after": after, "old": old, "limit": limit})
    ).fetchall()
    done: list[Mapping[str, Any]] = []
    broken: list[Mapping[str, Any]] = []
    for row in rows:
        try:
            done.append({"id": row["id"], **kind.rewrapped(ring, row)})
        except (KeyMissing, Tampered) as refused:
            broken.append({"kind": kind.name, "id": row["id"], "reason": str(refused)})
    if done:
        async with connection.cursor() as cursor:
            await cursor.executemany(kind.write, done)
    return SealedBatch(len(done), broken, rows[-1]["id"] if len(rows) == limit else None)


def _row(table: str, ring: KeyRing, row: DictRow) -> Mapping[str, Any]:
    sealed = Sealed(row["key_id"], row["wrapped_key"], row["sealed"])
    made = ring.rewrapped(sealed, SealPlace(table, row["uuid"], row["version"]))
    return {"key_id": made.key_id, "wrapped_key": made.wrapped_key}


def _trigger(ring: KeyRing, row: DictRow) -> Mapping[str, Any]:
    sealed = Sealed(row["key_id"], row["wrapped_key"], row["sealed"])
    made = ring.rewrapped(sealed, SealPlace("job_triggers", row["uuid"], row["secret_version"]))
    return {"key_id": made.key_id, "wrapped_key": made.wrapped_key}


def _sealed_table(table: str) -> SealedKind:
    """Return the kind of a table whose rows have one sealed secret each."""
    return SealedKind(
        table,
        f"select key_id, count(*) as n from {table} group by key_id",
        f"""select id, uuid, version, key_id, wrapped_key, sealed from {table}
           where id > %(after)s and key_id = any(%(old)s) order by id
             limit %(limit)s for no key update skip locked""",
        f"update {table} set key_id = %(key_id)s, wrapped_key = %(wrapped_key)s where id = %(id)s",
        partial(_row, table),
    )


def _parameters(ring: KeyRing, row: DictRow) -> Mapping[str, Any]:
    return {"parameters": Jsonb(rewrap_parameters(ring, row["uuid"], row["parameters"]))}


def _chain(ring: KeyRing, row: DictRow) -> Mapping[str, Any]:
    ends = audit_chain.parse_chain(row)
    if ends.proof(ring.signing) is not Proof.GOOD:
        raise Tampered(
            "the ends of the audit log are not as opsjobs signed them: `opsjobs audit verify` says "
            "more"
        )
    signature = ring.signing.sign(Part.ENDS, ends.ends.text)
    return {"key_id": signature.key_id, "mac": bytes.fromhex(signature.mac)}


# The predicate of the index execution_specs_sealed, to the letter.
_HAS_SEALED = "s.parameters @? '$.*.sealed'"
_VALUES = "jsonb_each(s.parameters) as v(name, value)"

KINDS = (
    _sealed_table("credentials"),
    _sealed_table("webhooks"),
    SealedKind(
        "parameters",
        f"""select v.value->'sealed'->>0 as key_id, count(distinct s.execution_id) as n
          from execution_specs s, {_VALUES}
            where {_HAS_SEALED} and v.value->'sealed'->>0 is not null group by 1""",
        f"""select s.execution_id as id, e.uuid, s.parameters from execution_specs s
          join job_executions e on e.id = s.execution_id
            where s.execution_id > %(after)s and {_HAS_SEALED}
              and exists (select from {_VALUES} where v.value->'sealed'->>0 = any(%(old)s))
            order by s.execution_id limit %(limit)s for no key update of s skip locked""",
        "update execution_specs set parameters = %(parameters)s where execution_id = %(id)s",
        _parameters,
    ),
    SealedKind(
        "triggers",
        "select key_id, count(*) as n from job_triggers group by key_id",
        """select id, uuid, secret_version, key_id, wrapped_key, sealed from job_triggers
           where id > %(after)s and key_id = any(%(old)s) order by id
             limit %(limit)s for no key update skip locked""",
        "update job_triggers set key_id = %(key_id)s, wrapped_key = %(wrapped_key)s where id = "
        "%(id)s",
        _trigger,
    ),
    # Its rows keep their signatures: the signature of the chain's end covers all of them.
    SealedKind(
        "audit_chain",
        "select key_id, count(*) as n from audit_chain where key_id is not null group by key_id",
        f"""select 1 as id, {audit_chain.COLUMNS} from audit_chain
            where %(after)s < 1 and key_id = any(%(old)s) limit %(limit)s for update skip locked""",
        "update audit_chain set key_id = %(key_id)s, mac = %(mac)s where %(id)s = 1",
        _chain,
    ),
)


_TABLES = {"parameters": "execution_specs", "triggers": "job_triggers"}
"""The tables of kinds that are not named for theirs."""

BATCH_ROWS = 100
"""Rows resealed in one transaction: their locks are held for some milliseconds."""

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
        """Return an item of GET /keys. `removable`: no row needs the key any more."""
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
    """The result of one call of a rotation.

    `left`: rows under older keys, of which `broken` cannot be decrypted.
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
        counts = {kind.name: await _count(self._database, kind) for kind in KINDS}
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

        A further call continues. It uses transactions of `batch_rows`, concurrently with other
        readers and writers. Rows that cannot be decrypted stay unchanged, and are reported.
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
                rotated = {"kind": kind.name, "rewrapped": batch.rewrapped}
                await audit.record(
                    connection, "key.rotated", "key", self._ring.current, after=rotated
                )
        for row in batch.broken:
            log.error("sealed_row_undecryptable", **row)
        return batch


async def find_missing_keys(database: Database, keys: Sequence[Secret]) -> dict[str, int]:
    """Return the ids of keys that are not among `keys`, with the rows sealed under each.

    There may be no keys at all, and an older schema may lack a kind of sealed rows.
    """
    found = Counter[str]()
    for kind in KINDS:
        table = _TABLES.get(kind.name, kind.name)
        row = await database.fetch_one("select to_regclass(%s) as found", [table])
        if row is not None and row["found"] is not None:
            found.update(await _count(database, kind))
    known = KeyRing(keys).ids if keys else ()
    return {key: found[key] for key in sorted(found) if key not in known}


async def _count(database: Database, kind: SealedKind) -> dict[str, int]:
    return {row["key_id"]: row["n"] for row in await database.fetch(kind.count)}
