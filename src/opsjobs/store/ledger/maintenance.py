"""Maintenance of a target: its runs are held until it is over; running runs continue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opsjobs.model.execution import moment
from opsjobs.store import audit
from opsjobs.store.ledger.admission import LOCK_SLOTS, MAINTENANCE, UNPARK
from opsjobs.store.ledger.admit import ADMIT_AT_ONCE, admit, admit_each, for_each
from opsjobs.store.transaction import Database


@dataclass(frozen=True, slots=True)
class Maintenance:
    """The maintenance of a target."""

    until: datetime | None
    """When it ends; None: when it is ended manually."""
    reason: str | None
    """The reason given."""
    by: str | None
    """The identity that started it."""

    def data(self) -> dict[str, Any]:
        """Return `{until, reason, by}`."""
        return {"until": moment(self.until), "reason": self.reason, "by": self.by}


# A claim locks the slot row while it decides, so a run is held only by a maintenance in effect.
_BEGIN = """
insert into target_slots as s (target_id, slots, held_until, held_reason, held_by)
values (%(target)s, %(slots)s, coalesce(%(until)s::timestamptz,
                                        opsjobs_now() + make_interval(secs => %(seconds)s),
                                        'infinity'),
        %(reason)s, %(by)s)
on conflict (target_id) do update set held_until = excluded.held_until,
  held_reason = excluded.held_reason,
  held_by = excluded.held_by"""
_END = (
    "update target_slots set held_until = null, held_reason = null, held_by = null where "
    "target_id = %(target)s"
)
_READ = """
select target_id, nullif(held_until, 'infinity') as until, held_reason as reason,
  held_by as by from target_slots
where target_id = any(%s::text[]) and held_until > (select opsjobs_now())"""

# Holds for other reasons begin with the name of a target, which may be any text.
_HELD = f"awaits ~ '^{MAINTENANCE}(: |$)'"

# Runs held until another time than the new one go back to admission, and are held again.
_WAKE = f"""
with due as (
  select id from target_runs
  where target_id = %(target)s and status = 'waiting' and waiting_for = 'hold' and {_HELD}
  for update skip locked
)
update target_runs r set waiting_for = 'admission', not_before = null, awaits = null
where r.id = any(array(select id from due)) returning r.execution_id"""

_WAKE_EXPIRED = f"""
with due as (
  select r.id from target_runs r
  where r.status = 'waiting' and r.waiting_for = 'hold' and r.{_HELD} and not exists (
    select 1 from target_slots s where s.target_id = r.target_id
      and s.held_until > (select opsjobs_now()))
  limit %(limit)s for update of r skip locked
)
update target_runs r set waiting_for = 'admission', not_before = null, awaits = null
where r.id = any(array(select id from due)) returning r.execution_id"""


async def hold_target(
    database: Database,
    target_id: str,
    slots: int,
    *,
    until: datetime | None = None,
    seconds: float | None = None,
    reason: str | None,
    by: str,
) -> None:
    """Start or change the maintenance of a target.

    Without `until` and `seconds` it lasts until it is ended.
    """
    given = {
        "target": target_id,
        "slots": slots,
        "until": until,
        "seconds": seconds,
        "reason": reason,
        "by": by,
    }
    ends = (
        "until further notice"
        if until is None and seconds is None
        else moment(until) or f"in {seconds:g} s"
    )
    await _change(
        database,
        _BEGIN,
        given,
        action="target.maintenance_began",
        after={"ends": ends},
        reason=reason,
    )


async def release_target(database: Database, target_id: str) -> None:
    """End the maintenance of a target, and release its held runs."""
    await _change(database, _END, {"target": target_id}, action="target.maintenance_ended")


async def load_maintenances(
    database: Database, target_ids: Sequence[str]
) -> dict[str, Maintenance]:
    """Return the current maintenance of these targets, by target id."""
    rows = await database.fetch(_READ, [list(target_ids)])
    return {row["target_id"]: Maintenance(row["until"], row["reason"], row["by"]) for row in rows}


async def wake_held(database: Database, limit: int) -> int:
    """Wake runs that are still held by a maintenance that is over; return how many."""
    rows = await database.fetch(_WAKE_EXPIRED, {"limit": limit})
    await admit_each(database, sorted({row["execution_id"] for row in rows}), ADMIT_AT_ONCE)
    return len(rows)


async def _change(
    database: Database,
    statement: str,
    given: dict[str, Any],
    *,
    action: str,
    after: dict[str, Any] | None = None,
    reason: str | None = None,
) -> None:
    async with database.pipelined() as connection:
        await connection.execute(statement, given)
        await audit.record(
            connection, action, "target", given["target"], after=after, reason=reason
        )
        woken = await connection.execute(_WAKE, given)
    await admit(database, sorted({row["execution_id"] for row in await woken.fetchall()}))


_RESIZE = """
update target_slots set slots = greatest(%(slots)s::int, used)
where target_id = %(target)s and slots <> greatest(%(slots)s::int, used)"""

# Slots that were in use and could not be removed, or that a launch has set since.
_DIFFERENT_SLOTS = """
select s.target_id, t.slots from target_slots s
join targets t on t.id = case when s.target_id ~ '^[0-9]{1,18}$' then s.target_id::bigint end
where s.target_id > %(after)s and s.target_id <= %(upto)s and s.slots <> greatest(t.slots, s.used)
order by 1 limit %(limit)s"""


async def resize_slots(database: Database, target_id: str, slots: int) -> None:
    """Set the number of slots of a target; runs that waited for a slot continue.

    Slots in use above that number are removed as they are freed.
    """
    async with database.pipelined() as connection:
        await connection.execute(LOCK_SLOTS, {"targets": [target_id]})
        await connection.execute(_RESIZE, {"target": target_id, "slots": slots})
        unparked = await connection.execute(UNPARK, {"targets": [target_id]})
    await admit(database, sorted({row["execution_id"] for row in await unparked.fetchall()}))


async def resize_all_slots(database: Database, limit: int, *, after: str, upto: str) -> int:
    """Set slots to the number in the inventory if use prevented it before; return how many.

    Looks at targets after the id `after`, up to `upto`.
    """
    rows = await database.fetch(_DIFFERENT_SLOTS, {"limit": limit, "after": after, "upto": upto})
    slots = {row["target_id"]: row["slots"] for row in rows}

    async def one(target_id: str) -> int:
        await resize_slots(database, target_id, slots[target_id])
        return 1

    return await for_each(database, list(slots), one)
