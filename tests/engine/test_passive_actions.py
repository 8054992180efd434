"""Passive actions hold nothing: timers, approvals, barriers and back-offs end the claim.

Then the run continues where it was.
"""

from __future__ import annotations

import asyncio

import pytest
from psycopg.rows import DictRow

from engine.harness import Harness, harness, until
from engine.test_workflows import step, told
from kit.fake_remote import Gate
from kit.ledger_fixtures import says
from opsjobs.clock import TurnedClock
from opsjobs.engine.runs.cancellation import StopReason
from opsjobs.model.action import ApprovalAction, CommandAction, WaitAction
from opsjobs.model.execution import ErrorCode, ExecutionStatus
from opsjobs.model.retry import RetryPolicy
from opsjobs.model.run_views import Execution
from opsjobs.remote.session import RemoteExit
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.transaction import Database

SECONDS = 60.0


async def waits(on: Harness, execution: Execution, reason: str) -> None:
    """Return once its only run waits for this; it holds no slot then."""

    async def so() -> bool:
        return (await on.row(execution))["waiting_for"] == reason

    await until(so, SECONDS)
    row = await on.row(execution)
    assert (row["status"], row["owner"], row["store_id"]) == ("waiting", None, None)
    assert await on.database.fetch("select 1 from target_slots where used > 0") == []


