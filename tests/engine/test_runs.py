"""One target run from start to end, on a real ledger and scripted machines."""

from __future__ import annotations

import asyncio
import json

import pytest

from engine.harness import Harness, harness, until
from kit.fake_remote import Break, Gate
from kit.ledger_fixtures import Owner
from opsjobs.clock import TurnedClock
from opsjobs.engine.runs.run_tools import RunLimits
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode, ExecutionStatus
from opsjobs.model.job import CommandAction
from opsjobs.model.run_views import Execution
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.paging import PageRequest
from opsjobs.store.transaction import Database


async def test_all_targets_are_run_and_the_log_tells_it_in_order(database: Database) -> None:
    async with harness(database) as on:
        for n in range(1, 6):
            on.machine(f"web-{n}").reply([Output("stdout", f"here {n}\n".encode()), RemoteExit(0)])
        async with on.worker():
            execution = await on.run("uptime", 5)
        assert execution.status is ExecutionStatus.COMPLETED
        assert execution.counts == {"succeeded": 5}
        entries = await on.log(execution)
        assert [e.seq for e in entries] == [*range(1, execution.last_seq + 1)]
        assert entries[0].body == {"execution": execution.id, "status": "queued", "error": None}
        assert entries[-1].event == "end"
        for target in "12345":
            told = [
                (e.body or {})["status"] if e.event == "status" else e.event
                for e in entries
                if e.target == target
            ]
            assert told == ["running", "output", "result", "succeeded"]
            assert (
                b"".join(e.data or b"" for e in entries if e.target == target)
                == f"here {target}\n".encode()
            )
        assert all(len(machine.starts) == 1 for machine in on.sessions.machines.values())


async def test_a_failed_step_stops_the_run_and_the_later_steps_are_not_started(
    database: Database,
) -> None:
    async with harness(database) as on:
        web = on.machine("web-1").reply([RemoteExit(3)], to="first")
        async with on.worker():
            execution = await on.run(["first", "second"])
        assert execution.status is ExecutionStatus.FAILED
        assert [s.command for s in web.starts] == ["first"]
        row = await on.row(execution)
        assert (row["status"], row["exit_code"], row["error_code"], row["error_message"]) == (
            "failed",
            3,
            "nonzero_exit",
            "exit status 3",
        )


async def test_a_failed_step_with_continue_goes_on_and_the_run_still_ends_failed(
    database: Database,
) -> None:
    async with harness(database) as on:
        web = (
            on.machine("web-1")
            .reply([RemoteExit(3)], to="first")
            .reply([RemoteExit(4)], to="second")
        )
        steps = [
            CommandAction(command=c, on_failure="continue") for c in ("first", "second", "third")
        ]
        async with on.worker():
            execution = await on.run(steps)
        assert [s.command for s in web.starts] == ["first", "second", "third"]
        row = await on.row(execution)
        assert (row["status"], row["exit_code"], row["error_message"]) == (
            "failed",
            3,
            "exit status 3",
        )
        assert [r["status"] for r in await on.results(execution)] == [
            "failed",
            "failed",
            "succeeded",
        ]


@pytest.mark.parametrize(
    ("code", "status"), [(0, "failed"), (2, "succeeded"), (7, "succeeded"), (8, "failed")]
)
async def test_the_expected_exit_codes_decide(database: Database, code: int, status: str) -> None:
    async with harness(database) as on:
        on.machine("web-1").reply([RemoteExit(code)])
        async with on.worker():
            execution = await on.run([CommandAction(command="grep", expected_exit_codes=[2, 7])])
        row = await on.row(execution)
        assert (row["status"], row["exit_code"]) == (status, code)


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        (RemoteExit(None, "SEGV"), None, "ended by signal SEGV"),
        (RemoteExit(0xC000013A), -1073741510, "exit status 3221225786"),
        (RemoteExit(None, "K\x00\ud800ILL"), None, "ended by signal K\ufffd?ILL"),
    ],
)
async def test_any_way_to_end_can_be_recorded(
    database: Database, end: RemoteExit, code: int | None, words: str
) -> None:
    async with harness(database) as on:
        on.machine("web-1").reply([end])
        async with on.worker():
            execution = await on.run()
        row = await on.row(execution)
        assert (row["status"], row["exit_code"], row["error_message"]) == ("failed", code, words)


