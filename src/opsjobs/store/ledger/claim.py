"""Claim: give ready runs to a worker, within gates and target slots, under the next fence."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg import errors
from psycopg.rows import DictRow

from opsjobs.model.errors import Gone, Unavailable
from opsjobs.model.execution import CancelProof, ErrorCode, RunError, RunStatus
from opsjobs.model.identity import Identity, IdentityKind
from opsjobs.model.program import SpoolIdentity
from opsjobs.model.target_fingerprint import NO_PINS, Pins
from opsjobs.store.ledger.admission import LOCK, MAINTENANCE
from opsjobs.store.ledger.admit import admit_after
from opsjobs.store.ledger.flush import AWAITS_BYTES_MAX, DIRECT
from opsjobs.store.statements import load_statement
from opsjobs.store.transaction import Database

_NOBODY = Identity("api_key", "")


@dataclass(frozen=True, slots=True)
class Claimed:
    """A run that this worker may write for, as long as owner and fence are unchanged."""

    id: int
    uuid: UUID
    execution_id: int
    log_day: date
    target_id: str
    target_name: str
    position: int
    fence: int
    attempt: int
    turn: int
    seconds_left: float | None
    """Seconds until the execution's deadline, as of the claim; None without a deadline."""
    taken_over: bool = False
    """True if another worker, now dead, held it before, and its command may have been started."""
    identity: SpoolIdentity | None = None
    """The spool in which its command may have been started (None: not started yet).

    For a fresh claim: the last known spool of the target.
    """
    direct: bool = False
    """True if its command may have been started outside of any spool."""
    hold_seconds: float | None = None
    """Seconds that the run may still wait for an unreachable target; None if it may not."""
    passed: frozenset[str] = frozenset()
    """The barriers that have opened for this run."""
    watched: bool = False
    """True if its state changes can affect others: by waves, barriers, names or a parent."""
    age_seconds: float = 0.0
    """Seconds since the first claim after its last wait; its open actions began after that."""
    claims: int = 0
    """Count of workers in a row that died while they held it, without recorded progress of it."""
    contact_lost_at: datetime | None = None
    """The time since when an earlier worker could not reach the target."""


@dataclass(frozen=True, slots=True)
class Spec:
    """The content of an execution. A spec never changes, so a worker caches it."""

    execution_id: int
    execution_uuid: UUID
    actions: Sequence[Mapping[str, Any]]
    policy: Mapping[str, Any]
    created_at: datetime
    parameters: Mapping[str, Any] = field(default_factory=dict)
    number: int | None = None
    job_id: int | None = None
    job_name: str = "ad-hoc"
    requested_by: Identity = _NOBODY
    pins: Pins = NO_PINS
    """The fingerprints of its targets at its launch."""
    tags: Sequence[str] = ()
    """The tags of its job."""
    total: int = 1
    """The number of its targets."""
    traceparent: str | None = None
    """The trace context of its launch."""
    restored_from: datetime | None = None
    """The time of the backup since which it may have run unrecorded; None: it cannot have."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The recorded state of one attempt at an action, and how far its log has come."""

    action: str
    attempt: int
    status: RunStatus
    exit_code: int | None
    stored: tuple[int, int]
    started_at: datetime | None
    error: RunError | None = None
    cancel_proof: CancelProof | None = None
    outputs: Mapping[str, Any] | None = None
    identity: SpoolIdentity | None = None
    """The spool in which it may have been started; None: that of the run, unless `direct`."""
    direct: bool = False
    """True if it may have been started outside of any spool."""
    age_seconds: float = 0.0
    """Seconds since its start."""
    again_seconds: float | None = None
    """Seconds until its retry; None if it is not retried."""
    inherited_from: int | None = None
    """The execution that performed it, if it was not this one."""
    open_lines: tuple[bool, bool] = (False, False)
    """True if stdout, stderr has a last line without a line feed in the log."""

    @property
    def voided(self) -> bool:
        """Return True if the attempt was prevented from starting, and so does not count."""
        return self.status is RunStatus.SKIPPED and self.cancel_proof is not None

    @property
    def unknown(self) -> bool:
        """Return True if it may still be running in a spool where its outcome can be looked up."""
        lost = (
            self.status in (RunStatus.LOST, RunStatus.DEAD)
            or self.cancel_proof is CancelProof.UNREACHABLE
        )
        return (
            lost and self.identity is not None and not self.direct and self.inherited_from is None
        )


# Instead of a spool id: claimed and not started yet; the spool of the target is not known.
UNKNOWN = "unknown"
# Maximum number of runs that a worker adopts at a time because they are its own in the ledger.
UNKNOWN_MAX = 1_000
# An execution that fails claims is tried again after this time: it may have been repaired.
SET_ASIDE_SECONDS = 60.0

