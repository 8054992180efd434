"""Notifications in PostgreSQL: events to report, last outcomes, the state of each rule.

One process at a time plans notifications. What it decides, the messages that it queues and the
position up to which it has read are one transaction: each event is decided once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg.types.json import Jsonb

from opsjobs import failpoints
from opsjobs.model.delivery import NewDelivery
from opsjobs.model.errors import Unavailable
from opsjobs.model.events import EventType
from opsjobs.model.execution import ExecutionStatus, TriggeredBy, moment
from opsjobs.model.notification import (
    JobOutcome,
    NotificationDefaultDraft,
    NotificationRule,
    QuietState,
)
from opsjobs.model.notification_message import FAILURES_SHOWN, TargetFailure
from opsjobs.store import audit
from opsjobs.store.connections import RETRYABLE, as_unavailable
from opsjobs.store.deliveries import queue_deliveries
from opsjobs.store.reference import check_basis
from opsjobs.store.statements import load_statement
from opsjobs.store.transaction import Connection, Database
from opsjobs.telemetry.logs import log

T = TypeVar("T")

SOURCE = "notifications"
ENDED = (
    EventType.EXECUTION_COMPLETED,
    EventType.EXECUTION_PARTIAL,
    EventType.EXECUTION_FAILED,
    EventType.EXECUTION_TIMEOUT,
)
EVENTS = (
    *ENDED,
    EventType.APPROVAL_REQUESTED,
    EventType.SCHEDULE_TRIGGERED,
    EventType.SCHEDULE_MISSED,
)
"""The types of events that can be notified of."""
HEAD_BYTES = 4 << 10
"""The bytes of a failed action's output that are looked at."""
STATES_KEPT = "30 days"
"""The time for which the state of a rule is kept after its last notification."""
DELETED_ROWS_MAX = 2_000

_POSITION = "select position from delivery_sources where name = %s for update skip locked"
_START = """
insert into delivery_sources (name, position) select %s, last from event_positions
on conflict (name) do nothing"""
_READ_TO = "update delivery_sources set position = %s where name = %s"
_LAST = "select last from event_positions"
_EVENTS = """
select id, position, type, at, execution_id, data,
  (opsjobs_now() - at > interval '1 hour') as stale from events
where position > %(after)s and position <= %(last)s and type = any(%(types)s)
order by position limit %(limit)s"""
_EXECUTIONS = """
select e.id, e.uuid, e.job_id, e.number, e.status, e.total, opsjobs_counts(e) as counts,
  e.log_day, e.started_at, e.finished_at, s.job_name, s.requested_by, s.triggered_by,
  s.policy -> 'notify' as rules, c.id as schedule_id, c.name as schedule_name,
  c.definition -> 'notify' as schedule_rules
from job_executions e join execution_specs s on s.execution_id = e.id
left join schedule_executions f on f.execution_id = e.id
left join job_schedules c on c.id = f.schedule_id
where e.id = any(%s)"""
_JOBS = """
select j.id, j.name, v.policy -> 'notify' as rules
from jobs j join job_versions v on v.job_id = j.id and v.version = j.version where j.id = any(%s)"""
_FAILURES = load_statement(__file__, "notification_failures")
_HEADS = load_statement(__file__, "notification_heads")
_DEFAULT = "select rules, updated_at from notification_default"
_SET_DEFAULT = """
update notification_default set rules = %s, updated_at = opsjobs_now() returning updated_at"""
_OUTCOMES = """
select o.scope, o.scope_id, o.outcome, o.failures, o.finished_at from notification_outcomes o
join unnest(%(scopes)s::text[], %(ids)s::bigint[]) as w(scope, id)
  on o.scope = w.scope and o.scope_id = w.id"""
_SET_OUTCOME = """
insert into notification_outcomes (scope, scope_id, outcome, failures, execution_id, finished_at)
values (%(scope)s, %(scope_id)s, %(outcome)s, %(failures)s, %(execution)s, %(finished_at)s)
on conflict (scope, scope_id) do update set outcome = excluded.outcome,
  failures = excluded.failures, execution_id = excluded.execution_id,
  finished_at = excluded.finished_at"""
