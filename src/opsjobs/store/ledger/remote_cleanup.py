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

from opsjobs.model.spool_identity import RunKey, SpoolIdentity
from opsjobs.store.transaction import Database


@dataclass(frozen=True, slots=True)
class Folder:
    """What a run may have left on its target: of each action that was tried, every attempt.

    `becomes`: as whom actions ran, as their spec says; one that is not in here ran as who logs in. `early`: only its output is to
    be emptied now; the rest is due a day after its end.
    """

    run_id: int
    target_id: str
    keys: Sequence[RunKey]
    becomes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    early: bool = False


@dataclass(frozen=True, slots=True)
class LateLookup:
    """A command that was perhaps still running when its run ended. `kill`: it was to be stopped.

    `identity`: the store in which it was started; another one can say nothing of it.
    """

    run_id: int
    execution_id: int
    target_id: str
    key: RunKey
    kill: bool
    identity: SpoolIdentity


# For so long a run is left to who was handed it: machines that hang take their time. The last time comes without a next one.
_CLEANING_LEASE = "interval '1 hour'"
_SWEEP_LEASE = "interval '10 minutes'"
_NOW = "(select opsjobs_now())"
# A visit sooner than this after the end of a run empties its output alone: the record refuses a second start until then.
EARLY_HOURS = 23
_EARLY = f"r.finished_at > {_NOW} - interval '{EARLY_HOURS} hours'"

# What is still unknown is found out first: the folder knows it.
_DUE_CLEANING = f"""
with due as (
  select id from target_runs
  where zone = %(zone)s and spool_due <= {_NOW} and finished_at is not null and sweep_due is null
  order by spool_due limit %(limit)s for update skip locked
), leased as (
  update target_runs r set spool_due = case when r.finished_at > {_NOW} - interval '8 days' then {_NOW} + {_CLEANING_LEASE} end
  where r.id = any(array(select id from due)) returning r.id, r.uuid, r.execution_id, r.target_id, r.attempt, {_EARLY} as early
)
select l.id, l.uuid, l.target_id, l.early, x.action, greatest(l.attempt, x.attempt) as attempts, (
  select a -> 'become' from execution_specs s cross join jsonb_array_elements(s.actions) a
  where s.execution_id = l.execution_id and a ->> 'key' = x.action and jsonb_typeof(a -> 'become') = 'object') as become
from leased l left join lateral (
  select action, max(attempt) as attempt from job_execution_results where target_run_id = l.id group by action) x on true
order by l.id, x.action"""

_CLEANED = f"""
with named as (select id from target_runs where id = any(%s::bigint[]) and spool_due is not null order by id for update)
update target_runs r set spool_due = case when {_EARLY} then r.finished_at + interval '24 hours' end
where r.id = any(array(select id from named))"""

_NOT_CLEANED = f"""
with named as (select id from target_runs where id = any(%s::bigint[]) and spool_due is not null order by id for update)
update target_runs r set spool_due = {_NOW} + interval '1 hour' where r.id = any(array(select id from named))"""

# Branches of a run are lost each by itself, and each was begun where its own result says (else where the run was: a worker of
# the release before knew only that). Only a program is looked for: of a transfer or a wait nothing goes on by itself.
_UNKNOWN = """
x.target_run_id = r.id and x.late_result is null and x.again_at is null
and ((x.cancel_proof = 'unreachable') is true or x.status in ('lost', 'dead'))
and coalesce(x.boot_id, r.boot_id) is not null and coalesce(x.store_id, r.store_id) <> 'direct'
and not exists (
  select 1 from execution_specs s cross join jsonb_array_elements(s.actions) a
  where s.execution_id = r.execution_id and a ->> 'key' = x.action and a ->> 'type' not in ('command', 'script'))"""

_NOT_LET_IN = f"""
with named as (select id from target_runs where id = any(%s::bigint[]) and spool_due is not null order by id for update)
update target_runs r set spool_due = {_NOW} + interval '1 day' where r.id = any(array(select id from named))"""

