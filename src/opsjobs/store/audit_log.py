"""Read the audit log: list it, verify its hash chain, copy it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from psycopg.rows import DictRow

from opsjobs.model.audit_chain import (
    FIELDS,
    ChainBreak,
    ChainLink,
    ChainWalk,
    Ends,
    Part,
    Proof,
    Signature,
    SigningKeys,
    stamp,
    went_back,
)
from opsjobs.model.execution import moment
from opsjobs.model.secret import Secret
from opsjobs.store import audit_chain
from opsjobs.store.audit_chain import Chain, key_missing
from opsjobs.store.paging import IndexWalk, ListColumn, Listing, Page, PageRequest
from opsjobs.store.transaction import Connection, Database

# Rows that one verification or one copy reads; the caller continues at its end.
STRETCH_ROWS = 2_000
# No row stays unsealed for longer than this while a sealer runs.
UNSEALED_SECONDS = 10

_COLUMNS = ", ".join(FIELDS)
_SIGNED = f"{_COLUMNS}, encode(hash, 'hex') as hash, key_id, encode(mac, 'hex') as mac"
AUDIT = Listing(
    f"select {_COLUMNS}, encode(hash, 'hex') as hash from audit_log",
    {
        "id": ListColumn("integer", sort=True),
        "at": ListColumn("moment", indexed=True),
        "request_id": ListColumn("text", walk=IndexWalk("request_id")),
        "thing_id": ListColumn("text", walk=IndexWalk("thing_id")),
        "thing_name": ListColumn("text", walk=IndexWalk("thing_name")),
        "address": ListColumn("text", walk=IndexWalk("address")),
        "person": ListColumn("text", walk=IndexWalk("person")),
        "actor": ListColumn("text", walk=IndexWalk("actor")),
        "action": ListColumn("text", walk=IndexWalk("action")),
        "thing": ListColumn("text", walk=IndexWalk("thing")),
        "actor_kind": ListColumn("text", walk=IndexWalk("actor_kind")),
    },
)
_STRETCH = f"select {_SIGNED} from audit_log where seal > %s order by seal limit {STRETCH_ROWS}"
_LINK = f"select {_SIGNED} from audit_log where seal = %s"
# Rows that may move the start of the chain: the newest one that the sealer itself signed counts.
_BASES = f"""
select {_SIGNED} from audit_log where thing = 'audit_log'
  and action in ('audit.retained', 'audit.anchored') and seal is not null
order by id desc limit 1000"""
_UNSEALED = """
select count(*) as n from (
  select from audit_log where seal is null
    and at < (select opsjobs_now()) - make_interval(secs => %s) limit 100000) u"""


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of verifying a range of the chain."""

    checked: int
    at: ChainLink
    """The last link that is intact."""
    more: bool
    """True if the chain continues behind `at`."""
    broken: ChainBreak | None
    ends: Ends
    unsealed: int
    """Number of rows without a seal number for over 10 s; at most 100,000 are counted."""
    noted_at: int | None
    """The number of the row that has the requested hash, if the walk passed it."""
    keys_missing: Sequence[str] = ()
    """Ids of keys that signed some of these rows and that ENCRYPTION_KEYS no longer holds."""

    def data(self) -> dict[str, Any]:
        """Return the body of GET /audit/verify."""
        return {
            "whole": self.broken is None,
            "checked": self.checked,
            "at": str(self.at),
            "next": self.at.seal if self.more else None,
            "broken": self.broken.data() if self.broken is not None else None,
            "base": str(self.ends.base),
            "anchor": self.ends.anchor,
            "head": str(self.ends.head),
            "unsealed": self.unsealed,
            "noted_at": self.noted_at,
            "keys_missing": list(self.keys_missing),
        }


