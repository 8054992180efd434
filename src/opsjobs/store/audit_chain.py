"""The audit log's chain: number, hash and sign committed rows, one process at a time.

One row contains the chain's start and end, signed. Only the sealer writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row

from opsjobs.model.audit_chain import (
    FIELDS,
    ChainLink,
    ChainWalk,
    Ends,
    Part,
    Proof,
    Signature,
    SigningKeys,
    went_back,
)
from opsjobs.model.errors import Failure
from opsjobs.model.secret import Secret
from opsjobs.store import audit
from opsjobs.store.feeds import AUDIT_SERVICE
from opsjobs.store.transaction import Connection, Database
from opsjobs.telemetry.logs import log

COLUMNS = """
base_seal, encode(base_hash, 'hex') as base_hash, head_seal, encode(head_hash, 'hex') as head_hash,
anchor_seal, anchor_id,
key_id, encode(mac, 'hex') as mac"""
_READ = f"select {COLUMNS} from audit_chain"
_WRITE = """
update audit_chain set base_seal = %s, base_hash = decode(%s, 'hex'), head_seal = %s,
head_hash = decode(%s, 'hex'),
  anchor_seal = %s, anchor_id = %s, key_id = %s, mac = decode(%s, 'hex')"""
# Unsealed rows that retention of the previous release has written; usually none.
_IDS = (
    "select coalesce(max(id), 0) as id from audit_log where seal is null and action = "
    "'audit.retained'"
)


class UnverifiedChain(Failure):
    """The chain's ends are not as opsjobs signed them, or the key is missing.

    Nothing is added to such a chain.
    """


@dataclass(frozen=True, slots=True)
class Chain:
    """The chain's row as it is stored: its content and its signature."""

    ends: Ends
    signature: Signature | None

    def proof(self, keys: SigningKeys) -> Proof:
        """Return whether the signature proves that opsjobs wrote the row."""
        return keys.proof(Part.ENDS, self.ends.text, self.signature)

    def trusted(self, keys: SigningKeys) -> Ends:
        """Return the ends. Raises UnverifiedChain: adding to unsigned ends would sign them."""
        proof = self.proof(keys)
        if proof is Proof.UNKNOWN and self.signature is not None:
            raise UnverifiedChain(
                key_missing(
                    self.signature.key_id,
                    f"the end of the audit log (number {self.ends.head.seal})",
                )
            )
        if proof is not Proof.GOOD:
            raise UnverifiedChain(
                f"the audit log is said to begin behind number {self.ends.base.seal} and to end at "
                f"{self.ends.head.seal}, but opsjobs did not sign that: it was changed in the "
                f"database. "
                "Nothing more is sealed: `opsjobs audit verify` shows what is wrong, and "
                "`opsjobs audit anchor` starts a new chain after it."
            )
        return self.ends


async def read(connection: Connection, *, lock: bool = False) -> Chain:
    """Return the stored row; `lock` it to write it."""
    row = await (await connection.execute(_READ + (" for update" if lock else ""))).fetchone()
    assert row is not None
    return parse_chain(row)


async def write(connection: Connection, ends: Ends, keys: SigningKeys) -> None:
    """Sign and store the chain's new ends."""
    await connection.execute(_WRITE, _signed(ends, keys))


def anchor(driver: psycopg.Connection, keys: Sequence[Secret]) -> None:
    """Sign the chain in the migration that adds signatures. Raises Failure without keys."""
    if not keys:
        raise Failure(
            "ENCRYPTION_KEYS is not set: with this release the audit log is signed. Give the keys "
            "that the API has."
        )
    cursor = driver.cursor(row_factory=dict_row)
    row, ids = cursor.execute(_READ).fetchone(), cursor.execute(_IDS).fetchone()
    assert row is not None
    assert ids is not None
    ends = replace(parse_chain(row).ends, anchor=row["head_seal"], anchor_id=ids["id"])
    driver.execute(_WRITE, _signed(ends, SigningKeys(keys)))


def _signed(ends: Ends, keys: SigningKeys) -> list[int | str]:
    signature, base, head = keys.sign(Part.ENDS, ends.text), ends.base, ends.head
    return [
        base.seal,
        base.hash,
        head.seal,
        head.hash,
        ends.anchor,
        ends.anchor_id,
        signature.key_id,
        signature.mac,
    ]


def parse_chain(row: DictRow) -> Chain:
    """Return the chain of a row with COLUMNS."""
    base = ChainLink(row["base_seal"], row["base_hash"])
    head = ChainLink(row["head_seal"], row["head_hash"])
    return Chain(
        Ends(base, head, row["anchor_seal"], row["anchor_id"]),
        Signature.from_columns(row["key_id"], row["mac"]),
    )


