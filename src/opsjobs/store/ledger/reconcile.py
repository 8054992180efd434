"""Reconcile: repair the effects of lost wake-ups, dead processes and broken connections.

Each step is bounded, idempotent SQL.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from opsjobs.model.errors import Unavailable
from opsjobs.store.ledger.admission import LOCK, LOCK_SLOTS, UNPARK
from opsjobs.store.ledger.admit import admit, admit_each, for_each, wake
from opsjobs.store.ledger.advance import GRANT_NAMES_IF_FREE, WAVE_OVER, Advance
from opsjobs.store.ledger.approvals import end_unbegun, expire
from opsjobs.store.ledger.cancelled_runs import end_cancelled_runs
from opsjobs.store.ledger.claim import MISCOUNTED
from opsjobs.store.ledger.control import (
    CANCELLED,
    EXPIRED,
    cancel_children,
    end_waiting,
    skip_halted,
)
from opsjobs.store.ledger.maintenance import resize_all_slots, wake_held
from opsjobs.store.transaction import Database
from opsjobs.store.workers import SingletonLock

# A range of ids that a round examines: `after` and `upto` bound it.
Part = dict[str, Any]
Step = Callable[[], Awaitable[int]]

STEP_ROWS = 200
WAKE_ROWS = 2_000
# How many open executions, and targets, one round examines; the next round continues after them.
# Leftovers of a dead process are found after as many rounds as there are ranges; with fewer open
# executions than this, in each round.
PART_ROWS = 4_000
# How many targets have their slots checked per minute.
RECOUNT_ROWS = 20_000

_PART = """
select count(*) as n, coalesce(max(id), 0) as upto from (
  select id from job_executions where finished_at is null and id > %(after)s order by id
    limit %(rows)s) p"""
_TARGETS_PART = """
select count(*) as n, coalesce(max(target_id), '') as upto from (
  select target_id from target_slots where target_id > %(after)s order by target_id
    limit %(rows)s) p"""

# Only executions that can admit runs: others may wait for days, and would fill the range. The first
# run by position belongs to the first wave.
_ADMISSIBLE = """
select id from job_executions e
where finished_at is null and id > %(after)s and id <= %(upto)s and not paused and not cancelling
  and waiting > 0
  and ready + running < "window" and (deadline_at > (select opsjobs_now())) is not false
  and (select position from target_runs r where r.execution_id = e.id and r.status = 'waiting'
       and r.waiting_for = 'admission'
       order by position limit 1) <= coalesce(open_until, 2147483647)
  and (not named or not exists (select 1 from exclusive_locks l where l.execution_id = e.id
                                and not l.granted offset 0))
order by id"""

_HALTED = """
select id from job_executions e
where finished_at is null and halted and waiting + ready > 0 and exists (
  select 1 from target_runs r where r.execution_id = e.id and r.status = 'waiting' and not exists (
    select 1 from job_execution_results b where b.target_run_id = r.id
      and b.inherited_from is null))
order by id limit %s"""

# Parents that ended before their children: by a deadline, or because no run remained to wait for
# them. Children are watched.
_ORPHANS = """
select distinct p.id from job_executions c cross join lateral (
  select p.id from execution_specs s join job_executions p on p.id = s.parent_id
  where s.execution_id = c.id and s.triggered_by = 'workflow' and p.finished_at is not null
    offset 0) p
where c.finished_at is null and c.id > %(after)s and c.id <= %(upto)s and c.watched
  and not c.cancelling"""

# Steps that an operation did not complete: a wave that has ended without a next one, runs that all
# wait at barriers.
_STALLED = f"""
select e.id from job_executions e
where e.finished_at is null and e.watched and not e.paused and not e.cancelling and not e.halted
  and e.ready + e.running = 0
  and ({WAVE_OVER} or exists (
    select 1 from target_runs r where r.execution_id = e.id and r.status = 'waiting'
      and r.waiting_for = 'barrier'))
order by e.id desc limit %s"""

_PARKED_BESIDE_FREE_SLOTS = """
select s.target_id from target_slots s
where s.target_id > %(after)s and s.target_id <= %(upto)s and s.used < s.slots and exists (
  select 1 from target_runs r where r.target_id = s.target_id and r.status = 'waiting'
    and r.waiting_for = 'slot' offset 0)