_STATE = """
select sent_at, held, held_since, digest_due_at, gathered, gathered_count from notification_rules
where scope = %(scope)s and scope_id = %(scope_id)s and rule_key = %(key)s"""
_SET_STATE = """
insert into notification_rules (scope, scope_id, rule_key, rule, sent_at, held, held_since,
  digest_due_at, gathered, gathered_count)
values (%(scope)s, %(scope_id)s, %(key)s, %(rule)s, %(sent_at)s, %(held)s, %(held_since)s,
  %(digest_due_at)s, %(gathered)s, %(gathered_count)s)
on conflict (scope, scope_id, rule_key) do update set sent_at = excluded.sent_at,
  held = excluded.held, held_since = excluded.held_since, digest_due_at = excluded.digest_due_at,
  gathered = excluded.gathered, gathered_count = excluded.gathered_count,
  updated_at = opsjobs_now()"""
_DUE = """
select scope, scope_id, rule_key, rule, sent_at, held, held_since, digest_due_at, gathered,
  gathered_count
from notification_rules where digest_due_at <= (select opsjobs_now())
order by digest_due_at limit %s"""
_DELETE_STATE = """
delete from notification_rules
where scope = %(scope)s and scope_id = %(scope_id)s and rule_key = %(key)s"""
_DELETE_OLD = f"""
delete from notification_rules where ctid = any(array(
  select ctid from notification_rules
  where updated_at < (select opsjobs_now()) - interval '{STATES_KEPT}' and digest_due_at is null
  order by updated_at limit %s)) returning 1"""


class RuleScope(NamedTuple):
    """The owner of a list of rules: a job, a schedule, an execution, or the default (id 0)."""

    kind: str
    id: int


@dataclass(frozen=True, slots=True)
class NotableExecution:
    """An execution, with the rules that stand for it at its launch and at its schedule."""

    id: int
    uuid: str
    job_id: int | None
    job_name: str
    number: int | None
    status: ExecutionStatus
    triggered_by: TriggeredBy
    requested_by: str
    total: int
    counts: Mapping[str, int]
    log_day: Any
    started_at: datetime | None
    finished_at: datetime | None
    rules: Any
    schedule_id: int | None
    schedule_name: str | None
    schedule_rules: Any


@dataclass(frozen=True, slots=True)
class NotableEvent:
    """One event, with the execution or the schedule that it is about."""

    id: int
    type: EventType
    at: datetime
    data: Mapping[str, Any]
    execution: NotableExecution | None = None
    job_name: str | None = None
    job_rules: Any = None
    """The rules of the job's current version, of an event of a schedule."""
    position: int = 0
    """Its place in the stream."""
    stale: bool = False
    """True if it is older than an hour: if it cannot be planned now, it is given up."""
    fault: Exception | None = None
    """The reason why this release cannot read it; it has only its id, type and position then."""


@dataclass(frozen=True, slots=True)
class LastOutcome:
    """The outcome of the last execution of a job or a schedule."""

    outcome: JobOutcome
    failures: int
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class RuleState:
    """The state of a rule, with what its digest has gathered."""

    quiet: QuietState = field(default_factory=QuietState)
    gathered: tuple[Mapping[str, Any], ...] = ()
    gathered_count: int = 0

    def gather(self, entry: Mapping[str, Any], most: int) -> RuleState:
        """Return the state with one more entry; only the first ones are kept."""
        kept = (*self.gathered, entry)[:most]
        return replace(self, gathered=kept, gathered_count=self.gathered_count + 1)


@dataclass(frozen=True, slots=True)
class DueDigest:
    """A digest that is to be sent now."""

    scope: RuleScope
    key: str
    """The key under which its state is stored."""
    rule: NotificationRule
    state: RuleState


@dataclass(frozen=True, slots=True)
class StoredDefault:
    """The default rules, as GET /notifications/default shows them."""

    draft: NotificationDefaultDraft
    updated_at: datetime

    def data(self) -> dict[str, Any]:
        """Return the body of GET /notifications/default."""
        return {**self.draft.model_dump(mode="json"), "updated_at": moment(self.updated_at)}


