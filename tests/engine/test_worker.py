"""Workers: how they share the work, stop, die, are reaped, and register again."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from engine.harness import Harness, harness, until
from kit.fake_remote import FakeMachine, Gate
from kit.ledger_fixtures import Owner
from opsjobs import failpoints
from opsjobs.model.execution import ErrorCode, ExecutionStatus, RunError, RunStatus
from opsjobs.model.job import CommandAction
from opsjobs.model.run_views import Execution
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.claim import Claimed
from opsjobs.store.ledger.flush import ResultState
from opsjobs.store.transaction import Database

LOST = "its worker died while the command was perhaps running: whether it ran to its end is unknown"


class NoHeir(Ledger):
    """It takes no run over: the worker that was buried is not to be its own heir."""

    async def take_over(self, **_asked: Any) -> list[Claimed]:
        """Nothing."""
        return []


def hold(on: Harness, *names: str) -> tuple[Gate, list[FakeMachine]]:
    """Script machines whose commands all wait for one gate."""
    gate = Gate(asyncio.Event())
    return gate, [
        on.machine(name).reply([Output("stdout", b"held\n"), gate, RemoteExit(0)]) for name in names
    ]


def starts(on: Harness) -> list[int]:
    """Return how many commands each machine has started."""
    return [len(machine.starts) for machine in on.sessions.machines.values()]


def claims(on: Harness) -> int:
    """How many claims all workers have made."""
    (counted,) = on.metrics.claim_seconds.collect()
    return int(sum(each.value for each in counted.samples if each.name.endswith("_count")))


async def test_two_workers_share_one_execution(database: Database) -> None:
    async with harness(database) as on:
        gate, _ = hold(on, *(f"web-{n}" for n in range(1, 9)))
        async with on.worker("worker-1", concurrency=4), on.worker("worker-2", concurrency=4):
            execution = await on.launch("uptime", 8)
            await until(lambda: sum(starts(on)) == 8)
            gate.event.set()
            ended = await on.ended(execution)
        assert ended.counts == {"succeeded": 8}
        by = [row["worker"] for row in await on.rows(execution)]
        assert sorted(by) == ["worker-1"] * 4 + ["worker-2"] * 4
        assert starts(on) == [1] * 8


async def test_a_worker_never_runs_more_than_its_concurrency(database: Database) -> None:
    async with harness(database) as on:
        gate, _ = hold(on, *(f"web-{n}" for n in range(1, 8)))
        dead = await Owner(database, "dead").register()
        execution = await on.launch("uptime", 7)
        await dead.claim(2)
        await on.bury("dead")
        async with on.worker(concurrency=3) as worker:
            await until(lambda: sum(starts(on)) == 3)
            assert worker.session is not None
            assert len(worker.session.runs) == 3
            gate.event.set()
            await on.ended(execution)
        # two were taken over from the dead worker, and end without a start
        assert sum(starts(on)) == 5


async def test_a_wave_of_2000_runs_passes_a_window_of_50_without_a_gap(database: Database) -> None:
    async with harness(database) as on:
        async with on.worker():
            execution = await on.ended(await on.launch("true", 2_000, max_parallel=50), 170)
        assert execution.counts == {"succeeded": 2_000}
        assert set(starts(on)) == {1}
        assert [e.seq for e in await on.log(execution)] == [*range(1, execution.last_seq + 1)]


async def test_a_small_execution_right_after_a_large_one_is_seen_at_once(
    database: Database,
) -> None:
    """Its turn is below the floor that the large one with its backlog has left.

    No poll and no other wake-up helps it.
    """
    async with harness(database) as on, on.worker(poll_seconds=30, concurrency=4) as worker:
        for _ in range(3):
            await on.run("true", 100)
            assert worker.session is not None
            worker.session._floor_at = time.monotonic()
            await on.run("true", 1)


async def test_a_small_execution_takes_two_claims(database: Database) -> None:
    """One takes its run, and one after its end finds nothing, without another look below."""
    async with harness(database) as on, on.worker(poll_seconds=30, concurrency=4) as worker:
        await on.run("true", 1)
        assert worker.session is not None
        worker.session._floor_at = time.monotonic() + 30  # no look below the floor by time
        before = claims(on)
        for _ in range(10):
            await on.run("true", 1)
        assert claims(on) - before <= 20


async def test_without_any_wakeup_the_poll_finds_the_work(database: Database) -> None:
    async with harness(database) as on, on.worker(hears_bells=False):
        execution = await on.launch("true", 3)
        assert (await on.ended(execution)).status is ExecutionStatus.COMPLETED


async def test_slots_are_shared_between_two_executions(database: Database) -> None:
    async with harness(database) as on:
        gate, (web,) = hold(on, "web-1")
        on.targets.targets.clear()
        on.targets.add("web-1", slots=2)
        async with on.worker("worker-1"), on.worker("worker-2"):
            executions = [await on.launch() for _ in range(3)]
            await on.running(web, 2)
            waiting = [
                row for e in executions for row in await on.rows(e) if row["status"] == "waiting"
            ]
            assert len(waiting) == 1
            gate.event.set()
            for execution in executions:
                assert (await on.ended(execution)).status is ExecutionStatus.COMPLETED
        assert len(web.starts) == 3


async def test_a_worker_claims_only_runs_of_its_zone(database: Database) -> None:
    async with harness(database, open_ends=True) as on:
        on.targets.add("web-1", zone="far")
        async with on.worker():
            execution = await on.launch("true", 2)
            await until(lambda: _status(on, execution, 1, "succeeded"))
        assert [row["status"] for row in await on.rows(execution)] == ["waiting", "succeeded"]
        assert starts(on) == [1]
        async with on.worker("worker-2", zone="far"):
            await on.ended(execution)


async def test_a_stop_gives_back_unstarted_runs_and_lets_commands_end(
    database: Database,
) -> None:
    async with harness(database) as on:
        gate, (web,) = hold(on, "web-1")
        two = on.machine("web-2")
        two.connect_gate = Gate(asyncio.Event())
        async with on.worker(drain_seconds=60) as worker:
            execution = await on.launch("uptime", 2)
            await on.running(web)
            await two.connect_gate.reached.wait()
            stopping = asyncio.create_task(worker.stop())
            await until(lambda: _status(on, execution, 1, "waiting"))
            assert not stopping.done()
            gate.event.set()
            await stopping
        first, second = await on.rows(execution)
        assert (first["status"], second["status"], second["owner"]) == (
            "succeeded",
            "waiting",
            None,
        )
        two.connect_gate = None
        async with on.worker("worker-2"):
            assert (await on.ended(execution)).counts == {"succeeded": 2}
        assert starts(on) == [1, 1]
        assert await database.fetch("select 1 from workers where stopped_at is null") == []


async def test_a_stop_between_two_steps_gives_the_run_back_and_another_worker_goes_on(
    database: Database,
) -> None:
    async with harness(database) as on:
        gate = Gate(asyncio.Event())
        web = on.machine("web-1").reply([RemoteExit(3)]).reply([gate, RemoteExit(5)], to="first")
        steps = [CommandAction(command=c, on_failure="continue") for c in ("first", "second")]
        async with on.worker(drain_seconds=60) as worker:
            execution = await on.launch(steps)
            await gate.reached.wait()
            stopping = asyncio.create_task(worker.stop())
            await until(lambda: worker.session is not None and worker.session._stopping)
            gate.event.set()
            await stopping
        assert [s.command for s in web.starts] == ["first"]
        assert (await on.row(execution))["status"] == "waiting"
        async with on.worker("worker-2"):
            await on.ended(execution)
        assert [s.command for s in web.starts] == ["first", "second"]
        row = await on.row(execution)
        assert (row["status"], row["exit_code"], row["error_message"]) == (
            "failed",
            5,
            "exit status 5",
        )
        assert [r["exit_code"] for r in await on.results(execution)] == [5, 3]


async def test_a_command_that_outlives_the_drain_is_lost_and_not_killed(database: Database) -> None:
    async with harness(database) as on:
        _, (web,) = hold(on, "web-1")
        async with on.worker(drain_seconds=0.2):
            execution = await on.launch()
            await on.running(web)
        row = await on.row(execution)
        assert (row["status"], row["error_message"]) == (
            "lost",
            "its worker was stopped while the command was running",
        )
        assert not web.kills


async def test_a_stop_in_the_middle_of_a_claim_gives_back_what_the_claim_brings(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsjobs.engine.worker.worker.LAST_CLAIM_SECONDS", 0.3)
    async with harness(database) as on:
        failpoints.arm("begin:sleep:30")
        async with on.worker():
            execution = await on.launch("true", 3)
            await until(lambda: on.claimed(execution))
        assert {row["status"] for row in await on.rows(execution)} == {"waiting"}
        failpoints.arm("")
        async with on.worker("worker-2"):
            assert (await on.ended(execution)).counts == {"succeeded": 3}
        assert starts(on) == [1, 1, 1]


async def test_a_stop_sends_a_wakeup_for_runs_that_its_last_flush_made_ready(
    database: Database,
) -> None:
    async with harness(database) as on:
        gate, (web,) = hold(on, "web-1")
        async with on.worker(drain_seconds=60) as worker:
            execution = await on.launch("uptime", 2, max_parallel=1)
            await on.running(web)
            stopping = asyncio.create_task(worker.stop())
            await until(lambda: worker.session is not None and worker.session._stopping)
            on.notified.clear()
            gate.event.set()
            await stopping
        assert on.notified == ["default"]
        async with on.worker("worker-2"):
            await on.ended(execution)


async def test_after_lease_expiry_a_worker_abandons_its_runs_and_registers_again(
    database: Database,
) -> None:
    async with harness(database) as on:
        gate, (web,) = hold(on, "web-1")
        async with on.worker(lease_seconds=3.0, ledger=NoHeir(database)) as worker:
            execution = await on.launch()
            await on.running(web)
            await until(lambda: _stored(on, execution))
            first = worker.session
            await on.bury()
            async with on.worker("worker-2"):
                ended = await on.ended(execution)
                log = await on.log(execution)
                await until(lambda: worker.session not in (None, first))
                gate.event.set()
                assert first is not None
                assert not first.runs
                again = await on.run("true", ["web-1"])
        assert again.status is ExecutionStatus.COMPLETED
        assert await on.log(execution) == log
        assert ended.status is ExecutionStatus.FAILED
        row = (await on.rows(execution))[0]
        assert (row["status"], row["error_code"], row["error_message"], row["worker"]) == (
            "lost",
            "lost",
            LOST,
            "worker-2",
        )
        (result,) = await on.results(execution)
        assert (result["status"], result["stdout_bytes"]) == ("lost", 5)
        names = await database.fetch(
            "select name, count(*) as lives from workers group by name order by name"
        )
        assert names == [{"name": "worker-1", "lives": 2}, {"name": "worker-2", "lives": 1}]


async def test_a_late_flush_after_lease_expiry_changes_nothing(database: Database) -> None:
    """It does not know yet that it was reaped (its renewals take long):

    only the fence stops its flush.
    """
    async with harness(database) as on:
        gate, (web,) = hold(on, "web-1")
        async with on.worker(lease_seconds=600):
            execution = await on.launch()
            await on.running(web)
            await on.bury()
            async with on.worker("worker-2"):
                await on.ended(execution)
                log = await on.log(execution)
                gate.event.set()
                await until(lambda: on.metrics.stale_writes._value.get() >= 1)
        assert await on.log(execution) == log
        assert (await on.row(execution))["status"] == "lost"


async def test_a_takeover_keeps_the_results_that_a_dead_worker_recorded(database: Database) -> None:
    """The only step's result is recorded, the run's end is not: nothing is unknown."""
    async with harness(database) as on:
        execution = await on.launch("true", 2)
        dead = await Owner(database, "dead").register()
        runs = (await dead.claim()).runs
        flush = dead.flush(runs, None)
        for result, exit_code in zip(flush.results, (0, 3), strict=True):
            _end(result, exit_code)
        await dead.settle(flush)
        await on.bury("dead")
        async with on.worker():
            ended = await on.ended(execution)
        assert ended.counts == {"succeeded": 1, "failed": 1}
        assert [row["exit_code"] for row in await on.rows(execution)] == [0, 3]
        assert (await on.rows(execution))[1]["error_message"] == "exit status 3"
        assert starts(on) == []


async def test_a_takeover_ends_claimed_direct_runs_as_lost_even_without_a_record(
    database: Database,
) -> None:
    async with harness(database) as on:
        execution = await on.launch(["first", "second"])
        dead = await Owner(database, "dead").register()
        await dead.claim()
        await on.bury("dead")
        async with on.worker():
            await on.ended(execution)
        row = await on.row(execution)
        assert (row["status"], row["error_message"]) == ("lost", LOST)
        (result,) = await on.results(execution)
        assert (result["action"], result["status"]) == ("step-1", "lost")
        assert starts(on) == []


async def test_a_stale_lease_starts_nothing(database: Database) -> None:
    async with harness(database) as on:
        web = on.machine("web-1")
        web.connect_gate = Gate(asyncio.Event())
        async with on.worker(lease_seconds=600) as worker:
            execution = await on.launch()
            await web.connect_gate.reached.wait()
            assert worker.session is not None
            heart = worker.session.heartbeat
            await until(
                lambda: heart._consecutive_renewals > 0
            )  # the next beat comes only after a third of 600 s
            fresh, heart._sent_at = heart._sent_at, heart._sent_at - 1000
            web.connect_gate.event.set()
            await until(lambda: _status(on, execution, 0, "waiting"))
            assert not web.starts
            heart._sent_at = fresh
            assert (await on.ended(execution)).status is ExecutionStatus.COMPLETED
        assert len(web.starts) == 1


async def test_malformed_orders_are_ignored(database: Database) -> None:
    async with harness(database) as on, on.worker() as worker:
        for order in (
            b"",
            b"\xff",
            b"[]",
            b'{"cancel": null}',
            b'{"cancel": Infinity}',
            b'{"cancel_runs": 1}',
            b'{"cancel_runs": [null]}',
            b'{"stop": 1}',
            b"[" * 100_000,
        ):
            worker.handle_order(order)
        await on.run()


async def test_a_bug_in_the_claim_loop_ends_the_session_and_another_begins(
    database: Database,
) -> None:
    async with harness(database, bugs=["worker"]) as on, on.worker() as worker:
        await until(lambda: worker.session is not None)
        first = worker.session
        assert first is not None
        first._writer_task.cancel()
        await until(lambda: worker.session not in (None, first))
        assert (await on.run()).status is ExecutionStatus.COMPLETED


async def test_a_worker_that_cannot_register_yet_tries_again(database: Database) -> None:
    async with harness(database) as on:
        async with database.connection() as connection:
            await connection.execute("alter table workers rename to not_yet")
        execution = await on.launch()
        async with on.worker() as worker:
            await until(lambda: "worker" in on.bugs)
            assert worker.session is None
            async with database.connection() as connection:
                await connection.execute("alter table not_yet rename to workers")
            assert (await on.ended(execution)).status is ExecutionStatus.COMPLETED
        on.metrics.bugs.clear()


async def test_a_stop_ends_in_time_although_the_database_and_a_machine_hang(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("worker", "worker_session"):
        monkeypatch.setattr(f"opsjobs.engine.worker.{module}.STOP_GRACE_SECONDS", 0.3)
    async with harness(database, open_ends=True) as on:
        web = on.machine("web-1")
        web.start_gate = Gate(asyncio.Event())
        async with on.worker(drain_seconds=0.1) as worker:
            execution = await on.launch()
            await web.start_gate.reached.wait()
            failpoints.arm("settle:error")
            began = time.monotonic()
            await worker.stop()
            assert time.monotonic() - began < 20
        web.start_gate.event.set()
        assert await on.claimed(execution)


async def _status(on: Harness, execution: Execution, position: int, status: str) -> bool:
    return bool((await on.rows(execution))[position]["status"] == status)


async def _stored(on: Harness, execution: Execution) -> bool:
    return bool(await on.output(execution))


def _end(result: ResultState, exit_code: int) -> None:
    result.status = RunStatus.FAILED if exit_code else RunStatus.SUCCEEDED
    result.exit_code, result.finished_at = exit_code, result.started_at
    result.error = (
        RunError(ErrorCode.NONZERO_EXIT, f"exit status {exit_code}") if exit_code else None
    )
