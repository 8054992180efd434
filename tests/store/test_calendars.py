"""Calendars in PostgreSQL: stored, found by name, and kept while schedules use them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from psycopg.types.json import Jsonb

from opsjobs.model.calendar import CalendarDraft, closed
from opsjobs.model.errors import Conflict, Invalid, NotFound
from opsjobs.store.jobs import Jobs
from opsjobs.store.paging import PageRequest
from opsjobs.store.scheduling.calendars import Calendars, StoredCalendar, check_calendars_exist
from opsjobs.store.transaction import Connection, Database
from store.drafts import job


def draft(name: str = "holidays", **fields: Any) -> CalendarDraft:
    windows = [
        {"name": "Christmas", "yearly": "12-24..12-26"},
        {"from": "2026-11-27T22:00Z", "until": "2026-11-28T06:00Z"},
    ]
    return CalendarDraft.model_validate(
        {"name": name, "timezone": "Europe/Berlin", "windows": windows, **fields}
    )


async def made(on: Calendars, name: str = "holidays", **fields: Any) -> StoredCalendar:
    calendar = await on.create(draft(name, **fields))
    assert isinstance(calendar, StoredCalendar)
    return calendar


async def scheduled(
    connection: Connection, job_id: int, *calendars: str, name: str = "nightly"
) -> None:
    """Insert a row in the open transaction, as storing a schedule does."""
    await check_calendars_exist(connection, calendars)
    query = (
        "insert into job_schedules (uuid, job_id, name, definition, owner) values (%s, %s, %s, "
        "%s, 'ada')"
    )
    await connection.execute(query, [uuid4(), job_id, name, Jsonb({"calendars": list(calendars)})])


async def job_on(database: Database) -> int:
    stored: Any = await Jobs(database).create(job("backup"), by="ada")
    return int(stored.job.id)


async def test_a_calendar_is_stored_unchanged_and_found_by_name(database: Database) -> None:
    calendars = Calendars(database)
    stored = await made(calendars, description="when nobody is there")
    assert (await calendars.get(stored.uuid)).draft == draft(description="when nobody is there")
    await made(calendars, "nights", kind="only", windows=[{"start": "22:00", "end": "06:00"}])
    found = await calendars.by_names(["holidays", "nights", "nowhere"])
    assert sorted(found) == ["holidays", "nights"]
    noon = closed(found.values(), datetime(2026, 12, 25, 11, tzinfo=UTC))
    assert noon is not None
    assert noon.reason == "Christmas: every year 12-24 to 12-26"
    assert await calendars.by_names([]) == {}
    assert [one.draft.name for one in (await calendars.list(PageRequest())).items] == [
        "holidays",
        "nights",
    ]


async def test_names_are_unique(database: Database) -> None:
    calendars = Calendars(database)
    await made(calendars)
    other = await made(calendars, "others")
    with pytest.raises(Conflict, match="already a calendar named 'holidays'"):
        await made(calendars)
    with pytest.raises(Conflict, match="already a calendar named 'holidays'"):
        await calendars.replace(other.uuid, draft())


async def test_a_calendar_that_a_schedule_names_keeps_its_name_and_stays(
    database: Database,
) -> None:
    calendars, job_id = Calendars(database), await job_on(database)
    stored = await made(calendars)
    async with database.transaction() as connection:
        await scheduled(connection, job_id, "holidays")
    for change in (calendars.delete(stored.uuid), calendars.replace(stored.uuid, draft("feasts"))):
        with pytest.raises(
            Conflict, match="'holidays' is used by the schedules backup/nightly: change those first"
        ):
            await change
    changed = await calendars.replace(stored.uuid, draft(description="new"))
    assert changed.draft.description == "new"
    await database.fetch("update job_schedules set deleted_at = opsjobs_now() returning id")
    await calendars.replace(stored.uuid, draft("feasts"))
    await calendars.delete(str(stored.id))
    with pytest.raises(NotFound):
        await calendars.get(stored.uuid)


async def test_a_schedule_of_an_archived_job_holds_no_calendar(database: Database) -> None:
    calendars, job_id = Calendars(database), await job_on(database)
    stored = await made(calendars)
    async with database.transaction() as connection:
        await scheduled(connection, job_id, "holidays")
    await Jobs(database).archive(str(job_id), by="ada")
    await calendars.delete(stored.uuid)


async def test_a_schedule_refers_only_to_existing_calendars(database: Database) -> None:
    await made(Calendars(database))
    async with database.transaction() as connection:
        with pytest.raises(Invalid, match="There is no calendar 'holydays'") as unknown:
            await check_calendars_exist(connection, ["holidays", "holydays"])
    assert [(error.pointer, error.code) for error in unknown.value.errors] == [
        ("/calendars/1", "unknown_calendar")
    ]


async def test_a_calendar_cannot_be_deleted_while_a_schedule_is_stored_with_it(
    database: Database,
) -> None:
    calendars, job_id = Calendars(database), await job_on(database)
    stored = await made(calendars)
    async with database.transaction() as connection:
        await scheduled(connection, job_id, "holidays")
        dropping = asyncio.create_task(calendars.delete(stored.uuid))
        # Seen from another connection: one's own transaction keeps its first view of who waits.
        waits = (
            "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = "
            "current_database()"
        )
        async with asyncio.timeout(90):
            while not await database.fetch(waits):
                await asyncio.sleep(0.01)
    with pytest.raises(Conflict, match="backup/nightly"):
        await dropping
