"""A run that cannot be prepared ends alone: every other run of the same claim starts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from engine.harness import Harness, InMemoryTargets, harness, until
from kit.fake_remote import Gate
from opsjobs.model.execution import ExecutionStatus
from opsjobs.model.run_views import Execution
from opsjobs.model.secret import Secret
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.store.envelope import new_key
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.claim import Progress, Spec
from opsjobs.store.transaction import Database
from opsjobs.store.vault.credentials import Vault

# A field of the next release, and values that no release writes.
UNREADABLE = [
    """policy = policy || '{"retry": {"max_attempts": 3, "a_field_of_the_next_release": true}}'""",
    """actions = '[{"key": "step-1", "type": "command", "command": "true", "retry": 7}]'""",
    """actions = '[{"key": "step-1", "type": "command", "command": "true", "become": "root"}]'""",
    """actions = '[{"type": "command", "command": "true"}]'""",
]


async def spoil(on: Harness, execution: Execution, change: str) -> None:
    async with on.database.connection() as connection:
        await connection.execute(
            f"update execution_specs set {change} where execution_id = %s", [execution.id]
        )


async def others_run(on: Harness, bad: Execution, good: Sequence[Execution]) -> dict[str, Any]:
    """Check that all others complete, and so does a later launch; return the row of the bad one."""
    assert (await on.ended(bad)).status is ExecutionStatus.FAILED
    assert [(await on.ended(one)).status for one in good] == [ExecutionStatus.COMPLETED] * len(good)
    assert (await on.run("true", ["web-8"])).status is ExecutionStatus.COMPLETED
    return await on.row(bad)


@pytest.mark.parametrize("change", UNREADABLE)
async def test_an_execution_that_cannot_be_read_ends_alone(database: Database, change: str) -> None:
    async with harness(database, bugs=["run_setup"]) as on:
        good = [await on.launch("true", [f"web-{n}"]) for n in (1, 2)]
        bad = await on.launch("true", ["web-3"])
        await spoil(on, bad, change)
        good.append(await on.launch("true", ["web-4"]))
        async with on.worker():
            row = await others_run(on, bad, good)
    assert (row["status"], row["error_code"]) == ("failed", "internal")
    assert "could not be prepared" in row["error_message"]


async def test_a_run_that_was_at_work_and_cannot_be_read_by_its_heir_is_lost_and_looked_for(
    database: Database,
) -> None:
    async with harness(database, bugs=["run_setup"]) as on:
        gate = Gate(asyncio.Event())
        web = on.machine("web-1").reply([Output("stdout", b"one\n"), gate, RemoteExit(0)])
        async with on.worker("worker-1"):
            bad = await on.launch("work", ["web-1"], durable="auto")
            await on.running(web)

            async def on_record() -> bool:
                return bool(await on.output(bad))

            await until(on_record)
            await spoil(on, bad, UNREADABLE[0])
            async with on.worker("worker-2"):
                await on.bury("worker-1")
                await on.ended(bad)
                row = await on.row(bad)
    assert (row["status"], row["error_code"], row["sweep_due"] is not None) == (
        "lost",
        "lost",
        True,
    )
    assert len(web.starts) == 1


class OneUnreadableTarget(InMemoryTargets):
    """Targets of which one cannot be read."""

    async def endpoints(self, target_ids: Sequence[str]) -> dict[str, Endpoint]:
        """Return the usual endpoints, unless that one is among them."""
        if "3" in target_ids:
            raise ValueError("as scripted")
        return await super().endpoints(target_ids)


async def test_a_target_that_cannot_be_read_ends_its_own_runs_alone(database: Database) -> None:
    async with harness(database, bugs=["run_setup"]) as on:
        known = OneUnreadableTarget()
        known.targets = on.targets.targets
        on.targets = known
        execution = await on.launch("true", 4)
        async with on.worker():
            ended = await on.ended(execution)
            rows = {row["target_name"]: row["status"] for row in await on.rows(execution)}
    assert ended.counts == {"failed": 1, "succeeded": 3}
    assert rows["web-3"] == "failed"


class UnreadableLedger(Ledger):
    """The specs or the record of one execution or run cannot be read."""

    bad: int = 0
    verb = "specs"

    async def load_specs(self, execution_ids: Sequence[int]) -> dict[int, Spec]:
        """Load them as usual, unless that one is among them."""
        if self.verb == "specs" and self.bad in execution_ids:
            raise ValueError("as scripted")
        return await super().load_specs(execution_ids)

    async def load_progress(self, run_ids: Sequence[int]) -> dict[int, list[Progress]]:
        """Load it as usual, unless that one is among them."""
        if self.verb == "progress" and self.bad in run_ids:
            raise ValueError("as scripted")
        return await super().load_progress(run_ids)


async def test_a_spec_that_raises_when_it_is_read_ends_its_own_runs_alone(
    database: Database,
) -> None:
    async with harness(database, bugs=["run_setup"]) as on:
        good = [await on.launch("true", [f"web-{n}"]) for n in (1, 2)]
        bad = await on.launch("true", ["web-3"])
        ledger = UnreadableLedger(database)
        ledger.bad = bad.id
        async with on.worker(ledger=ledger):
            row = await others_run(on, bad, good)
    assert (row["status"], row["error_code"]) == ("failed", "internal")


async def test_a_record_that_cannot_be_read_ends_its_own_run_alone(database: Database) -> None:
    async with harness(database, bugs=["run_setup"], open_ends=True) as on:
        gate = Gate(asyncio.Event())
        for n in (1, 2, 3):
            on.machine(f"web-{n}").reply([Output("stdout", b"one\n"), gate, RemoteExit(0)])
        async with on.worker("worker-1"):
            execution = await on.launch("work", 3, durable="auto")

            async def on_record() -> bool:
                return (
                    all(row["stdout_stored"] for row in await on.results(execution))
                    and len(await on.results(execution)) == 3
                )

            await until(on_record)
        ledger = UnreadableLedger(database)
        ledger.verb, ledger.bad = "progress", (await on.rows(execution))[1]["id"]
        async with on.worker("worker-2", ledger=ledger):
            gate.event.set()
            ended = await on.ended(execution)
    assert ended.counts == {"lost": 1, "succeeded": 2}


async def test_secrets_that_do_not_open_lose_a_command_that_another_worker_has_begun(
    database: Database,
) -> None:
    """A worker without the key must not report a running command as failed."""
    async with harness(database) as on:
        gate = Gate(asyncio.Event())
        web = on.machine("web-1").reply([Output("stdout", b"one\n"), gate, RemoteExit(0)])
        async with on.worker("worker-1"):
            execution = await on.launch("work", ["web-1"], durable="auto")
            await on.running(web)

            async def on_record() -> bool:
                return bool(await on.output(execution))

            await until(on_record)
            sealed = Vault(database, [new_key()], on.clock).seal_parameters(
                execution.uuid, {"word": Secret("hush")}
            )
            async with database.connection() as connection:
                await connection.execute(
                    "update execution_specs set parameters = %s", [json.dumps(sealed)]
                )
            async with on.worker("worker-2"):
                await on.bury("worker-1")
                await on.ended(execution)
                row = await on.row(execution)
    assert (row["status"], row["sweep_due"] is not None) == ("lost", True)
