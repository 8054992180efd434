"""Delete slots and states of deleted targets once no open run needs them."""

from __future__ import annotations

from opsjobs.store.transaction import Database

# Rows of each table that one call deletes at most; the rest is left to the next one.
ROWS = 50_000

# It reads all open runs, so it runs once a day. Ids that the inventory did not assign are left
# alone.
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

# Restores slots for a run of a deleted target that was launched at the moment its slots were
# deleted, as a retry is: without them it could never be claimed.
_RESTORE = """
insert into target_slots (target_id, slots)
select distinct r.target_id, 1 from target_runs r
where r.status = 'waiting' and not exists (select from target_slots s where s.target_id = r.target_id)
on conflict do nothing returning 1"""


class Leftovers:
    """Deletes slots and states of deleted targets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def forget(self) -> int:
        """Delete what is left of deleted targets; return the number of rows."""
        await self._database.fetch(_RESTORE)
        slots = await self._database.fetch(_SLOTS, {"rows": ROWS})
        states = await self._database.fetch(_STATE, {"rows": ROWS})
        return len(slots) + len(states)
