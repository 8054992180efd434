"""Schedules: stored, changed, paused and deleted. Firing them is in firings.py."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import datetime
from itertools import count
from typing import Any, TypeVar

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from opsjobs.clock import Clock, SystemClock, uuid7
from opsjobs.model.access import Reach
from opsjobs.model.errors import Conflict, FieldError, Invalid, NotFound, Precondition
from opsjobs.model.events import EventType
from opsjobs.model.identity import Identity
from opsjobs.model.schedule.draft import ScheduleDraft, refuse_past
from opsjobs.model.schedule.timetable import Timetable, timetable, words_of
from opsjobs.model.time_zones import tzdata_version
from opsjobs.store import audit, idempotency
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.ledger.control import MOMENT
from opsjobs.store.outbox import append_event
from opsjobs.store.paging import ListColumn, Listing, Page, PageRequest
from opsjobs.store.reference import Reference, check_basis, owner_values, unique_name
from opsjobs.store.scheduling.calendars import check_calendars_exist
from opsjobs.store.scheduling.due_firings import CalendarReader, Due, ScheduleBatch, no_calendars
from opsjobs.store.scheduling.rows import COLUMNS, CompiledSchedules, StoredSchedule
from opsjobs.store.scope_sql import OF_JOB
from opsjobs.store.transaction import Connection, Database

T = TypeVar("T")

NAME_CHARACTERS = 190
"""Characters of a default name, without its number."""
_NUMBER = re.compile(r" \([0-9]+\)$")

SCHEDULES = Listing(
    f"""
select {COLUMNS}, j.name as job_name, s.definition ->> 'type' as type,
  s.definition ->> 'timezone' as timezone,
  s.definition ->> 'misfire' as misfire, s.definition ->> 'overlap' as overlap,
  array(select jsonb_array_elements_text(s.definition -> 'calendars')) as calendars
from job_schedules s join jobs j on j.id = s.job_id where s.deleted_at is null""",
    {
        "id": ListColumn("integer", sort=True),
        "uuid": ListColumn("uuid"),
        "job_id": ListColumn("integer", sort=True),
        "job_name": ListColumn("text", sort=True, natural=True),
        "name": ListColumn("text", sort=True, natural=True),
        "type": ListColumn("text"),
        "timezone": ListColumn("text"),
        "misfire": ListColumn("text"),
        "overlap": ListColumn("text"),
        "calendars": ListColumn("texts"),
        "owner": ListColumn("text", sort=True),
        "enabled": ListColumn("boolean"),
        "next_due_at": ListColumn(
            "moment", sort=True, expression="coalesce(next_due_at, 'infinity')"
        ),
        "created_at": ListColumn("moment", sort=True),
        "updated_at": ListColumn("moment", sort=True),
    },
    labels=OF_JOB.format("listed.job_id"),
    search=("name", "job_name"),
    facets=("enabled", "type", "owner"),
)

# The job is locked meanwhile: a transaction that deletes it deletes this schedule, too, or has done
# so before.
_JOB = "select id from jobs where (id = %s or uuid = %s) and state <> 'archived' for share"

_INSERT = """
insert into job_schedules (uuid, job_id, name, definition, owner, owner_kind, enabled, next_due_at,
                           next_fire_at, tzdata,
                           created_at, updated_at, authors)
values (%(uuid)s, %(job)s, %(name)s, %(definition)s, %(owner)s, %(owner_kind)s, %(enabled)s,
        %(due)s, %(fire)s, %(tzdata)s, %(now)s, %(now)s,
        jsonb_build_array(%(author)s::jsonb))
returning id"""

_REPLACE = """
update job_schedules set name = %(name)s, definition = %(definition)s, owner = %(owner)s,
  owner_kind = %(owner_kind)s,
  enabled = %(enabled)s, paused_reason = case when %(enabled)s then null else paused_reason end,
  next_due_at = %(due)s, next_fire_at = %(fire)s,
  tzdata = %(tzdata)s, version = version + 1, updated_at = opsjobs_now(),
  authors = jsonb_build_array(coalesce(authors -> 0,
                                       jsonb_build_object('name', owner, 'kind', owner_kind)),
                                       %(author)s::jsonb)
where id = %(id)s"""

_SWITCH = """
update job_schedules set enabled = %(enabled)s, paused_reason = %(reason)s,
  owner = coalesce(%(owner)s, owner),
  owner_kind = coalesce(%(owner_kind)s, owner_kind), version = version + 1,
    updated_at = opsjobs_now()
