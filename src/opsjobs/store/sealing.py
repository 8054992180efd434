"""The sealer of the audit log: numbers the rows that are committed and chains them, one process at a time."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg.rows import DictRow

from opsjobs.model.chain import FIELDS, Link
from opsjobs.store import audit
from opsjobs.store.transaction import Connection, Database

# Rows that one transaction seals.
SEALED_AT_ONCE = 500
# Rows that one transaction lets go of.
RETAINED_AT_ONCE = 2_000
_LOCK = 0x6F707361756469  # "opsaudi"; any number would do as long as it never changes

_ANY = "select 1 from audit_log where seal is null and at <= opsjobs_now() - make_interval(secs => %s) limit 1"
_ALONE = "select pg_try_advisory_xact_lock(%s) as ours"
_HEAD = "select head_seal, encode(head_hash, 'hex') as head_hash from audit_chain for update"
_ROWS = f"""
select {", ".join(name for name in FIELDS if name != "seal")} from audit_log where seal is null order by id limit %s"""
_SEAL = """
update audit_log l set seal = n.seal, hash = n.hash
from unnest(%(ids)s::bigint[], %(seals)s::bigint[], %(hashes)s::bytea[]) as n(id, seal, hash) where l.id = n.id"""
_GROWN = "update audit_chain set head_seal = %s, head_hash = decode(%s, 'hex')"

# Whole days: what is let go of is on record itself, and need not be each minute.
_RETAIN = """
select opsjobs_audit_retain(date_trunc('day', opsjobs_now() at time zone 'UTC' - make_interval(secs => %s)) at time zone 'UTC', %s)
  as gone"""
_BASE = "select base_seal, encode(base_hash, 'hex') as base_hash from audit_chain"


class Seals:
    """Each verb is a bounded transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def seal(self, *, older_than_seconds: float = 0.0) -> int:
        """Seal what is committed, at most 500 rows; says how many. One query where nothing is so old, or another is at it.

        A number says when a row was seen, not when it was written: one that was committed late comes after younger ones.
        """
        if await self._database.fetch_one(_ANY, [older_than_seconds]) is None:
            return 0
        return await self._database.repeat(self._seal)

    async def _seal(self) -> int:
        async with self._database.transaction() as connection:
            alone = await (await connection.execute(_ALONE, [_LOCK])).fetchone()
            if alone is None or not alone["ours"]:
                return 0
            # Each in a statement of its own, after the lock: it sees what the sealer before us has committed.
            head = await (await connection.execute(_HEAD)).fetchone()
            assert head is not None
            rows = await (await connection.execute(_ROWS, [SEALED_AT_ONCE])).fetchall()
            if rows:
                await self._write(connection, Link(head["head_seal"], head["head_hash"]), rows)
        return len(rows)

    async def _write(self, connection: Connection, head: Link, rows: Sequence[DictRow]) -> None:
        links = []
        for row in rows:
            head = head.next({**row, "seal": head.seal + 1})
            links.append(head)
        sealed = {
            "ids": [row["id"] for row in rows],
            "seals": [link.seal for link in links],
            "hashes": [bytes.fromhex(link.hash) for link in links],
        }
        await connection.execute(_SEAL, sealed)
        await connection.execute(_GROWN, [head.seal, head.hash])

    async def retain(self, keep_seconds: float) -> int:
        """Let go of the oldest rows, those of days that ended longer ago than is kept; says how many. It is itself on record."""

        async def once() -> int:
            async with self._database.transaction() as connection:
                row = await (await connection.execute(_RETAIN, [keep_seconds, RETAINED_AT_ONCE])).fetchone()
                if row is None or not row["gone"]:
                    return 0
                base = await (await connection.execute(_BASE)).fetchone()
                assert base is not None
                after = {"rows": row["gone"], "base": str(Link(base["base_seal"], base["base_hash"]))}
                await audit.record(connection, "audit.retained", "audit_log", None, after=after)
                return int(row["gone"])

        return await self._database.repeat(once)
