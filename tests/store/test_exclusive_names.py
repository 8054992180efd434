"""Exclusive names: their holders, the order of requests, lock cycles."""

from __future__ import annotations

import asyncio
import random

import pytest

from kit.ledger_fixtures import Owner, faults, launch, machines, read
from opsjobs.model.errors import Conflict
from opsjobs.model.execution import ExecutionStatus, TriggeredBy
from opsjobs.model.run_views import Execution
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.transaction import Database


async def holders(database: Database) -> dict[str, int]:
    rows = await database.fetch("select name, execution_id from exclusive_locks where granted")
    return {row["name"]: row["execution_id"] for row in rows}


async def named(database: Database, *names: str) -> Execution:
    return await launch(database, machines(2), names=names)


async def test_a_second_execution_is_queued_until_the_exclusive_name_is_free(
    database: Database,
) -> None:
    first, second = await named(database, "lb"), await named(database, "lb")
    owner = Owner(database)
    runs = (await owner.claim()).runs
    assert {run.execution_id for run in runs} == {first.id}
    assert (await Reconciler(database).run_once())["admitted"] == 0
    assert (await read(database, second)).status is ExecutionStatus.QUEUED
    await owner.finish(runs[:1])
    assert not (await owner.claim()).runs
    assert (await owner.finish(runs[1:])).admitted == {"default": 2}
    assert {run.execution_id for run in (await owner.claim()).runs} == {second.id}
    assert await holders(database) == {"lb": second.id}
    assert await faults(database) == []


async def test_exclusive_names_are_granted_together_and_never_before_an_older_request(
    database: Database,
) -> None:
    first = await named(database, "a")
    both = await named(database, "a", "b")
    third = await named(database, "b")
    other = await named(database, "c")
    owner, ledger = Owner(database), Ledger(database)
    assert await holders(database) == {"a": first.id, "c": other.id}
    assert {run.execution_id for run in (await owner.claim()).runs} == {first.id, other.id}
    await ledger.cancel(both.id, by="ada", reason=None)
    assert await holders(database) == {"a": first.id, "b": third.id, "c": other.id}
    assert {run.execution_id for run in (await owner.claim()).runs} == {third.id}
    assert await faults(database) == []


async def test_concurrent_launches_leave_one_holder_of_an_exclusive_name(
    database: Database,
) -> None:
    executions = await asyncio.gather(*(named(database, "lb", "db") for _ in range(6)))
    owner = Owner(database)
    for _ in executions:
        runs = (await owner.claim()).runs
        assert len({run.execution_id for run in runs}) == 1
        assert await faults(database) == []
        await owner.finish(runs)
    assert [(await read(database, e)).status for e in executions] == [ExecutionStatus.COMPLETED] * 6
    assert await holders(database) == {}


async def test_a_child_shares_the_exclusive_names_of_its_parents(database: Database) -> None:
    parent = await named(database, "lb")
    waiting = await named(database, "lb")
    child = await launch(
        database,
        machines(1),
        names=["lb", "db"],
        parent=parent.id,
        triggered_by=TriggeredBy.WORKFLOW,
    )
    owner = Owner(database)
    runs = (await owner.claim()).runs
    assert {run.execution_id for run in runs} == {parent.id, child.id}
    assert await holders(database) == {"lb": parent.id, "db": child.id}
    await owner.finish([run for run in runs if run.execution_id == parent.id])
    assert await holders(database) == {"lb": parent.id, "db": child.id}, (
        "the child goes on under the name"
    )
    await owner.finish([run for run in runs if run.execution_id == child.id])
    assert await holders(database) == {"lb": waiting.id}
    assert await faults(database) == []


async def test_a_child_passes_requests_that_wait_for_its_parent(database: Database) -> None:
    parent = await named(database, "db")
    both = await named(database, "db", "schema")
    child = await launch(
        database, machines(1), names=["schema"], parent=parent.id, triggered_by=TriggeredBy.WORKFLOW
    )
    assert await holders(database) == {"db": parent.id, "schema": child.id}
    owner = Owner(database)
    runs = (await owner.claim()).runs
    assert {run.execution_id for run in runs} == {parent.id, child.id}
    await owner.finish([run for run in runs if run.execution_id == child.id])
    assert await holders(database) == {"db": parent.id}, "who came first is not given one of two"
    await owner.finish([run for run in runs if run.execution_id == parent.id])
    assert await holders(database) == {"db": both.id, "schema": both.id}
    assert await faults(database) == []