class Notifications:
    """The default rules, and the turns of the planner."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def default(self) -> StoredDefault:
        """Return the default rules."""
        row = await self._database.fetch_one(_DEFAULT)
        assert row is not None
        return _default(row)

    async def set_default(
        self, draft: NotificationDefaultDraft, *, basis: datetime | None = None
    ) -> StoredDefault:
        """Replace the default rules. Raises Precondition if `basis` is not their last change."""
        async with self._database.transaction() as connection:
            row = await (await connection.execute(f"{_DEFAULT} for update")).fetchone()
            assert row is not None
            old = _default(row)
            check_basis("default of", "notifications", old.updated_at, basis)
            if draft == old.draft:
                return old
            rules = draft.model_dump(mode="json")["notify"]
            changed = await (await connection.execute(_SET_DEFAULT, [Jsonb(rules)])).fetchone()
            assert changed is not None
            changes = audit.changes(old.draft.model_dump(mode="json"), {"notify": rules})
            await audit.record(
                connection, "notification_default.updated", "notification_default", None, **changes
            )
            return StoredDefault(draft, changed["updated_at"])

    async def retry(self, turn: Callable[[], Awaitable[T]]) -> T:
        """Return the result of a turn; take it again after a deadlock."""
        return await self._database.retry(turn)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[NotificationTurn | None]:
        """Yield a turn of the planner, which is committed at the end of the block.

        None if another process has it, or if it is the first one: the next one begins at the end
        of the events that there are now.
        """
        async with self._database.transaction() as connection:
            await connection.execute("set local idle_in_transaction_session_timeout = '60s'")
            row = await (await connection.execute(_POSITION, [SOURCE])).fetchone()
            if row is None:
                await connection.execute(_START, [SOURCE])
                yield None
                return
            turn = NotificationTurn(connection, row["position"])
            yield turn
            async with failpoints.at("notification.plan"):
                if turn.position != row["position"]:
                    await connection.execute(_READ_TO, [turn.position, SOURCE])

    async def delete_old(self) -> int:
        """Delete states of rules that have sent nothing for 30 days; return how many."""
        return len(await self._database.fetch(_DELETE_OLD, [DELETED_ROWS_MAX]))


class NotificationTurn:
    """One turn of the planner: reads and writes in its transaction."""

    def __init__(self, connection: Connection, position: int) -> None:
        self._connection = connection
        self._added = list[NewDelivery]()
        self.position = position

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Undo the writes and deliveries of the block if it raises; the turn can continue.

        Raises the error, or Unavailable if PostgreSQL is the cause: then the turn has failed.
        """
        before = len(self._added)
        try:
            async with self._connection.transaction():
                try:
                    yield
                except BaseException:
                    del self._added[before:]
                    raise
        except psycopg.Error as error:
            if isinstance(error, RETRYABLE):
                raise Unavailable(f"PostgreSQL: {error}") from error
            if (outage := as_unavailable(error)) is not None:
                raise outage from error
            raise

    def stop_before(self, event: NotableEvent) -> None:
        """Let the next turn begin with this event."""
        self.position = event.position - 1

    async def now(self) -> datetime:
        """Return the time of the database."""
        row = await (await self._connection.execute("select opsjobs_now() as now")).fetchone()
        assert row is not None
        now: datetime = row["now"]
        return now

    async def read(self, limit: int) -> Sequence[NotableEvent]:
        """Return the next events that can be notified of, and move the position behind them."""
        last = await (await self._connection.execute(_LAST)).fetchone()
        assert last is not None
        wanted = {
            "after": self.position,
            "last": last["last"],
            "types": [event.value for event in EVENTS],
            "limit": limit,
        }
        rows = await (await self._connection.execute(_EVENTS, wanted)).fetchall()
        self.position = max(
            self.position, rows[-1]["position"] if len(rows) == limit else last["last"]
        )
        if not rows:
            return []
        executions = await self._executions({_execution_of(row) for row in rows} - {None})
        jobs = await self._jobs({_job_of(row) for row in rows} - {None})
        return [_try_event(row, executions, jobs) for row in rows]

    async def _executions(self, ids: Collection[int | None]) -> Mapping[int, Mapping[str, Any]]:
        rows = await (await self._connection.execute(_EXECUTIONS, [list(ids)])).fetchall()
        return {row["id"]: row for row in rows}

    async def _jobs(self, ids: Collection[int | None]) -> Mapping[int, Mapping[str, Any]]:
        if not ids:
            return {}
        rows = await (await self._connection.execute(_JOBS, [list(ids)])).fetchall()
        return {row["id"]: row for row in rows}

    async def default_rules(self) -> Any:
        """Return the default rules as they are stored."""
        row = await (await self._connection.execute(_DEFAULT)).fetchone()
        assert row is not None
        return row["rules"]

    async def outcomes(self, scopes: Collection[RuleScope]) -> Mapping[RuleScope, LastOutcome]:
        """Return the last outcomes of jobs and schedules."""
        if not scopes:
            return {}
        wanted = {"scopes": [one.kind for one in scopes], "ids": [one.id for one in scopes]}
        rows = await (await self._connection.execute(_OUTCOMES, wanted)).fetchall()
        return {
            RuleScope(row["scope"], row["scope_id"]): LastOutcome(
                JobOutcome(row["outcome"]), row["failures"], row["finished_at"]
            )
            for row in rows
        }

    async def set_outcome(self, scope: RuleScope, execution_id: int, outcome: LastOutcome) -> None:
        """Store the outcome of the last execution of a job or a schedule."""
        await self._connection.execute(
            _SET_OUTCOME,
            {
                "scope": scope.kind,
                "scope_id": scope.id,
                "outcome": outcome.outcome.value,
                "failures": outcome.failures,
                "execution": execution_id,
                "finished_at": outcome.finished_at,
            },
        )

    async def state(self, scope: RuleScope, rule: NotificationRule) -> RuleState:
        """Return the state of a rule."""
        wanted = {"scope": scope.kind, "scope_id": scope.id, "key": rule.key}
        row = await (await self._connection.execute(_STATE, wanted)).fetchone()
        return RuleState() if row is None else _state(row)

    async def set_state(self, scope: RuleScope, rule: NotificationRule, state: RuleState) -> None:
        """Store the state of a rule."""
        quiet = state.quiet
        await self._connection.execute(
            _SET_STATE,
            {
                "scope": scope.kind,
                "scope_id": scope.id,
                "key": rule.key,
                "rule": Jsonb(rule.model_dump(mode="json")),
                "sent_at": list(quiet.sent_at),
                "held": quiet.held,
                "held_since": quiet.held_since,
                "digest_due_at": quiet.digest_due_at,
                "gathered": Jsonb(list(state.gathered)),
                "gathered_count": state.gathered_count,
            },
        )

    async def due_digests(self, limit: int) -> Sequence[DueDigest]:
        """Return digests that are due, the oldest first.

        One that this release cannot read is deleted with a warning, so that it holds up no other.
        """
        rows = await (await self._connection.execute(_DUE, [limit])).fetchall()
        digests = []
        for row in rows:
            scope = RuleScope(row["scope"], row["scope_id"])
            try:
                rule = NotificationRule.model_validate(row["rule"])
                digests.append(DueDigest(scope, row["rule_key"], rule, _state(row)))
            except (TypeError, ValueError) as wrong:
                log.warning(
                    "notification_digest_unreadable",
                    of=f"{scope.kind} {scope.id}",
                    reason=str(wrong)[:500],
                )
                await self.delete_state(scope, row["rule_key"])
        return digests

    async def delete_state(self, scope: RuleScope, key: str) -> None:
        """Delete the state of a rule, with what its digest has gathered."""
        await self._connection.execute(
            _DELETE_STATE, {"scope": scope.kind, "scope_id": scope.id, "key": key}
        )

    async def failures(self, execution: NotableExecution) -> Sequence[TargetFailure]:
        """Return the first target runs that did not succeed, with the start of their output."""
        wanted = {"execution": execution.id, "limit": FAILURES_SHOWN}
        runs = await (await self._connection.execute(_FAILURES, wanted)).fetchall()
        heads = await self._heads(execution, [run for run in runs if run["action"] is not None])
        return [
            TargetFailure(
                run["target_name"],
                run["target_host"],
                run["status"],
                run["action"],
                run["error_code"],
                run["error_message"],
                heads.get(run["id"], ""),
            )
            for run in runs
        ]

    async def _heads(
        self, execution: NotableExecution, runs: Sequence[Mapping[str, Any]]
    ) -> Mapping[int, str]:
        """Return the start of the output of these runs: stderr, or stdout if that is empty."""
        if not runs:
            return {}
        wanted = {
            "log_day": execution.log_day,
            "execution": execution.id,
            "runs": [run["id"] for run in runs],
            "actions": [run["action"] for run in runs],
            "attempts": [run["attempt"] for run in runs],
            "bytes": HEAD_BYTES,
        }
        rows = await (await self._connection.execute(_HEADS, wanted)).fetchall()
        return {row["target_run_id"]: row["head"].decode(errors="replace") for row in rows}

    def add(self, delivery: NewDelivery) -> None:
        """Keep a message for `queue`."""
        self._added.append(delivery)

    async def queue(self) -> int:
        """Queue the messages that were added; return how many deliveries.

        In one statement, so that lanes are locked in the order in which everyone locks them.
        """
        return len(await queue_deliveries(self._connection, SOURCE, self._added))