async def test_the_actions_timeout_kills_and_says_so(database: Database) -> None:
    clock = TurnedClock()
    async with harness(database, clock) as on:
        gate = Gate(asyncio.Event())
        web = on.machine("web-1").reply([Output("stdout", b"begun\n"), gate])
        async with on.worker():
            execution = await on.launch([CommandAction(command="sleep 99", timeout=30), "second"])
            await gate.reached.wait()
            clock.turn(31)
            ended = await on.ended(execution)
        assert ended.status is ExecutionStatus.TIMEOUT
        assert web.kills == [CancelProof.KILLED]
        row = await on.row(execution)
        assert (row["status"], row["error_code"], row["cancel_proof"]) == (
            "timeout",
            "command_timeout",
            "killed",
        )
        assert row["error_message"] == "killed: the action's timeout of 30s has passed"
        assert await on.output(execution) == b"begun\n"
        assert len(web.starts) == 1


async def test_the_services_timeout_holds_where_an_action_names_none(database: Database) -> None:
    clock = TurnedClock()
    async with harness(database, clock) as on:
        gate = Gate(asyncio.Event())
        on.machine("web-1").reply([gate])
        async with on.worker(limits=RunLimits(command_seconds=12, kill_grace_seconds=0.3)):
            execution = await on.launch()
            await gate.reached.wait()
            clock.turn(13)
            await on.ended(execution)
        assert "timeout of 12s" in (await on.row(execution))["error_message"]


async def test_the_executions_timeout_ends_what_runs_and_what_waits(database: Database) -> None:
    clock = TurnedClock()
    async with harness(database, clock) as on:
        web = on.machine("web-1").reply([Gate(asyncio.Event())])
        async with on.worker():
            execution = await on.launch("sleep 99", 3, timeout=60, max_parallel=1)
            await on.running(web)
            await on.turn(61)
            clock.turn(61)
            await until(lambda: len(web.kills) == 1)
            await Reconciler(database).run_once()
            ended = await on.ended(execution)
        assert ended.status is ExecutionStatus.TIMEOUT
        rows = await on.rows(execution)
        assert [(r["status"], r["error_code"], r["cancel_proof"]) for r in rows] == [
            ("timeout", "command_timeout", "killed"),
            ("timeout", "command_timeout", "never_started"),
            ("timeout", "command_timeout", "never_started"),
        ]
        assert rows[0]["error_message"] == "killed: the execution's timeout has passed"


async def test_what_is_past_its_deadline_is_not_made_ready_again(database: Database) -> None:
    async with harness(database) as on:
        execution = await on.launch("true", 3, timeout=60)
        await on.turn(61)
        claims = [await Owner(database).claim(2) for _ in range(3)]
        assert [(list(c.runs), c.more) for c in claims] == [([], True), ([], False), ([], False)]
        await Reconciler(database).run_once()
        assert (await on.ended(execution)).status is ExecutionStatus.TIMEOUT


async def test_cancelled_while_connecting_it_never_starts(database: Database) -> None:
    async with harness(database) as on:
        web = on.machine("web-1")
        web.connect_gate = Gate(asyncio.Event())
        async with on.worker(lease_seconds=3.0):
            execution = await on.launch()
            await web.connect_gate.reached.wait()
            await on.cancel(execution)
            ended = await on.ended(execution)
        assert ended.status is ExecutionStatus.CANCELLED
        assert not web.starts
        row = await on.row(execution)
        assert (row["status"], row["error_message"], row["cancel_proof"]) == (
            "cancelled",
            "cancelled before it was started",
            "never_started",
        )


async def test_a_cancel_between_claim_and_start_is_remembered(database: Database) -> None:
    async with harness(database) as on:
        on.targets.away = True
        async with on.worker() as worker:
            execution = await on.launch()
            await until(lambda: on.claimed(execution))
            await on.cancel(execution)
            worker.handle_order(b'{"cancel": %d}' % execution.id)
            on.targets.away = False
            ended = await on.ended(execution)
        assert ended.status is ExecutionStatus.CANCELLED
        assert not on.machine("web-1").starts


async def test_cancelled_while_running_it_is_killed(database: Database) -> None:
    async with harness(database) as on:
        on.machine("web-1").reply([Output("stdout", b"half"), Gate(asyncio.Event())])
        async with on.worker(lease_seconds=3.0):
            execution = await on.launch()
            await until(lambda: _said(on, execution, b"half"))
            await on.cancel(execution)
            ended = await on.ended(execution)
        assert ended.status is ExecutionStatus.CANCELLED
        row = await on.row(execution)
        assert (row["status"], row["error_code"], row["cancel_proof"]) == (
            "cancelled",
            "cancelled",
            "killed",
        )
        assert await on.output(execution) == b"half"
        (result,) = await on.results(execution)
        assert (result["status"], result["stdout_bytes"]) == ("cancelled", 4)