# The floor avoids walking dead index entries below the smallest ready turn; the caller drops it
# once a second.
_CANDIDATES = """
select id, execution_id, target_id, turn from target_runs
where zone = %(zone)s and status = 'waiting' and waiting_for is null and turn >= %(floor)s
  and not execution_id = any(%(aside)s::bigint[])
order by turn, id limit %(limit)s for update skip locked"""

# The executions among these whose counters contradict their runs. Counters are correct by
# construction, so a difference is a bug. One statement, one snapshot: an operation that commits in
# the meantime is seen whole or not at all.
MISCOUNTED = """
select e.id from job_executions e join lateral (
  select count(*) filter (where status = 'waiting' and waiting_for is not null) as waiting,
         count(*) filter (where status = 'waiting' and waiting_for is null) as ready,
         count(*) filter (where status = 'running') as running,
         count(*) filter (where status = 'succeeded') as succeeded
  from target_runs r where r.execution_id = e.id) actual on true
where e.finished_at is null and e.id = any(%s::bigint[])
  and (actual.waiting, actual.ready, actual.running, actual.succeeded)
      <> (e.waiting, e.ready, e.running, e.succeeded)"""

# What a claim without a floor has found is the floor for all admissions; a lower run only gets a
# later turn than it might.
_WRITE_TURN = """
insert into zone_turns as z (zone, turn) values (%(zone)s, %(turn)s)
on conflict (zone) do update set turn = excluded.turn, written_at = excluded.written_at
where excluded.turn > z.turn and z.written_at < excluded.written_at - interval '1 second'"""

_LOCK_FREE_SLOTS = """
select 1 from target_slots where target_id = any(%(targets)s::text[]) order by target_id
  for update skip locked"""

_DECIDE = load_statement(
    __file__,
    "claim",
    unknown=f"'{UNKNOWN}'",
    maintenance=f"'{MAINTENANCE}'",
    held_for_characters=AWAITS_BYTES_MAX // 4,
)

_UNKNOWN = """
select m.id, m.uuid, m.execution_id, m.target_id, m.target_name, m.position, m.fence, m.attempt,
       coalesce(m.turn, 0) as turn,
       m.store_id, m.boot_id, m.taken_over, m.passed, m.contact_lost_at, e.log_day, e.watched,
       extract(epoch from opsjobs_now() - m.claimed_at)::float8 as age_seconds,
       extract(epoch from e.deadline_at - opsjobs_now())::float8 as seconds_left,
       extract(epoch from e.hold_until - opsjobs_now())::float8 as hold_seconds
from target_runs m join job_executions e on e.id = m.execution_id
where m.owner = %(owner)s and m.status = 'running' and not m.id = any(%(known)s::bigint[])
order by m.id limit %(limit)s"""

_PROGRESS = """
select target_run_id, action, attempt, status, exit_code, error_code, error_message, cancel_proof,
  stdout_stored, stderr_stored, open_lines,
  started_at, outputs, store_id, boot_id, inherited_from,
  extract(epoch from opsjobs_now() - started_at)::float8 as age_seconds,
  extract(epoch from again_at - opsjobs_now())::float8 as again_seconds
from job_execution_results where target_run_id = any(%s::bigint[]) order by id"""

_SPECS = """
select s.execution_id, e.uuid as execution_uuid, s.actions, s.policy, e.created_at, s.parameters,
  e.number, e.job_id, s.job_name,
  s.requested_by, s.requested_by_kind, s.target_versions, s.target_pins, e.total, s.traceparent,
  coalesce(v.tags, '{}') as tags, opsjobs_restored_from(s.execution_id) as restored_from
from execution_specs s join job_executions e on e.id = s.execution_id
left join job_versions v on v.job_id = e.job_id and v.version = e.job_version
where s.execution_id = any(%s::bigint[])"""


@dataclass(frozen=True, slots=True)
class Claim:
    """The outcome of one claim."""

    runs: Sequence[Claimed]
    more: bool
    """True if as many candidates as requested were seen, so that others may find work, too."""
    lowest_turn: int | None
    """The lowest turn among the claimed runs."""
    miscounted: Sequence[int] = ()
    """Executions set aside since the last claim: their counters contradict their runs."""


class SetAside:
    """Executions of which nothing is claimed for a while, because they fail a whole claim."""

    def __init__(self) -> None:
        self._until: dict[int, float] = {}
        self._unreported: set[int] = set()

    def add(self, executions: Sequence[int]) -> None:
        """Set these executions aside, for a minute."""
        self._until |= dict.fromkeys(executions, time.monotonic() + SET_ASIDE_SECONDS)
        self._unreported.update(executions)

    def take_unreported(self) -> list[int]:
        """Return each execution once, for the log, also if the claim that set it aside failed."""
        unreported, self._unreported = sorted(self._unreported), set()
        return unreported

    def current(self) -> list[int]:
        """Return the executions that are set aside now."""
        now = time.monotonic()
        self._until = {key: until for key, until in self._until.items() if until > now}
        return list(self._until)


