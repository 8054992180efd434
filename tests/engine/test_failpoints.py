"""Faults on order: each has its effect at its place and time; invalid orders are refused."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Iterator, Sequence
from pathlib import Path

import pytest

from engine.harness import Harness, harness, until
from kit.fake_remote import Gate
from kit.ledger_fixtures import Owner, faults, launch, machines
from opsjobs import failpoints
from opsjobs.model.errors import RemoteFailure, Unavailable
from opsjobs.model.execution import ErrorCode, ExecutionStatus
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import Output
from opsjobs.store.ledger import Ledger
from opsjobs.store.transaction import Database

SOURCE = Path(__file__).parents[2] / "src"
STEP = """
import asyncio
from opsjobs import failpoints
async def step():
    for n in (1, 2, 3):
        async with failpoints.at("settle"):
            print(n, flush=True)
asyncio.run(step())
"""


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


def process(order: str) -> subprocess.CompletedProcess[str]:
    """Run Python that passes the step `settle` three times, with this order in its environment."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), failpoints.VARIABLE: order}
    return subprocess.run(
        [sys.executable, "-c", STEP],
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


async def passages(name: str, count: int) -> list[str]:
    """Return the outcome of passing a step so many times.

    `done`, `refused` (it did not happen) or `denied` (it did, and failed).
    """
    found = []
    for _ in range(count):
        happened = False
        try:
            async with failpoints.at(name):
                happened = True
        except Unavailable:
            found.append("denied" if happened else "refused")
        else:
            found.append("done")
    return found


def test_kill_ends_the_process_before_the_step() -> None:
    killed = process("settle:kill@2")
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, "1\n")


def test_kill_after_ends_the_process_once_the_step_is_done() -> None:
    killed = process("settle:kill_after@2")
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, "1\n2\n")


def test_an_order_that_cannot_be_read_stops_the_process_with_words() -> None:
    refused = process("setle:kill")
    assert refused.returncode == 1
    assert (
        "OPSJOBS_FAILPOINT: unknown step 'setle'. Use one of attach, begin, cancel, claim"
        in refused.stderr
    )


def test_nothing_ordered_is_one_and_the_same_free_passage() -> None:
    assert failpoints.at("settle") is failpoints.at("claim")


@pytest.mark.parametrize(
    ("order", "what"),
    [
        ("settle:error", ["refused"] * 3),
        ("settle:error@2", ["done", "refused", "done"]),
        ("settle:error_after", ["denied"] * 3),
        ("settle:error_after@3", ["done", "done", "denied"]),
        ("settle:error@1, settle:error_after@3", ["refused", "done", "denied"]),
        ("claim:error", ["done"] * 3),
        ("settle:sleep:0", ["done"] * 3),
        ("settle:error@9", ["done"] * 3),
    ],
)
async def test_an_order_holds_for_its_step_and_its_passage(order: str, what: list[str]) -> None:
    failpoints.arm(order)
    assert await passages("settle", 3) == what


async def test_sleep_delays_the_step_and_lets_others_go_on() -> None:
    failpoints.arm("settle:sleep:30")
    waits = asyncio.create_task(passages("settle", 1))
    assert await passages("claim", 2) == ["done", "done"]
    done, _ = await asyncio.wait({waits}, timeout=0.05)
    assert not done
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    failpoints.arm("settle:sleep:0.01")
    assert await asyncio.wait_for(passages("settle", 1), 60) == ["done"]


async def test_a_step_that_fails_by_itself_keeps_its_own_error() -> None:
    failpoints.arm("settle:error_after")
    with pytest.raises(ZeroDivisionError):
        async with failpoints.at("settle"):
            raise ZeroDivisionError


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ("session:error", ErrorCode.CONNECTION_LOST),
        ("session:error_after", ErrorCode.CONNECTION_LOST),
        ("start:error", ErrorCode.CONNECTION_LOST),
        ("start:error_after", ErrorCode.LOST),
    ],
)
async def test_at_a_machine_the_error_is_an_outcome(order: str, code: ErrorCode) -> None:
    failpoints.arm(order)
    with pytest.raises(RemoteFailure, match="failpoint") as found:
        async with failpoints.at(order.partition(":")[0]):
            pass
    assert found.value.code is code


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ("settle", "is invalid"),
        ("settle:kill@0", "is invalid"),
        ("settle:sleep:-1", "is invalid"),
        ("settle:error settle:kill", "is invalid"),
        ("settled:error", "unknown step 'settled'"),
        ("settle:explode", "Use kill, kill_after, sleep"),
        ("settle:error:3", "Use kill, kill_after, sleep"),
    ],
)
def test_what_cannot_be_read_is_refused_and_the_old_orders_stand(order: str, words: str) -> None:
    failpoints.arm("claim:error")
    with pytest.raises(ValueError, match=words):
        failpoints.arm(f"launch:error,{order}")
    assert asyncio.run(passages("claim", 1)) == ["refused"]
    assert asyncio.run(passages("launch", 1)) == ["done"]