def key_missing(key: str, what: str) -> str:
    """Return a message that names the missing key, what it signed, and the remedy."""
    return (
        f"{what} is signed by key {key}, which is not in ENCRYPTION_KEYS: put it back behind the "
        "current one. If it is lost, `opsjobs audit anchor` starts a new chain; if there never was "
        "such a key, the signature is forged."
    )


# Rows that one transaction seals.
SEALED_AT_ONCE = 500
# Rows that one transaction of retention deletes.
RETAINED_AT_ONCE = 2_000
_LOCK = 0x6F707361756469  # "opsaudi"; any number is possible as long as it never changes

_ANY = (
    "select 1 from audit_log where seal is null and at <= (select opsjobs_now()) - "
    "make_interval(secs => %s) limit 1"
)
_WAIT = "select pg_advisory_xact_lock(%s)"
_ALONE = "select pg_try_advisory_xact_lock(%s) as ours"
_COLUMNS = ", ".join(name for name in FIELDS if name != "seal")
_ROWS = f"select {_COLUMNS} from audit_log where seal is null order by id limit %s"
_OURS = (
    f"select {_COLUMNS} from audit_log where id = (select "
    f"currval(pg_get_serial_sequence('audit_log', 'id')))"
)
# 32 bytes of hash and 32 of signature per row, all in one value: sending them as arrays took longer
# than the hashing.
_SEAL = """
update audit_log l set seal = %(head)s + n.place, key_id = %(key_id)s,
  hash = substr(%(proofs)s::bytea, (n.place * 64 - 63)::int, 32),
  mac = substr(%(proofs)s::bytea, (n.place * 64 - 31)::int, 32)
from unnest(%(ids)s::bigint[]) with ordinality as n(id, place) where l.id = n.id"""

# Whole days: each deletion is itself recorded, and need not happen every minute.
_UNTIL = """
select date_trunc('day', opsjobs_now() at time zone 'UTC' - make_interval(secs => %s)) at time zone
  'UTC' as until"""
_OLDEST = f"""
select seal, {_COLUMNS}, encode(hash, 'hex') as hash, key_id, encode(mac, 'hex') as mac
from audit_log where seal > %s order by seal limit %s"""
_SENT = "select position from delivery_sources where name = %s"
_LAST = """
select coalesce(max(seal), 0) as seal,
  (select encode(hash, 'hex') from audit_log where seal is not null order by seal desc
    limit 1) as hash
from audit_log"""
_LET_GO = "delete from audit_log where seal > %s and seal <= %s"
# Rows before the base, which remain since the chain was anchored after them: the next rows, if they
# are too old to keep.
_LEFT_OVER = """
delete from audit_log where at < %s and seal in (select seal from audit_log where seal <= %s
  order by seal limit %s)"""
UNSENT_KEPT = timedelta(days=7)
"""The time for which old rows wait for the Audit Service."""