order by s.target_id limit %(limit)s"""

_CANCELLING = (
    "select id from job_executions where finished_at is null and cancelling and waiting "
    "+ ready > 0 order by id limit %s"
)

# A run that was cancelled while a worker had it waits again: the worker had not heard of it.
_RUNS_CANCELLED = """
select e.id from job_executions e
where e.finished_at is null and e.id > %(after)s and e.id <= %(upto)s and e.partly_cancelled
  and e.waiting + e.ready > 0 and exists (
  select 1 from cancelled_runs c join target_runs r on r.id = c.target_run_id
  where c.execution_id = e.id and r.status = 'waiting')
order by e.id"""

_EXPIRED = """
select id from job_executions
where finished_at is null and deadline_at <= (select opsjobs_now()) and waiting + ready > 0
order by deadline_at limit %s"""

# Compares `used` of a target with the runs that hold a slot there.
_SUSPECT_SLOTS = """
with held as (select target_id, count(*) as n from target_runs where status = 'running' group by 1)
select s.target_id from target_slots s left join held using (target_id)
where s.target_id > %(after)s and s.target_id <= %(upto)s and (s.used > 0 or held.n > 0)
  and s.used <> coalesce(held.n, 0)
limit %(limit)s"""

_RECOUNT_SLOTS = """
with held as (
  select t.id as target_id, (select count(*) from target_runs r where r.status = 'running'
                             and r.target_id = t.id) as n
  from unnest(%(targets)s::text[]) as t(id)
)
update target_slots s set used = held.n, slots = greatest(s.slots, held.n) from held
where s.target_id = held.target_id and s.used <> held.n returning s.target_id"""

# idle_in_transaction_session_timeout does not end the session of a client that was frozen within a
# pipeline: PostgreSQL starts that timer at a ReadyForQuery only, and any message after it stops it.
# Such a session holds its locks forever, including the lock of its worker's row, so that its lease
# could not be expired. No transaction of this service lasts longer than 10 s.
_TERMINATE_FROZEN = """
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and usename = current_user and application_name like 'opsjobs %%'
  and pid <> pg_backend_pid()
  and wait_event_type = 'Client' and xact_start < (select clock_timestamp()) - interval '10 seconds'
  and state_change < (select clock_timestamp()) - interval '10 seconds' limit %s"""

_OLDEST_OPEN = """
select id from job_executions
where finished_at is null and created_at < (select opsjobs_now()) - interval '1 minute'
order by id limit 20"""


class Reconciler:
    """Rounds of repair.

    Problems that no index finds are looked for in one range of the open executions per round.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._round_lock = SingletonLock(database)
        self._after = 0
        self._after_target = ""
        self._recounted = ""

    async def take_turn(self, pause_seconds: float) -> bool:
        """Return True if the next round belongs to this process.

        Other processes get a round only after the pause.
        """
        return await self._round_lock.acquire("reconciler", pause_seconds)

    async def run_once(self) -> Mapping[str, int]:
        """Run one round; return how many were repaired, by kind.

        Raises the exception of a failed step once the others are done.
        """
        database = self._database
        part, targets = await self._parts()
        return await self._each(
            {
                # First: the others may wait for their locks.
                "cut_off": partial(_terminate_frozen, database),
                "approvals_expired": partial(expire, database, STEP_ROWS),
                "unbegun_ended": partial(end_unbegun, database, STEP_ROWS),
                "names_granted": partial(_grant_names, database),
                "woken": partial(wake, database, WAKE_ROWS, after=part["after"], upto=part["upto"]),
                "admitted": partial(_admit, database, part),
                "unparked": partial(_unpark, database, targets),
                "cancelled": partial(_end, database, _CANCELLING, cancelling=True),
                "runs_cancelled": partial(_end_cancelled_runs, database, part),
                "expired": partial(_end, database, _EXPIRED, cancelling=False),
                "skipped": partial(_skip_halted, database),
                "orphans": partial(_cancel_orphans, database, part),
            }
        )

    async def recount(self) -> Mapping[str, int]:
        """Run the expensive checks, once a minute: compare slots and counters with the runs.

        Slots are also checked range by range. Raises the exception of a failed step once the others
        are done.
        """
        database = self._database
        part = await self._targets(self._recounted, RECOUNT_ROWS)
        self._recounted = part["next"]
        done = await self._each(
            {
                "advanced": partial(_advance, database),
                "resized": partial(
                    resize_all_slots, database, STEP_ROWS, after=part["after"], upto=part["upto"]
                ),
                "unheld": partial(wake_held, database, WAKE_ROWS),
                "slots_mended": partial(_repair_slots, database, part),
                "miscounted": partial(_miscounted, database),
            }
        )
        return {name: done[name] for name in ("slots_mended", "miscounted")}

    async def _each(self, steps: Mapping[str, Step]) -> Mapping[str, int]:
        """Run every step, even if others fail; then raise the first exception.

        Ends at once if PostgreSQL is unavailable, because the others would fail as well.
        """
        done, failed = dict[str, int](), list[Exception]()
        for name, step in steps.items():
            try:
                done[name] = await self._database.retry(step)
            except Exception as error:  # noqa: BLE001  it is raised at the end
                error.add_note(f"in the step {name!r}")
                failed.append(error)
                if isinstance(error, Unavailable):
                    await self._database.fetch("select 1")
        if failed:
            raise next((error for error in failed if not isinstance(error, Unavailable)), failed[0])
        return done

    async def _targets(self, after: str, rows: int) -> Part:
        """Return the range of targets after an id, and the id after which the next one starts."""
        found = await self._database.fetch_one(_TARGETS_PART, {"after": after, "rows": rows})
        assert found is not None
        return {
            "after": after,
            "upto": found["upto"],
            "next": found["upto"] if found["n"] == rows else "",
        }

    async def _parts(self) -> tuple[Part, Part]:
        """Return the ranges of open executions and of targets of this round."""
        part = {"after": self._after, "rows": PART_ROWS}
        found = await self._database.fetch_one(_PART, part)
        assert found is not None
        part["upto"] = found["upto"]
        targets = await self._targets(self._after_target, PART_ROWS)
        self._after = found["upto"] if found["n"] == PART_ROWS else 0
        self._after_target = targets["next"]
        return part, targets