_DUE_SWEEPS = f"""
with due as (
  select id from target_runs where zone = %(zone)s and sweep_due <= {_NOW}
  order by sweep_due limit %(limit)s for update skip locked
), leased as (
  update target_runs r set sweeps = r.sweeps + 1,
    sweep_due = case when r.finished_at > {_NOW} - interval '7 days'
                          and exists (select 1 from job_execution_results x where {_UNKNOWN}) then {_NOW} + {_SWEEP_LEASE} end
  where r.id = any(array(select id from due))
  returning r.id, r.uuid, r.execution_id, r.target_id, r.cancel_proof, r.store_id, r.boot_id
)
select r.id, r.uuid, r.execution_id, r.target_id, x.action, x.attempt,
       coalesce(x.store_id, r.store_id) as store_id, coalesce(x.boot_id, r.boot_id) as boot_id,
       ('unreachable' in (r.cancel_proof, x.cancel_proof)) is true as kill
from leased r join job_execution_results x on {_UNKNOWN}
order by r.id, x.id"""

# Its own result is told what was found; the run the first word of all, and it is done once nothing of it is unknown.
_SETTLE_LATE = f"""
with told as (
  update job_execution_results set late_result = coalesce(late_result, %(late)s)
  where target_run_id = %(id)s and action = %(action)s and attempt = %(attempt)s and exists (
    select 1 from target_runs where id = %(id)s and finished_at is not null)
)
update target_runs r set late_result = coalesce(r.late_result, %(late)s),
  sweep_due = case when exists (
    select 1 from job_execution_results x where {_UNKNOWN} and (x.action, x.attempt) <> (%(action)s, %(attempt)s))
    then r.sweep_due end
where r.id = %(id)s and r.finished_at is not null and (r.late_result is null or r.sweep_due is not null)"""

_SWEEP_AGAIN = f"""
with named as (select id from target_runs where id = any(%s::bigint[]) and sweep_due is not null order by id for update)
update target_runs r set sweep_due = {_NOW} + least(interval '1 minute' * power(2, least(r.sweeps, 6)), interval '1 hour')
where r.id = any(array(select id from named))"""


async def lease_cleanups(database: Database, zone: str, limit: int) -> list[Folder]:
    """Return runs that left something on their target that is to go now, at most `limit`; the longest due first."""
    rows = await database.fetch(_DUE_CLEANING, {"zone": zone, "limit": limit})
    runs: dict[int, list[DictRow]] = {}
    for row in rows:
        runs.setdefault(row["id"], []).append(row)
    return [_folder(run_id, tried) for run_id, tried in runs.items()]


def _folder(run_id: int, tried: Sequence[DictRow]) -> Folder:
    keys = [key for row in tried for key in _keys(row["uuid"], row["action"], row["attempts"])]
    becomes = {row["action"]: row["become"] for row in tried if row["become"]}
    return Folder(run_id, tried[0]["target_id"], keys, becomes, tried[0]["early"])


def _keys(run: UUID, action: str | None, attempts: int) -> list[RunKey]:
    return [] if action is None else [RunKey(run, action, attempt) for attempt in range(1, attempts + 1)]


async def mark_cleaned(database: Database, run_ids: Sequence[int]) -> None:
    """Note that nothing of these runs is left on their targets, or of a run that ended today: only its record."""
    await _each(database, _CLEANED, run_ids)


async def postpone_cleanup(database: Database, run_ids: Sequence[int], *, refused: bool = False) -> None:
    """Their targets could not be reached: again in an hour. `refused`: we may not be their users; again in a day."""
    await _each(database, _NOT_LET_IN if refused else _NOT_CLEANED, run_ids)


async def lease_late_lookups(database: Database, zone: str, limit: int) -> list[LateLookup]:
    """Runs whose end is to be looked for now, at most `limit`; the longest due first."""
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


async def record_late_result(database: Database, sweep: LateLookup, late_result: Mapping[str, Any]) -> None:
    """Write beside a run's final state what became of its command; the first word stays."""
    known = {"id": sweep.run_id, "action": sweep.key.action, "attempt": sweep.key.attempt, "late": Jsonb(dict(late_result))}
    async with database.pipelined() as connection:
        # Branches are found out side by side: whoever is the last must see what the others wrote.
        await connection.execute("select 1 from target_runs where id = %(id)s for update", known)
        await connection.execute(_SETTLE_LATE, known)


async def postpone_late_lookup(database: Database, run_ids: Sequence[int]) -> None:
    """Nothing could be found out: again after a pause that doubles up to an hour."""
    await _each(database, _SWEEP_AGAIN, run_ids)


async def _each(database: Database, statement: str, run_ids: Sequence[int]) -> None:
    async with database.connection() as connection:
        await connection.execute(statement, [list(run_ids)])
