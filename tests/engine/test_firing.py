"""Firing: a due time becomes one execution, and its record explains why."""

from __future__ import annotations

from collections import Counter

import pytest

from kit.schedule_fixtures import ScheduleHarness
from opsjobs.model.errors import Conflict, NotFound
from opsjobs.model.execution import TriggeredBy
from opsjobs.model.firing import execution_uuid
from opsjobs.model.identity import Identity
from opsjobs.model.schedule.draft import ScheduleDraft
from opsjobs.model.schedule.timetable import words_of
from opsjobs.store.executions import Executions
from opsjobs.store.transaction import Database


async def test_a_due_moment_becomes_one_execution_of_the_owner_with_its_own_uuid(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    schedule = await on.schedule(await on.job(), owner="ben")
    scheduler = on.scheduler()
    assert await scheduler.run_once() == {}
    assert await on.rows() == []
    await on.turn(seconds=61)
    assert await scheduler.run_once() == {"pending": 1, "triggered": 1}
    (firing,) = await on.told(schedule)
    execution = await Executions(database).get(firing["execution_id"])
    (row,) = await on.rows()
    assert execution.uuid == str(execution_uuid(schedule.uuid, row["due_at"])) == str(row["uuid"])
    assert execution.triggered_by == TriggeredBy.SCHEDULE
    assert execution.requested_by == Identity("api_key", "ben")
    assert (firing["status"], firing["kind"], firing["moments"], firing["rule"]) == (
        "triggered",
        "moment",
        1,
        None,
    )
    assert 0 <= firing["late_ms"] < 60_000
    assert await on.events() == ["schedule.created", "schedule.triggered"]
    assert on.notified == ["default"]
    again = await on.schedules.get(schedule.id)
    assert (again.firings, again.version) == (1, 1)
    assert again.next_due_at is not None
    assert schedule.next_due_at is not None
    assert (again.next_due_at - schedule.next_due_at).total_seconds() == 60
    assert await scheduler.run_once() == {}


async def test_a_trigger_launches_now_and_counts_as_no_moment(database: Database) -> None:
    on = ScheduleHarness(database)
    schedule = await on.schedule(await on.job(), max_firings=1)
    await on.schedules.pause(schedule.id, reason="the audit")
    for _ in range(2):
        launched = await on.triggers.trigger(
            str(schedule.id),
            triggered_by=TriggeredBy.API,
            requested_by=Identity("api_key", "ben"),
        )
        assert launched.execution is not None
        assert launched.execution.requested_by == Identity("api_key", "ben")
    assert [f["kind"] for f in await on.told(schedule)] == ["trigger", "trigger"]
    assert (await on.schedules.get(schedule.id)).firings == 0
    assert Counter(await on.events())["schedule.triggered"] == 2
    await on.schedules.delete(schedule.id, "ada")
    with pytest.raises(NotFound):
        await on.triggers.trigger(
            str(schedule.id),
            triggered_by=TriggeredBy.API,
            requested_by=Identity("api_key", "ben"),
        )


async def test_a_schedule_reads_as_it_was_written_and_its_name_is_its_own(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    job = await on.job()
    schedule = await on.schedule(
        job, "nightly", type="cron", cron="30 2 * * *", timezone="Europe/Berlin"
    )
    assert await on.schedules.get(str(schedule.uuid)) == schedule
    assert schedule.data()["words"] == words_of(schedule.definition, schedule.timetable.cron)
    assert schedule.tzdata is not None
    with pytest.raises(Conflict, match="nightly"):
        await on.schedule(job, "nightly")
    await on.schedules.delete(schedule.id, "ada")
    with pytest.raises(NotFound):
        await on.schedules.get(schedule.id)
    assert (await on.schedule(job, "nightly")).id != schedule.id
    with pytest.raises(NotFound):
        await on.schedules.create(
            "99",
            ScheduleDraft(name="x", type="cron", cron="0 0 * * *"),
            Identity("api_key", "ada"),
        )  # type: ignore[arg-type]