async def claim(
    database: Database,
    *,
    owner: UUID,
    worker: str,
    zone: str,
    limit: int,
    floor: int,
    aside: SetAside,
) -> Claim:
    """Claim up to `limit` ready runs of the zone for this owner.

    An execution whose counters contradict its runs is set aside: it would make the claims of all
    others fail.
    """
    wanted = {"zone": zone, "floor": floor, "limit": limit}
    who = {"owner": owner, "worker": worker}
    seen: list[DictRow] = []
    try:
        done = await _claim(database, {**wanted, "aside": aside.current()}, who, seen)
    except errors.CheckViolation:
        executions = sorted({row["execution_id"] for row in seen})
        miscounted = [row["id"] for row in await database.fetch(MISCOUNTED, [executions])]
        if not miscounted:
            raise
        aside.add(miscounted)
        done = await _claim(database, {**wanted, "aside": aside.current()}, who, [])
    return replace(done, miscounted=aside.take_unreported())


async def _claim(
    database: Database, wanted: Mapping[str, Any], who: Mapping[str, Any], seen: list[DictRow]
) -> Claim:
    """Claim, and add the candidates to `seen`, even if the claim fails."""
    async with database.manual_transaction() as connection:
        async with connection.pipeline():
            await connection.begin()
            # Planned with the limit known: a plan for any limit might sort all waiting runs instead
            # of walking the index.
            candidates = await connection.execute(_CANDIDATES, wanted, prepare=False)
        seen += await candidates.fetchall()
        if not seen:
            return Claim((), False, None)
        named = {
            "runs": [r["id"] for r in seen],
            "executions": sorted({r["execution_id"] for r in seen}),
            "targets": sorted({r["target_id"] for r in seen}),
            **who,
        }
        # There is no round trip from the lock to the commit.
        async with connection.pipeline():
            await connection.execute(LOCK, named)
            await connection.execute(_LOCK_FREE_SLOTS, named)
            decided = await connection.execute(_DECIDE, named)
            await connection.execute("commit")
        rows = sorted(await decided.fetchall(), key=lambda row: (row["turn"], row["id"]))
    if not wanted["floor"]:
        await _write_turn(database, wanted["zone"], seen[0]["turn"])
    # Runs that went back to waiting left room in the window of their execution.
    await admit_after(
        database, sorted({row["execution_id"] for row in rows if row["what"] != "claimed"})
    )
    runs = [parse_claimed(row) for row in rows if row["what"] == "claimed"]
    return Claim(runs, len(seen) == wanted["limit"], min((r["turn"] for r in rows), default=None))


async def _write_turn(database: Database, zone: str, turn: int) -> None:
    # The claim is committed already: a failure here only makes admissions slower than they could
    # be.
    with suppress(Unavailable, psycopg.OperationalError):
        await database.fetch(f"{_WRITE_TURN} returning turn", {"zone": zone, "turn": turn})


async def find_unknown_runs(
    database: Database, *, owner: UUID, known: Sequence[int]
) -> list[Claimed]:
    """Return runs that this owner holds in the ledger, but that are not in `known`.

    Their claim was committed and its response was lost. At most UNKNOWN_MAX are returned: if there
    are as many, there may be more.
    """
    rows = await database.fetch(
        _UNKNOWN, {"owner": owner, "known": list(known), "limit": UNKNOWN_MAX}
    )
    return [parse_claimed(row, taken_over=row["taken_over"]) for row in rows]


async def load_specs(database: Database, execution_ids: Sequence[int]) -> dict[int, Spec]:
    """Return the specs of these executions, by id."""
    rows = await database.fetch(_SPECS, [list(execution_ids)])
    return {row["execution_id"]: _spec(**row) for row in rows}


def _spec(
    *,
    requested_by: str,
    requested_by_kind: IdentityKind,
    target_versions: bytes | None,
    target_pins: bytes | None,
    **row: Any,
) -> Spec:
    identity = Identity(requested_by_kind, requested_by)
    return Spec(**row, requested_by=identity, pins=Pins(target_versions, target_pins))


async def load_progress(database: Database, run_ids: Sequence[int]) -> dict[int, list[Progress]]:
    """Return the recorded results of these runs' actions, in the order in which they began."""
    found: dict[int, list[Progress]] = {}
    for row in await database.fetch(_PROGRESS, [list(run_ids)]):
        found.setdefault(row["target_run_id"], []).append(_progress(row))
    return found


