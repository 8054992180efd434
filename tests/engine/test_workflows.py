"""Workflows of a target run: parallel branches, conditions, failures, values that are passed on."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from engine.harness import Harness, harness, until
from kit.fake_remote import Gate
from opsjobs.engine.runs.action_run import EXECUTORS
from opsjobs.model.action import FROZEN_TYPES, CommandAction, ScriptAction
from opsjobs.model.execution import ExecutionStatus
from opsjobs.model.run_views import Execution
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.store.paging import PageRequest
from opsjobs.store.transaction import Database


def step(key: str, after: list[str] | None = None, **more: Any) -> CommandAction:
    """Return an action whose command is its key."""
    return CommandAction(key=key, command=key, depends_on=after, **more)


async def told(on: Harness, execution: Execution) -> dict[str, str]:
    """Return the status of each action, by its last attempt."""
    return {row["action"]: row["status"] for row in await on.results(execution)}


@pytest.fixture(params=["auto", "off"])
def durable(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_branches_are_at_work_side_by_side_and_what_waits_for_both_comes_after(
    database: Database, durable: str
) -> None:
    async with harness(database) as on, on.worker():
        left, right = Gate(asyncio.Event()), Gate(asyncio.Event())
        web = (
            on.machine("web-1")
            .reply([left, RemoteExit(0)], to="left")
            .reply([right, RemoteExit(0)], to="right")
        )
        execution = await on.launch(
            [
                step("first"),
                step("left", ["first"]),
                step("right", ["first"]),
                step("last", ["left", "right"]),
            ],
            durable=durable,
        )
        await asyncio.wait_for(asyncio.gather(left.reached.wait(), right.reached.wait()), 60)
        right.event.set()
        left.event.set()
        ended = await on.ended(execution, 60)
        assert ended.status is ExecutionStatus.COMPLETED
        assert [s.command for s in web.starts][::3] == ["first", "last"]
        assert await told(on, execution) == dict.fromkeys(
            ["first", "left", "right", "last"], "succeeded"
        )


async def test_the_output_of_branches_is_told_apart(database: Database, durable: str) -> None:
    async with harness(database) as on, on.worker():
        for key in ("left", "right"):
            on.machine("web-1").reply(
                [*(Output("stdout", f"{key} {n}\n".encode()) for n in range(50)), RemoteExit(0)],
                to=key,
            )
        execution = await on.ended(
            await on.launch([step("left"), step("right", [])], durable=durable), 60
        )
        for key in ("left", "right"):
            said = b"".join(
                e.data or b""
                for e in await on.log(execution)
                if e.action == key and e.event == "output"
            )
            assert said == b"".join(f"{key} {n}\n".encode() for n in range(50))


async def test_a_failure_starts_nothing_more_but_what_is_at_work_ends(
    database: Database, durable: str
) -> None:
    async with harness(database) as on, on.worker():
        gate = Gate(asyncio.Event())
        web = (
            on.machine("web-1")
            .reply([RemoteExit(3)], to="bad")
            .reply([gate, RemoteExit(0)], to="slow")
        )
        execution = await on.launch(
            [step("bad"), step("slow", []), step("later", ["slow"])], durable=durable
        )
        await asyncio.wait_for(gate.reached.wait(), 60)

        async def failed() -> bool:
            return (await told(on, execution)).get("bad") == "failed"

        await until(failed, 60)
        gate.event.set()
        ended = await on.ended(execution, 60)
        assert ended.counts == {"failed": 1}
        assert sorted(s.command for s in web.starts) == ["bad", "slow"]
        assert await told(on, execution) == {"bad": "failed", "slow": "succeeded"}
        assert (await on.row(execution))["exit_code"] == 3


async def test_skip_remaining_leaves_out_what_comes_after_it_and_goes_on_elsewhere(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1").reply([RemoteExit(1)], to="bad")
        actions = [
            step("bad", on_failure="skip_remaining"),
            step("after"),
            step("beside", []),
            step("beside-2", ["beside"]),
        ]
        execution = await on.ended(await on.launch(actions), 60)
        assert execution.counts == {"failed": 1}
        assert await told(on, execution) == {
            "bad": "failed",
            "after": "skipped",
            "beside": "succeeded",
            "beside-2": "succeeded",
        }
        assert "after" not in [s.command for s in web.starts]


async def test_a_rollback_runs_after_the_failure_and_only_then(database: Database) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1").reply([RemoteExit(1)], to="change")
        actions = [
            step("change", on_failure="rollback", rollback="undo"),
            step("undo"),
            step("later", ["change"]),
        ]
        execution = await on.ended(await on.launch(actions), 60)
        assert execution.counts == {"failed": 1}
        assert [s.command for s in web.starts] == ["change", "undo"]
        web.reply([RemoteExit(0)], to="change")
        execution = await on.ended(await on.launch(actions), 60)
        assert execution.counts == {"succeeded": 1}
        assert [s.command for s in web.starts][2:] == ["change", "later"]


async def test_a_condition_reads_what_was_before(database: Database, durable: str) -> None:
    async with harness(database) as on, on.worker():
        on.machine("web-1").reply(
            [Output("stdout", b'{"free": 3}\nweb\n'), RemoteExit(0)], to="look"
        )
        actions = [
            step("look", outputs="json_lines"),
            step("clean", when="actions.look.outputs.free < 10"),
            step("grow", when="actions.look.outputs.free >= 10"),
            step(
                "web",
                when="'web' in actions.look.stdout and actions.clean.exit_code == 0 and actions.grow.status == null",
            ),
            step("lab", when="target.labels.env == 'lab'"),
            step("named", when="target.name in ['web-1']"),
        ]
        execution = await on.ended(await on.launch(actions, durable=durable), 60)
        assert execution.counts == {"succeeded": 1}
        assert await told(on, execution) == {
            "look": "succeeded",
            "clean": "succeeded",
            "grow": "skipped",
            "web": "succeeded",
            "lab": "skipped",
            "named": "succeeded",
        }
        rows = {row["action"]: row["outputs"] for row in await on.results(execution)}
        assert rows["look"] == {"free": 3}
        assert rows["clean"] is None


async def test_where_no_condition_holds_nothing_is_started_and_the_run_is_well(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1")
        execution = await on.ended(
            await on.launch([step("a", when="false"), step("b", when="target.name == 'web-9'")]), 60
        )
        assert execution.counts == {"succeeded": 1}
        assert (web.starts, web.connects) == ([], 0)


async def test_a_condition_that_fits_no_value_fails_its_action(database: Database) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1").reply([Output("stdout", b"many\n"), RemoteExit(0)], to="look")
        actions = [
            step("look", outputs="last_line"),
            step("next", when="actions.look.outputs.last > 3"),
        ]
        execution = await on.ended(await on.launch(actions), 60)
        row = await on.row(execution)
        assert (row["status"], row["error_code"]) == ("failed", "internal")
        assert "'many' and 3 cannot be put in order" in row["error_message"]
        assert [s.command for s in web.starts] == ["look"]


async def test_a_cancel_ends_every_branch_with_its_own_proof(
    database: Database, durable: str
) -> None:
    async with harness(database) as on, on.worker():
        gates = [Gate(asyncio.Event()), Gate(asyncio.Event())]
        web = (
            on.machine("web-1")
            .reply([gates[0], RemoteExit(0)], to="a")
            .reply([gates[1], RemoteExit(0)], to="b")
        )
        execution = await on.launch(
            [step("a"), step("b", []), step("c", ["a", "b"])], durable=durable
        )
        await asyncio.wait_for(asyncio.gather(*(gate.reached.wait() for gate in gates)), 60)
        await on.cancel(execution)
        ended = await on.ended(execution, 60)
        results = {
            r["action"]: (r["status"], r["cancel_proof"]) for r in await on.results(execution)
        }
        assert ended.status is ExecutionStatus.CANCELLED
        assert results == {"a": ("cancelled", "killed"), "b": ("cancelled", "killed")}
        assert sorted(s.command for s in web.starts) == ["a", "b"]


async def test_a_program_is_started_with_its_values_and_variables(
    database: Database, durable: str
) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1").reply([Output("stdout", b"7 it's\n"), RemoteExit(0)], to="look")
        script = ScriptAction(
            key="script",
            interpreter="python",
            script="print(${actions.look.stdout})\r\n",
            args=["${actions.look.stdout}", "$x"],
        )
        tell = CommandAction(
            key="tell",
            command="echo ${actions.look.stdout} on ${target.name} ${HOME}",
            env={"MINE": "${target.host}"},
        )
        execution = await on.ended(
            await on.launch([step("look"), script, tell], durable=durable), 60
        )
        assert execution.counts == {"succeeded": 1}
        _, first, second = web.starts
        programs = [
            start.order.program if start.order is not None else start.program
            for start in (first, second)
        ]
        assert programs[0] is not None
        assert (programs[0].script, programs[0].interpreter) == (
            b"print(${actions.look.stdout})\r\n",
            "python",
        )
        assert programs[0].args == ("7 it's", "$x")
        variables = (
            second.order.environment
            if second.order is not None
            else programs[1].env
            if programs[1] is not None
            else {}
        )
        assert second.command == "echo '7 it'\\''s' on 'web-1' ${HOME}"
        assert {
            name: variables[name]
            for name in ("MINE", "OPSJOBS_TARGET", "OPSJOBS_ATTEMPT", "OPSJOBS_JOB")
        } == {
            "MINE": "10.0.0.1",
            "OPSJOBS_TARGET": "web-1",
            "OPSJOBS_ATTEMPT": "1",
            "OPSJOBS_JOB": "ad-hoc",
        }
        assert variables["OPSJOBS_EXECUTION"] == str(execution.id)


async def test_a_result_shows_its_command_as_it_was_run_from_its_beginning(
    database: Database, durable: str
) -> None:
    async with harness(database) as on, on.worker():
        gate = Gate(asyncio.Event())
        told = "echo 'a b' on 'web-1' ${HOME}"
        web = (
            on.machine("web-1")
            .reply([Output("stdout", b"a b\n"), RemoteExit(0)], to="look")
            .reply([gate, RemoteExit(0)], to=told)
        )
        actions: list[Any] = [
            CommandAction(key="look", command="look"),
            CommandAction(key="dear", command="echo ${HOME}", env={"MINE": "${target.name}"}),
            CommandAction(
                key="tell", command="echo ${actions.look.stdout} on ${target.name} ${HOME}"
            ),
            ScriptAction(
                key="script",
                interpreter="python",
                script="1",
                args=["${actions.look.stdout}", "$x"],
            ),
            ScriptAction(key="bare", interpreter="sh", script=":", args=["a", "b c"]),
        ]
        execution = await on.launch(actions, durable=durable)
        await asyncio.wait_for(gate.reached.wait(), 60)

        async def shown() -> list[str | None]:
            page = await on.executions.results(await on.executions.get(execution.id), PageRequest())
            return [result.command for result in page.items]

        async def begun() -> bool:
            return len(await shown()) == 3

        await until(begun, 60)
        assert await shown() == ["look", "echo ${HOME}", told]
        gate.event.set()
        await on.ended(execution, 60)
        assert await shown() == ["look", "echo ${HOME}", told, "python 'a b' '$x'", "sh a 'b c'"]
        # An unchanged file is not written again.
        assert [row["command"] for row in await on.results(execution)] == [
            None,
            None,
            told,
            "python 'a b' '$x'",
            None,
        ]
        assert len(web.starts) == 5


@pytest.mark.parametrize("platform", ["linux", "macos", "bsd", "network", "windows"])
async def test_a_plain_command_that_goes_directly_has_the_variables_of_its_run(
    database: Database, platform: Any
) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1")
        on.targets.targets["1"] = replace(on.targets.targets["1"], platform=platform)
        execution = await on.run("uptime")
        (start,) = web.starts
        assert start.command == "uptime"
        told = {
            "TARGET": "web-1",
            "HOST": "10.0.0.1",
            "EXECUTION": str(execution.id),
            "JOB": "ad-hoc",
            "ATTEMPT": "1",
        }
        if platform in ("network", "windows"):  # there is no POSIX shell to run it
            assert start.program is None
        else:
            assert start.program is not None
            assert start.program.env == {f"OPSJOBS_{name}": value for name, value in told.items()}


def test_each_type_of_action_has_an_executor() -> None:
    assert set(EXECUTORS) == set(FROZEN_TYPES.values())
