"""Firing and calendars: closed due times are skipped, with the reason of the calendar."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from kit.schedule_fixtures import ScheduleHarness
from opsjobs.model.calendar import CalendarDraft
from opsjobs.model.errors import Invalid
from opsjobs.model.identity import Identity
from opsjobs.model.schedule.draft import ScheduleDraft
from opsjobs.store.scheduling.calendars import Calendars, StoredCalendar
from opsjobs.store.transaction import Database


def freeze(**fields: Any) -> CalendarDraft:
    return CalendarDraft.model_validate(
        {"name": "freeze", "windows": [{"from": "2020-01-01T00:00Z"}], **fields}
    )


async def test_a_closed_calendar_skips_moments_and_a_change_counts_at_once(
    database: Database,
) -> None:
    scheduling, calendars = ScheduleHarness(database), Calendars(database)
    stored = await calendars.create(freeze())
    assert isinstance(stored, StoredCalendar)
    schedule = await scheduling.schedule(
        await scheduling.job(), calendars=["freeze"], overlap="allow"
    )
    scheduler = scheduling.scheduler()
    await scheduling.turn(seconds=61)
    await scheduler.run_once()
    shut = await scheduling.rows(schedule)  # more than one if the machine stood still meanwhile
    assert {(row["status"], row["rule"]) for row in shut} == {("skipped", "calendar")}
    row = shut[-1]
    assert (
        "closed by the calendar freeze (from 2020-01-01 00:00:00Z) with no end in sight"
        in row["reason"]
    )
    now = await scheduling.now()
    past = [
        {
            "from": "2020-01-01T00:00Z",
            "until": (now - timedelta(minutes=1)).isoformat(timespec="seconds"),
        }
    ]
    await calendars.replace(stored.uuid, freeze(windows=past))
    await scheduling.turn(seconds=60)
    await scheduler.run_once()
    opened = (await scheduling.rows(schedule))[len(shut) :]
    assert {row["status"] for row in opened} == {"triggered"}


async def test_an_unreadable_calendar_stops_only_its_own_schedules(
    database: Database,
) -> None:
    scheduling, calendars = ScheduleHarness(database), Calendars(database)
    await calendars.create(freeze())
    job = await scheduling.job()
    frozen = await scheduling.schedule(job, "frozen", calendars=["freeze"], overlap="allow")
    other = await scheduling.schedule(job, "other", overlap="allow")
    async with database.connection() as connection:  # as a newer release may write it
        await connection.execute("""update calendars set windows = '[{"moon": "full"}]'""")
    scheduler = scheduling.scheduler()
    await scheduling.turn(seconds=61)
    await scheduler.run_once()
    assert {row["status"] for row in await scheduling.rows(other)} == {"triggered"}
    assert await scheduling.rows(frozen) == [], "what it closes is unknown"
    assert frozen.id in await due(database), "it is asked again"
    # The same for a pending, late due time, whose calendars are checked again.
    await scheduling.turn(seconds=60)
    async with database.connection() as connection:
        await connection.execute(
            "update job_schedules set enabled = false where id = %s", [frozen.id]
        )
        await connection.execute(
            """insert into schedule_executions (uuid, schedule_id, due_at, fire_at, status, recorded_at, not_before, expires_at,
                                                in_turn, attempts)
               select gen_random_uuid(), s.id, t.late, t.late, 'pending', t.late, t.late, t.late + interval '2 hours', false, 0
               from job_schedules s, (select opsjobs_now() - interval '90 seconds' as late) t"""
        )
    await scheduler.run_once()
    assert {row["status"] for row in await scheduling.rows(other)} == {"triggered"}
    assert [row["status"] for row in await scheduling.rows(frozen) if row["rule"] != "paused"] == [
        "pending"
    ]


async def due(database: Database) -> set[int]:
    """Return the schedules that have a next due time."""
    return {
        row["id"]
        for row in await database.fetch(
            "select id from job_schedules where next_fire_at is not null"
        )
    }


async def test_a_schedule_with_an_unknown_calendar_is_refused(database: Database) -> None:
    scheduling = ScheduleHarness(database)
    job = await scheduling.job()
    with pytest.raises(Invalid, match="There is no calendar 'freeze'") as unknown:
        await scheduling.schedule(job, calendars=["freeze"])
    assert unknown.value.errors[0].pointer == "/calendars/0"
    schedule = await scheduling.schedule(job)
    wanted = ScheduleDraft.model_validate(
        {**schedule.definition.model_dump(mode="json", exclude_none=True), "calendars": ["freeze"]}
    )
    with pytest.raises(Invalid, match="There is no calendar 'freeze'"):
        await scheduling.schedules.replace(schedule.id, wanted, Identity("api_key", "ada"), None)
