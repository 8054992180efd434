"""A restored database starts nothing that may have run since the backup.

Unless the target can tell.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from engine.harness import Harness, harness
from opsjobs.model.execution import ErrorCode, ExecutionStatus
from opsjobs.model.run_views import Execution
from opsjobs.store.restores import RECORD_KEPT, Restores
from opsjobs.store.transaction import Database


async def restored(on: Harness, database: Database, age: timedelta, **policy: Any) -> Execution:
    """An execution from before the backup, which was made so long ago."""
    execution = await on.launch("work", **policy)
    row = await database.fetch_one("select opsjobs_now() as now")
    assert row is not None
    await Restores(database).mark(row["now"] - age, "a-backup")
    return execution


@pytest.mark.parametrize("durable", ["auto", "required"])
async def test_a_durable_command_is_started_while_its_target_can_tell(
    database: Database, durable: str
) -> None:
    async with harness(database) as on:
        machine = on.machine("web-1")
        execution = await restored(on, database, timedelta(hours=1), durable=durable)
        async with on.worker():
            ended = await on.ended(execution)
        assert ended.status is ExecutionStatus.COMPLETED
        assert len(machine.starts) == 1


@pytest.mark.parametrize(
    ("durable", "age", "words"),
    [
        ("required", RECORD_KEPT + timedelta(minutes=1), "may have removed its record"),
        ("off", timedelta(minutes=1), "no target keeps a record"),
    ],
)
async def test_nothing_is_started_where_no_target_can_tell(
    database: Database, durable: str, age: timedelta, words: str
) -> None:
    async with harness(database) as on:
        machine = on.machine("web-1")
        execution = await restored(on, database, age, durable=durable)
        async with on.worker():
            ended = await on.ended(execution)
        assert ended.status is ExecutionStatus.FAILED
        [result] = await on.results(execution)
        assert (result["status"], result["error_code"]) == ("lost", ErrorCode.LOST)
        assert words in result["error_message"]
        assert machine.starts == []


async def test_a_later_launch_is_free(database: Database) -> None:
    async with harness(database) as on:
        machine = on.machine("web-1")
        async with on.worker():
            await on.ended(await on.launch("before"))
            await Restores(database).mark(on.clock.now() - timedelta(days=3), "a-backup")
            after = await on.ended(await on.launch("after"))
        assert after.status is ExecutionStatus.COMPLETED
        assert [start.command for start in machine.starts] == ["before", "after"]


@pytest.mark.parametrize("policy", ["retry", "dead_letter"])
async def test_such_a_loss_is_never_retried(database: Database, policy: str) -> None:
    async with harness(database) as on:
        machine = on.machine("web-1")
        execution = await restored(on, database, timedelta(0), durable="off", on_lost=policy)
        async with on.worker():
            await on.ended(execution)
        assert machine.starts == []
        assert [result["attempt"] for result in await on.results(execution)] == [1]
