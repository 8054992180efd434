"""Branches of a run that lose their worker, their machine or their contact.

Each is reattached, or looked up later, by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from engine.harness import Harness, harness, until
from engine.test_remote_cleanup import care
from engine.test_workflows import step, told
from kit.fake_remote import FakeMachine, Gate
from opsjobs.engine.runs.run_tools import RunLimits
from opsjobs.model.execution import CancelProof, ExecutionStatus
from opsjobs.model.run_views import Execution
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.store.ledger.takeover import CLAIMS_MAX
from opsjobs.store.transaction import Database

SECONDS = 60.0
BRANCHES = [step("left"), step("right", []), step("last", ["left", "right"])]


def two(on: Harness) -> tuple[FakeMachine, Gate, Gate]:
    """Return a machine whose two branches have written something, and wait at gates."""
    left, right = Gate(asyncio.Event()), Gate(asyncio.Event())
    web = on.machine("web-1")
    for key, gate in (("left", left), ("right", right)):
        web.reply(
            [
                Output("stdout", f"{key} begun\n".encode()),
                gate,
                Output("stdout", f"{key} done\n".encode()),
                RemoteExit(0),
            ],
            to=key,
        )
    return web, left, right


async def said(on: Harness, execution: Execution, key: str) -> bytes:
    """Return the stored output of a branch."""
    return b"".join(
        e.data or b"" for e in await on.log(execution) if e.action == key and e.event == "output"
    )


async def until_both_wrote(on: Harness, execution: Execution) -> None:
    async def so() -> bool:
        return all(
            [
                await said(on, execution, key) == f"{key} begun\n".encode()
                for key in ("left", "right")
            ]
        )

    await until(so, SECONDS)


async def take_over(on: Harness, execution: Execution) -> None:
    """Declare the run's worker dead; return once another session of a worker has claimed the run.

    That may be one of the same worker: it learns from its lease that it was declared dead, and
    registers again. It may have given the run back already, to wait for a retry: the fence, which
    grows with every claim, tells that, and the owner does not.
    """
    before = await on.row(execution)
    await on.bury(before["worker"])

    async def is_taken_over() -> bool:
        return bool((await on.row(execution))["fence"] > before["fence"])

    await until(is_taken_over, SECONDS)


async def inherited(on: Harness, execution: Execution, gate: Gate) -> Execution:
    """Return the ended execution: its worker dies, a successor takes over, then the gate opens."""
    async with on.worker("worker-2"):
        await take_over(on, execution)
        gate.event.set()
        return await on.ended(execution, SECONDS)


@pytest.mark.parametrize("first", ["left", "right"])
async def test_a_successor_follows_each_branch_to_its_end(database: Database, first: str) -> None:
    async with harness(database) as on:
        web, left, right = two(on)
        async with on.worker("worker-1"):
            execution = await on.launch(BRANCHES, durable="auto")
            await until_both_wrote(on, execution)
            async with on.worker("worker-2"):
                await take_over(on, execution)
                for gate in (left, right) if first == "left" else (right, left):
                    gate.event.set()
                ended = await on.ended(execution, SECONDS)
                for key in ("left", "right"):
                    assert await said(on, execution, key) == f"{key} begun\n{key} done\n".encode()
        assert ended.status is ExecutionStatus.COMPLETED
        assert sorted(s.command for s in web.starts) == ["last", "left", "right"]
        assert await told(on, execution) == dict.fromkeys(["left", "right", "last"], "succeeded")


async def test_a_failed_branch_does_not_keep_a_successor_from_the_running_one(
    database: Database,
) -> None:
    async with harness(database) as on:
        web, left, _ = two(on)
        web.reply([RemoteExit(3)], to="right")
        async with on.worker("worker-1"):
            execution = await on.launch(BRANCHES, durable="auto")

            async def failed() -> bool:
                return (await told(on, execution)).get("right") == "failed" and bool(
                    await said(on, execution, "left")
                )

            await until(failed, SECONDS)
            ended = await inherited(on, execution, left)
        assert ended.counts == {"failed": 1}
        assert await told(on, execution) == {"left": "succeeded", "right": "failed"}
        assert await said(on, execution, "left") == b"left begun\nleft done\n"
        assert sorted(s.command for s in web.starts) == ["left", "right"]


async def test_a_rolling_kill_starts_no_direct_branch_twice(database: Database) -> None:
    async with harness(database) as on:
        web, left, right = two(on)
        async with on.worker("worker-1"):
            execution = await on.launch(BRANCHES, durable="off")
            await until_both_wrote(on, execution)
            async with on.worker("worker-2"):
                await on.bury("worker-1")
                ended = await on.ended(execution, SECONDS)
        left.event.set()
        right.event.set()
        assert ended.counts == {"lost": 1}
        assert await told(on, execution) == {"left": "lost", "right": "lost"}
        assert sorted(s.command for s in web.starts) == ["left", "right"]


async def test_successors_that_die_one_after_another_start_nothing_twice(
    database: Database,
) -> None:
    async with harness(database) as on:
        web, left, right = two(on)
        async with on.worker("worker-1"):
            execution = await on.launch(BRANCHES, durable="auto")
            await until_both_wrote(on, execution)
            async with on.worker("worker-2"):
                await take_over(on, execution)
                left.event.set()
                async with on.worker("worker-3"):
                    await take_over(on, execution)
                    right.event.set()
                    ended = await on.ended(execution, SECONDS)
        assert ended.status is ExecutionStatus.COMPLETED
        assert sorted(s.command for s in web.starts) == ["last", "left", "right"]
        for key in ("left", "right"):
            assert await said(on, execution, key) == f"{key} begun\n{key} done\n".encode()


async def test_a_cancel_stops_branches_that_a_successor_has_not_attached_to_yet(
    database: Database,
) -> None:
    async with harness(database) as on:
        web, _, _ = two(on)
        async with on.worker("worker-1"):
            execution = await on.launch(BRANCHES, durable="auto")
            await until_both_wrote(on, execution)
        await on.cancel(execution)
        async with on.worker("worker-2"):
            ended = await on.ended(execution, SECONDS)
        results = {
            r["action"]: (r["status"], r["cancel_proof"]) for r in await on.results(execution)
        }
        assert ended.status is ExecutionStatus.CANCELLED
        assert results == {"left": ("cancelled", "killed"), "right": ("cancelled", "killed")}
        assert [proof for proof in web.kills if proof is not CancelProof.KILLED] == []


async def test_a_worker_that_stops_leaves_branches_running_for_the_next(database: Database) -> None:
    async with harness(database) as on:
        web, left, right = two(on)
        async with on.worker("worker-1"):
            execution = await on.launch(BRANCHES, durable="auto")
            await until_both_wrote(on, execution)
        assert (await on.row(execution))["status"] == "running"
        assert web.kills == []
        left.event.set()
        right.event.set()
        async with on.worker("worker-2"):
            ended = await on.ended(execution, SECONDS)
        assert ended.status is ExecutionStatus.COMPLETED
        assert (await on.row(execution))["claims"] == 0


async def test_a_reboot_costs_each_branch_only_what_ran_then(database: Database) -> None:
    """One branch begins again after the reboot, in the same spool.

    The other one is still looked up where it was begun.
    """
    async with harness(database) as on, on.worker():
        web, left, right = two(on)
        actions = [step("left", on_failure="continue"), step("right", []), step("last", ["right"])]
        execution = await on.launch(actions, durable="auto", on_lost="retry")
        await until_both_wrote(on, execution)
        before = web.identity
        web.reply([RemoteExit(0)], to="left").reply([RemoteExit(0)], to="right")
        web.reboot()
        ended = await on.ended(execution, SECONDS)
        results = [
            (r["action"], r["attempt"], r["status"], r["boot_id"])
            for r in await on.results(execution)
        ]
        left.event.set()
        right.event.set()
    assert ended.status is ExecutionStatus.COMPLETED
    assert sorted(results) == [
        ("last", 1, "succeeded", web.identity.boot),
        ("left", 1, "lost", before.boot),
        ("left", 2, "succeeded", web.identity.boot),
        ("right", 1, "lost", before.boot),
        ("right", 2, "succeeded", web.identity.boot),
    ]


@asynccontextmanager
async def lost(
    database: Database, monkeypatch: pytest.MonkeyPatch, *, cancel: bool
) -> AsyncIterator[tuple[Harness, FakeMachine, Execution]]:
    """Yield a run that lost both branches because its machine was cut off."""
    monkeypatch.setattr("opsjobs.engine.runs.commands.KILL_SECONDS", 0.2)
    # A cancelled run is lost once its kill has reached nothing, not because contact is lost.
    limits = RunLimits(reattach_seconds=600.0 if cancel else 0.3)
    async with harness(database) as on, on.worker(lease_seconds=3.0, limits=limits) as worker:
        web, left, right = two(on)
        execution = await on.launch(BRANCHES, durable="auto")
        await until_both_wrote(on, execution)
        web.cut()
        if cancel:
            await on.cancel(execution)
        ended = await on.ended(execution, SECONDS)
        assert ended.counts == {"lost": 1}
        assert await told(on, execution) == {"left": "lost", "right": "lost"}
        await until(lambda: worker.session is not None and not worker.session.runs)
        yield on, web, execution
        left.event.set()
        right.event.set()


async def late(on: Harness, execution: Execution) -> dict[str, str | None]:
    """Return the late result of each branch."""
    return {
        r["action"]: (r["late_result"] or {}).get("status") for r in await on.results(execution)
    }


async def test_both_lost_branches_are_stopped_when_their_machine_is_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lost(database, monkeypatch, cancel=True) as (on, web, execution):
        await on.turn(61)
        assert (await care(on).run_once())["settled_late"] == 0, "still away"
        web.mend()
        await on.turn(3601)
        assert (await care(on).run_once())["settled_late"] == 2
        assert await late(on, execution) == {"left": "cancelled", "right": "cancelled"}
        row = await on.row(execution)
        assert (row["status"], row["sweep_due"], row["late_result"]["status"]) == (
            "lost",
            None,
            "cancelled",
        )


async def test_a_lost_branch_that_runs_still_is_looked_for_after_the_other_has_been_found(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lost(database, monkeypatch, cancel=False) as (on, web, execution):
        web.mend()
        run = next(run for key, run in web.runs.items() if key.action == "left")
        run.end(RemoteExit(0))
        await on.turn(61)
        assert (await care(on).run_once())["settled_late"] == 1
        assert await late(on, execution) == {"left": "succeeded", "right": None}
        assert (await on.row(execution))["sweep_due"] is not None
        next(run for key, run in web.runs.items() if key.action == "right").end(RemoteExit(4))
        await on.turn(3601)
        assert (await care(on).run_once())["settled_late"] == 1
        assert await late(on, execution) == {"left": "succeeded", "right": "failed"}
        assert (await on.row(execution))["sweep_due"] is None


async def test_a_poisonous_run_ends_with_all_its_branches(database: Database) -> None:
    async with harness(database) as on:
        web, left, right = two(on)
        async with on.worker("worker-0"):
            execution = await on.launch(BRANCHES, durable="auto")
            await until_both_wrote(on, execution)
        async with database.connection() as connection:
            await connection.execute("update workers set stopped_at = null")
            await connection.execute("update target_runs set claims = %s", [CLAIMS_MAX])
        async with on.worker("worker-1"):
            ended = await on.ended(execution, SECONDS)
        left.event.set()
        right.event.set()
        assert ended.counts == {"dead": 1}
        assert await told(on, execution) == {"left": "dead", "right": "dead"}
        await on.turn(61)
        assert (await care(on).run_once())["settled_late"] == 2
        assert len(web.starts) == 2
