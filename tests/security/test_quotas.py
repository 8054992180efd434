"""Point 25: one caller fills neither the disk nor the ledger.

Each refusal names the limit and the remedy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from api.kit import api_client, job, problem
from api.live import live_api
from api.test_retries import LOST, ended_execution
from kit.query_plans import Explaining
from opsjobs.api.quotas import KNOWN_SECONDS, FileQuota, OpenExecutions
from opsjobs.model.errors import TooMany
from opsjobs.model.identity import Identity
from opsjobs.store.blobs import BATCH_CHUNKS, CHUNK_BYTES
from opsjobs.store.files import FileLimits, Files
from opsjobs.store.transaction import Database, DatabaseOptions

BYTES = {"Content-Type": "application/octet-stream"}


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"actions": [{"command": "id", "output_limit": "1000GiB"}]}, "/actions/0/output_limit"),
        (
            {"actions": [{"type": "script", "script": "id", "output_limit": "11MiB"}]},
            "/actions/0/output_limit",
        ),
        (
            {
                "policy": {
                    "waves": [1, "100%"],
                    "gate": {"check": {"command": "id", "output_limit": "11MiB"}},
                }
            },
            "/policy/gate/check/output_limit",
        ),
    ],
)
async def test_an_output_limit_is_no_more_than_the_setting(
    database: Database, fields: dict[str, Any], pointer: str
) -> None:
    async with api_client(database, output_bytes=10 << 20) as ada:
        refused = problem(await ada.http.post("/jobs", json=job(**fields)), 422, "output_limit")
        assert "OPSJOBS_OUTPUT_LIMIT_BYTES" in refused["detail"]
        assert refused["errors"][0]["pointer"] == pointer
        body = {key: value for key, value in job(**fields).items() if key != "name"}
        problem(await ada.http.post("/run", json=body), 422, "output_limit")


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"actions": [{"type": "wait", "duration": "30d"}]}, "/actions/0/duration"),
        ({"actions": [{"type": "approval", "expires_in": "30d"}]}, "/actions/0/expires_in"),
        ({"policy": {"hold_offline": "30d"}}, "/policy/hold_offline"),
    ],
)
async def test_nothing_waits_longer_than_the_setting(
    database: Database, fields: dict[str, Any], pointer: str
) -> None:
    async with api_client(database) as ada:
        refused = problem(await ada.http.post("/jobs", json=job(**fields)), 422, "wait_too_long")
        assert "OPSJOBS_WAIT_LIMIT" in refused["detail"]
        assert refused["errors"][0]["pointer"] == pointer
        ada.services.limits = replace(ada.services.limits, wait_seconds=31 * 86_400.0)
        assert (await ada.http.post("/jobs", json=job("fits", **fields))).status_code == 201


async def test_a_caller_has_so_many_open_executions_by_every_door_and_others_have_theirs(
    database: Database,
) -> None:
    async with live_api(database) as on:
        on.app.state.open_executions = OpenExecutions(2, on.services.executions, on.services.clock)
        await on.targets("web-1")
        run = {"actions": [{"command": "id"}], "targets": {"ids": ["web-1"]}}
        made = (await on.http.post("/jobs", json=job(targets={"ids": ["web-1"]}))).json()
        first = (await on.http.post("/run", json=run)).json()
        assert (await on.http.post(f"/jobs/{made['id']}/execute")).status_code == 202
        for path, body in (
            ("/run", run),
            (f"/jobs/{made['id']}/execute", {}),
            (f"/executions/{first['id']}/retry", {"which": "not_started"}),
        ):
            answer = await on.http.post(path, json=body)
            refused = problem(answer, 429, "too_many_executions")
            assert "OPSJOBS_OPEN_EXECUTIONS_PER_CALLER" in refused["detail"]
            assert answer.headers["retry-after"]
        assert (
            await on.http.post("/run", json=run, headers=await on.as_role("operator"))
        ).status_code == 202
        assert (await on.http.post(f"/executions/{first['id']}/cancel")).status_code == 202
        assert (await on.http.post("/run", json=run)).status_code == 202


class Ticking:
    """A clock set by the test."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Counting:
    """Counts open executions, and how often they were counted."""

    def __init__(self) -> None:
        self.open = 0
        self.asked = 0

    async def count_open(self, *_: Any, **__: Any) -> int:
        self.asked += 1
        return self.open