where id = %(id)s"""

# The definition as stored, not as a reader would render it: these events cover many schedules at
# once.
_SHOWN = """s.definition || jsonb_build_object(
  'id', s.id, 'uuid', s.uuid, 'job_id', s.job_id, 'version', s.version, 'enabled', s.enabled,
  'owner', s.owner,
  'owner_kind', s.owner_kind, 'firings', s.firings)"""

_DELETE = """
update job_schedules set deleted_at = opsjobs_now(), updated_at = opsjobs_now(), next_due_at = null,
  next_fire_at = null
where id = %s"""

# Pending firings are dropped with their schedule: one event per schedule, for the last of them.
_DROP_PENDING = f"""
with dropped as (
  update schedule_executions f set status = 'skipped', rule = 'deleted', reason = %(reason)s,
    fired_at = t.now, not_before = null,
    expires_at = null, awaits = null, late_ms = extract(epoch from t.now - f.fire_at) * 1000
  from (select opsjobs_now() as now offset 0) t
  where f.schedule_id = any(array(select id from job_schedules where id = %(schedule)s
                                  or job_id = %(job)s)) and f.status = 'pending'
  returning f.schedule_id, f.due_at, f.late_ms, f.moments
), last as (
  select distinct on (schedule_id) *, sum(moments) over (partition by schedule_id) as all_moments
  from dropped
  order by schedule_id, due_at desc
)
insert into events (shard, type, subject, data)
select s.id %% 16, 'schedule.skipped', s.uuid,
  {_SHOWN} || jsonb_build_object('next_due_at', null, 'next_fire_at', null,
  'firing', jsonb_build_object('due_at', to_char(l.due_at at time zone 'UTC', '{MOMENT}'), 'status',
                               'skipped', 'rule', 'deleted',
    'reason', %(reason)s::text, 'late_ms', l.late_ms, 'moments', l.all_moments))
from last l join job_schedules s on s.id = l.schedule_id order by s.id"""

_DELETE_OF_JOB = f"""
with stopped as (
  update job_schedules set deleted_at = opsjobs_now(), updated_at = opsjobs_now(),
    next_due_at = null, next_fire_at = null
  where job_id = %(job)s and deleted_at is null
  returning id, uuid, job_id, version, definition, enabled, owner, owner_kind, firings
)
insert into events (shard, type, subject, data)
select id %% 16, 'schedule.deleted', uuid, {_SHOWN} || jsonb_build_object(
  'next_due_at', null, 'next_fire_at', null, 'deleted_by', %(by)s::text)
