"""Aftercare: which ended runs have left something on their machine, or an end that nobody knows; and what was found there.

Nothing here changes a state: moments move, and `late_result` is added once. Whoever is handed a run has it for a while, and it
comes again should no answer be given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from opsjobs.model.durable import Identity, RunKey
from opsjobs.store.transaction import Database


@dataclass(frozen=True, slots=True)
class Folder:
    """What a run may have left on its target: of each action that was tried, every attempt.

    `becomes`: as whom actions ran, as their spec says; one that is not in here ran as who logs in.
    """

    run_id: int
    target_id: str
    keys: Sequence[RunKey]
    becomes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sweep:
    """A run whose command was perhaps still running when the run ended. `kill`: it was to be stopped.

    `identity`: the store in which it was started; another one can say nothing of it.
    """

    run_id: int
    execution_id: int
    target_id: str
    key: RunKey
    kill: bool
    identity: Identity


# For so long a run is left to who was handed it: machines that hang take their time. The last time comes without a next one.
_CLEANING_LEASE = "interval '1 hour'"
_SWEEP_LEASE = "interval '10 minutes'"
_NOW = "(select opsjobs_now())"

# What is still unknown is found out first: the folder knows it.
_DUE_CLEANING = f"""
with due as (
  select id from target_runs
  where zone = %(zone)s and spool_due <= {_NOW} and finished_at is not null and sweep_due is null
  order by spool_due limit %(limit)s for update skip locked
), leased as (
  update target_runs r set spool_due = case when r.finished_at > {_NOW} - interval '8 days' then {_NOW} + {_CLEANING_LEASE} end
  where r.id = any(array(select id from due)) returning r.id, r.uuid, r.execution_id, r.target_id, r.attempt
)
select l.id, l.uuid, l.target_id, x.action, greatest(l.attempt, x.attempt) as attempts, (
  select a -> 'become' from execution_specs s cross join jsonb_array_elements(s.actions) a
  where s.execution_id = l.execution_id and a ->> 'key' = x.action and jsonb_typeof(a -> 'become') = 'object') as become
from leased l left join lateral (
  select action, max(attempt) as attempt from job_execution_results where target_run_id = l.id group by action) x on true
order by l.id, x.action"""

_CLEANED = """
with named as (select id from target_runs where id = any(%s::bigint[]) and spool_due is not null order by id for update)
update target_runs r set spool_due = null where r.id = any(array(select id from named))"""

_NOT_CLEANED = f"""
with named as (select id from target_runs where id = any(%s::bigint[]) and spool_due is not null order by id for update)
update target_runs r set spool_due = {_NOW} + interval '1 hour' where r.id = any(array(select id from named))"""

# The result that is unknown is the one to look for; it is the last, unless the author let the run go on after a failure.
_DUE_SWEEPS = f"""
with due as (
  select id from target_runs where zone = %(zone)s and sweep_due <= {_NOW}
  order by sweep_due limit %(limit)s for update skip locked
), leased as (
  update target_runs r set sweeps = r.sweeps + 1,
    sweep_due = case when r.finished_at > {_NOW} - interval '7 days' then {_NOW} + {_SWEEP_LEASE} end
  where r.id = any(array(select id from due))
  returning r.id, r.uuid, r.execution_id, r.target_id, r.cancel_proof, r.store_id, r.boot_id
)
select l.id, l.uuid, l.execution_id, l.target_id, l.store_id, l.boot_id, x.action, x.attempt,
       'unreachable' in (l.cancel_proof, x.cancel_proof) is true as kill
from leased l cross join lateral (
  select action, attempt, cancel_proof from job_execution_results where target_run_id = l.id
  order by (cancel_proof = 'unreachable' or status in ('lost', 'dead')) is true desc, id desc limit 1) x
order by l.id"""

_SETTLE_LATE = """
update target_runs set late_result = coalesce(late_result, %(late)s), sweep_due = null
where id = %(id)s and finished_at is not null and (late_result is null or sweep_due is not null)"""

_SWEEP_AGAIN = f"""
with named as (select id from target_runs where id = any(%s::bigint[]) and sweep_due is not null order by id for update)
update target_runs r set sweep_due = {_NOW} + least(interval '1 minute' * power(2, least(r.sweeps, 6)), interval '1 hour')
where r.id = any(array(select id from named))"""


async def due_cleaning(database: Database, zone: str, limit: int) -> list[Folder]:
    """Runs that ended a day ago, at most `limit`; the longest due first."""
    rows = await database.fetch(_DUE_CLEANING, {"zone": zone, "limit": limit})
    runs: dict[int, list[DictRow]] = {}
    for row in rows:
        runs.setdefault(row["id"], []).append(row)
    return [_folder(run_id, tried) for run_id, tried in runs.items()]


def _folder(run_id: int, tried: Sequence[DictRow]) -> Folder:
    keys = [key for row in tried for key in _keys(row["uuid"], row["action"], row["attempts"])]
    return Folder(run_id, tried[0]["target_id"], keys, {row["action"]: row["become"] for row in tried if row["become"]})


def _keys(run: UUID, action: str | None, attempts: int) -> list[RunKey]:
    return [] if action is None else [RunKey(run, action, attempt) for attempt in range(1, attempts + 1)]


async def cleaned(database: Database, run_ids: Sequence[int]) -> None:
    """Nothing of these runs is left on their targets."""
    await _each(database, _CLEANED, run_ids)


async def not_cleaned(database: Database, run_ids: Sequence[int]) -> None:
    """Their targets could not be reached: again in an hour."""
    await _each(database, _NOT_CLEANED, run_ids)


async def due_sweeps(database: Database, zone: str, limit: int) -> list[Sweep]:
    """Runs whose end is to be looked for now, at most `limit`; the longest due first."""
    rows = await database.fetch(_DUE_SWEEPS, {"zone": zone, "limit": limit})
    return [_sweep(row) for row in rows]


def _sweep(row: Mapping[str, Any]) -> Sweep:
    return Sweep(
        run_id=row["id"],
        execution_id=row["execution_id"],
        target_id=row["target_id"],
        key=RunKey(row["uuid"], row["action"], row["attempt"]),
        kill=row["kill"],
        identity=Identity(row["store_id"], row["boot_id"]),
    )


async def settle_late(database: Database, run_id: int, late_result: Mapping[str, Any]) -> None:
    """Write beside a run's final state what became of its command; the first word stays."""
    async with database.connection() as connection:
        await connection.execute(_SETTLE_LATE, {"id": run_id, "late": Jsonb(dict(late_result))})


async def sweep_again(database: Database, run_ids: Sequence[int]) -> None:
    """Nothing could be found out: again after a pause that doubles up to an hour."""
    await _each(database, _SWEEP_AGAIN, run_ids)


async def _each(database: Database, statement: str, run_ids: Sequence[int]) -> None:
    async with database.connection() as connection:
        await connection.execute(statement, [list(run_ids)])
