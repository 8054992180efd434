"""Leftovers: what was kept of targets that are deleted, once no open run needs it."""

from __future__ import annotations

from opsjobs.store.transaction import Database

# Rows that one call deletes at most, of each table; the rest is for the next one.
ROWS = 50_000

# All open runs are read for it, so it is for once a day. Ids that the inventory did not give are left alone.
_GONE = """
with open as materialized (
  select distinct target_id from target_runs where status in ('waiting', 'running')
), gone as materialized (
  select k.target_id from {table} k
  where k.target_id ~ '^[0-9]{{1,18}}$' and not exists (select from targets t where t.id::text = k.target_id)
    and not exists (select from open o where o.target_id = k.target_id)
  limit %(rows)s
)
delete from {table} where target_id = any(array(select target_id from gone)){free} returning 1"""
_SLOTS = _GONE.format(table="target_slots", free=" and used = 0")
_STATE = _GONE.format(table="target_state", free="")

# A run of a deleted target that was launched, as a retry is, in the moment in which its slots went: without them it is never claimed.
_RESTORE = """
insert into target_slots (target_id, slots)
select distinct r.target_id, 1 from target_runs r
where r.status = 'waiting' and not exists (select from target_slots s where s.target_id = r.target_id)
on conflict do nothing returning 1"""


class Leftovers:
    """Forgets slots and states of deleted targets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def forget(self) -> int:
        """Delete what is left of deleted targets; return how many rows."""
        await self._database.fetch(_RESTORE)
        slots = await self._database.fetch(_SLOTS, {"rows": ROWS})
        states = await self._database.fetch(_STATE, {"rows": ROWS})
        return len(slots) + len(states)