async def test_a_launch_that_fails_after_its_commit_did_happen(database: Database) -> None:
    async with harness(database) as on:
        failpoints.arm("ledger.launch:error_after")
        with pytest.raises(Unavailable):
            await on.launch()
        (row,) = await database.fetch("select id from job_executions")
        async with on.worker():
            ended = await on.ended(await on.executions.get(row["id"]))
        assert ended.status is ExecutionStatus.COMPLETED


async def test_a_launch_that_fails_before_its_commit_did_not(database: Database) -> None:
    async with harness(database) as on:
        for step in ("launch:error", "launch:error_after", "ledger.launch:error"):
            failpoints.arm(step)
            with pytest.raises(Unavailable):
                await on.launch()
        assert await database.fetch("select id from job_executions") == []


async def test_a_claim_that_was_committed_without_an_answer_is_found_by_its_owner(
    database: Database,
) -> None:
    await launch(database, machines(3))
    owner = await Owner(database).register()
    failpoints.arm("claim:error_after@1")
    with pytest.raises(Unavailable):
        await owner.claim()
    failpoints.arm("")
    assert not (await owner.claim()).runs
    found = await Ledger(database).find_unknown_runs(owner=owner.id, known=[])
    assert sorted(run.target_name for run in found) == ["web-1", "web-2", "web-3"]
    await owner.finish(found)
    assert await faults(database) == []


async def test_a_settle_without_an_answer_is_looked_up_and_not_repeated(database: Database) -> None:
    execution = await launch(database, machines(3))
    owner = await Owner(database).register()
    runs = (await owner.claim()).runs
    failpoints.arm("settle:error_after")
    settled = await owner.finish(runs)
    failpoints.arm("")
    assert settled.stale == frozenset()
    query = "select 1 from execution_log where execution_id = %s and event = 'status' and body ->> 'status' = 'succeeded'"
    ends = await database.fetch(query, [execution.id])
    assert len(ends) == 3
    assert await faults(database) == []


async def test_a_run_lost_while_others_are_begun_is_taken_up_all_the_same(
    database: Database,
) -> None:
    """It was never taken up: when the start of the others ended, the mark was removed.

    It had been set meanwhile.
    """
    async with harness(database) as on:
        gate = Gate(asyncio.Event())
        web = on.machine("web-1").reply(lambda *_: [_said(b"one\n"), gate, _said(b"two\n")])
        async with on.worker() as worker:
            first = await on.launch("held", ["web-1"])
            await until(lambda: _stored(on.output(first)))
            begin_second = _held(on, "2")
            second = await on.launch("true", ["web-2"])
            await until(lambda: on.claimed(second))
            async with database.connection() as connection:
                await connection.execute(
                    "update job_execution_results set stdout_stored = stdout_stored - 1"
                )
            gate.event.set()
            life = worker.session
            assert life is not None
            await until(lambda: bool(life._out_of_step))
            assert not on.machine("web-2").starts
            begin_second.set()
            assert (await on.ended(second)).status is ExecutionStatus.COMPLETED
            assert (await on.ended(first)).counts == {"lost": 1}
            assert not life._out_of_step
        assert len(web.starts) == 1


def _held(on: Harness, target: str) -> asyncio.Event:
    """Hold the start of runs on this target until the event is set."""
    endpoints, over = on.targets.endpoints, asyncio.Event()

    async def held(target_ids: Sequence[str]) -> dict[str, Endpoint]:
        if target in target_ids:
            await over.wait()
        return await endpoints(target_ids)

    on.targets.endpoints = held  # type: ignore[method-assign]
    return over


def _said(data: bytes) -> Output:
    return Output("stdout", data)


async def _stored(output: Awaitable[bytes]) -> bool:
    return bool(await output)


def test_every_name_is_a_step_in_the_source_and_stands_in_the_docstring() -> None:
    used = {
        name
        for file in (SOURCE / "opsjobs").rglob("*.py")
        for name in re.findall(r'failpoints\.at\("([^"]+)"\)', file.read_text())
        if file.name != "failpoints.py"
    }
    told = set(
        re.findall(
            r"^    ([a-z.]+) {2,}(?:engine|store|api)", failpoints.__doc__ or "", re.MULTILINE
        )
    )
    assert used == told == failpoints.NAMES
