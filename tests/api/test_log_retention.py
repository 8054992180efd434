"""A log that retention has deleted is 410, not empty."""

from __future__ import annotations

import pytest

from api.kit import problem
from api.live import live_api
from opsjobs.store.transaction import Database


@pytest.mark.parametrize(
    "path",
    [
        "/log",
        "/log?format=text",
        "/log?format=ndjson",
        "/log?format=text&target=web-1&stream=stdout",
        "/events",
    ],
)
async def test_a_log_dropped_by_retention_is_410(database: Database, path: str) -> None:
    async with live_api(database) as api:
        await api.scripted.start()
        await api.scripted.write("web-1", b"up\n")
        await api.scripted.finish("web-1")
        await database.fetch(
            """with gone as (delete from execution_log returning log_day)
            insert into dropped_log_days (log_day) select distinct log_day from gone returning log_day"""
        )
        assert (
            "OPSJOBS_KEEP_LOGS"
            in problem(await api.http.get(f"/executions/1{path}"), 410, "log_dropped")["detail"]
        )
        (result,) = (await api.http.get("/executions/1/results")).json()["items"]
        assert (
            result["status"],
            result["stdout"],
            result["stdout_bytes"],
            result["stdout_truncated"],
        ) == (
            "succeeded",
            "",
            3,
            True,
        )
        assert (await api.http.get("/executions/1")).json()["status"] == "completed"
