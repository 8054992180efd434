"""The audit log as it is read: listed, walked along, copied out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from psycopg.rows import DictRow

from opsjobs.model.chain import FIELDS, Break, Link, Walk, stamp
from opsjobs.model.execution import moment
from opsjobs.store.paging import Column, Listing, Page, PageRequest
from opsjobs.store.transaction import Connection, Database

# Rows that one verification or one copy looks at; whoever wants more goes on from where it ended.
STRETCH_ROWS = 2_000
# Longer than this no row lies unsealed while a sealer is at work.
UNSEALED_SECONDS = 10

_COLUMNS = ", ".join(FIELDS)
AUDIT = Listing(
    f"select {_COLUMNS}, encode(hash, 'hex') as hash from audit_log",
    {
        "id": Column("integer", sort=True),
        "at": Column("moment"),
        "actor": Column("text"),
        "actor_kind": Column("text"),
        "person": Column("text"),
        "address": Column("text"),
        "request_id": Column("text"),
        "action": Column("text"),
        "thing": Column("text"),
        "thing_id": Column("text"),
        "thing_name": Column("text"),
    },
)
_STRETCH = f"""
select {_COLUMNS}, encode(hash, 'hex') as hash from audit_log where seal > %s order by seal limit {STRETCH_ROWS}"""
_LINK = "select seal, encode(hash, 'hex') as hash from audit_log where seal = %s"
_CHAIN = """
select base_seal, encode(base_hash, 'hex') as base_hash, head_seal, encode(head_hash, 'hex') as head_hash from audit_chain"""
_UNSEALED = """
select count(*) as n from (
  select from audit_log where seal is null and at < opsjobs_now() - make_interval(secs => %s) limit 100000) u"""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a walk along a stretch of the chain found.

    `at`: the last link that is whole. `more`: the chain goes on behind it. `noted_at`: the number of the row whose hash was asked for,
    where the walk came by it. `unsealed`: rows without a number for over 10 s, at most 100,000 of them counted.
    """

    checked: int
    at: Link
    more: bool
    broken: Break | None
    base: Link
    head: Link
    unsealed: int
    noted_at: int | None

    def data(self) -> dict[str, Any]:
        """The body of GET /audit/verify."""
        return {
            "whole": self.broken is None,
            "checked": self.checked,
            "at": str(self.at),
            "next": self.at.seal if self.more else None,
            "broken": self.broken.data() if self.broken is not None else None,
            "base": str(self.base),
            "head": str(self.head),
            "unsealed": self.unsealed,
            "noted_at": self.noted_at,
        }


class AuditLog:
    """Reads only."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, request: PageRequest) -> Page[dict[str, Any]]:
        """The newest first; filters and orders are those of AUDIT."""
        return (await AUDIT.page(self._database, request)).map(_shown)

    async def verify(self, *, after: int | None = None, noted: str | None = None) -> Verified:
        """Walk along at most 2,000 rows behind number `after`, which an earlier walk has found whole; None: from the beginning.

        `noted`: a hash to look for, in hexadecimal.
        """
        async with self._at_one_moment() as connection:
            base, head = await _ends(connection)
            start = await _start(connection, base, after)
            rows = await _stretch(connection, start.seal)
            unsealed = await (await connection.execute(_UNSEALED, [UNSEALED_SECONDS])).fetchone()
        walk, noted_at = Walk(start), start.seal if start.hash == noted else None
        for row in rows:
            if not walk.step(row, row["hash"]):
                break
            noted_at = walk.at.seal if walk.at.hash == noted else noted_at
        more = len(rows) == STRETCH_ROWS and walk.broken is None
        if not more:
            walk.end(head)
        return Verified(walk.checked, walk.at, more, walk.broken, base, head, unsealed["n"] if unsealed else 0, noted_at)

    async def copy(self, after: int | None = None) -> Sequence[Mapping[str, Any]]:
        """At most 2,000 sealed rows behind number `after`, each with the hash `previous` and its own: to be kept elsewhere."""
        async with self._at_one_moment() as connection:
            base, _ = await _ends(connection)
            start = await _start(connection, base, after)
            rows = await _stretch(connection, start.seal)
        previous, copied = start.hash, list[dict[str, Any]]()
        for row in rows:
            copied.append({**row, "at": stamp(row["at"]), "previous": previous})
            previous = row["hash"]
        return copied

    @asynccontextmanager
    async def _at_one_moment(self) -> AsyncIterator[Connection]:
        async with self._database.transaction() as connection:
            await connection.execute("set transaction isolation level repeatable read, read only")
            yield connection


async def _ends(connection: Connection) -> tuple[Link, Link]:
    row = await (await connection.execute(_CHAIN)).fetchone()
    assert row is not None
    return Link(row["base_seal"], row["base_hash"]), Link(row["head_seal"], row["head_hash"])


async def _start(connection: Connection, base: Link, after: int | None) -> Link:
    """The link to begin behind. What was let go of meanwhile is not there to be looked at."""
    if after is None or after <= base.seal:
        return base
    row = await (await connection.execute(_LINK, [after])).fetchone()
    # Whoever names a row that is not there finds the gap: no hash fits what comes behind it.
    return Link(after, row["hash"]) if row is not None else Link(after)


async def _stretch(connection: Connection, after: int) -> list[DictRow]:
    return await (await connection.execute(_STRETCH, [after])).fetchall()


def _shown(row: DictRow) -> dict[str, Any]:
    return {**row, "at": moment(row["at"])}
