"""Launch: its rows, wake-ups and refusals, and the replay of a lost response."""

from __future__ import annotations

import hashlib
from uuid import UUID, uuid5

import pytest

from engine.harness import Harness, harness
from opsjobs import failpoints
from opsjobs.model.errors import Invalid, Unavailable
from opsjobs.model.execution import ExecutionStatus, TriggeredBy
from opsjobs.model.identity import Identity
from opsjobs.model.job import CommandAction, LaunchOrder, Policy
from opsjobs.model.selection import SelectionDraft
from opsjobs.store.idempotency import IdempotentRequest
from opsjobs.store.transaction import Database

ONCE = IdempotentRequest("ada", "POST /run", "key-1", hashlib.sha256(b"body").digest())


def order(
    on: Harness, names: list[str], *, narrowed_to: list[str] | None = None, **policy: object
) -> LaunchOrder:
    for name in names:
        on.targets.add(name)
    return LaunchOrder(
        [CommandAction(key="step-1", command="true")],
        SelectionDraft(ids=names),
        Policy(**policy),  # type: ignore[arg-type]
        "ad-hoc",
        narrowed_to=SelectionDraft(ids=narrowed_to) if narrowed_to is not None else None,
    )


async def test_a_launch_wakes_each_zone_once_and_only_after_the_commit(
    database: Database,
) -> None:
    async with harness(database, open_ends=True) as on:
        on.targets.add("web-3", zone="far")
        await on.launch("true", 3)
        assert sorted(on.notified) == ["default", "far"]
        on.notified.clear()
        failpoints.arm("ledger.launch:error")
        with pytest.raises(Unavailable):
            await on.launch("true", 3)
        assert on.notified == []
        assert len(await database.fetch("select 1 from job_executions")) == 1


@pytest.mark.parametrize("fault", ["launch:error", "launch:error_after", "ledger.launch:error"])
async def test_a_launch_that_fails_before_its_commit_leaves_nothing(
    database: Database, fault: str
) -> None:
    async with harness(database) as on:
        failpoints.arm(fault)
        with pytest.raises(Unavailable):
            await on.launch("true", 2, idem=ONCE)
        assert (
            await database.fetch(
                "select 1 from job_executions union all select 1 from idempotency_keys"
            )
            == []
        )


@pytest.mark.parametrize(
    "fault", ["ledger.launch:error_after", "notify:error", "notify:error_after"]
)
async def test_a_launch_whose_answer_was_lost_is_replayed_by_its_key_and_claimed_without_a_wakeup(
    database: Database, fault: str
) -> None:
    async with harness(database) as on:
        failpoints.arm(fault)
        with pytest.raises(Unavailable):
            await on.launch("true", 2, idem=ONCE)
        failpoints.arm("")
        again = await on.launcher.launch(
            order(on, ["web-1", "web-2"]),
            triggered_by=TriggeredBy.API,
            requested_by=Identity("api_key", "ada"),
            idem=ONCE,
        )
        assert again.execution is None
        assert again.replayed is not None
        assert again.replayed.status == 202
        async with on.worker(hears_bells=False):
            ended = await on.ended(await on.executions.get(again.replayed.body["id"]))
        assert ended.status is ExecutionStatus.COMPLETED
        assert len(await database.fetch("select 1 from job_executions")) == 1


async def test_targets_of_an_execute_can_only_narrow_the_jobs_own(database: Database) -> None:
    async with harness(database, open_ends=True) as on:
        launch = on.launcher.launch
        narrowed = await launch(
            order(on, ["web-1", "web-2", "web-3"], narrowed_to=["web-3", "web-1"]),
            triggered_by=TriggeredBy.API,
            requested_by=Identity("api_key", "ada"),
        )
        assert narrowed.execution is not None
        assert [row["target_name"] for row in await on.rows(narrowed.execution)] == [
            "web-3",
            "web-1",
        ]
        on.targets.add("db-1")
        with pytest.raises(Invalid, match="db-1 is not a target of this job"):
            await launch(
                order(on, ["web-1"], narrowed_to=["db-1"]),
                triggered_by=TriggeredBy.API,
                requested_by=Identity("api_key", "ada"),
            )


async def test_a_launch_without_targets_is_refused_and_writes_nothing(database: Database) -> None:
    async with harness(database) as on:
        with pytest.raises(Invalid, match="No target matches"):
            await on.launcher.launch(
                order(on, []),
                triggered_by=TriggeredBy.API,
                requested_by=Identity("api_key", "ada"),
            )
        assert await database.fetch("select 1 from job_executions") == []


async def test_the_same_target_in_a_restored_database_gives_the_same_run(
    database: Database,
) -> None:
    async with harness(database, open_ends=True) as on:
        execution = await on.launch("true", 3)
        uuids = [row["uuid"] for row in await on.rows(execution)]
        assert uuids == [uuid5(UUID(execution.uuid), str(n)) for n in (1, 2, 3)]


async def test_the_order_of_a_policy_is_the_order_of_the_runs(database: Database) -> None:
    async with harness(database, open_ends=True) as on:
        names = ["web-2", "web-10", "web-1"]
        for named, expected in (
            ("inventory", names),
            ("name", ["web-1", "web-2", "web-10"]),
            ("reverse", ["web-1", "web-10", "web-2"]),
        ):
            launched = await on.launcher.launch(
                order(on, names, order=named),
                triggered_by=TriggeredBy.API,
                requested_by=Identity("api_key", "ada"),
            )
            assert launched.execution is not None
            assert [row["target_name"] for row in await on.rows(launched.execution)] == expected