class Seals:
    """Seals, anchors and retains the audit log; each verb is a separate, bounded transaction.

    Raises UnverifiedChain if the chain's ends are not as opsjobs signed them: adding rows would
    sign them as well.
    """

    def __init__(self, database: Database, keys: Sequence[Secret]) -> None:
        self._database = database
        self._keys = SigningKeys(keys)
        self._seen = ChainLink()

    async def seal(self, *, older_than_seconds: float = 0.0) -> int:
        """Seal committed rows, at most 500; return how many.

        It costs one query if no row is that old, or if another process is sealing. The numbers are
        in the order in which rows were seen, not written: a row that was committed late comes after
        newer ones.
        """
        if await self._database.fetch_one(_ANY, [older_than_seconds]) is None:
            return 0
        return await self._database.retry(self._seal)

    async def _seal(self) -> int:
        async with self._database.transaction() as connection:
            alone = await (await connection.execute(_ALONE, [_LOCK])).fetchone()
            if alone is None or not alone["ours"]:
                return 0
            # Each in a separate statement after the lock, so that it sees the rows committed by the
            # previous sealer.
            ends = await self._ends(connection)
            rows = await (await connection.execute(_ROWS, [SEALED_AT_ONCE])).fetchall()
            if rows:
                ends = await self._write(connection, ends, rows, Part.ROW)
        self._seen = ends.head
        return len(rows)

    async def _ends(self, connection: Connection) -> Ends:
        """Lock and return the start and the end of the chain."""
        ends = (await read(connection, lock=True)).trusted(self._keys)
        if (back := went_back(self._seen, ends.head)) is not None:
            raise UnverifiedChain(back.detail)
        return ends

    async def _write(
        self, connection: Connection, ends: Ends, rows: Sequence[DictRow], part: Part
    ) -> Ends:
        """Number, chain and sign these rows; return the chain's new ends."""
        head, hashes = ends.head, list[bytes]()
        for row in rows:
            row["seal"] = head.seal + 1
            head = head.next(row)
            hashes.append(bytes.fromhex(head.hash))
        macs = self._keys.signed(part, hashes)
        sealed = {
            "ids": [row["id"] for row in rows],
            "head": ends.head.seal,
            "proofs": b"".join(hash_ + mac for hash_, mac in zip(hashes, macs, strict=True)),
            "key_id": self._keys.current,
        }
        await connection.execute(_SEAL, sealed)
        grown = replace(ends, head=head)
        await write(connection, grown, self._keys)
        return grown

    async def anchor(self, reason: str) -> ChainLink:
        """Start a new chain after all rows, even those of a broken chain; return the new start.

        It is recorded, with the reason. This is the remedy if the chain cannot be repaired, or if a
        key is lost. Older rows stay, but can no longer be verified.
        """
        async with self._database.transaction() as connection:
            await connection.execute(_WAIT, [_LOCK])
            before = (await read(connection, lock=True)).ends
            last = await (await connection.execute(_LAST)).fetchone()
            assert last is not None
            base = (
                ChainLink(last["seal"], last["hash"])
                if last["seal"] > before.head.seal
                else before.head
            )
            ends = Ends(base, base, base.seal)
            after = {
                "base": str(base),
                "broken": {"base": str(before.base), "head": str(before.head)},
            }
            await self._own(connection, ends, "audit.anchored", after, reason)
        return base

    async def _own(
        self,
        connection: Connection,
        ends: Ends,
        action: str,
        after: dict[str, Any],
        reason: str | None = None,
    ) -> None:
        """Write a row of the kind that only the sealer writes, and seal it as such."""
        await audit.record(connection, action, "audit_log", None, after=after, reason=reason)
        await self._write(
            connection, ends, await (await connection.execute(_OURS)).fetchall(), Part.OWN
        )

    async def retain(self, keep_seconds: float) -> int:
        """Delete rows of days that ended longer ago than `keep_seconds`, oldest first.

        Returns how many, at most 2,000. The deletion is recorded, in a row that is signed as the
        sealer's own. Rows that do not match the chain stay, and no row before them is deleted: the
        evidence would be lost for good. Rows that the Audit Service was not sent stay a week
        longer; then the log names them. Rows before an anchor are deleted first, as they grow old;
        they need not match.
        """

        async def once() -> int:
            async with self._database.transaction() as connection:
                ends = await self._ends(connection)
                until = await (await connection.execute(_UNTIL, [keep_seconds])).fetchone()
                assert until is not None
                left_over = [until["until"], ends.base.seal, RETAINED_AT_ONCE]
                base, gone = ends.base, (await connection.execute(_LEFT_OVER, left_over)).rowcount
                if not gone:
                    sent = await self._sent(connection)
                    base = await self._old(connection, ends, until["until"], sent)
                    gone = base.seal - ends.base.seal
                    if not gone:
                        return 0
                    await write(connection, replace(ends, base=base), self._keys)
                    await connection.execute(_LET_GO, [ends.base.seal, base.seal])
                    if sent is not None and base.seal > sent:
                        first = max(sent, ends.base.seal) + 1
                        log.warning("audit_deleted_unsent", first=first, last=base.seal)
                after = {"rows": gone, "base": str(base)}
                await self._own(connection, replace(ends, base=base), "audit.retained", after)
                return gone

        return await self._database.retry(once)

    async def _sent(self, connection: Connection) -> int | None:
        """Return the number up to which the Audit Service was sent rows; None: it gets none."""
        row = await (await connection.execute(_SENT, [AUDIT_SERVICE])).fetchone()
        return None if row is None else int(row["position"])

    async def _old(
        self, connection: Connection, ends: Ends, until: datetime, sent: int | None
    ) -> ChainLink:
        """Return the last link that is too old to keep, of the next 2,000."""
        walk = ChainWalk(ends.base, self._keys, ends)
        for row in await (
            await connection.execute(_OLDEST, [ends.base.seal, RETAINED_AT_ONCE])
        ).fetchall():
            is_sent = sent is None or row["seal"] <= sent
            too_old = row["at"] < (until if is_sent else until - UNSENT_KEPT)
            if not too_old or not walk.step(row, row["hash"]):
                break
        if walk.at.seal == ends.head.seal:
            walk.end(ends.head)
        if walk.broken is not None:
            raise UnverifiedChain(
                f"nothing of the audit log is let go of, for it is not whole. {walk.broken.detail}"
            )
        return walk.at
