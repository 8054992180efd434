"""Calendars: stored, looked up by name, and kept while schedules refer to them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from opsjobs.clock import Clock, SystemClock, uuid7
from opsjobs.model.calendar import Asked, Calendar, CalendarDraft
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.execution import moment
from opsjobs.store import audit, idempotency
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.paging import ListColumn, Listing, Page, PageRequest
from opsjobs.store.reference import check_basis, check_unused, find, lock, unique_name
from opsjobs.store.scheduling.rows import ClosedReason, StoredSchedule
from opsjobs.store.transaction import Connection, Database


@dataclass(frozen=True, slots=True)
class StoredCalendar:
    """A calendar with its identity."""

    id: int
    uuid: str
    draft: CalendarDraft
    created_at: datetime
    updated_at: datetime

    def data(self) -> dict[str, Any]:
        """Return the body of GET /calendars/{id}."""
        return {
            "id": self.id,
            "uuid": self.uuid,
            **self.draft.data(),
            "created_at": moment(self.created_at),
            "updated_at": moment(self.updated_at),
        }


_SHOWN = (
    "select id, uuid, name, description, timezone, kind, windows, created_at, updated_at from "
    "calendars"
)
CALENDARS = Listing(
    _SHOWN,
    {
        "id": ListColumn("integer", sort=True),
        "uuid": ListColumn("uuid"),
        "name": ListColumn("text", sort=True, natural=True),
        "kind": ListColumn("text"),
        "timezone": ListColumn("text"),
        "created_at": ListColumn("moment", sort=True),
        "updated_at": ListColumn("moment", sort=True),
    },
    default_sort="name",
)
_INSERT = """
insert into calendars (uuid, name, description, timezone, kind, windows)
values (%(uuid)s, %(name)s, %(description)s, %(timezone)s, %(kind)s, %(windows)s)
returning id, uuid, name, description, timezone, kind, windows, created_at, updated_at"""
_REPLACE = """
update calendars set name = %(name)s, description = %(description)s, timezone = %(timezone)s,
  kind = %(kind)s,
  windows = %(windows)s, updated_at = opsjobs_now() where id = %(id)s
returning id, uuid, name, description, timezone, kind, windows, created_at, updated_at"""
_SCHEDULES = """
select j.name || '/' || s.name as name, count(*) over () as n from job_schedules s
  join jobs j on j.id = s.job_id
where s.deleted_at is null and j.state <> 'archived' and s.definition -> 'calendars' ? %(name)s
order by j.name, s.name limit %(limit)s"""


class CalendarUnreadable(Exception):
    """A stored calendar cannot be read by this process.

    The times that it closes are unknown, so no schedule with it is launched.
    """


class Calendars:
    """The calendars in PostgreSQL."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    async def create(
        self, draft: CalendarDraft, idem: IdempotentRequest | None = None
    ) -> StoredCalendar | Answer:
        """Store a calendar; return the stored Answer if this request was done before.

        Raises Conflict("name_taken").
        """
        values = {**_values(draft), "uuid": uuid7(self._clock.now())}

        async def insert(connection: Connection) -> StoredCalendar:
            with unique_name("calendar", draft.name):
                made = await connection.execute(_INSERT, values)
            stored = _stored(await made.fetchone())
            await audit.record(
                connection,
                "calendar.created",
                "calendar",
                stored.id,
                draft.name,
                after=draft.data(),
            )
            return stored

        answer = idempotency.created_at("/calendars")
        return await idempotency.once(self._database, idem, insert, answer)

    async def get(self, ref: str) -> StoredCalendar:
        """Return a calendar. Raises NotFound."""
        return _stored(await find(self._database, "calendar", ref, _SHOWN))

    async def replace(
        self, ref: str, draft: CalendarDraft, *, basis: datetime | None = None
    ) -> StoredCalendar:
        """Replace a calendar; it applies to all due times from now on.

        Raises NotFound, Conflict("name_taken"), Conflict("calendar_in_use") if a schedule refers to
        the old name.
        """
        async with self._database.transaction() as connection:
            old = await _locked(connection, ref)
            check_basis("calendar", ref, old.updated_at, basis)
            if draft.name != old.draft.name:
                await _check_unused(connection, old.draft.name)
            if draft == old.draft:
                return old
            with unique_name("calendar", draft.name):
                changed = await connection.execute(_REPLACE, {**_values(draft), "id": old.id})
            changes = audit.changes(old.draft.data(), draft.data())
            await audit.record(
                connection, "calendar.updated", "calendar", old.id, draft.name, **changes
            )
            return _stored(await changed.fetchone())

    async def delete(self, ref: str) -> None:
        """Delete a calendar.

        Raises NotFound, Conflict("calendar_in_use") naming schedules that refer to it.
        """
        async with self._database.transaction() as connection:
            old = await _locked(connection, ref)
            await _check_unused(connection, old.draft.name)
            await connection.execute("delete from calendars where id = %s", [old.id])
            await audit.record(
                connection,
                "calendar.deleted",
                "calendar",
                old.id,
                old.draft.name,
                before=old.draft.data(),
            )

    async def list(self, request: PageRequest) -> Page[StoredCalendar]:
        """Return a page of calendars, by name."""
        return (await CALENDARS.page(self._database, request)).map(_stored)

    async def by_names(self, names: Collection[str]) -> Mapping[str, Calendar]:
        """Return the calendars of these names that exist."""
        if not names:
            return {}
        async with self._database.connection() as connection:
            return await load_calendars(connection, names)