async def test_children_that_may_pass_each_other_get_a_freed_name_one_by_one(
    database: Database,
) -> None:
    holder = await named(database, "x")
    parents = [await named(database, "p"), await named(database, "y")]
    waiting = await named(database, "x")
    first, second = [
        await launch(
            database, machines(1), names=names, parent=parent.id, triggered_by=TriggeredBy.WORKFLOW
        )
        for parent, names in zip(parents, (["x", "y"], ["x"]), strict=True)
    ]
    third = await launch(
        database, machines(1), names=["x"], parent=parents[0].id, triggered_by=TriggeredBy.WORKFLOW
    )
    owner = Owner(database)
    runs = (await owner.claim()).runs
    for held_by in (holder, second, third):
        assert (await holders(database))["x"] == held_by.id
        runs += (await owner.claim()).runs
        await owner.finish([run for run in runs if run.execution_id == held_by.id])
        assert await faults(database) == []
    assert (await holders(database))["x"] == waiting.id, (
        "a child that waits for more holds up nobody"
    )
    assert (await read(database, first)).status is ExecutionStatus.QUEUED
    await owner.finish([run for run in runs if run.execution_id == parents[1].id])
    await owner.finish((await owner.claim()).runs)
    assert (await holders(database))["x"] == first.id
    assert await faults(database) == []


async def test_a_retry_requests_its_exclusive_names_anew(database: Database) -> None:
    parent = await named(database, "lb")
    owner = Owner(database)
    await owner.finish((await owner.claim()).runs)
    retry = await launch(
        database, machines(1), names=["lb"], parent=parent.id, triggered_by=TriggeredBy.RETRY
    )
    assert await holders(database) == {"lb": retry.id}


async def test_exclusive_names_of_ended_executions_are_passed_on_by_the_reconciler(
    database: Database,
) -> None:
    first, second = await named(database, "lb"), await named(database, "lb")
    async with database.transaction() as connection:
        await connection.execute("update exclusive_locks set granted = false")
    assert (await Reconciler(database).run_once())["names_granted"] == 1
    assert await holders(database) == {"lb": first.id}
    assert {run.execution_id for run in (await Owner(database).claim()).runs} == {first.id}
    assert (await read(database, second)).status is ExecutionStatus.QUEUED


async def test_many_executions_over_few_names_all_come_to_their_end(database: Database) -> None:
    dice = random.Random(3)
    executions = [
        await named(database, *dice.sample(["a", "b", "c", "d"], dice.randint(1, 3)))
        for _ in range(16)
    ]
    owners = [Owner(database, f"worker-{n}") for n in range(3)]

    async def work(owner: Owner) -> None:
        while True:
            runs = (await owner.claim(4)).runs
            assert await faults(database) == []
            if runs:
                await owner.finish(runs)
            elif all([(await read(database, e)).finished_at for e in executions]):
                return
            else:
                await asyncio.sleep(0)

    await asyncio.gather(*map(work, owners))
    assert await holders(database) == {}
    assert await faults(database) == []


async def child_of(database: Database, parent: Execution, *names: str) -> Execution:
    return await launch(
        database, machines(1), names=names, parent=parent.id, triggered_by=TriggeredBy.WORKFLOW
    )


async def test_a_request_that_would_close_a_lock_cycle_is_refused(database: Database) -> None:
    one, two = await named(database, "a"), await named(database, "b")
    waits = await child_of(database, await child_of(database, one), "b")
    inner = await child_of(database, two)
    with pytest.raises(Conflict, match="The name 'a' is held") as refused:
        await child_of(database, inner, "a")
    assert refused.value.code == "lock_cycle"
    # Nothing is left of the refused one: the next in the queue gets the name when its holder ends.
    await Ledger(database).cancel(two.id, by="ada", reason=None)
    assert await holders(database) == {"a": one.id, "b": waits.id}
    assert await faults(database) == []


async def test_a_child_that_waits_without_a_lock_cycle_is_not_refused(database: Database) -> None:
    one, two, three = (
        await named(database, "a"),
        await named(database, "b"),
        await named(database, "c"),
    )
    await child_of(database, one, "b")
    await child_of(database, two, "c")
    await child_of(database, three)
    assert await holders(database) == {"a": one.id, "b": two.id, "c": three.id}
    with pytest.raises(Conflict):
        await child_of(database, three, "a")


async def test_of_two_requests_that_close_a_lock_cycle_together_one_is_refused(
    database: Database,
) -> None:
    for _ in range(5):
        one, two = await named(database, "a"), await named(database, "b")
        asked = await asyncio.gather(
            child_of(database, one, "b"), child_of(database, two, "a"), return_exceptions=True
        )
        assert sorted(type(answer).__name__ for answer in asked) == ["Conflict", "Execution"]
        for execution in (one, two):
            await Ledger(database).cancel(execution.id, by="ada", reason=None)
        assert await holders(database) == {}