from stopped s order by id"""


class Schedules:
    """The schedules that are not deleted.

    `closer` reads the calendars of a schedule that is due while it is changed. `most_per_owner`:
    the schedules that one identity may create; 0: no limit.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock | None = None,
        *,
        compiled: CompiledSchedules | None = None,
        closer: CalendarReader = no_calendars,
        most_per_owner: int = 0,
    ) -> None:
        self._database = database
        self._clock = clock or SystemClock()
        self._compiled = compiled or CompiledSchedules()
        self._closer = closer
        self._most_per_owner = most_per_owner

    async def create(
        self,
        job: str,
        draft: ScheduleDraft,
        owner: Identity,
        idem: IdempotentRequest | None = None,
    ) -> StoredSchedule | Answer:
        """Store a schedule of the job at version 1, launched in the name of its owner.

        Returns the stored Answer if this request was done before. Raises NotFound,
        Conflict("name_taken"), Conflict("too_many_schedules"), Invalid("unknown_calendar"),
        Invalid("never_due") if no due time lies ahead.
        """

        async def write(connection: Connection) -> StoredSchedule:
            return await self._insert(connection, job, draft, owner)

        answer = idempotency.created_at("/schedules")
        return await idempotency.once(self._database, idem, write, answer)

    async def get(self, ref: str | int) -> StoredSchedule:
        """Return a schedule by id or uuid. Raises NotFound, including for a deleted one."""
        named = Reference.require("schedule", ref)
        query = (
            f"select {COLUMNS} from job_schedules s where (s.id = %s or s.uuid = %s) and "
            f"s.deleted_at is null"
        )
        row = await self._database.fetch_one(query, [named.id, named.uuid])
        if row is None:
            raise NotFound.for_ref("schedule", ref)
        return self._compiled.stored(row)

    async def labels(self, schedule: StoredSchedule) -> Mapping[str, str]:
        """Return the labels that scopes are compared with: those of its job."""
        return await self.labels_of_job(schedule.job_id)

    async def labels_of_job(self, job_id: int) -> Mapping[str, str]:
        """Return the labels of the schedules of a job."""
        row = await self._database.fetch_one(f"select {OF_JOB.format('%s')} as labels", [job_id])
        labels: Mapping[str, str] = row["labels"] if row is not None else {}
        return labels

    async def list(self, request: PageRequest, reach: Reach | None = None) -> Page[StoredSchedule]:
        """Return a page of the schedules of jobs within reach.

        Without deleted ones, newest first unless ordered otherwise; `job_id` is a filter.
        """
        return (await SCHEDULES.page(self._database, request, reach=reach)).map(
            self._compiled.stored
        )

    async def replace(
        self,
        ref: str | int,
        draft: ScheduleDraft,
        by: Identity,
        if_match: Collection[int] | None,
        *,
        basis: datetime | None = None,
    ) -> StoredSchedule:
        """Store the next version, owned by its author; nothing if it is identical.

        `if_match`: the versions that the caller expects; None = any. Times that are already due are
        fired by the old version. Raises NotFound, Precondition(412), Conflict("name_taken"),
        Invalid("unknown_calendar", "never_due").
        """

        async def write(connection: Connection) -> StoredSchedule:
            old = await self._locked(connection, ref, if_match)
            check_basis("schedule", ref, old.updated_at, basis)
            named = draft
            if "name" not in draft.model_fields_set or _follows(old, draft):
                table = timetable(draft, uuid=old.uuid, created_at=old.created_at)
                named = await _with_free_name(connection, old.job_id, draft, table, but=old.id)
            if old.definition == named and old.enabled == named.enabled:
                return old
            return await self._replace(connection, old, named, by)

        return await self._run(write)

    async def pause(self, ref: str | int, *, reason: str | None = None) -> StoredSchedule:
        """Pause a schedule: its firings are skipped from now on. Raises NotFound.

        A repeated call changes the reason.
        """
        return await self._switch(ref, enabled=False, reason=reason)

    async def resume(self, ref: str | int, *, owner: Identity | None = None) -> StoredSchedule:
        """Resume a schedule: its firings are launched again. Raises NotFound.

        Skipped firings are not caught up. `owner`: its new owner, if the old one
        does not exist any more.
        """
        return await self._switch(ref, enabled=True, reason=None, owner=owner)

    async def delete(
        self, ref: str | int, by: str, if_match: Collection[int] | None = None
    ) -> None:
        """Delete a schedule and its pending firings; its executions stay.

        Raises NotFound, Precondition(412).
        """

        async def write(connection: Connection) -> None:
            old = await self._locked(connection, ref, if_match)
            await _drop_pending(connection, schedule=old.id, reason="the schedule was deleted")
            await connection.execute(_DELETE, [old.id])
            data = {**old.data(), "next_due_at": None, "next_fire_at": None, "deleted_by": by}
            await append_event(connection, EventType.SCHEDULE_DELETED, old.uuid, data, shard=old.id)
            before = _audited(old.definition, old.owner.name)
            await audit.record(
                connection, "schedule.deleted", "schedule", old.id, old.name, before=before
            )

        await self._run(write)

    async def delete_of_deleted_job(self, job_id: int) -> None:
        """Delete the schedules of a job deleted by a process that does not know schedules."""

        async def write(connection: Connection) -> None:
            await lock_schedules_of(connection, job_id)
            gone = await connection.execute(
                "select 1 from jobs where id = %s and state = 'archived'", [job_id]
            )
            if await gone.fetchone() is not None:
                await delete_schedules_of(connection, job_id, "opsjobs")

        await self._run(write)

    async def _run(self, verb: Callable[[Connection], Awaitable[T]]) -> T:
        async def once() -> T:
            async with self._database.transaction() as connection:
                return await verb(connection)

        return await self._database.retry(once)

    async def _insert(
        self,
        connection: Connection,
        job: str,
        draft: ScheduleDraft,
        owner: Identity,
    ) -> StoredSchedule:
        named = Reference.require("job", job)
        found = await (await connection.execute(_JOB, [named.id, named.uuid])).fetchone()
        if found is None:
            raise NotFound.for_ref("job", job)
        if self._most_per_owner and await _count_owned(connection, owner) >= self._most_per_owner:
            detail = (
                f"{owner.name} owns {self._most_per_owner} schedules, which is the limit "
                "(OPSJOBS_SCHEDULES_PER_CALLER). Delete some, or have the limit raised."
            )
            raise Conflict("too_many_schedules", detail)
        await check_calendars_exist(connection, draft.calendars)
        now = await _now(connection)
        uuid = uuid7(self._clock.now())
        table = timetable(draft, uuid=uuid, created_at=now)
        if "name" not in draft.model_fields_set:
            draft = await _with_free_name(connection, found["id"], draft, table)
        row = {
            "job": found["id"],
            "uuid": uuid,
            "now": now,
            "author": _author(owner),
            **owner_values(owner),
            **_row(draft),
        }
        row |= _ahead(table, now)
        if row["due"] is None:
            raise _never(draft, now)
        with unique_name("schedule", draft.name):
            made = await (await connection.execute(_INSERT, row)).fetchone()
        assert made is not None
        stored = await self._append_event(connection, made["id"], EventType.SCHEDULE_CREATED)
        after = {"job": stored.job_id, **draft.model_dump(mode="json")}
        await audit.record(
            connection, "schedule.created", "schedule", stored.id, draft.name, after=after
        )
        return stored

    async def _replace(
        self,
        connection: Connection,
        old: StoredSchedule,
        draft: ScheduleDraft,
        by: Identity,
    ) -> StoredSchedule:
        await check_calendars_exist(connection, draft.calendars)
        now = await _now(connection)
        ahead = _ahead(timetable(draft, uuid=old.uuid, created_at=old.created_at), now)
        if ahead["due"] is None and old.next_due_at is not None:
            raise _never(draft, now)
        if draft.max_firings is not None and old.firings >= draft.max_firings:
            ahead |= {"due": None, "fire": None}
        with unique_name("schedule", draft.name):
            await connection.execute(
                _REPLACE,
                {"id": old.id, "author": _author(by), **owner_values(by), **_row(draft), **ahead},
            )
        changes = audit.changes(_audited(old.definition, old.owner.name), _audited(draft, by.name))
        await audit.record(
            connection, "schedule.updated", "schedule", old.id, draft.name, **changes
        )
        return await self._append_event(connection, old.id, EventType.SCHEDULE_UPDATED)

    async def _switch(
        self,
        ref: str | int,
        *,
        enabled: bool,
        reason: str | None,
        owner: Identity | None = None,
    ) -> StoredSchedule:
        async def write(connection: Connection) -> StoredSchedule:
            old = await self._locked(connection, ref, None)
            unchanged = (old.enabled, old.paused_reason) == (enabled, reason)
            if unchanged and owner in (None, old.owner):
                return old
            await connection.execute(
                _SWITCH, {"id": old.id, "enabled": enabled, "reason": reason, **owner_values(owner)}
            )
            action = "schedule.resumed" if enabled else "schedule.paused"
            await audit.record(connection, action, "schedule", old.id, old.name, reason=reason)
            return await self._append_event(connection, old.id, EventType.SCHEDULE_UPDATED)

        return await self._run(write)

    async def _locked(
        self, connection: Connection, ref: str | int, if_match: Collection[int] | None
    ) -> StoredSchedule:
        """Lock the schedule, record its due times, and return it.

        So a change does not apply to times that are due already.
        """
        named = Reference.require("schedule", ref)
        # A separate statement, so that the next one reads the rows committed by the transaction
        # before this one.
        lock = (
            "select id from job_schedules where (id = %s or uuid = %s) and deleted_at is null "
            "for no key update"
        )
        row = await (await connection.execute(lock, [named.id, named.uuid])).fetchone()
        if row is None:
            raise NotFound.for_ref("schedule", ref)
        stored = await self._read(connection, row["id"])
        if if_match is not None and stored.version not in if_match:
            detail = (
                f"The schedule is at version {stored.version} by now. Read it again and send "
                f"its ETag as If-Match."
            )
            raise Precondition("stale_version", detail, status=412)
        now = await _now(connection)
        if stored.next_fire_at is None or stored.next_fire_at > now:
            return stored
        page = ScheduleBatch(now)
        due = Due(stored)
        page.add(due, due.decide_due(now, await self._closer(connection, [stored])), claim=False)
        await page.write(connection)
        return await self._read(connection, stored.id)

    async def _read(self, connection: Connection, schedule_id: int) -> StoredSchedule:
        row = await (
            await connection.execute(
                f"select {COLUMNS} from job_schedules s where s.id = %s", [schedule_id]
            )
        ).fetchone()
        assert row is not None
        return self._compiled.stored(row)

    async def _append_event(
        self, connection: Connection, schedule_id: int, event: EventType
    ) -> StoredSchedule:
        stored = await self._read(connection, schedule_id)
        await append_event(connection, event, stored.uuid, stored.data(), shard=stored.id)
        return stored