def _progress(row: Mapping[str, Any]) -> Progress:
    return Progress(
        row["action"],
        row["attempt"],
        RunStatus(row["status"]),
        row["exit_code"],
        (row["stdout_stored"], row["stderr_stored"]),
        row["started_at"],
        RunError(ErrorCode(row["error_code"]), row["error_message"] or "")
        if row["error_code"]
        else None,
        CancelProof(row["cancel_proof"]) if row["cancel_proof"] else None,
        outputs=row["outputs"],
        identity=SpoolIdentity(row["store_id"], row["boot_id"])
        if row["boot_id"] is not None and row["store_id"] != DIRECT
        else None,
        direct=row["store_id"] == DIRECT,
        age_seconds=row["age_seconds"] or 0.0,
        again_seconds=row["again_seconds"],
        inherited_from=row["inherited_from"],
        open_lines=(bool(row["open_lines"] & 1), bool(row["open_lines"] & 2)),
    )


def parse_claimed(row: Mapping[str, Any], *, taken_over: bool = False) -> Claimed:
    """Return the run of a row that also has columns of its execution.

    These are `log_day`, `seconds_left`, `hold_seconds` and `watched`, and `age_seconds` if this is
    not the claim itself.
    """
    has_spool = row["boot_id"] is not None and row["store_id"] != DIRECT
    return Claimed(
        id=row["id"],
        uuid=row["uuid"],
        execution_id=row["execution_id"],
        log_day=row["log_day"],
        target_id=row["target_id"],
        target_name=row["target_name"],
        position=row["position"],
        fence=row["fence"],
        attempt=row["attempt"],
        turn=row["turn"],
        seconds_left=row["seconds_left"],
        taken_over=taken_over,
        identity=SpoolIdentity(row["store_id"], row["boot_id"]) if has_spool else None,
        # Without any spool: it was started directly, if at all.
        direct=row["store_id"] in (None, DIRECT),
        hold_seconds=None if row["hold_seconds"] is None else max(row["hold_seconds"], 0.0),
        passed=frozenset(row["passed"] or ()),
        watched=row["watched"],
        age_seconds=row.get("age_seconds") or 0.0,
        claims=row.get("claims") or 0,
        contact_lost_at=row.get("contact_lost_at"),
    )


# All conditions are equalities on the columns of execution_log_output, so that a generic plan reads
# the entries of one run: with an `or` over two kinds of runs it read the whole log of the
# execution.
_STDOUT = """
select start_offset, substring(data from 1 for %(limit)s - start_offset::int) as data
from execution_log
where log_day = %(day)s and execution_id = %(execution)s and target_run_id = %(run)s
  and event = 'output'
  and action = %(action)s and attempt = %(attempt)s and stream = 'stdout'
    and start_offset < %(limit)s
order by seq"""

# The output of an inherited result is in the log of the execution that performed it, under a run
# and an attempt of its own.
_INHERITED = """
select e.log_day, x.target_run_id, x.attempt, x.stdout_stored
from job_execution_results x join target_runs r on r.id = x.target_run_id
  join job_executions e on e.id = x.execution_id
where x.execution_id = %(execution)s and r.execution_id = %(execution)s and r.target_id = %(target)s
  and x.action = %(action)s
  and x.status = 'succeeded'
order by x.attempt desc limit 1"""


async def read_stdout(database: Database, run: Claimed, seen: Progress, max_bytes: int) -> bytes:
    """Return the first bytes of an attempt's stdout without a gap, at most `max_bytes`."""
    if seen.inherited_from is not None:
        return await _inherited(database, run, seen, seen.inherited_from, max_bytes)
    own = {
        "day": run.log_day,
        "execution": run.execution_id,
        "run": run.id,
        "attempt": seen.attempt,
    }
    return _head(await database.fetch(_STDOUT, {**own, "action": seen.action, "limit": max_bytes}))


async def _inherited(
    database: Database, run: Claimed, seen: Progress, execution_id: int, max_bytes: int
) -> bytes:
    parameters = {"execution": execution_id, "target": run.target_id, "action": seen.action}
    found = await database.fetch_one(_INHERITED, parameters)
    rows: list[DictRow] = []
    if found is not None:
        source = {
            "day": found["log_day"],
            "execution": execution_id,
            "run": found["target_run_id"],
            "attempt": found["attempt"],
        }
        rows = await database.fetch(_STDOUT, {**source, "action": seen.action, "limit": max_bytes})
    if found is None or (found["stdout_stored"] and not rows):
        detail = (
            f"The output of {seen.action!r} in execution {execution_id} is gone: it was older than "
            f"OPSJOBS_KEEP_LOGS or "
            "OPSJOBS_KEEP_EXECUTIONS. Execute the job from its beginning."
        )
        raise Gone("log_dropped", detail)
    return _head(rows)


def _head(rows: Sequence[DictRow]) -> bytes:
    head = bytearray()
    for row in rows:
        if row["data"] is None or row["start_offset"] != len(head):
            break
        head += row["data"]
    return bytes(head)