async def _terminate_frozen(database: Database) -> int:
    return len(await database.fetch(_TERMINATE_FROZEN, [STEP_ROWS]))


async def _grant_names(database: Database) -> int:
    return len(await database.fetch(GRANT_NAMES_IF_FREE))


async def _skip_halted(database: Database) -> int:
    halted = [row["id"] for row in await database.fetch(_HALTED, [STEP_ROWS])]
    return await for_each(database, halted, partial(skip_halted, database))


async def _admit(database: Database, part: Part) -> int:
    ids = [r["id"] for r in await database.fetch(_ADMISSIBLE, part)]
    return await admit_each(database, ids, STEP_ROWS)


async def _unpark(database: Database, part: Part) -> int:
    rows = await database.fetch(_PARKED_BESIDE_FREE_SLOTS, {**part, "limit": STEP_ROWS})
    targets = [r["target_id"] for r in rows]
    if not targets:
        return 0
    async with database.pipelined() as connection:
        await connection.execute(LOCK_SLOTS, {"targets": targets})
        unparked = await connection.execute(UNPARK, {"targets": targets})
    rows = await unparked.fetchall()
    await admit(database, sorted({r["execution_id"] for r in rows}))
    return len(rows)


async def _end(database: Database, query: str, *, cancelling: bool) -> int:
    ending = CANCELLED if cancelling else EXPIRED
    due = [row["id"] for row in await database.fetch(query, [STEP_ROWS])]
    return await for_each(
        database, due, lambda execution_id: end_waiting(database, execution_id, ending)
    )


async def _end_cancelled_runs(database: Database, part: Part) -> int:
    due = [row["id"] for row in await database.fetch(_RUNS_CANCELLED, part)]
    return await for_each(database, due, partial(end_cancelled_runs, database))


async def _cancel_orphans(database: Database, part: Part) -> int:
    words = "the execution that it is part of has ended"
    parents = [row["id"] for row in await database.fetch(_ORPHANS, part)]
    return await for_each(
        database, parents, lambda parent: cancel_children(database, parent, words)
    )


async def _advance(database: Database) -> int:
    async def advance(execution_id: int) -> int:
        looking = Advance([execution_id])
        async with database.pipelined() as connection:
            await connection.execute(LOCK, {"executions": [execution_id]})
            await looking.send(connection)
        await admit(database, (await looking.read()).others)
        return 1

    standing = [row["id"] for row in await database.fetch(_STALLED, [STEP_ROWS])]
    return await for_each(database, standing, advance)


async def _repair_slots(database: Database, part: Part) -> int:
    targets = sorted(
        r["target_id"] for r in await database.fetch(_SUSPECT_SLOTS, {**part, "limit": STEP_ROWS})
    )
    if not targets:
        return 0
    async with database.pipelined() as connection:
        await connection.execute(LOCK_SLOTS, {"targets": targets})
        mended = await connection.execute(_RECOUNT_SLOTS, {"targets": targets})
    return len(await mended.fetchall())


async def _miscounted(database: Database) -> int:
    executions = [r["id"] for r in await database.fetch(_OLDEST_OPEN)]
    return len(await database.fetch(MISCOUNTED, [executions])) if executions else 0
