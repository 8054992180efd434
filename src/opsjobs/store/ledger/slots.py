"""A target's slots change their number: at once as far as nobody has them, the rest as they are freed."""

from __future__ import annotations

from opsjobs.store.ledger.admit import LOCK_SLOTS, UNPARK, admit
from opsjobs.store.ledger.each import for_each
from opsjobs.store.transaction import Database

_RESIZE = """
update target_slots set slots = greatest(%(slots)s::int, used)
where target_id = %(target)s and slots <> greatest(%(slots)s::int, used)"""

# What could not be taken away while it was in use; a launch since may have said so, too.
_OTHER_THAN_KNOWN = """
select s.target_id, t.slots from target_slots s
join targets t on t.id = case when s.target_id ~ '^[0-9]{1,18}$' then s.target_id::bigint end
where s.target_id > %(after)s and s.target_id <= %(upto)s and s.slots <> greatest(t.slots, s.used) order by 1 limit %(limit)s"""


async def resize(database: Database, target_id: str, slots: int) -> None:
    """The target has so many slots from now on; runs that waited for one go on."""
    async with database.pipelined() as connection:
        await connection.execute(LOCK_SLOTS, {"targets": [target_id]})
        await connection.execute(_RESIZE, {"target": target_id, "slots": slots})
        unparked = await connection.execute(UNPARK, {"targets": [target_id]})
    await admit(database, sorted({row["execution_id"] for row in await unparked.fetchall()}))


async def resize_all(database: Database, limit: int, *, after: str, upto: str) -> int:
    """Bring slots to the number that the inventory knows, where use has kept them from it; return how many there were.

    Looks at targets after an id, up to another.
    """
    rows = await database.fetch(_OTHER_THAN_KNOWN, {"limit": limit, "after": after, "upto": upto})
    slots = {row["target_id"]: row["slots"] for row in rows}

    async def one(target_id: str) -> int:
        await resize(database, target_id, slots[target_id])
        return 1

    return await for_each(database, list(slots), one)
