"""The cost of requests in statements and round trips to PostgreSQL.

Times vary in a test, these numbers never do.
"""

from __future__ import annotations

from typing import Any

import pytest

from api.kit import ApiClient, api_client, job
from kit.postgres_trace import watched
from opsjobs.store import transaction
from opsjobs.store.transaction import Database, DatabaseOptions

# A statement is prepared after five uses on one connection.
OFTEN = 6


@pytest.fixture
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Database:
    """One connection: a request that needed two at once would wait for ever.

    It is not asked whether it is alive, however long this machine pauses: that is a statement, too.
    """
    monkeypatch.setattr(transaction, "TRUSTED_SECONDS", 3_600.0)
    return Database(DatabaseOptions(database_url, connections=1, application_name="test"))


async def create_job(api: ApiClient) -> int:
    """Create a job on a machine with a login."""
    login = {"name": "bench", "type": "password", "username": "deploy", "password": "open sesame"}
    for path, body in (
        ("/credentials", login),
        ("/targets", {"name": "web-1", "host": "192.0.2.1", "credential": "bench"}),
        ("/jobs", job(targets={"ids": ["web-1"]}, policy={"max_parallel": 1})),
    ):
        answer = await api.http.post(path, json=body)
        assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


@pytest.mark.parametrize(
    ("method", "path", "headers", "statements", "waits"),
    [
        pytest.param(
            "GET", "", {}, 3, 3, id="a job is read: whose token it is, the job, and if it runs"
        ),
        pytest.param("POST", "/execute", {}, 9, 5, id="a job is executed"),
        pytest.param(
            "POST", "/execute", {"Idempotency-Key": "once-{n}"}, 14, 6, id="a job is executed, once"
        ),
    ],
)
async def test_each_request_has_its_number_of_statements_and_round_trips(
    database: Database, method: str, path: str, headers: dict[str, str], statements: int, waits: int
) -> None:
    async with api_client(database) as front:
        place = f"/jobs/{await create_job(front)}{path}"

        async def ask(n: int) -> Any:
            answer = await front.http.request(
                method, place, headers={name: value.format(n=n) for name, value in headers.items()}
            )
            assert answer.is_success, answer.text

        for n in range(OFTEN):
            await ask(n)
        async with watched(database) as wire:
            await ask(OFTEN)
    assert (wire.statements, wire.waits) == (statements, waits)


async def session(database: Database) -> int:
    """Return PostgreSQL's process id of our connection."""
    async with database.connection() as connection:
        return connection.info.backend_pid


async def test_a_refused_launch_leaves_its_database_connection_clean(database: Database) -> None:
    async with api_client(database) as front:
        place = f"/jobs/{await create_job(front)}"
        assert (await front.http.post(f"{place}/pause")).is_success
        before = await session(database)
        for _ in range(2):
            refused = await front.http.post(f"{place}/execute")
            assert (refused.status_code, refused.json()["code"]) == (409, "job_is_paused")
        assert (await front.http.post(f"{place}/resume")).is_success
        launched = await front.http.post(f"{place}/execute")
        assert (launched.status_code, launched.json()["number"]) == (202, 1)
        assert await session(database) == before