async def load_calendars(connection: Connection, names: Collection[str]) -> Mapping[str, Calendar]:
    """Return the calendars of these names that exist, read on this connection."""
    return {row["name"]: Calendar(_draft(row)) for row in await _rows(connection, names)}


async def _rows(connection: Connection, names: Collection[str]) -> list[DictRow]:
    if not names:
        return []
    return await (
        await connection.execute(f"{_SHOWN} where name = any(%s)", [list(names)])
    ).fetchall()


async def load_closed_reason(
    connection: Connection, schedules: Sequence[StoredSchedule]
) -> ClosedReason:
    """Return a function that gives the reason why a calendar of a schedule closes an instant.

    It returns None if the instant is open. It raises CalendarUnreadable for a schedule with a
    calendar that cannot be read, and works for all others.
    """
    names = {name for schedule in schedules for name in schedule.definition.calendars}
    asked: dict[tuple[str, ...], Asked] = {}
    known: dict[str, Calendar] = {}
    wrong: dict[str, Exception] = {}
    for row in await _rows(connection, names):
        try:
            known[row["name"]] = Calendar(_draft(row))
        except Exception as fault:  # noqa: BLE001  others must not be stopped by it
            wrong[row["name"]] = fault

    def find_closed_reason(schedule: StoredSchedule, instant: datetime) -> str | None:
        for name in schedule.definition.calendars:
            if name in wrong:
                raise CalendarUnreadable(
                    f"the calendar {name!r} cannot be read: {wrong[name]}"
                ) from wrong[name]
        names = tuple(schedule.definition.calendars)
        if names not in asked:
            asked[names] = Asked(known[name] for name in names if name in known)
        shut = asked[names].at(instant)
        return shut.words if shut is not None else None

    return find_closed_reason


async def check_calendars_exist(
    connection: Connection, names: Sequence[str], pointer: str = "/calendars"
) -> None:
    """Check that a calendar of each name exists, and lock it until the transaction ends.

    Raises Invalid("unknown_calendar"). Used when a schedule is stored; `pointer` is the position of
    the names in its body.
    """
    if not names:
        return
    query = "select name from calendars where name = any(%s) order by id for key share"
    rows = await (await connection.execute(query, [list(names)])).fetchall()
    known = {row["name"] for row in rows}
    faults = [
        FieldError(
            f"{pointer}/{position}",
            f"There is no calendar {name!r}. Create it first, or leave it out.",
            "unknown_calendar",
        )
        for position, name in enumerate(names)
        if name not in known
    ]
    if faults:
        raise Invalid("unknown_calendar", faults[0].detail, errors=faults)


async def _check_unused(connection: Connection, name: str) -> None:
    what = f"The calendar {name!r} is used by the schedules"
    await check_unused(connection, "calendar_in_use", what, _SCHEDULES, {"name": name})


async def _locked(connection: Connection, ref: str) -> StoredCalendar:
    # A transaction that stores a schedule with this name holds it for key share: this waits for it,
    # and then sees the schedule.
    return _stored(await lock(connection, "calendar", ref, _SHOWN))


def _values(draft: CalendarDraft) -> dict[str, Any]:
    written = draft.data()
    return {**written, "windows": Jsonb(written["windows"])}


def _draft(row: Mapping[str, Any]) -> CalendarDraft:
    return CalendarDraft.model_validate(
        {name: row[name] for name in CalendarDraft.model_fields}, context={"stored": True}
    )


def _stored(row: DictRow | None) -> StoredCalendar:
    assert row is not None
    return StoredCalendar(
        row["id"], str(row["uuid"]), _draft(row), row["created_at"], row["updated_at"]
    )