async def test_a_long_wait_ends_the_claim_and_the_run_goes_on_when_its_time_has_come(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker() as worker:
        web = on.machine("web-1")
        execution = await on.launch(
            [step("before"), WaitAction(key="pause", duration=3600), step("after")]
        )
        await waits(on, execution, "timer")
        await until(lambda: worker.session is not None and not worker.session.runs)
        assert await told(on, execution) == {"before": "succeeded", "pause": "running"}
        await on.turn(1800)
        await Reconciler(database).run_once()
        assert (await on.row(execution))["waiting_for"] == "timer"
        await on.turn(1801)
        await Reconciler(database).run_once()
        ended = await on.ended(execution, SECONDS)
        assert ended.status is ExecutionStatus.COMPLETED
        assert [s.command for s in web.starts] == ["before", "after"]
        assert await told(on, execution) == dict.fromkeys(["before", "pause", "after"], "succeeded")


async def test_a_short_wait_is_passed_here(database: Database) -> None:
    async with harness(database) as on, on.worker():
        on.machine("web-1")
        execution = await on.ended(
            await on.launch([WaitAction(key="pause", duration=0.05), step("after")]), SECONDS
        )
        assert execution.counts == {"succeeded": 1}
        assert (await on.row(execution))["fence"] == 1


async def test_while_a_branch_waits_another_is_at_work_and_only_then_the_claim_ends(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        gate = Gate(asyncio.Event())
        on.machine("web-1").reply([gate, RemoteExit(0)], to="work")
        actions = [
            WaitAction(key="pause", duration=3600),
            step("work", []),
            step("after", ["pause", "work"]),
        ]
        execution = await on.launch(actions)
        await asyncio.wait_for(gate.reached.wait(), SECONDS)
        assert (await on.row(execution))["status"] == "running"
        gate.event.set()
        await waits(on, execution, "timer")
        await on.turn(3601)
        await Reconciler(database).run_once()
        await on.ended(execution, SECONDS)
        assert await told(on, execution) == dict.fromkeys(["pause", "work", "after"], "succeeded")


async def test_an_approval_is_asked_once_for_all_targets_and_lets_them_go_on(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        for n in (1, 2, 3):
            on.machine(f"web-{n}")
        actions = [step("before"), ApprovalAction(key="ask", message="May we?"), step("after")]
        execution = await on.launch(actions, 3)

        async def all_wait() -> bool:
            return {row["waiting_for"] for row in await on.rows(execution)} == {"approval"}

        await until(all_wait, SECONDS)
        (asked,) = await database.fetch("select * from approvals")
        assert (asked["action"], asked["message"], asked["status"]) == ("ask", "May we?", "pending")
        await on.ledger.decide(asked["id"], says("ben", True, None))
        ended = await on.ended(execution, SECONDS)
        assert ended.counts == {"succeeded": 3}


async def test_an_approval_that_is_refused_ends_the_runs_cancelled(database: Database) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1")
        execution = await on.launch([step("before"), ApprovalAction(key="ask"), step("after")])
        await waits(on, execution, "approval")
        (asked,) = await database.fetch("select id from approvals")
        await on.ledger.decide(asked["id"], says("ben", False, "not today"))
        ended = await on.ended(execution, SECONDS)
        row = await on.row(execution)
        assert ended.counts == {"cancelled": 1}
        assert (row["error_code"], "not today" in row["error_message"]) == ("cancelled", True)
        assert await told(on, execution) == {"before": "succeeded", "ask": "cancelled"}
        assert [s.command for s in web.starts] == ["before"]


async def test_an_approval_beside_a_timer_is_seen_whatever_the_run_waits_for(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        on.machine("web-1")
        actions = [
            ApprovalAction(key="ask"),
            step("after"),
            WaitAction(key="pause", duration=3600, depends_on=[]),
        ]
        execution = await on.launch(actions)
        await waits(on, execution, "timer")
        (asked,) = await database.fetch("select id from approvals")
        await on.ledger.decide(asked["id"], says("ben", True, None))

        async def gone_on() -> bool:
            return (await told(on, execution)).get("after") == "succeeded"

        await until(gone_on, SECONDS)
        await waits(on, execution, "timer")
        await on.turn(3600)
        await Reconciler(database).run_once()
        assert (await on.ended(execution, SECONDS)).counts == {"succeeded": 1}


async def test_a_run_that_waits_for_several_things_looks_after_them_ever_less_often(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        on.machine("web-1")
        execution = await on.launch(
            [ApprovalAction(key="ask"), WaitAction(key="pause", duration=86400, depends_on=[])]
        )
        await waits(on, execution, "timer")
        assert (await _next_look(database))["from_now"] <= 10
        for fence, (turned, lasted, pause) in enumerate(
            [(60, 60, 60), (310, 370, 300), (310, 680, 300)], start=2
        ):
            await on.turn(turned)
            await Reconciler(database).run_once()

            async def looked(claims: int = fence) -> bool:
                row = await on.row(execution)
                return bool(row["fence"] >= claims and row["waiting_for"] == "timer")

            await until(looked, SECONDS)
            look = await _next_look(database)
            assert look["since_asked"] >= lasted + pause
            assert look["from_now"] <= 300
        await on.cancel(execution)
        assert (await on.ended(execution, SECONDS)).counts == {"cancelled": 1}


async def _next_look(database: Database) -> DictRow:
    row = await database.fetch_one("""
        select extract(epoch from r.not_before - x.started_at)::float8 as since_asked,
               extract(epoch from r.not_before - opsjobs_now())::float8 as from_now
        from target_runs r join job_execution_results x on x.target_run_id = r.id where x.action = 'ask'""")
    assert row is not None
    return row


async def test_nobody_passes_a_barrier_before_all_have_come_to_it(database: Database) -> None:
    async with harness(database) as on, on.worker():
        gate = Gate(asyncio.Event())
        machines = [on.machine(f"web-{n}") for n in (1, 2, 3)]
        machines[2].reply([gate, RemoteExit(0)], to="before")
        execution = await on.launch(
            [step("before"), step("together", scope="barrier"), step("after")], 3
        )

        async def two_wait() -> bool:
            return [row["waiting_for"] for row in await on.rows(execution)].count("barrier") == 2

        await until(two_wait, SECONDS)
        assert {s.command for machine in machines for s in machine.starts} == {"before"}
        gate.event.set()
        ended = await on.ended(execution, SECONDS)
        assert ended.counts == {"succeeded": 3}
        assert [[s.command for s in machine.starts] for machine in machines] == [
            ["before", "together", "after"]
        ] * 3


async def test_a_cancel_ends_a_run_that_waits_and_what_is_open_of_it(database: Database) -> None:
    async with harness(database) as on, on.worker():
        on.machine("web-1")
        execution = await on.launch([WaitAction(key="pause", duration=3600), step("after")])
        await waits(on, execution, "timer")
        await on.cancel(execution)
        ended = await on.ended(execution, SECONDS)
        assert ended.counts == {"cancelled": 1}
        assert await told(on, execution) == {"pause": "cancelled"}


async def beside_a_gate(on: Harness, first: CommandAction | WaitAction) -> Execution:
    """Launch a branch that waits next to one that runs until it is stopped.

    Returns once the first one waits.
    """
    gate = Gate(asyncio.Event())
    on.machine("web-1").reply([RemoteExit(1)], to="flaky").reply([gate, RemoteExit(0)], to="work")
    execution = await on.launch([first, step("work", []), step("after", [str(first.key), "work"])])
    await asyncio.wait_for(gate.reached.wait(), SECONDS)

    async def first_waits() -> bool:
        return (await told(on, execution)).get(str(first.key)) == (
            "running" if isinstance(first, WaitAction) else "failed"
        )

    await until(first_waits, SECONDS)
    return execution


def slow_to_retry() -> CommandAction:
    policy = RetryPolicy(
        max_attempts=2, base=600, max=600, jitter=False, on=[ErrorCode.NONZERO_EXIT]
    )
    return step("flaky", retry=policy)


@pytest.mark.parametrize(
    "first", [WaitAction(key="pause", duration=3600), slow_to_retry()], ids=["wait", "back-off"]
)
async def test_a_cancel_stops_what_waits_beside_a_command_at_work(
    database: Database, first: CommandAction | WaitAction
) -> None:
    async with harness(database) as on, on.worker():
        execution = await beside_a_gate(on, first)
        await on.cancel(execution)
        ended = await on.ended(execution, SECONDS)
        assert ended.counts == {"cancelled": 1}
        assert set((await told(on, execution)).values()) == {"cancelled"}


@pytest.mark.parametrize(
    "first", [WaitAction(key="pause", duration=3600), slow_to_retry()], ids=["wait", "back-off"]
)
async def test_a_deadline_stops_what_waits_beside_a_command_at_work(
    database: Database, first: CommandAction | WaitAction
) -> None:
    async with harness(database) as on, on.worker() as worker:
        execution = await beside_a_gate(on, first)
        assert worker.session is not None
        for run in worker.session.runs.values():
            run.interrupt(StopReason.DEADLINE)
        ended = await on.ended(execution, SECONDS)
        assert ended.counts == {"timeout": 1}
        assert set((await told(on, execution)).values()) == {"timeout"}


async def test_a_wait_that_would_follow_a_deadline_does_not_begin(database: Database) -> None:
    clock = TurnedClock()
    async with harness(database, clock) as on, on.worker():
        gate = Gate(asyncio.Event())
        on.machine("web-1").reply([gate, RemoteExit(0)], to="work")
        actions = [step("work", on_failure="continue"), WaitAction(key="pause", duration=3600)]
        execution = await on.launch(actions, timeout=60)
        await asyncio.wait_for(gate.reached.wait(), SECONDS)
        await on.turn(61)
        clock.turn(61)
        ended = await on.ended(execution, SECONDS)
        assert ended.counts == {"timeout": 1}


async def test_a_failure_beside_a_wait_ends_the_run_at_once(database: Database) -> None:
    async with harness(database) as on, on.worker():
        gate = Gate(asyncio.Event())
        on.machine("web-1").reply([gate, RemoteExit(1)], to="bad")
        execution = await on.launch(
            [WaitAction(key="pause", duration=3600), step("bad", []), step("after", ["pause"])]
        )
        await asyncio.wait_for(gate.reached.wait(), SECONDS)
        gate.event.set()
        ended = await on.ended(execution, SECONDS)
        assert ended.counts == {"failed": 1}
        assert await told(on, execution) == {"pause": "skipped", "bad": "failed"}


async def test_a_failed_action_is_tried_again_as_its_policy_says(database: Database) -> None:
    async with harness(database) as on, on.worker():
        replies = iter([RemoteExit(1), RemoteExit(1), RemoteExit(0)])
        web = on.machine("web-1").reply(lambda *_: [next(replies)], to="flaky")
        policy = RetryPolicy(max_attempts=3, base=0.01, jitter=False, on=[ErrorCode.NONZERO_EXIT])
        execution = await on.ended(
            await on.launch([step("flaky", retry=policy), step("after")]), SECONDS
        )
        assert execution.counts == {"succeeded": 1}
        results = [(r["action"], r["attempt"], r["status"]) for r in await on.results(execution)]
        assert results == [
            ("flaky", 1, "failed"), ("flaky", 2, "failed"), ("flaky", 3, "succeeded"), ("after", 1, "succeeded"),
        ]  # fmt: skip
        assert (await on.row(execution))["attempt"] == 3
        assert [s.command for s in web.starts] == ["flaky"] * 3 + ["after"]


async def test_when_all_attempts_are_used_the_run_is_dead_with_the_last_error(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        on.machine("web-1").reply([RemoteExit(7)])
        policy = RetryPolicy(max_attempts=2, base=0.01, on=[ErrorCode.NONZERO_EXIT])
        execution = await on.ended(await on.launch([step("bad", retry=policy)]), SECONDS)
        row = await on.row(execution)
        assert (row["status"], row["error_code"], row["exit_code"], row["attempt"]) == (
            "dead",
            "nonzero_exit",
            7,
            2,
        )
        assert [r["status"] for r in await on.results(execution)] == ["failed", "failed"]


async def test_an_error_that_the_policy_does_not_name_is_not_tried_again(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1").reply([RemoteExit(7)])
        execution = await on.ended(
            await on.launch([step("bad", retry=RetryPolicy(max_attempts=3))]), SECONDS
        )
        assert execution.counts == {"failed": 1}
        assert len(web.starts) == 1


async def test_a_long_back_off_ends_the_claim_and_the_next_attempt_comes_after_it(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        replies = iter([RemoteExit(1), RemoteExit(0)])
        web = on.machine("web-1").reply(lambda *_: [next(replies)], to="flaky")
        policy = RetryPolicy(
            max_attempts=2, base=600, max=600, jitter=False, on=[ErrorCode.NONZERO_EXIT]
        )
        execution = await on.launch([step("flaky", retry=policy)])
        await waits(on, execution, "backoff")
        row = await on.row(execution)
        assert (row["attempt"], len(web.starts)) == (2, 1)
        await on.turn(601)
        await Reconciler(database).run_once()
        ended = await on.ended(execution, SECONDS)
        assert ended.counts == {"succeeded": 1}
        assert [(r["attempt"], r["status"]) for r in await on.results(execution)] == [
            (1, "failed"),
            (2, "succeeded"),
        ]


async def test_a_back_off_in_one_branch_does_not_hold_up_the_other(database: Database) -> None:
    async with harness(database) as on, on.worker():
        replies = iter([RemoteExit(1), RemoteExit(0)])
        gate = Gate(asyncio.Event())
        on.machine("web-1").reply(lambda *_: [next(replies)], to="flaky").reply(
            [gate, RemoteExit(0)], to="slow"
        )
        policy = RetryPolicy(
            max_attempts=2, base=600, max=600, jitter=False, on=[ErrorCode.NONZERO_EXIT]
        )
        execution = await on.launch(
            [step("flaky", retry=policy), step("slow", []), step("slower", ["slow"])]
        )
        await asyncio.wait_for(gate.reached.wait(), SECONDS)
        gate.event.set()
        await waits(on, execution, "backoff")
        assert await told(on, execution) == {
            "flaky": "failed",
            "slow": "succeeded",
            "slower": "succeeded",
        }
        await on.turn(601)
        await Reconciler(database).run_once()
        assert (await on.ended(execution, SECONDS)).counts == {"succeeded": 1}


async def test_a_worker_that_stops_leaves_waits_in_the_ledger(database: Database) -> None:
    async with harness(database) as on:
        gate = Gate(asyncio.Event())
        web = on.machine("web-1").reply([gate, RemoteExit(0)], to="work")
        async with on.worker("worker-1", drain_seconds=30) as worker:
            actions = [
                WaitAction(key="pause", duration=3600),
                step("work", []),
                step("after", ["pause", "work"]),
            ]
            execution = await on.launch(actions, durable="off")
            await asyncio.wait_for(gate.reached.wait(), SECONDS)
            stopping = asyncio.create_task(worker.stop())
            gate.event.set()
            await stopping
        assert (await on.row(execution))["waiting_for"] == "timer"
        assert await told(on, execution) == {"pause": "running", "work": "succeeded"}
        async with on.worker("worker-2"):
            await on.turn(3601)
            await Reconciler(database).run_once()
            assert (await on.ended(execution, SECONDS)).counts == {"succeeded": 1}
        assert [s.command for s in web.starts] == ["work", "after"]


async def test_a_rollback_that_is_tried_again_later_is_waited_for(database: Database) -> None:
    async with harness(database) as on, on.worker():
        replies = iter([RemoteExit(1), RemoteExit(0)])
        web = (
            on.machine("web-1")
            .reply([RemoteExit(1)], to="change")
            .reply(lambda *_: [next(replies)], to="undo")
        )
        policy = RetryPolicy(
            max_attempts=2, base=600, max=600, jitter=False, on=[ErrorCode.NONZERO_EXIT]
        )
        actions = [
            step("change", on_failure="rollback", rollback="undo"),
            step("undo", retry=policy),
        ]
        execution = await on.launch(actions)
        await waits(on, execution, "backoff")
        assert await told(on, execution) == {"change": "failed", "undo": "failed"}
        await on.turn(601)
        await Reconciler(database).run_once()
        assert (await on.ended(execution, SECONDS)).counts == {"failed": 1}
        assert await told(on, execution) == {"change": "failed", "undo": "succeeded"}
        assert [s.command for s in web.starts] == ["change", "undo", "undo"]
