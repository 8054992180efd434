"""A durable command outlives its worker and connection: started once, followed to its end.

The holder of the fence follows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from engine.harness import Harness, harness, until
from kit.fake_remote import Break, FakeMachine, Gate
from opsjobs import failpoints
from opsjobs.engine.runs.run_tools import RunLimits
from opsjobs.model.execution import ExecutionStatus
from opsjobs.model.job import CommandAction
from opsjobs.model.run_views import Execution
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.store.transaction import Database

OUT = [Output("stdout", b"one\n"), Output("stderr", b"\xff\0")]
REST = [Output("stdout", b"two\n"), RemoteExit(0)]


async def launch(
    on: Harness, commands: str | Sequence[str | CommandAction] = "work", **policy: Any
) -> Execution:
    return await on.launch(commands, **{"durable": "auto", **policy})


async def half_done(on: Harness) -> tuple[FakeMachine, Gate, Execution]:
    """Launch a command that has written something, and waits at a gate."""
    gate = Gate(asyncio.Event())
    web = on.machine("web-1").reply([*OUT, gate, *REST])
    return web, gate, await launch(on)


async def stored(on: Harness, execution: Execution, data: bytes) -> None:
    async def there() -> bool:
        return await on.output(execution) == data

    await until(there)


async def check_complete(on: Harness, web: FakeMachine, execution: Execution) -> None:
    """Check that it completed, with every byte once and one start."""
    ended = await on.ended(execution)
    assert ended.status is ExecutionStatus.COMPLETED
    assert await on.output(execution) == b"one\ntwo\n"
    assert await on.output(execution, "stderr") == b"\xff\0"
    assert len(web.starts) == 1
    (result,) = await on.results(execution)
    assert (result["exit_code"], result["stdout_stored"], result["stdout_bytes"]) == (0, 8, 8)


async def test_a_machine_met_for_the_first_time_is_remembered_before_anything_starts(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1").reply([RemoteExit(0)])
        first = await on.ended(await launch(on))
        connects = web.connects
        second = await on.ended(await launch(on))
        known = await database.fetch("select target_id, store_id, boot_id from target_state")
        rows = [await on.row(first), await on.row(second)]
    assert len(known) == 1
    assert {(row["store_id"], row["boot_id"]) for row in rows} == {
        (known[0]["store_id"], known[0]["boot_id"])
    }
    assert len(web.starts) == 2
    assert web.connects == connects + 1


async def test_a_dead_workers_command_is_followed_to_its_end_by_another(database: Database) -> None:
    async with harness(database) as on, on.worker("worker-1", lease_seconds=600):
        web, gate, execution = await half_done(on)
        await stored(on, execution, b"one\n")
        async with on.worker("worker-2"):
            await on.bury("worker-1")

            async def taken() -> bool:
                return (await on.row(execution))["worker"] == "worker-2"

            await until(taken)
            gate.event.set()
            await check_complete(on, web, execution)


async def test_a_stopping_worker_leaves_its_commands_running_and_loses_none(
    database: Database,
) -> None:
    async with harness(database) as on:
        async with on.worker("worker-1", drain_seconds=160) as worker:
            web, gate, execution = await half_done(on)
            await stored(on, execution, b"one\n")
            async with asyncio.timeout(60):
                await worker.stop()
        assert (await on.row(execution))["status"] == "running"
        assert web.kills == []
        async with on.worker("worker-2"):
            gate.event.set()
            await check_complete(on, web, execution)
            assert (await on.row(execution))["claims"] == 0, "an orderly stop is no death"


async def test_contact_that_breaks_is_found_again(database: Database) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1").reply([*OUT, Break(), *REST])
        await check_complete(on, web, await launch(on))


async def test_a_machine_that_is_cut_off_for_a_while_is_waited_for(database: Database) -> None:
    async with harness(database) as on, on.worker():
        web, gate, execution = await half_done(on)
        await stored(on, execution, b"one\n")
        web.cut()
        connects = web.connects
        await until(lambda: web.connects > connects)
        gate.event.set()
        web.mend()
        await check_complete(on, web, execution)


async def test_past_the_window_it_is_lost_and_says_that_it_perhaps_runs(database: Database) -> None:
    async with harness(database) as on, on.worker(limits=RunLimits(reattach_seconds=0.3)):
        web, gate, execution = await half_done(on)
        await stored(on, execution, b"one\n")
        web.cut()
        ended = await on.ended(execution)
        row = await on.row(execution)
        gate.event.set()
    assert ended.counts == {"lost": 1}
    assert "may still be running" in row["error_message"]
    assert row["sweep_due"] is not None


@pytest.mark.parametrize(
    ("on_lost", "status", "starts"),
    [("ask", "lost", 1), ("dead_letter", "dead", 1), ("retry", "succeeded", 2)],
)
async def test_a_command_that_is_gone_is_dealt_with_as_its_author_said(
    database: Database, on_lost: str, status: str, starts: int
) -> None:
    async with harness(database) as on, on.worker():
        gate = Gate(asyncio.Event())
        web = on.machine("web-1").reply([gate, RemoteExit(0)])
        execution = await launch(on, on_lost=on_lost)
        await asyncio.wait_for(gate.reached.wait(), 60)
        web.reply([RemoteExit(0)])
        web.reboot()
        await on.ended(execution)
        row = await on.row(execution)
        results = await on.results(execution)
    assert row["status"] == status
    assert len(web.starts) == starts
    assert [(r["attempt"], r["status"]) for r in results] == [(1, "lost"), (2, "succeeded")][
        :starts
    ]


HOUR, UNTOLD = 3600.0, None


async def orphaned(on: Harness, web: FakeMachine) -> tuple[Gate, Execution]:
    """Launch a run whose worker knows the boot before the last, and waits to connect."""
    await on.ended(await launch(on, "before"))
    web.reboot()
    web.connect_gate = gate = Gate(asyncio.Event())
    execution = await launch(on)
    await asyncio.wait_for(gate.reached.wait(), 60)
    web.connect_gate = None
    return gate, execution


@pytest.mark.parametrize(
    ("up_seconds", "status", "starts"),
    [(HOUR, "succeeded", 2), (0.0, "lost", 1), (UNTOLD, "lost", 1)],
)
async def test_a_run_whose_worker_died_before_it_met_a_machine_that_had_rebooted_before_is_begun(
    database: Database, up_seconds: float | None, status: str, starts: int
) -> None:
    """Only if the machine shows that it has been up ever since; else a start may have been lost.

    Its record may have been lost with it.
    """
    async with harness(database) as on, on.worker("worker-1"):
        web = on.machine("web-1").reply([RemoteExit(0)])
        gate, execution = await orphaned(on, web)
        web.up_seconds = up_seconds
        async with on.worker("worker-2"):
            await on.bury("worker-1")
            ended = await on.ended(execution)
            row = await on.row(execution)
            gate.event.set()
    assert ended.counts == {status: 1}
    assert len(web.starts) == starts
    assert row["boot_id"] == (web.identity.boot if status == "succeeded" else "web-1-boot-1")


async def test_a_start_whose_answer_was_lost_on_a_machine_that_had_rebooted_before_is_sent_again(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1").reply([RemoteExit(0)])
        await on.ended(await launch(on, "before"))
        web.reboot()
        web.up_seconds = HOUR
        web.unheard = 1
        ended = await on.ended(await launch(on))
    assert ended.counts == {"succeeded": 1}
    assert len(web.starts) == 2


async def test_a_cancel_of_a_run_that_never_began_on_a_machine_that_had_rebooted_before_says_so(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker("worker-1"):
        web = on.machine("web-1").reply([RemoteExit(0)])
        gate, execution = await orphaned(on, web)
        web.up_seconds = HOUR
        await on.cancel(execution)
        async with on.worker("worker-2"):
            await on.bury("worker-1")
            ended = await on.ended(execution)
            row = await on.row(execution)
            gate.event.set()
    assert (ended.counts, row["cancel_proof"]) == ({"cancelled": 1}, "never_started")
    assert len(web.starts) == 1


async def test_a_command_whose_record_was_removed_while_it_ran_is_lost_and_never_begun_again(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        web, gate, execution = await half_done(on)
        await stored(on, execution, b"one\n")
        web.cut()
        web.runs.clear()
        web.mend()
        ended = await on.ended(execution)
        gate.event.set()
    assert ended.counts == {"lost": 1}
    assert len(web.starts) == 1


async def test_a_command_on_a_machine_that_was_made_anew_is_lost(database: Database) -> None:
    async with harness(database) as on, on.worker():
        web, gate, execution = await half_done(on)
        await stored(on, execution, b"one\n")
        web.reimage()
        ended = await on.ended(execution)
        gate.event.set()
    assert ended.counts == {"lost": 1}
    assert len(web.starts) == 1


@pytest.mark.parametrize(
    "point", ["start:error@1", "start:error_after@1", "attach:error@1", "session:error@2"]
)
async def test_an_error_on_the_way_changes_nothing(database: Database, point: str) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1").reply([RemoteExit(0)])
        await on.ended(await launch(on, "before"))
        web.reply([*OUT, Break(), *REST])
        failpoints.arm(point)
        execution = await launch(on)
        ended = await on.ended(execution)
        said = await on.output(execution)
    if point == "start:error@1":
        assert ended.counts == {"unreachable": 1}, "nothing can have started"
        assert len(web.starts) == 1
    else:
        assert ended.counts == {"succeeded": 1}
        assert said == b"one\ntwo\n"
        assert len(web.starts) == 2


async def test_a_machine_that_keeps_no_durable_runs_is_served_directly_and_that_is_on_record(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1").reply([RemoteExit(0)])
        web.no_spool = "head is missing"
        execution = await on.ended(await launch(on))
        row = await on.row(execution)
    assert execution.status is ExecutionStatus.COMPLETED
    assert row["store_id"] == "direct"


async def test_a_direct_command_of_a_dead_worker_is_lost_though_durable_was_wished(
    database: Database,
) -> None:
    async with harness(database) as on:
        gate = Gate(asyncio.Event())
        web = on.machine("web-1").reply([gate, RemoteExit(0)])
        web.no_spool = "head is missing"
        async with on.worker("worker-1"):
            execution = await launch(on)
            await asyncio.wait_for(gate.reached.wait(), 60)
            async with on.worker("worker-2"):
                await on.bury("worker-1")
                ended = await on.ended(execution)
                gate.event.set()
    assert ended.counts == {"lost": 1}
    assert len(web.starts) == 1


async def test_required_is_refused_where_it_cannot_be(database: Database) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1")
        web.no_spool = "head is missing"
        execution = await on.ended(await launch(on, durable="required"))
        row = await on.row(execution)
    assert execution.counts == {"failed": 1}
    assert row["error_code"] == "interpreter_missing"
    assert "head is missing" in row["error_message"]
    assert web.starts == []


async def test_a_cancel_kills_with_proof_and_keeps_the_last_words(database: Database) -> None:
    async with harness(database) as on, on.worker():
        web, _, execution = await half_done(on)
        await stored(on, execution, b"one\n")
        await on.cancel(execution)
        ended = await on.ended(execution)
        row = await on.row(execution)
    assert ended.status is ExecutionStatus.CANCELLED
    assert row["cancel_proof"] == "killed"
    assert len(web.starts) == 1


async def test_a_cancel_after_the_end_keeps_the_true_outcome(database: Database) -> None:
    async with harness(database) as on, on.worker(lease_seconds=3.0) as worker:
        web, gate, execution = await half_done(on)
        await stored(on, execution, b"one\n")
        web.cut()
        gate.event.set()
        await on.cancel(execution)
        await until(
            lambda: (
                worker.session is not None and execution.id in worker.session._stopped_executions
            )
        )
        web.mend()
        ended = await on.ended(execution)
        row = await on.row(execution)
    assert ended.counts == {"succeeded": 1}
    assert row["cancel_proof"] == "already_finished"
    assert await on.output(execution) == b"one\ntwo\n"


async def test_cancelled_before_its_start_it_never_starts_whatever_comes_later(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1")
        web.connect_gate = Gate(asyncio.Event())
        execution = await launch(on)
        await asyncio.wait_for(web.connect_gate.reached.wait(), 60)
        await on.cancel(execution)
        ended = await on.ended(execution)
        web.connect_gate.event.set()
        row = await on.row(execution)
    assert ended.status is ExecutionStatus.CANCELLED
    assert row["cancel_proof"] == "never_started"
    assert web.starts == []


async def test_a_kill_that_reaches_nobody_is_lost_and_swept_later(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsjobs.engine.runs.commands.KILL_SECONDS", 0.3)
    async with harness(database) as on, on.worker():
        web, gate, execution = await half_done(on)
        await stored(on, execution, b"one\n")
        web.cut()
        await on.cancel(execution)
        ended = await on.ended(execution)
        row = await on.row(execution)
        gate.event.set()
    assert ended.counts == {"lost": 1}
    assert row["cancel_proof"] == "unreachable"
    assert row["sweep_due"] is not None


async def test_the_targets_own_watchdog_ends_what_takes_too_long(database: Database) -> None:
    async with harness(database) as on, on.worker():
        on.machine("web-1").reply([*OUT, Gate(asyncio.Event()), RemoteExit(0)])
        execution = await on.ended(await launch(on, [CommandAction(command="slow", timeout=0.3)]))
        row = await on.row(execution)
    assert execution.status is ExecutionStatus.TIMEOUT
    assert (row["error_code"], row["cancel_proof"]) == ("command_timeout", "killed")
    assert await on.output(execution) == b"one\n"


async def test_the_steps_of_a_dead_workers_run_are_not_repeated(database: Database) -> None:
    async with harness(database) as on:
        gate = Gate(asyncio.Event())
        web = on.machine("web-1").reply([RemoteExit(0)]).reply([gate, RemoteExit(0)], to="second")
        async with on.worker("worker-1"):
            execution = await launch(on, ["first", "second", "third"])
            await asyncio.wait_for(gate.reached.wait(), 60)
            async with on.worker("worker-2"):
                await on.bury("worker-1")
                gate.event.set()
                ended = await on.ended(execution)
    assert ended.status is ExecutionStatus.COMPLETED
    assert [start.command for start in web.starts] == ["first", "second", "third"]
