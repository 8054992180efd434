"""Direct commands leave no state on the machine: their start is recorded before they run.

A run with a single direct command needs no such record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from engine.harness import Harness, harness, until
from engine.test_branches import take_over
from engine.test_passive_actions import SECONDS, waits
from engine.test_transfers import put, stored, web
from engine.test_workflows import step, told
from kit.fake_remote import Gate
from opsjobs.model.action import WaitAction
from opsjobs.model.execution import ErrorCode, ExecutionStatus
from opsjobs.model.retry import RetryPolicy
from opsjobs.model.run_views import Execution
from opsjobs.remote.session import RemoteExit
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.flush import Flush
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.ledger.settle import Settled
from opsjobs.store.transaction import Database

BARE = step("bare", durable="off")
AGAIN = RetryPolicy(max_attempts=2, base=0.01, jitter=False, on=[ErrorCode.NONZERO_EXIT])


class RecordingLedger(Ledger):
    """A ledger that reports each action that begins, and blocks flushes while `open` is not set."""

    def __init__(
        self, database: Database, told: Callable[[str, int], None] = lambda action, attempt: None
    ) -> None:
        super().__init__(database)
        self._told = told
        self.open = asyncio.Event()
        self.open.set()
        self.waiting = 0

    async def settle(self, flush: Flush) -> Settled:
        for result in flush.results:
            if result.begins:
                self._told(result.action, result.attempt)
        self.waiting += not self.open.is_set()
        await self.open.wait()
        return await super().settle(flush)


async def before_it(on: Harness, name: str) -> list[Any]:
    """Return the actions of the run before the direct command."""
    match name:
        case "a transfer":
            web(on)
            return [put(await stored(on, b"listen 80;\n"))]
        case "a durable command":
            return [step("kept", durable="auto")]
        case "a wait":
            return [WaitAction(key="pause", duration=0.01)]
    return [step("first", durable="off")]


@pytest.mark.parametrize("name", ["a transfer", "a durable command", "a wait", "another one"])
async def test_a_direct_command_after_something_else_is_on_record_before_it_starts(
    database: Database, name: str
) -> None:
    async with harness(database) as on:
        machine, seen = on.machine("web-1"), dict[tuple[str, int], list[str]]()

        def told_of(action: str, attempt: int) -> None:
            seen[action, attempt] = [start.command for start in machine.starts]

        actions = [*await before_it(on, name), BARE]
        async with on.worker(ledger=RecordingLedger(database, told_of)):
            ended = await on.ended(await on.launch(actions, durable="auto"))
        assert ended.status is ExecutionStatus.COMPLETED
        assert "bare" not in seen["bare", 1]
        assert [start.command for start in machine.starts][-1:] == ["bare"]


async def test_the_next_attempt_of_a_direct_command_is_on_record_before_it_starts(
    database: Database,
) -> None:
    async with harness(database) as on:
        replies, seen = iter([RemoteExit(1), RemoteExit(0)]), dict[tuple[str, int], int]()
        machine = on.machine("web-1").reply(lambda *_: [next(replies)])

        def told_of(action: str, attempt: int) -> None:
            seen[action, attempt] = len(machine.starts)

        async with on.worker(ledger=RecordingLedger(database, told_of)):
            ended = await on.run([step("bare", durable="off", retry=AGAIN)])
        assert (ended.status, len(machine.starts)) == (ExecutionStatus.COMPLETED, 2)
        assert seen["bare", 2] == 1


async def test_a_direct_command_is_started_once_though_an_heir_had_to_wait_before_it_came_there(
    database: Database,
) -> None:
    async with harness(database) as on:
        machine, disk, gate = on.machine("web-1"), web(on), Gate(asyncio.Event())
        disk.gate = gate
        later = RetryPolicy(max_attempts=2, base=3600, jitter=False, on=[ErrorCode.TRANSFER])
        ledger = RecordingLedger(database)
        # With such a long lease, it does not learn that it was reaped.
        async with on.worker("worker-1", ledger=ledger, lease_seconds=600) as first:
            actions: list[Any] = [put(await stored(on, b"listen 80;\n"), retry=later), BARE]
            execution = await on.launch(actions, durable="auto")
            await asyncio.wait_for(gate.reached.wait(), SECONDS)
            await until(lambda: _begun(on, execution))
            ledger.open.clear()
            disk.gate = None
            gate.event.set()
            await until(
                lambda: ledger.waiting > 0
            )  # the transfer has ended, which only this worker knows
            machine.diskless = "it serves no files just now"
            async with on.worker("worker-2"):
                await take_over(on, execution)
                await waits(on, execution, "backoff")
                machine.diskless = None
                ledger.open.set()
                await first.stop()
                await on.turn(3601)
                await Reconciler(database).run_once()
                await on.ended(execution, SECONDS)
        assert [start.command for start in machine.starts] == ["bare"]
        assert await told(on, execution) == {"put": "succeeded", "bare": "succeeded"}


async def _begun(on: Harness, execution: Execution) -> bool:
    return bool(await on.results(execution))


@pytest.mark.parametrize(("code", "status"), [(0, "succeeded"), (3, "failed")])
async def test_output_that_may_be_incomplete_is_said_in_the_result(
    database: Database, code: int, status: str
) -> None:
    async with harness(database) as on:
        on.machine("web-1").reply([RemoteExit(code, detail="the connection broke")])
        async with on.worker():
            execution = await on.run([BARE])
        (result,) = await on.results(execution)
        assert (result["status"], result["exit_code"]) == (status, code)
        assert result["error_code"] == ("nonzero_exit" if code else "output_incomplete")
        assert "its output may be incomplete: the connection broke" in result["error_message"]
