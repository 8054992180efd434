"""Waves, gates, barriers and holds with a running worker, on scripted machines."""

from __future__ import annotations

from engine.harness import Harness, harness, until
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode, ExecutionStatus
from opsjobs.model.job import CommandAction
from opsjobs.model.run_views import Execution
from opsjobs.remote.session import RemoteExit
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.transaction import Database

CHECK = {"check": {"type": "command", "command": "check"}}


async def results_in_order(
    on: Harness, execution: Execution
) -> list[tuple[str | None, str | None]]:
    """Return the actions that ended on each target, in the order of the log."""
    return [
        (e.target, (e.body or {})["action_key"])
        for e in await on.log(execution)
        if e.event == "result"
    ]


async def test_a_wave_is_checked_before_the_next_one_begins(database: Database) -> None:
    async with harness(database) as on:
        async with on.worker():
            execution = await on.run("patch", 3, waves=[1, "100%"], gate=CHECK)
        assert execution.status is ExecutionStatus.COMPLETED
        told = await results_in_order(on, execution)
        assert told[:2] == [("1", "step-1"), ("1", "gate-check")]
        assert sorted(told[2:4]) == [("2", "step-1"), ("3", "step-1")]
        assert sorted(told[4:]) == [("2", "gate-check"), ("3", "gate-check")]
        assert execution.waves == {"open": 2, "total": 2}


async def test_a_canary_that_fails_its_check_spares_the_others(database: Database) -> None:
    async with harness(database) as on:
        on.machine("web-1").reply([RemoteExit(1)], to="check")
        async with on.worker():
            execution = await on.run("patch", 3, waves=[1, "100%"], gate=CHECK)
        assert execution.counts == {"failed": 1, "skipped": 2}
        assert execution.halt_reason == "the check of wave 1 failed"
        assert [len(on.machine(f"web-{n}").starts) for n in (2, 3)] == [0, 0]


async def test_a_barrier_is_passed_by_all_or_nobody_yet(database: Database) -> None:
    steps = [CommandAction(command="first"), CommandAction(command="second", scope="barrier")]
    async with harness(database) as on:
        on.machine("web-2").reply([RemoteExit(1)], to="first")
        async with on.worker():
            execution = await on.run(steps, 4, max_parallel=1)
        assert execution.counts == {"failed": 1, "succeeded": 3}
        told = await results_in_order(on, execution)
        assert sorted(told[:4]) == [(target, "step-1") for target in "1234"]
        done = [(target, key) for target, key in told[4:] if target != "2"]
        assert sorted(done) == [(target, "step-2") for target in "134"]


async def test_a_person_opens_the_next_wave(database: Database) -> None:
    async with harness(database) as on, on.worker():
        execution = await on.launch("patch", 2, waves=[1, "100%"], gate={"confirm": True})

        async def asks() -> bool:
            return (await on.executions.get(execution.id)).status is ExecutionStatus.PAUSED

        await until(asks)
        stands = await on.executions.get(execution.id)
        assert stands.waiting_on == {
            "kind": "confirm", "reason": "wave 1 of 2 has ended", "by": None,
        }  # fmt: skip
        assert stands.waves == {"open": 1, "total": 2}
        await on.ledger.resume(execution.id, by="ada")
        assert (await on.ended(execution)).status is ExecutionStatus.COMPLETED


async def test_a_target_that_is_offline_is_held_until_it_is_back(database: Database) -> None:
    refused = RemoteFailure(ErrorCode.CONNECTION_REFUSED, "refused")
    async with harness(database) as on, on.worker():
        web = on.machine("web-1")
        web.refuse(refused)
        execution = await on.launch("patch", 1, hold_offline=3600)

        async def held() -> bool:
            return (await on.row(execution))["waiting_for"] == "hold"

        await until(held)
        assert not any((await Reconciler(database).run_once()).values())
        web.accept()
        await on.turn(31)
        assert (await Reconciler(database).run_once())["woken"] == 1
        assert (await on.ended(execution)).status is ExecutionStatus.COMPLETED