def _default(row: Mapping[str, Any]) -> StoredDefault:
    draft = NotificationDefaultDraft.model_validate({"notify": row["rules"]})
    return StoredDefault(draft, row["updated_at"])


def _execution_of(row: Mapping[str, Any]) -> int | None:
    if row["type"] == EventType.APPROVAL_REQUESTED:
        return _id_in(row, "execution_id")
    execution: int | None = row["execution_id"]
    return execution


def _job_of(row: Mapping[str, Any]) -> int | None:
    """Return the job of an event of a schedule; None of any other event."""
    return _id_in(row, "job_id") if _is_of_schedule(row) else None


def _is_of_schedule(row: Mapping[str, Any]) -> bool:
    return row["type"] in (EventType.SCHEDULE_TRIGGERED, EventType.SCHEDULE_MISSED)


def _id_in(row: Mapping[str, Any], key: str) -> int | None:
    data = row["data"]
    found = data.get(key) if isinstance(data, dict) else None
    return found if isinstance(found, int) else None


def _try_event(
    row: Mapping[str, Any],
    executions: Mapping[int, Mapping[str, Any]],
    jobs: Mapping[int, Mapping[str, Any]],
) -> NotableEvent:
    """Return the event, or one with a fault: it must not end the turn of the others."""
    try:
        return _event(row, executions, jobs)
    except (TypeError, ValueError, KeyError, AttributeError) as unreadable:
        return NotableEvent(
            row["id"],
            EventType(row["type"]),
            row["at"],
            {},
            position=row["position"],
            stale=row["stale"],
            fault=unreadable,
        )


def _event(
    row: Mapping[str, Any],
    executions: Mapping[int, Mapping[str, Any]],
    jobs: Mapping[int, Mapping[str, Any]],
) -> NotableEvent:
    data: Mapping[str, Any] = row["data"] or {}
    execution_id = _execution_of(row)
    job = jobs.get(data["job_id"]) if _is_of_schedule(row) else None
    execution = executions.get(execution_id) if execution_id is not None else None
    return NotableEvent(
        row["id"],
        EventType(row["type"]),
        row["at"],
        data,
        None if execution is None else _execution(execution),
        job["name"] if job is not None else None,
        job["rules"] if job is not None else None,
        row["position"],
        row["stale"],
    )


def _execution(row: Mapping[str, Any]) -> NotableExecution:
    return NotableExecution(
        **{
            **row,
            "uuid": str(row["uuid"]),
            "status": ExecutionStatus(row["status"]),
            "triggered_by": TriggeredBy(row["triggered_by"]),
        }
    )


def _state(row: Mapping[str, Any]) -> RuleState:
    quiet = QuietState(tuple(row["sent_at"]), row["held"], row["held_since"], row["digest_due_at"])
    return RuleState(quiet, tuple(row["gathered"]), row["gathered_count"])
