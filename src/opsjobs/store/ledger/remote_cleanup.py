"""Ended runs that left folders on their target, or whose outcome is unknown.

No state changes here: due times move, and `late_result` is written once. A run is leased to the
caller for a while, and is due again if the caller reports nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from opsjobs.model.action_base import FrozenBecome
from opsjobs.model.program import RunKey, SpoolIdentity
from opsjobs.store.transaction import Database


@dataclass(frozen=True, slots=True)
class Folder:
    """The folders that a run may have left on its target: one for every attempt of an action."""

    run_id: int
    target_id: str
    keys: Sequence[RunKey]
    becomes: Mapping[str, FrozenBecome] = field(default_factory=dict)
    """The users that actions became, by their spec.

    An action that is missing here ran as the login user.
    """
    early: bool = False
    """True if only its output is to be deleted now; the rest is due a day after its end."""


@dataclass(frozen=True, slots=True)
class LateLookup:
    """A command that may still have been running when its run ended."""

    run_id: int
    execution_id: int
    target_id: str
    key: RunKey
    kill: bool
    """True if the command was to be stopped."""
    identity: SpoolIdentity
    """The spool in which it was started; only that spool has its outcome."""


# How long a run is leased: machines that hang take long. The last lease is not renewed.
_CLEANING_LEASE = "interval '1 hour'"
_SWEEP_LEASE = "interval '10 minutes'"
_NOW = "(select opsjobs_now())"
# A visit sooner than this after the end of a run only deletes its output: until then, its record
# prevents a second start.
EARLY_HOURS = 23
_EARLY = f"r.finished_at > {_NOW} - interval '{EARLY_HOURS} hours'"

# An unknown outcome is looked up first, because the folder holds it.
_DUE_CLEANING = f"""
with due as (
  select id from target_runs
  where zone = %(zone)s and spool_due <= {_NOW} and finished_at is not null and sweep_due is null
  order by spool_due limit %(limit)s for update skip locked
), leased as (
  update target_runs r set spool_due = case when r.finished_at > {_NOW} - interval '8 days'
    then {_NOW} + {_CLEANING_LEASE} end
  where r.id = any(array(select id from due)) returning r.id, r.uuid, r.execution_id, r.target_id,
    r.attempt, {_EARLY} as early
)
select l.id, l.uuid, l.target_id, l.early, x.action, greatest(l.attempt, x.attempt) as attempts, (
  select a -> 'become' from execution_specs s cross join jsonb_array_elements(s.actions) a
  where s.execution_id = l.execution_id and a ->> 'key' = x.action
    and jsonb_typeof(a -> 'become') = 'object') as become
from leased l left join lateral (
  select action, max(attempt) as attempt from job_execution_results where target_run_id = l.id
  group by action) x on true
order by l.id, x.action"""

_CLEANED = f"""
with named as (select id from target_runs where id = any(%s::bigint[]) and spool_due is not null
               order by id for update)
update target_runs r set spool_due = case when {_EARLY} then r.finished_at + interval '24 hours' end
where r.id = any(array(select id from named))"""

_NOT_CLEANED = f"""
with named as (select id from target_runs where id = any(%s::bigint[]) and spool_due is not null
               order by id for update)
update target_runs r set spool_due = {_NOW} + interval '1 hour'
where r.id = any(array(select id from named))"""

# Branches of a run are lost independently; each was started in the spool of its own result, or else
# of the run. Only commands and scripts are looked up: transfers and waits do not continue on their
# own.
_UNKNOWN = """
x.target_run_id = r.id and x.late_result is null and x.again_at is null
and ((x.cancel_proof = 'unreachable') is true or x.status in ('lost', 'dead'))
and coalesce(x.boot_id, r.boot_id) is not null and coalesce(x.store_id, r.store_id) <> 'direct'
and not exists (
  select 1 from execution_specs s cross join jsonb_array_elements(s.actions) a
  where s.execution_id = r.execution_id and a ->> 'key' = x.action
    and a ->> 'type' not in ('command', 'script'))"""

_NOT_LET_IN = f"""
with named as (select id from target_runs where id = any(%s::bigint[]) and spool_due is not null
               order by id for update)
update target_runs r set spool_due = {_NOW} + interval '1 day'
where r.id = any(array(select id from named))"""

_DUE_SWEEPS = f"""
with due as (
  select id from target_runs where zone = %(zone)s and sweep_due <= {_NOW}
  order by sweep_due limit %(limit)s for update skip locked
), leased as (
  update target_runs r set sweeps = r.sweeps + 1,
    sweep_due = case when r.finished_at > {_NOW} - interval '7 days'
                          and exists (select 1 from job_execution_results x where {_UNKNOWN})
                            then {_NOW} + {_SWEEP_LEASE} end
  where r.id = any(array(select id from due))
  returning r.id, r.uuid, r.execution_id, r.target_id, r.cancel_proof, r.store_id, r.boot_id
)
select r.id, r.uuid, r.execution_id, r.target_id, x.action, x.attempt,
       coalesce(x.store_id, r.store_id) as store_id, coalesce(x.boot_id, r.boot_id) as boot_id,
       ('unreachable' in (r.cancel_proof, x.cancel_proof)) is true as kill