async def delete_schedules_of(connection: Connection, job_id: int, by: str) -> None:
    """Delete all schedules of a job that is being deleted, with their pending firings."""
    await _drop_pending(connection, job=job_id, reason="its job was deleted")
    await connection.execute(_DELETE_OF_JOB, {"job": job_id, "by": by})


async def _drop_pending(
    connection: Connection, *, reason: str, schedule: int | None = None, job: int | None = None
) -> None:
    """End the pending firings of a schedule, or of all schedules of a job.

    The caller holds the locks of these schedules.
    """
    await connection.execute(_DROP_PENDING, {"schedule": schedule, "job": job, "reason": reason})


async def lock_schedules_of(connection: Connection, job_id: int) -> None:
    """Lock the schedules of a job.

    A transaction that also locks the job locks these first, as the launch of a firing does.
    """
    query = (
        "select 1 from job_schedules where job_id = %s and deleted_at is null order by id for "
        "no key update"
    )
    await connection.execute(query, [job_id])


async def _now(connection: Connection) -> datetime:
    row: DictRow | None = await (await connection.execute("select opsjobs_now() as now")).fetchone()
    assert row is not None
    now: datetime = row["now"]
    return now


async def _count_owned(connection: Connection, owner: Identity) -> int:
    query = (
        "select count(*) as n from job_schedules where owner = %s and owner_kind = %s "
        "and deleted_at is null"
    )
    row = await (await connection.execute(query, [owner.name, owner.kind])).fetchone()
    return 0 if row is None else int(row["n"])


