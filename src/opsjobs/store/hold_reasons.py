"""What keeps the runs of an open execution from beginning, if nothing holds the execution as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opsjobs.model.execution import moment
from opsjobs.store.ledger.claim import MAINTENANCE
from opsjobs.store.transaction import Database

# Asked of one execution of which nothing runs: what keeps its waiting runs from being claimed, the commonest first. A run that is
# ready and not claimed stands still only if no worker of its zone lives.
HELD_RUNS = f"""
with waiting as (
  select r.zone, r.target_name, r.waiting_for, r.awaits, r.not_before, r.position from target_runs r
  where r.execution_id = %(execution)s and r.status = 'waiting' and (r.waiting_for is null or r.waiting_for in ('hold', 'slot'))
), kept as (
  select case when waiting_for is null then 'workers' when waiting_for = 'slot' then 'slot'
              when awaits ~ '^{MAINTENANCE}(: |$)' then 'maintenance' else 'hold' end as kind, *
  from waiting
  where waiting_for is not null or not exists (
    select from workers w where w.zone = waiting.zone and w.buried_at is null and w.expires_at > (select opsjobs_now()))
)
select kind, count(*) as targets, array_agg(distinct zone) as zones, (array_agg(target_name order by position))[1] as target,
  (array_agg(awaits order by position))[1] as awaits, min(not_before) as until
from kept group by kind order by kind = 'workers' desc, kind = 'maintenance' desc, count(*) desc limit 1"""


async def held_runs(database: Database, execution_id: int) -> dict[str, Any] | None:
    """Return what keeps the waiting runs of an execution from beginning, as its `waiting_on`; None if nothing does."""
    row = await database.fetch_one(HELD_RUNS, {"execution": execution_id})
    if row is None:
        return None
    told = {"kind": row["kind"], "reason": _reason(row), "targets": row["targets"], "target": row["target"]}
    if row["kind"] == "workers":
        return {**told, "zones": row["zones"]}
    return {**told, "until": moment(row["until"])}


def _reason(row: Mapping[str, Any]) -> str:
    count, first = row["targets"], row["target"]
    those = first if count == 1 else f"{first} and {count - 1} more targets"
    until = f" until {moment(row['until'])}" if row["until"] is not None else ""
    match row["kind"]:
        case "workers":
            zones = ", ".join(row["zones"])
            return f"no worker runs in the zone {zones}, in which {count} target{'s wait' if count > 1 else ' waits'}"
        case "maintenance":
            why = row["awaits"].removeprefix(MAINTENANCE)
            return f"{those} {'is' if count == 1 else 'are'} under maintenance{until}{why}"
        case "slot":
            return f"all slots of {those} are taken by other executions"
        case _:
            return f"{those} {'is' if count == 1 else 'are'} held{until}: {row['awaits']}"
