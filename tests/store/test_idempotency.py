"""Idempotency keys: a request is performed once, even if it is repeated concurrently."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from opsjobs.model.errors import Conflict, Invalid
from opsjobs.store import idempotency
from opsjobs.store.idempotency import Answer, IdempotentRequest, delete_old_keys
from opsjobs.store.jobs import Jobs, StoredJob
from opsjobs.store.transaction import Connection, Database
from store.drafts import job

ASKED = IdempotentRequest("ada", "POST /jobs", "key-1", b"\x01" * 32)


async def test_the_second_request_gets_the_answer_of_the_first(database: Database) -> None:
    jobs = Jobs(database)
    first = await jobs.create(job("restart-web"), "ada", ASKED)
    again = await jobs.create(job("restart-web"), "ada", ASKED)
    assert isinstance(first, StoredJob)
    assert again == Answer(201, "/jobs/1", first.data())


async def test_another_caller_route_or_key_is_another_request(database: Database) -> None:
    others = [
        replace(ASKED, principal="ben"),
        replace(ASKED, route="POST /targets"),
        replace(ASKED, key="key-2"),
    ]
    for request in (ASKED, *others):
        async with database.transaction() as connection:
            assert await idempotency.begin(connection, request) is None
            await idempotency.record(connection, request, 201, None, {})


async def test_the_key_with_another_body_is_refused(database: Database) -> None:
    jobs = Jobs(database)
    await jobs.create(job("restart-web"), "ada", ASKED)
    with pytest.raises(Invalid) as refused:
        await jobs.create(job("other"), "ada", replace(ASKED, body_sha256=b"\x02" * 32))
    assert refused.value.code == "idempotency_mismatch"


async def test_a_repeated_request_waits_shortly_for_the_first_and_is_then_refused(
    database: Database,
) -> None:
    async with database.transaction() as connection:
        assert await idempotency.begin(connection, ASKED) is None
        started = time.monotonic()
        with pytest.raises(Conflict) as refused:
            await Jobs(database).create(job("restart-web"), "ada", ASKED)
        assert refused.value.code == "idempotency_in_progress"
        assert 0.25 < time.monotonic() - started < 30


@pytest.mark.parametrize("pipelined", [False, True])
async def test_a_verb_is_done_once_however_its_statements_are_sent(
    database: Database, pipelined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "WAIT_MS", 20)
    told: list[int] = []

    async def verb(connection: Connection) -> int:
        row = await (await connection.execute("select %s::int as n", [len(told)])).fetchone()
        assert row is not None
        told.append(row["n"])
        return int(row["n"])

    async def ask(request: IdempotentRequest) -> int | Answer:
        return await idempotency.once(
            database, request, verb, lambda n: Answer(202, None, {"n": n}), pipelined=pipelined
        )

    async with database.transaction() as connection:
        assert await idempotency.begin(connection, ASKED) is None
        for _ in range(
            6
            # often enough that its statements are prepared; the failed one must not break any of them
        ):
            with pytest.raises(Conflict, match="still being done"):
                await ask(ASKED)
        await idempotency.record(connection, ASKED, 202, None, {"n": -1})
    assert await ask(ASKED) == Answer(202, None, {"n": -1})
    for n in range(6):
        other = replace(ASKED, key=f"other-{n}")
        assert (await ask(other), await ask(other)) == (n, Answer(202, None, {"n": n}))
    assert told == [0, 1, 2, 3, 4, 5]


async def test_what_waits_gets_the_answer_when_the_first_commits_in_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "WAIT_MS", 20_000)
    begun = asyncio.Event()

    async def first() -> None:
        async with database.transaction() as connection:
            await idempotency.begin(connection, ASKED)
            begun.set()
            await _until_somebody_waits(database)
            await idempotency.record(connection, ASKED, 201, "/jobs/9", {"id": 9})

    task = asyncio.create_task(first())
    await begun.wait()
    assert await Jobs(database).create(job("restart-web"), "ada", ASKED) == Answer(
        201, "/jobs/9", {"id": 9}
    )
    await task


async def _until_somebody_waits(database: Database) -> None:
    while not await database.fetch("select 1 from pg_locks where not granted"):
        pass


async def test_a_first_request_that_failed_leaves_nothing_behind(database: Database) -> None:
    jobs = Jobs(database)
    await jobs.create(job("restart-web"), "ada")
    with pytest.raises(Conflict):
        await jobs.create(job("restart-web"), "ada", ASKED)
    assert isinstance(
        await jobs.create(job("other"), "ada", replace(ASKED, body_sha256=b"\x03" * 32)), StoredJob
    )


async def test_ten_at_once_make_one_job(database: Database) -> None:
    jobs = Jobs(database)
    outcomes = await asyncio.gather(
        *(jobs.create(job("restart-web"), "ada", ASKED) for _ in range(10)), return_exceptions=True
    )
    made = [o for o in outcomes if isinstance(o, StoredJob)]
    assert len(made) == 1
    assert all(
        isinstance(o, StoredJob | Answer) or getattr(o, "code", "") == "idempotency_in_progress"
        for o in outcomes
    )


async def test_an_idempotency_key_older_than_a_day_is_deleted(database: Database) -> None:
    jobs = Jobs(database)
    await jobs.create(job("restart-web"), "ada", ASKED)
    await database.fetch(
        "update idempotency_keys set created_at = created_at - interval '25 hours' returning key"
    )
    assert isinstance(await jobs.create(job("other"), "ada", ASKED), StoredJob)
    await database.fetch(
        "update idempotency_keys set created_at = created_at - interval '25 hours' returning key"
    )
    assert await delete_old_keys(database) == 1
    assert await delete_old_keys(database) == 0