class AuditLog:
    """Read-only access to the audit log."""

    def __init__(self, database: Database, keys: Sequence[Secret]) -> None:
        self._database = database
        self._keys = SigningKeys(keys)
        self._seen = ChainLink()

    async def list(self, request: PageRequest) -> Page[dict[str, Any]]:
        """Return a page, newest first; filters and orders are those of AUDIT."""
        return (await AUDIT.page(self._database, request)).map(_render)

    async def verify(self, *, after: int | None = None, noted: str | None = None) -> Verified:
        """Verify at most 2,000 rows behind number `after`, up to which an earlier walk succeeded.

        `after`: None to verify from the start. `noted`: a hash to look for, in hexadecimal.
        """
        seen = self._seen
        async with self._snapshot() as connection:
            chain = await audit_chain.read(connection)
            walk = await self._start_walk(connection, chain, after)
            noted_at = walk.at.seal if walk.at.hash == noted else None
            rows = await _stretch(connection, walk.at.seal)
            unsealed = await (await connection.execute(_UNSEALED, [UNSEALED_SECONDS])).fetchone()
            for row in rows:
                if walk.broken is not None or not walk.step(row, row["hash"]):
                    break
                noted_at = walk.at.seal if walk.at.hash == noted else noted_at
            more = len(rows) == STRETCH_ROWS and walk.broken is None
            broken = walk.broken if more else await self._find_break(connection, chain, walk, seen)
        missing, ends = sorted(walk.keys_missing), chain.ends
        return Verified(
            walk.checked,
            walk.at,
            more,
            broken,
            ends,
            unsealed["n"] if unsealed else 0,
            noted_at,
            missing,
        )

    async def _start_walk(
        self, connection: Connection, chain: Chain, after: int | None
    ) -> ChainWalk:
        """Return a walk that starts after the link of number `after`.

        If that row's signature does not match its hash, the walk is broken there.
        """
        base, ends = chain.ends.base, chain.ends if chain.proof(self._keys) is Proof.GOOD else None
        row = await _row(connection, base, after)
        if row is None:
            # If no row has that number, the gap is found: the next row then matches no hash.
            start = base if after is None or after <= base.seal else ChainLink(after)
            return ChainWalk(start, self._keys, ends)
        walk = ChainWalk(ChainLink(row["seal"], row["hash"]), self._keys, ends)
        walk.begin(row)
        return walk

    async def _find_break(
        self, connection: Connection, chain: Chain, walk: ChainWalk, seen: ChainLink
    ) -> ChainBreak | None:
        """Return the fault at the end of the walk: in a row, the last row, or the chain's ends."""
        walk.end(chain.ends.head)
        proof = chain.proof(self._keys)
        if walk.broken is not None:
            return walk.broken
        if proof is Proof.UNKNOWN and chain.signature is not None:
            fact = (
                f"Row {walk.unproven or walk.at.seal}, and what follows, is proven by nothing: "
                f"the end of the audit log"
            )
            return ChainBreak(
                walk.unproven or walk.at.seal, "key", key_missing(chain.signature.key_id, fact)
            )
        if proof is not Proof.GOOD:
            return _ends_unsigned(chain.ends, walk, await self._retained_base(connection))
        if (back := went_back(seen, chain.ends.head)) is None:
            self._seen = max(self._seen, chain.ends.head, key=lambda link: link.seal)
        return back

    async def _retained_base(self, connection: Connection) -> int:
        """Return the number after which the chain starts by the sealer's newest row; 0 if none."""
        for row in await (await connection.execute(_BASES)).fetchall():
            signature = Signature.from_columns(row["key_id"], row["mac"])
            if self._keys.proof(Part.OWN, bytes.fromhex(row["hash"]), signature) in (
                Proof.GOOD,
                Proof.NONE,
            ):
                return int(str(row["after"]["base"]).partition(":")[0])
        return 0

    async def copy(self, after: int | None = None) -> Sequence[Mapping[str, Any]]:
        """Return at most 2,000 sealed rows behind number `after`, to be stored elsewhere.

        Each has its own hash and that of the row before, `previous`.
        """
        async with self._snapshot() as connection:
            base = (await audit_chain.read(connection)).ends.base
            start = await _row(connection, base, after)
            link = ChainLink(start["seal"], start["hash"]) if start is not None else base
            rows = await _stretch(connection, link.seal)
        previous, copied = link.hash, list[dict[str, Any]]()
        for row in rows:
            copied.append({**row, "at": stamp(row["at"]), "previous": previous})
            previous = row["hash"]
        return copied

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Connection]:
        async with self._database.transaction() as connection:
            await connection.execute("set transaction isolation level repeatable read, read only")
            yield connection


async def _row(connection: Connection, base: ChainLink, after: int | None) -> DictRow | None:
    """Return the row to start after; None for the start of the chain.

    Rows that retention has deleted cannot be read.
    """
    if after is None or after <= base.seal:
        return None
    return await (await connection.execute(_LINK, [after])).fetchone()


def _ends_unsigned(ends: Ends, walk: ChainWalk, retained_base: int) -> ChainBreak:
    """Return the break of a chain whose rows all match, but whose ends opsjobs did not sign."""
    if ends.base.seal > retained_base:
        first = retained_base + 1
        detail = (
            f"Row {first} is missing: the chain is said to begin behind {ends.base.seal}, but no "
            f"row `audit.retained` of ours says that "
            "retention let go of so many."
        )
        return ChainBreak(first, "base", detail)
    first = walk.unproven or (walk.at.seal if walk.signed else ends.base.seal) + 1
    detail = (
        f"The chain is said to end at {walk.at.seal}, but opsjobs did not sign that: row {first} "
        "and the rows after it were removed or replaced."
    )
    return ChainBreak(first, "tail", detail)


async def _stretch(connection: Connection, after: int) -> list[DictRow]:
    return await (await connection.execute(_STRETCH, [after])).fetchall()


def _render(row: DictRow) -> dict[str, Any]:
    return {**row, "at": moment(row["at"])}