from leased r join job_execution_results x on {_UNKNOWN}
order by r.id, x.id"""

# The result of the action gets the outcome; the run gets the first outcome of its actions, and is
# done once none of its actions has an unknown outcome.
_SETTLE_LATE = f"""
with recorded as (
  update job_execution_results set late_result = coalesce(late_result, %(late)s)
  where target_run_id = %(id)s and action = %(action)s and attempt = %(attempt)s and exists (
    select 1 from target_runs where id = %(id)s and finished_at is not null)
)
update target_runs r set late_result = coalesce(r.late_result, %(late)s),
  sweep_due = case when exists (
    select 1 from job_execution_results x where {_UNKNOWN}
      and (x.action, x.attempt) <> (%(action)s, %(attempt)s))
    then r.sweep_due end
where r.id = %(id)s and r.finished_at is not null
  and (r.late_result is null or r.sweep_due is not null)"""

_SWEEP_AGAIN = f"""
with named as (select id from target_runs where id = any(%s::bigint[]) and sweep_due is not null
               order by id for update)
update target_runs r set sweep_due = {_NOW} + least(interval '1 minute' * power(2,
  least(r.sweeps, 6)), interval '1 hour')
where r.id = any(array(select id from named))"""


async def lease_cleanups(database: Database, zone: str, limit: int) -> list[Folder]:
    """Return up to `limit` runs with folders to remove now, the earliest due first."""
    rows = await database.fetch(_DUE_CLEANING, {"zone": zone, "limit": limit})
    runs: dict[int, list[DictRow]] = {}
    for row in rows:
        runs.setdefault(row["id"], []).append(row)
    return [_folder(run_id, tried) for run_id, tried in runs.items()]


def _folder(run_id: int, tried: Sequence[DictRow]) -> Folder:
    keys = [key for row in tried for key in _keys(row["uuid"], row["action"], row["attempts"])]
    becomes = {
        row["action"]: FrozenBecome.model_validate(row["become"], context={"stored": True})
        for row in tried
        if row["become"]
    }
    return Folder(run_id, tried[0]["target_id"], keys, becomes, tried[0]["early"])


def _keys(run: UUID, action: str | None, attempts: int) -> list[RunKey]:
    return (
        []
        if action is None
        else [RunKey(run, action, attempt) for attempt in range(1, attempts + 1)]
    )


async def mark_cleaned(database: Database, run_ids: Sequence[int]) -> None:
    """Record that the folders of these runs were removed from their targets.

    The record of a run that ended today remains there.
    """
    await _each(database, _CLEANED, run_ids)


async def postpone_cleanup(
    database: Database, run_ids: Sequence[int], *, refused: bool = False
) -> None:
    """Record that the targets could not be reached; the runs are due again in an hour.

    `refused`: opsjobs may not become their users, or the targets keep the files; they are due again
    in a day.
    """
    await _each(database, _NOT_LET_IN if refused else _NOT_CLEANED, run_ids)


async def lease_late_lookups(database: Database, zone: str, limit: int) -> list[LateLookup]:
    """Return up to `limit` runs whose outcome is to be looked up now, the earliest due first."""
    rows = await database.fetch(_DUE_SWEEPS, {"zone": zone, "limit": limit})
    return [_sweep(row) for row in rows]


def _sweep(row: Mapping[str, Any]) -> LateLookup:
    return LateLookup(
        run_id=row["id"],
        execution_id=row["execution_id"],
        target_id=row["target_id"],
        key=RunKey(row["uuid"], row["action"], row["attempt"]),
        kill=row["kill"],
        identity=SpoolIdentity(row["store_id"], row["boot_id"]),
    )


async def record_late_result(
    database: Database, sweep: LateLookup, late_result: Mapping[str, Any]
) -> None:
    """Write the outcome of a run's command next to its final state; the first result stays."""
    known = {
        "id": sweep.run_id,
        "action": sweep.key.action,
        "attempt": sweep.key.attempt,
        "late": Jsonb(dict(late_result)),
    }
    async with database.pipelined() as connection:
        # Branches are looked up concurrently: the last one must see the writes of the others.
        await connection.execute("select 1 from target_runs where id = %(id)s for update", known)
        await connection.execute(_SETTLE_LATE, known)


async def postpone_late_lookup(database: Database, run_ids: Sequence[int]) -> None:
    """Record that nothing was found; try again after a pause that doubles up to an hour."""
    await _each(database, _SWEEP_AGAIN, run_ids)


async def _each(database: Database, statement: str, run_ids: Sequence[int]) -> None:
    async with database.connection() as connection:
        await connection.execute(statement, [list(run_ids)])
