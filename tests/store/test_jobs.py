"""Jobs: versions are kept, names can be reused, and every change has one event."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from opsjobs.model.errors import Conflict, NotFound, Precondition
from opsjobs.store.jobs import Jobs, StoredJob
from opsjobs.store.paging import PageRequest
from opsjobs.store.transaction import Database, DatabaseOptions
from store.drafts import job


async def stored(jobs: Jobs, name: str, **fields: Any) -> StoredJob:
    made = await jobs.create(job(name, **fields), "ada")
    assert isinstance(made, StoredJob)
    return made


async def events(database: Database) -> list[tuple[str, str]]:
    rows = await database.fetch("select type, data ->> 'name' as name from events order by id")
    return [(row["type"], row["name"]) for row in rows]


async def execution(database: Database, job_id: int, status: str, *, ended: bool) -> None:
    await database.fetch(
        """insert into job_executions (uuid, job_id, job_version, number, log_day, status, "window",
          priority, total, created_at,
                                       finished_at)
           select gen_random_uuid(), %s, 1, coalesce(max(number), 0) + 1, current_date, %s, 0, 5, 0,
             opsjobs_now(),
                  case when %s then opsjobs_now() end from job_executions returning id""",
        [job_id, status, ended],
    )


async def test_a_job_reads_as_it_was_written(database: Database) -> None:
    jobs = Jobs(database)
    fields = {
        "description": "d",
        "tags": ["web", "nightly"],
        "actions": [
            {"key": "stop", "command": "a", "timeout": "90s"},
            {"command": "b", "expected_exit_codes": [0, 3]},
        ],
        "targets": {"ids": ["7", "web-1"], "groups": ["web"], "selector": "env=prod"},
        "policy": {"timeout": "10m", "max_parallel": 3, "order": "name"},
    }
    made = await stored(jobs, "restart-web", **fields)
    assert made.job.definition == job("restart-web", **fields)
    assert await jobs.get(made.job.uuid) == made == await jobs.get(str(made.job.id))
    assert made.data()["job_type"] == "composite"


async def test_a_change_makes_the_next_version_and_the_older_one_stays(database: Database) -> None:
    jobs = Jobs(database)
    made = await stored(jobs, "restart-web")
    changed = await jobs.replace(str(made.job.id), job("restart-www", tags=["web"]), "ben", {1})
    assert (changed.job.version, changed.job.definition.name) == (2, "restart-www")
    versions = (await jobs.versions(made.job.id, PageRequest())).items
    assert [(v.version, v.definition.name, v.created_by) for v in versions] == [
        (2, "restart-www", "ben"),
        (1, "restart-web", "ada"),
    ]


async def test_the_same_written_again_makes_no_version_and_no_event(database: Database) -> None:
    jobs = Jobs(database)
    await stored(jobs, "restart-web")
    assert (await jobs.replace("1", job("restart-web"), "ben", None)).job.version == 1
    assert await events(database) == [("job.created", "restart-web")]


async def test_a_stale_version_is_refused_and_the_newer_one_is_named(database: Database) -> None:
    jobs = Jobs(database)
    await stored(jobs, "restart-web")
    await jobs.replace("1", job("restart-web", tags=["x"]), "ada", {1})
    with pytest.raises(Precondition, match="version 2") as refused:
        await jobs.replace("1", job("restart-web", tags=["y"]), "ben", {1})
    assert refused.value.status == 412


async def test_of_two_that_change_one_version_at_once_exactly_one_succeeds(
    database: Database,
) -> None:
    jobs = Jobs(database)
    await stored(jobs, "restart-web")
    changes = [
        jobs.replace("1", job("restart-web", tags=[tag]), tag, {1}) for tag in ("a", "b", "c", "d")
    ]
    outcomes = await asyncio.gather(*changes, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Precondition"] * 3 + [
        "StoredJob"
    ]
    assert len((await jobs.versions(1, PageRequest())).items) == 2


async def test_a_deleted_job_is_not_found_and_its_name_is_free(database: Database) -> None:
    jobs = Jobs(database)
    await stored(jobs, "restart-web")
    await jobs.archive("1", "ben")
    for verb in (
        jobs.get("1"),
        jobs.archive("1", "ben"),
        jobs.replace("1", job("x"), "ben", None),
    ):
        with pytest.raises(NotFound):
            await verb
    assert (await stored(jobs, "restart-web")).job.id == 2
    assert [e for e, _ in await events(database)] == ["job.created", "job.deleted", "job.created"]


async def test_a_deletion_takes_one_connection(database: Database) -> None:
    await stored(Jobs(database), "restart-web")
    small = Database(DatabaseOptions(database.options.url, connections=1))
    await small.open()
    try:
        await Jobs(small).archive("1", "ben")
    finally:
        await small.close()


async def test_a_running_job_is_not_deleted(database: Database) -> None:
    jobs = Jobs(database)
    await stored(jobs, "restart-web")
    await execution(database, 1, "running", ended=False)
    with pytest.raises(Conflict, match="execution 1") as refused:
        await jobs.archive("1", "ben")
    assert refused.value.code == "job_running"


async def test_a_taken_name_is_refused_with_the_name(database: Database) -> None:
    jobs = Jobs(database)
    await stored(jobs, "restart-web")
    await stored(jobs, "other")
    for attempt in (
        jobs.create(job("restart-web"), "ben"),
        jobs.replace("2", job("restart-web"), "ben", None),
    ):
        with pytest.raises(Conflict, match="'restart-web'"):
            await attempt
    assert len(await events(database)) == 2


@pytest.mark.parametrize(
    ("last", "ended", "status"),
    [
        (None, True, "new"),
        ("queued", False, "running"),
        ("completed", True, "completed"),
        ("failed", True, "failed"),
        ("partial", True, "partial"),
        ("timeout", True, "timeout"),
        ("cancelled", True, "cancelled"),
    ],
)
async def test_the_status_tells_of_the_last_execution(
    database: Database, last: str | None, ended: bool, status: str
) -> None:
    jobs = Jobs(database)
    await stored(jobs, "restart-web")
    if last is not None:
        await execution(database, 1, last, ended=ended)
    assert (await jobs.get("1")).status == status
    assert len((await jobs.list(PageRequest(filters={"status": [status]}))).items) == 1


async def test_an_older_execution_that_still_runs_makes_the_job_running(database: Database) -> None:
    jobs = Jobs(database)
    await stored(jobs, "restart-web")
    await execution(database, 1, "running", ended=False)
    await execution(database, 1, "completed", ended=True)
    assert (await jobs.get("1")).status == "running"


async def test_a_list_is_walked_to_its_end_by_cursor_without_a_gap_or_a_repeat(
    database: Database,
) -> None:
    jobs = Jobs(database)
    for n in range(7):
        await stored(jobs, f"job-{n}", tags=["even" if n % 2 == 0 else "odd"])
    for sort in ("-created_at", "name", "-id"):
        seen: list[str] = []
        cursor: str | None = None
        while True:
            page = await jobs.list(PageRequest(limit=3, cursor=cursor, sort=sort))
            seen += [j.job.definition.name for j in page.items]
            cursor = page.next
            if cursor is None:
                break
        wanted = [f"job-{n}" for n in range(7)]
        assert seen == (wanted if sort == "name" else wanted[::-1])
    tagged = await jobs.list(PageRequest(filters={"tags": ["even"]}, page=1, limit=2))
    assert (len(tagged.items), tagged.total) == (2, 4)