@pytest.mark.parametrize("ordered", [True, False])
async def test_one_of_two_running_targets_is_cancelled(database: Database, ordered: bool) -> None:
    """By an order, or without one with the next renewal of the lease."""
    async with harness(database) as on:
        stay = Gate(asyncio.Event())
        one = on.machine("web-1").reply([Gate(asyncio.Event())])
        two = on.machine("web-2").reply([stay, RemoteExit(0)])
        async with on.worker(lease_seconds=30 if ordered else 3.0) as worker:
            execution = await on.launch("true", 2)
            await on.running(one)
            await on.running(two)
            stopping = await on.cancel_runs(execution, "web-1")
            if ordered:
                worker.handle_order(json.dumps({"cancel_runs": stopping}).encode())
            await until(lambda: _is_cancelled(on, execution, 0))
            stay.event.set()
            ended = await on.ended(execution)
        assert (ended.status, ended.counts) == (
            ExecutionStatus.PARTIAL,
            {"succeeded": 1, "cancelled": 1},
        )
        rows = await on.rows(execution)
        assert [row["cancel_proof"] for row in rows] == ["killed", None]
        assert (one.kills, two.kills) == ([CancelProof.KILLED], [])


async def test_a_cancelled_run_between_claim_and_start_never_starts(database: Database) -> None:
    async with harness(database) as on:
        on.targets.away = True
        async with on.worker() as worker:
            execution = await on.launch("true", 2)
            await until(lambda: on.claimed(execution))
            (run,) = await on.cancel_runs(execution, "web-2")
            worker.handle_order(b'{"cancel_runs": [%d]}' % run)
            on.targets.away = False
            ended = await on.ended(execution)
        assert ended.counts == {"succeeded": 1, "cancelled": 1}
        assert not on.machine("web-2").starts


async def test_a_command_that_ignores_term_is_killed_after_the_grace(database: Database) -> None:
    async with harness(database) as on:
        web = on.machine("web-1").reply([Gate(asyncio.Event())])
        web.ignores_term = True
        async with on.worker() as worker:
            execution = await on.launch()
            await on.running(web)
            await on.cancel(execution)
            worker.handle_order(b'{"cancel": %d}' % execution.id)
            await on.ended(execution)
        assert web.kills == [CancelProof.KILLED]
        assert (await on.row(execution))["status"] == "cancelled"


async def test_a_cancel_that_comes_after_the_commands_end_keeps_the_true_outcome(
    database: Database,
) -> None:
    """The command has ended, its output still waits to be read.

    The proof is already_finished, and the second step never starts.
    """
    async with harness(database) as on:
        web = on.machine("web-1")
        finished = asyncio.Event()

        def script(*_: object) -> list[object]:
            return [Gate(finished), RemoteExit(0)]

        web.reply(script)  # type: ignore[arg-type]
        async with on.worker(lease_seconds=600) as worker:
            execution = await on.launch(["first", "second"])
            await on.running(web)
            await until(lambda: _begun(on, execution))  # its flush would bring the cancel too early
            await until(  # so would a renewal; the next one comes only after a third of 600 s
                lambda: (
                    worker.session is not None
                    and worker.session.heartbeat._consecutive_renewals > 0
                )
            )
            await on.cancel(execution)
            (process,) = web.processes
            finished.set()
            process._outflow.end(
                RemoteExit(0)
            )  # at the same time: the reader has not been notified yet
            worker.handle_order(b'{"cancel": %d}' % execution.id)
            ended = await on.ended(execution)
        assert web.kills == [CancelProof.ALREADY_FINISHED]
        assert ended.status is ExecutionStatus.CANCELLED
        assert [s.command for s in web.starts] == ["first"]
        first, second = await on.results(execution)
        assert (first["action"], first["status"], first["cancel_proof"]) == (
            "step-1",
            "succeeded",
            "already_finished",
        )
        assert (second["action"], second["status"], second["cancel_proof"]) == (
            "step-2",
            "cancelled",
            "never_started",
        )


async def test_a_cancel_whose_kill_reaches_nothing_is_lost(database: Database) -> None:
    async with harness(database) as on:
        web = on.machine("web-1").reply([Gate(asyncio.Event())])
        web.unkillable = True
        async with on.worker() as worker:
            execution = await on.launch()
            await on.running(web)
            await on.cancel(execution)
            worker.handle_order(b'{"cancel": %d}' % execution.id)
            await on.ended(execution)
        row = await on.row(execution)
        assert (row["status"], row["error_code"], row["cancel_proof"]) == (
            "lost",
            "lost",
            "unreachable",
        )


async def test_what_waits_when_it_is_cancelled_never_starts(database: Database) -> None:
    async with harness(database) as on:
        execution = await on.launch("true", 4)
        await on.cancel(execution)
        async with on.worker():
            ended = await on.ended(execution)
        assert ended.counts == {"cancelled": 4}
        assert not any(machine.starts for machine in on.sessions.machines.values())