async def test_the_database_is_asked_for_the_count_once_in_a_while_only(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        caller = await ada.services.identities.by_token(ada.token)
    executions: Any = Counting()
    clock: Any = Ticking()
    quota = OpenExecutions(1_000, executions, clock)
    for _ in range(100):
        await quota.check(caller)
    assert executions.asked == 1
    clock.now = KNOWN_SECONDS
    await quota.check(caller)
    assert executions.asked == 2


async def test_the_files_of_one_caller_and_of_all_have_a_limit(database: Database) -> None:
    async with live_api(database) as on:
        on.app.state.file_quota = FileQuota(FileLimits(all_bytes=250, caller_bytes=100))

        async def put(size: int, headers: dict[str, str] | None = None) -> Any:
            return await on.http.post(
                "/files?name=x", content=b"x" * size, headers={**BYTES, **(headers or {})}
            )

        first = await put(60)
        assert first.status_code == 201
        refused = problem(await put(41), 409, "files_full")
        assert "OPSJOBS_FILES_PER_CALLER_BYTES" in refused["detail"]
        assert "opsjobs files rm" in refused["detail"]
        assert (await put(40)).status_code == 201
        problem(await put(1), 409, "files_full")
        for role in ("operator", "developer"):
            headers = await on.as_role(role)
            answer = await put(75 if role == "operator" else 76, headers)
            if role == "operator":
                assert answer.status_code == 201
            else:
                assert "OPSJOBS_FILES_LIMIT_BYTES" in problem(answer, 409, "files_full")["detail"]
        assert (await on.http.delete(f"/files/{first.json()['id']}")).status_code == 204
        assert (await put(60)).status_code == 201


async def test_each_execution_that_a_revive_makes_counts(database: Database) -> None:
    async with live_api(database) as on:
        for name in ("one", "two", "three"):
            await ended_execution(on, LOST, 0, 0, name=name)
        on.app.state.open_executions = OpenExecutions(2, on.services.executions, on.services.clock)
        revived = (await on.http.post("/dead-letters/revive", json={"filter": {}})).json()
        assert (len(revived["executions"]), revived["more"]) == (2, True)
        problem(
            await on.http.post("/dead-letters/revive", json={"filter": {}}),
            429,
            "too_many_executions",
        )
        assert len((await on.http.get("/dead-letters")).json()["items"]) == 1
        for execution in revived["executions"]:
            await on.http.post(f"/executions/{execution['id']}/cancel")
        assert (
            len(
                (await on.http.post("/dead-letters/revive", json={"filter": {}})).json()[
                    "executions"
                ]
            )
            == 1
        )
        run = {"actions": [{"command": "id"}], "targets": {"ids": ["web-1"]}}
        assert (
            await on.http.post("/run", json=run)
        ).status_code == 202  # a counted execution that was not created is subtracted again


async def test_uploads_at_the_same_time_do_not_pass_the_limit_together(
    database: Database,
) -> None:
    async with live_api(database) as on:
        on.app.state.file_quota = FileQuota(FileLimits(caller_bytes=100))
        begun, other_is_done = asyncio.Event(), asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"a" * 30
            begun.set()
            await other_is_done.wait()
            yield b"a" * 30

        first = asyncio.create_task(on.http.post("/files?name=a", content=slow(), headers=BYTES))
        await begun.wait()
        assert (
            await on.http.post("/files?name=b", content=b"b" * 60, headers=BYTES)
        ).status_code == 201
        other_is_done.set()
        problem(await first, 409, "files_full")
        assert [file["name"] for file in (await on.http.get("/files")).json()["items"]] == ["b"]


async def test_deleted_files_count_until_their_bytes_are_removed(
    database: Database,
) -> None:
    async with live_api(database) as on:
        on.app.state.file_quota = FileQuota(FileLimits(caller_bytes=100))
        for letter in (b"a", b"b", b"c"):
            made = await on.http.post("/files?name=x", content=letter * 60, headers=BYTES)
            assert made.status_code == 201
            assert (await on.http.delete(f"/files/{made.json()['id']}")).status_code == 204
        told = problem(
            await on.http.post("/files?name=x", content=b"d" * 60, headers=BYTES), 409, "files_full"
        )
        assert "up to an hour" in told["detail"]
        operator = await on.as_role("operator")
        assert (
            await on.http.post("/files?name=x", content=b"d" * 60, headers={**BYTES, **operator})
        ).status_code == 201


async def test_what_broke_off_counts_and_goes_with_the_next_sweep(
    database: Database,
) -> None:
    async with live_api(database) as on:
        size = BATCH_CHUNKS * CHUNK_BYTES

        async def breaks_off() -> AsyncIterator[bytes]:
            yield b"x" * size
            yield b"x" * size
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            await on.services.contents.write(
                breaks_off(), limit_bytes=4 * size, by=Identity("api_key", "ada")
            )
        used = await on.services.files.used(Identity("api_key", "ada"))
        assert used.caller_bytes == 0
        assert used.caller_loose == used.all_loose > 0
        assert (await on.services.files.used(Identity("api_key", "ben"))).caller_loose == 0
        assert FileLimits(caller_bytes=size).room(used) == min(size, 2 * size - used.caller_loose)
        assert await on.services.contents.sweep() == 1
        assert (await on.services.files.used(Identity("api_key", "ada"))).caller_loose == 0


async def test_no_file_is_read_to_know_how_much_is_used(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "insert into file_contents (sha256, size, loose) values (sha256('x'), 2, false)"
        )
        await connection.execute("""
            insert into files (uuid, name, content_id, created_by, created_by_kind)
            select gen_random_uuid(), 'x', c.id, case when n <= 300 then 'ada' else 'ben' end, 'user'
            from file_contents c, generate_series(1, 500) n""")
    explaining = Explaining(DatabaseOptions(database.options.url), analyze=True)
    await explaining.open()
    try:
        before = await Files(explaining).used(Identity("user", "ada"))
        read = sum(
            scan.rows for plan in explaining.take() for scan in plan.scans if scan.table == "files"
        )
        await database.fetch("delete from files where id <= 400 returning id")
        after = await Files(explaining).used(Identity("user", "ada"))
    finally:
        await explaining.close()
    assert (before.all_bytes, before.caller_bytes, read) == (1_000, 600, 0)
    assert (after.all_bytes, after.caller_bytes) == (200, 0)
    assert await database.fetch("select created_by, bytes from file_usage") == [
        {"created_by": "ben", "bytes": 200}
    ]


async def test_the_limit_of_open_executions_holds_for_all_processes_together(
    database: Database,
) -> None:
    async with live_api(database) as on:
        await on.targets("web-1")
        caller = await on.services.identities.by_token(on.token)
        processes = [OpenExecutions(24, on.services.executions, on.services.clock) for _ in "abc"]
        run = {"actions": [{"command": "id"}], "targets": {"ids": ["web-1"]}}
        launched = 0
        for n in range(40):
            try:
                await processes[n % 3].check(caller)
            except TooMany:
                continue
            on.app.state.open_executions = OpenExecutions(0, on.services.executions, None)
            assert (await on.http.post("/run", json=run)).status_code == 202
            launched += 1
        assert launched == 24


async def test_a_caller_owns_so_many_schedules_and_triggers(database: Database) -> None:
    async with api_client(database) as ada:
        ada.services.schedules._most_per_owner = 2
        ada.services.job_triggers._most_per_owner = 2
        await ada.http.post("/jobs", json=job())
        daily = {"type": "recurring", "every": "daily"}
        for path, body, code, setting in (
            ("schedules", daily, "too_many_schedules", "OPSJOBS_SCHEDULES_PER_CALLER"),
            ("triggers", {"name": "{}"}, "too_many_triggers", "OPSJOBS_TRIGGERS_PER_CALLER"),
        ):
            bodies = [{k: v.format(n) for k, v in body.items()} for n in range(4)]
            for n in (0, 1):
                made = await ada.http.post(f"/jobs/1/{path}", json=bodies[n])
                assert made.status_code == 201, made.text
            refused = problem(await ada.http.post(f"/jobs/1/{path}", json=bodies[2]), 409, code)
            assert setting in refused["detail"]
            other = await ada.token_of("developer" if path == "triggers" else "operator")
            mine = await ada.http.post(f"/jobs/1/{path}", json=bodies[3], headers=other)
            assert mine.status_code == 201, mine.text
            assert (await ada.http.delete(f"/{path}/1")).status_code == 204
            made = await ada.http.post(f"/jobs/1/{path}", json=bodies[2])
            assert made.status_code == 201