def _default_name(draft: ScheduleDraft, table: Timetable) -> str:
    """Return the name of a schedule that is given none: when it is due, without the zone."""
    words = words_of(draft, table.cron)
    return words.removesuffix(f", {draft.timezone or 'UTC'}")[:NAME_CHARACTERS]


def _follows(old: StoredSchedule, draft: ScheduleDraft) -> bool:
    """Return whether the schedule has its default name, and this draft keeps it.

    The name then says when the draft is due."""
    number = _NUMBER.search(old.name)
    plain = old.name[: number.start()] if number else old.name
    return draft.name == old.name and plain == _default_name(old.definition, old.timetable)


async def _with_free_name(
    connection: Connection,
    job_id: int,
    draft: ScheduleDraft,
    table: Timetable,
    *,
    but: int | None = None,
) -> ScheduleDraft:
    """Return the draft with its default name, numbered if the job has a schedule of that name.

    `but`: the schedule that the draft replaces."""
    query = (
        "select name from job_schedules where job_id = %s and deleted_at is null "
        "and id is distinct from %s"
    )
    rows = await (await connection.execute(query, [job_id, but])).fetchall()
    taken = {row["name"] for row in rows}
    plain = _default_name(draft, table)
    numbered = (f"{plain} ({number})" for number in count(2))
    name = plain if plain not in taken else next(n for n in numbered if n not in taken)
    return draft.model_copy(update={"name": name})


def _author(owner: Identity) -> Jsonb:
    """Return the author, with the person behind it.

    Outside of a request, it is the owner's name and kind.
    """
    return audit.written_by() or Jsonb({"name": owner.name, "kind": owner.kind})


def _audited(draft: ScheduleDraft, owner: str) -> dict[str, Any]:
    return {"owner": owner, **draft.model_dump(mode="json")}


def _row(draft: ScheduleDraft) -> dict[str, Any]:
    return {
        "name": draft.name,
        "definition": Jsonb(draft.model_dump(mode="json")),
        "enabled": draft.enabled,
    }


def _ahead(table: Timetable, now: datetime) -> dict[str, Any]:
    due = table.next_after(now)
    fire = None if due is None else table.fire_at(due)
    return {"due": due, "fire": fire, "tzdata": tzdata_version() if table.wall else None}


def _never(draft: ScheduleDraft, now: datetime) -> Invalid:
    refuse_past(draft, now)
    detail = (
        "The schedule has no due time ahead: all are in the past, or outside of start_at and "
        "end_at."
    )
    return Invalid("never_due", detail, errors=[FieldError("", detail, "never_due")])
