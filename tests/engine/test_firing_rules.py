"""Rules of firing: each reason to skip a due time or to let it wait."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from kit.schedule_fixtures import ScheduleHarness
from opsjobs.model.access import Principal, Reach
from opsjobs.model.calendar import CalendarDraft
from opsjobs.model.errors import Invalid, Unavailable
from opsjobs.model.execution import moment
from opsjobs.model.identity import Identity
from opsjobs.model.schedule.draft import ScheduleDraft
from opsjobs.model.selection import SelectionDraft
from opsjobs.model.target import Target
from opsjobs.store.scheduling.calendars import Calendars
from opsjobs.store.scheduling.rows import ClosedReason, StoredSchedule
from opsjobs.store.transaction import Connection, Database

ADA, BEN = Identity("api_key", "ada"), Identity("api_key", "ben")


async def fired(
    on: ScheduleHarness, schedule: StoredSchedule, **time: float
) -> tuple[str, str | None, str | None]:
    """Return status, rule and reason of the latest due time.

    First a minute (or that time) passes, and the scheduler makes a pass.
    """
    await on.turn(**(time or {"seconds": 60}))
    await on.scheduler().run_once()
    latest = (await on.told(schedule))[0]
    return latest["status"], latest["rule"], latest["reason"]


def body(schedule: StoredSchedule, **fields: Any) -> ScheduleDraft:
    return ScheduleDraft.model_validate({**schedule.definition.model_dump(mode="json"), **fields})


async def test_a_paused_schedule_records_skips_until_it_is_resumed(database: Database) -> None:
    on = ScheduleHarness(database)
    schedule = await on.schedule(await on.job())
    paused = await on.schedules.pause(schedule.id, reason="the audit")
    assert (paused.enabled, paused.version) == (False, 2)
    assert await fired(on, schedule) == ("skipped", "paused", "the schedule is paused: the audit")
    assert (await on.schedules.resume(schedule.id)).paused_reason is None
    assert (await fired(on, schedule))[0] == "triggered"
    assert [f["status"] for f in await on.told(schedule)] == ["triggered", "skipped"]
    assert (await on.events()).count("schedule.skipped") == 1


async def test_moments_due_before_a_pause_are_recorded_and_not_launched_after_it(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    schedule = await on.schedule(await on.job())
    await on.turn(seconds=60)
    await on.schedules.pause(schedule.id)
    assert [row["status"] for row in await on.rows()] == ["pending"]
    await on.scheduler().run_once()
    assert [(row["status"], row["rule"]) for row in await on.rows()] == [("skipped", "paused")]


async def test_moments_due_before_a_change_are_fired_as_it_was_and_launched_as_it_is(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    declared = [{"name": "word", "type": "string", "default": "old"}]
    schedule = await on.schedule(await on.job(parameters=declared))
    await on.turn(seconds=60)
    changed = await on.schedules.replace(
        schedule.id, body(schedule, every="hours", parameters={"word": "new"}), BEN, if_match=[1]
    )
    assert (changed.version, changed.owner) == (2, BEN)
    await on.scheduler().run_once()
    (row,) = await on.rows()
    assert (row["status"], row["due_at"]) == ("triggered", schedule.next_due_at)
    (spec,) = await database.fetch("select parameters, requested_by from execution_specs")
    assert spec == {"parameters": {"word": "new"}, "requested_by": "ben"}


async def test_a_schedule_changed_during_the_launch_is_prepared_again(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    schedule = await on.schedule(await on.job())
    await on.turn(seconds=60)
    launcher = _InterferingLauncher(
        on, lambda: on.schedules.replace(schedule.id, body(schedule, jitter="1s"), BEN, None)
    )
    await on.scheduler(launcher=launcher).run_once()  # type: ignore[arg-type]
    assert [row["status"] for row in await on.rows()] == ["pending"]
    await on.scheduler().run_once()
    assert [row["status"] for row in await on.rows()] == ["triggered"]
    assert await database.fetch("select requested_by from execution_specs") == [
        {"requested_by": "ben"}
    ]


async def test_a_schedule_deleted_during_the_launch_is_not_launched(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    schedule = await on.schedule(await on.job())
    await on.turn(seconds=60)
    launcher = _InterferingLauncher(on, lambda: on.schedules.delete(schedule.id, "ben"))
    await on.scheduler(launcher=launcher).run_once()  # type: ignore[arg-type]
    assert [(row["status"], row["rule"]) for row in await on.rows()] == [("skipped", "deleted")]
    await on.turn(minutes=5)
    assert await on.scheduler().run_once() == {}


@pytest.mark.parametrize("gone", ["schedule", "job"])
async def test_pending_firings_are_deleted_with_their_schedule_or_job(
    database: Database, gone: str
) -> None:
    on = ScheduleHarness(database)
    job = await on.job()
    schedule = await on.schedule(job, misfire="run_all", overlap="allow")
    other = await on.schedule(await on.job("other"), "other")
    await on.turn(minutes=3)
    await on.firings.fire(10)
    assert {row["status"] for row in await on.rows(schedule)} == {"pending"}
    if gone == "schedule":
        await on.schedules.delete(schedule.id, "ben")
    else:
        await on.jobs.archive(str(job.job.id), "ben")
    rows = await on.rows(schedule)
    words = "the schedule was deleted" if gone == "schedule" else "its job was deleted"
    assert len(rows) > 1
    assert {(row["status"], row["rule"], row["reason"]) for row in rows} == {
        ("skipped", "deleted", words)
    }
    assert all(
        row["fired_at"] and row["not_before"] is None and row["late_ms"] >= 0 for row in rows
    )
    types = await on.events()
    assert types[-2:] == ["schedule.skipped", "schedule.deleted"]
    (told,) = await database.fetch("select data from events where type = 'schedule.skipped'")
    assert told["data"]["firing"] == {
        "due_at": moment(rows[-1]["due_at"]),
        "status": "skipped",
        "rule": "deleted",
        "reason": words,
        "late_ms": rows[-1]["late_ms"],
        "moments": len(rows),
    }
    assert told["data"]["id"] == schedule.id
    await on.scheduler().run_once()
    assert await database.fetch("select from job_executions where job_id = %s", [job.job.id]) == []
    assert "triggered" in {row["status"] for row in await on.rows(other)}


async def test_a_paused_job_is_not_launched(database: Database) -> None:
    on = ScheduleHarness(database)
    job = await on.job()
    schedule = await on.schedule(job)
    await on.jobs.pause(str(job.job.id), paused=True)
    assert await fired(on, schedule) == ("skipped", "job_paused", "the job nightly is paused")
    await on.jobs.pause(str(job.job.id), paused=False)
    await on.turn(seconds=60)
    launcher = _InterferingLauncher(on, lambda: on.jobs.pause(str(job.job.id), paused=True))
    await on.scheduler(launcher=launcher).run_once()  # type: ignore[arg-type]
    assert [f["rule"] for f in await on.told(schedule)] == ["job_paused", "job_paused"]
    assert await database.fetch("select last_number from jobs") == [{"last_number": 0}]


async def test_the_schedules_of_a_deleted_job_stop(database: Database) -> None:
    on = ScheduleHarness(database)
    job = await on.job()
    schedule = await on.schedule(job)
    await on.turn(seconds=60)
    await on.jobs.archive(str(job.job.id), "ben")
    assert await on.scheduler().run_once() == {}
    assert (await on.events())[-1] == "schedule.deleted"
    assert await database.fetch("select from job_schedules where deleted_at is null") == []
    assert [f["status"] for f in await on.told(schedule)] == []


async def test_schedules_of_a_job_deleted_by_the_previous_release_stop_at_their_next_moment(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    schedule = await on.schedule(await on.job())
    async with database.connection() as connection:
        await connection.execute("update jobs set state = 'archived', archived_at = opsjobs_now()")
    assert await fired(on, schedule) == ("skipped", "job_deleted", "the job nightly was deleted")
    assert await database.fetch("select from job_schedules where deleted_at is null") == []


async def test_a_job_without_targets_is_skipped_and_a_refused_launch_has_failed(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    nobody = await on.schedule(await on.job("nobody", targets={"selector": "env=none"}))
    unknown = await on.schedule(await on.job("unknown", targets={"ids": ["web-9"]}))
    await on.turn(seconds=60)
    await on.scheduler().run_once()
    (of_nobody,), (of_unknown,) = await on.told(nobody), await on.told(unknown)
    assert (of_nobody["status"], of_nobody["rule"]) == ("skipped", "no_targets")
    assert (of_unknown["status"], of_unknown["rule"]) == ("failed", "refused")
    assert of_unknown["reason"].startswith("unknown_target: ")
    assert sorted((await on.events())[2:]) == ["schedule.missed", "schedule.skipped"]


async def test_the_rights_of_the_owner_are_checked_at_every_launch(database: Database) -> None:
    on = ScheduleHarness(database)
    schedule = await on.schedule(await on.job(), overlap="allow")
    asked: list[Identity] = []

    async def current_principal(identity: Identity) -> Principal:
        asked.append(identity)
        role = "operator" if len(asked) == 1 else "viewer"
        return Principal.of_role(identity.name, role, "api_key")

    scheduler = on.scheduler(current_principal=current_principal)
    for _ in range(2):
        await on.turn(seconds=60)
        await scheduler.run_once()
    second, first = await on.told(schedule)
    assert first["status"] == "triggered"
    words = "ada may not execute the job nightly: ada no longer holds jobs:execute"
    assert (second["status"], second["rule"], second["reason"]) == ("skipped", "owner", words)
    assert asked == [ADA] * 2
    assert (await on.schedules.get(schedule.id)).enabled


async def test_calendars_are_checked_for_the_moment_and_for_a_late_launch(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    schedule = await on.schedule(await on.job(), misfire="run_all", overlap="allow")
    asked: list[datetime] = []

    async def closer(_: Connection, __: Sequence[StoredSchedule]) -> ClosedReason:
        def closed(_: StoredSchedule, instant: datetime) -> str | None:
            asked.append(instant)
            return "closed by the calendar nights" if instant >= shut else None

        return closed

    assert schedule.next_due_at is not None
    shut = schedule.next_due_at
    await on.turn(seconds=60)
    await on.scheduler(closer=closer).run_once()
    assert asked == [schedule.next_due_at]
    shut = await on.now()
    await on.turn(seconds=125)
    await on.scheduler(closer=closer).run_once()
    assert [(f["status"], f["rule"]) for f in await on.told(schedule)] == [
        ("skipped", "calendar")
    ] * 3
    assert asked[-1] > schedule.next_due_at


async def test_a_closed_calendar_skips_a_moment_with_a_reason(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    shut = {
        "name": "freeze",
        "windows": [
            {"name": "audit", "from": "2020-01-01T00:00:00Z", "until": "2090-01-01T00:00:00Z"}
        ],
    }
    with pytest.raises(Invalid, match="freeze"):
        await on.schedule(await on.job(), calendars=["freeze"])
    await Calendars(database).create(CalendarDraft.model_validate(shut))
    schedule = await on.schedule(await on.job("other"), calendars=["freeze"])
    status, rule, words = await fired(on, schedule)
    assert (status, rule) == ("skipped", "calendar")
    assert words is not None
    assert words.startswith("closed by the calendar freeze (audit")


async def test_max_firings_counts_launches_and_then_ends_the_schedule(database: Database) -> None:
    on = ScheduleHarness(database)
    schedule = await on.schedule(await on.job(), max_firings=2, overlap="allow")
    await on.schedules.pause(schedule.id)
    await fired(on, schedule)
    await on.schedules.resume(schedule.id)
    for _ in range(4):
        await on.turn(seconds=60)
        await on.scheduler().run_once()
    assert [f["status"] for f in await on.told(schedule)] == ["triggered", "triggered", "skipped"]
    over = await on.schedules.get(schedule.id)
    assert (over.firings, over.next_due_at, over.next_fire_at) == (2, None, None)
    more = await on.schedules.replace(schedule.id, body(schedule, max_firings=3), ADA, None)
    assert more.next_due_at is not None


async def test_no_more_than_max_firings_of_many_pending_ones_are_launched(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    schedule = await on.schedule(await on.job(), max_firings=2, overlap="allow", misfire="run_all")
    await on.turn(seconds=310)
    await on.scheduler().run_once()
    rules = [(f["status"], f["rule"]) for f in await on.told(schedule)]
    assert sorted(rules, key=str) == [("skipped", "max_firings")] * 3 + [("triggered", None)] * 2
    assert (await on.schedules.get(schedule.id)).firings == 2


async def test_after_end_at_nothing_is_due(database: Database) -> None:
    on = ScheduleHarness(database)
    ends = (await on.now()).timestamp() + 170
    schedule = await on.schedule(
        await on.job(),
        overlap="allow",
        end_at=datetime.fromtimestamp(ends, tz=None).astimezone().isoformat(),
    )
    for _ in range(4):
        await on.turn(seconds=60)
        await on.scheduler().run_once()
    assert [f["status"] for f in await on.told(schedule)] == ["triggered", "triggered"]
    assert (await on.schedules.get(schedule.id)).next_due_at is None


@pytest.mark.parametrize("overlap", ["skip", "queue", "cancel_previous", "allow"])
async def test_overlap_policies_while_the_previous_execution_runs(
    database: Database, overlap: str
) -> None:
    on = ScheduleHarness(database)
    schedule = await on.schedule(await on.job(), overlap=overlap)
    await on.turn(seconds=60)
    await on.scheduler().run_once()
    (first,) = await on.told(schedule)
    latest = await fired(on, schedule)
    if overlap == "skip":
        words = (
            f"execution {first['execution_id']} of the schedule has not ended, and overlap is skip"
        )
        assert latest == ("skipped", "overlap", words)
    elif overlap == "queue":
        assert latest == (
            "pending",
            None,
            f"execution {first['execution_id']} of the schedule has not ended",
        )
        await on.scheduler().run_once()
        assert len(await database.fetch("select from job_executions")) == 1
        await on.finish()
        await on.scheduler().run_once()
        assert (await on.told(schedule))[0]["status"] == "triggered"
    elif overlap == "cancel_previous":
        await on.scheduler().run_once()  # in the pass before it was cancelled
        (before, after) = await database.fetch("select status from job_executions order by id")
        assert (before["status"], after["status"]) == ("cancelled", "queued")
        (told,) = await database.fetch(
            "select cancelled_by, cancel_reason from execution_specs where cancelled_by is not null"
        )
        assert told["cancelled_by"] == "ada"
        assert "overlap is cancel_previous" in told["cancel_reason"]
        assert (await on.told(schedule))[0]["status"] == "triggered"
    else:
        assert latest[0] == "triggered"


async def test_queued_firings_run_in_order_and_fail_after_their_window(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    schedule = await on.schedule(await on.job(), overlap="queue", misfire_window="5m")
    for _ in range(4):
        await on.turn(seconds=60)
        await on.scheduler().run_once()
    assert [f["status"] for f in await on.told(schedule)] == ["pending"] * 3 + ["triggered"]
    await on.finish()
    await on.scheduler().run_once()
    assert [f["status"] for f in await on.told(schedule)] == ["pending"] * 2 + ["triggered"] * 2
    await on.scheduler().run_once()
    async with database.connection() as connection:  # nothing new is due
        await connection.execute("update job_schedules set next_due_at = null, next_fire_at = null")
    await on.turn(minutes=6)
    await on.scheduler().run_once()
    last = await on.told(schedule)
    assert [(f["status"], f["rule"]) for f in last[:2]] == [("failed", "expired")] * 2
    assert last[1]["reason"] is not None
    assert "of the schedule has not ended" in last[1]["reason"]
    assert (await on.events()).count("schedule.missed") == 2


async def test_a_firing_without_an_inventory_backs_off_and_fails_in_the_end(
    database: Database,
) -> None:
    targets = _UnavailableTargets()
    on = ScheduleHarness(database, targets=targets)
    schedule = await on.schedule(await on.job(), misfire_window="10m")
    await on.turn(seconds=60)
    for seconds in (1, 2, 4, 8):
        before = await on.now()
        await on.scheduler().run_once()
        (row,) = await database.fetch("select not_before, reason, status from schedule_executions")
        assert (row["status"], row["reason"]) == ("pending", "the Target Service is away")
        wait = timedelta(seconds=seconds)
        assert before + wait <= row["not_before"] <= await on.now() + wait
        async with database.connection() as connection:
            await connection.execute("update schedule_executions set not_before = opsjobs_now()")
    async with database.connection() as connection:
        await connection.execute("update job_schedules set next_due_at = null, next_fire_at = null")
    await on.turn(minutes=11)
    await on.scheduler().run_once()
    (last,) = await on.told(schedule)
    assert (last["status"], last["rule"]) == ("failed", "expired")
    assert last["reason"].endswith("the Target Service is away")
    assert last["reason"].startswith("it could not be launched for 1")


async def test_an_unreadable_schedule_does_not_block_others(
    database: Database,
) -> None:
    on = ScheduleHarness(database)
    job = await on.job()
    broken, sound = await on.schedule(job, "broken"), await on.schedule(job, "sound")
    async with database.connection() as connection:
        await connection.execute(
            'update job_schedules set definition = \'{"type": "tidal"}\' where id = %s', [broken.id]
        )
    assert (await fired(on, sound))[0] == "triggered"
    (row,) = await database.fetch(
        "select next_due_at, next_fire_at > opsjobs_now() as later from job_schedules where id = %s",
        [broken.id],
    )
    assert row == {"next_due_at": broken.next_due_at, "later": True}


class _UnavailableTargets:
    """Targets that cannot be read."""

    async def resolve(self, _: SelectionDraft, _sight: Reach | None = None) -> list[Target]:
        """Raise Unavailable."""
        raise Unavailable("the Target Service is away")

    async def get_many(self, _: Sequence[str], *, strict: bool = False) -> dict[str, Target]:
        """Return no target."""
        return {}

    async def endpoints(self, _: Sequence[str]) -> dict[str, Any]:
        """Return no endpoint."""
        return {}


class _InterferingLauncher:
    """A launcher during whose work an event happens, once."""

    def __init__(self, on: ScheduleHarness, event: Any) -> None:
        self._launcher = on.launcher
        self._event = event

    def __getattr__(self, name: str) -> Any:
        return getattr(self._launcher, name)

    async def freeze_actions(self, order: Any, targets: Any) -> Any:
        """Let the event happen, then do it as the launcher does."""
        await self._event()
        return await self._launcher.freeze_actions(order, targets)