@pytest.mark.parametrize(
    "code", [ErrorCode.CONNECTION_REFUSED, ErrorCode.DNS, ErrorCode.AUTH_FAILED, ErrorCode.HOST_KEY]
)
async def test_a_machine_that_gives_no_session_is_unreachable_with_one_result_for_the_first_action(
    database: Database, code: ErrorCode
) -> None:
    async with harness(database) as on:
        on.machine("web-1").refuse(RemoteFailure(code, "web-1 says \x00no"))
        async with on.worker():
            execution = await on.run(["first", "second"])
        row = await on.row(execution)
        assert (row["status"], row["error_code"], row["error_message"]) == (
            "unreachable",
            code.value,
            "web-1 says \ufffdno",
        )
        (result,) = await on.results(execution)
        assert (result["action"], result["status"], result["error_code"]) == (
            "step-1",
            "unreachable",
            code.value,
        )
        assert execution.status is ExecutionStatus.FAILED


async def test_contact_that_breaks_while_the_command_runs_is_lost(database: Database) -> None:
    async with harness(database) as on:
        on.machine("web-1").reply([Output("stderr", b"so far"), Break()])
        async with on.worker():
            execution = await on.run(["first", "second"])
        assert (await on.row(execution))["status"] == "lost"
        assert await on.output(execution, "stderr") == b"so far"
        assert len(await on.results(execution)) == 1


@pytest.mark.parametrize(
    ("code", "status", "starts"),
    [(ErrorCode.CONNECTION_LOST, "unreachable", 0), (ErrorCode.LOST, "lost", 1)],
)
async def test_a_start_that_breaks_is_unreachable_or_lost_by_what_can_have_happened(
    database: Database, code: ErrorCode, status: str, starts: int
) -> None:
    async with harness(database) as on:
        web = on.machine("web-1")
        web.refuse_start(RemoteFailure(code, "broken"))
        async with on.worker():
            execution = await on.run()
        assert (await on.row(execution))["status"] == status
        assert len(web.starts) == starts


async def test_a_target_that_was_removed_after_the_launch_fails_with_words(
    database: Database,
) -> None:
    async with harness(database) as on:
        execution = await on.launch("true", 2)
        del on.targets.targets["2"]
        async with on.worker():
            ended = await on.ended(execution)
        assert ended.status is ExecutionStatus.PARTIAL
        first, second = await on.rows(execution)
        assert first["status"] == "succeeded"
        assert (second["status"], second["error_code"]) == ("failed", "internal")
        assert (
            second["error_message"]
            == "target web-2 was removed from the inventory after the launch"
        )


async def test_a_fault_of_ours_ends_one_run_on_record_and_no_other(database: Database) -> None:
    async with harness(database, bugs=["target_run"]) as on:

        def broken(*_: object) -> list[object]:
            raise ZeroDivisionError

        on.machine("web-1").reply(broken)  # type: ignore[arg-type]
        async with on.worker():
            execution = await on.run("true", 2)
        first, second = await on.rows(execution)
        assert (first["status"], first["error_message"]) == (
            "failed",
            "a fault of opsjobs: ZeroDivisionError",
        )
        assert second["status"] == "succeeded"


async def test_many_reasons_to_stop_at_once_stop_it_once(database: Database) -> None:
    clock = TurnedClock()
    async with harness(database, clock) as on:
        web = on.machine("web-1").reply([Gate(asyncio.Event())])
        async with on.worker() as worker:
            execution = await on.launch(
                [CommandAction(command="sleep 99", timeout=5)], timeout=3600
            )
            await on.running(web)
            await on.cancel(execution)
            for _ in range(3):
                worker.handle_order(b'{"cancel": %d}' % execution.id)
            clock.turn(4000)
            ended = await on.ended(execution)
        assert ended.status is ExecutionStatus.CANCELLED
        assert web.kills == [CancelProof.KILLED]


async def _is_cancelled(on: Harness, execution: Execution, position: int) -> bool:
    return bool((await on.rows(execution))[position]["status"] == "cancelled")


async def _said(on: Harness, execution: Execution, words: bytes) -> bool:
    return await on.output(execution) == words


async def _begun(on: Harness, execution: Execution) -> bool:
    return bool(await on.results(execution))


async def test_a_login_that_a_run_waited_for_is_on_record_once(database: Database) -> None:
    async with harness(database) as on:
        on.machine("web-1").auth_seconds = 0.0
        async with on.worker():
            execution = await on.run(["one", "two"])
        logins = [row["logged_in"] for row in await on.results(execution)]
        assert logins[0] is not None
        assert logins[0].lower <= logins[0].upper
        assert logins[1] is None
        phases = [
            stretch.phase.value
            for stretch in (await on.executions.timeline(execution, PageRequest())).items
        ]
        assert phases[:3] == ["queue", "connect", "auth"]
