"""Target pinning: changed targets do not run what was approved, and are checked again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from engine.harness import Harness, harness
from engine.test_passive_actions import waits
from engine.test_workflows import step
from kit.fake_remote import Gate
from kit.ledger_fixtures import says
from kit.schedule_fixtures import ScheduleHarness
from opsjobs.engine.launching.retries import RetryService
from opsjobs.engine.launching.safety_service import SafetyService
from opsjobs.model.action import ApprovalAction, FileTransferAction, JobAction
from opsjobs.model.execution import ExecutionStatus
from opsjobs.model.identity import Identity
from opsjobs.model.job import JobDraft
from opsjobs.model.retry_request import RetryDraft, Which
from opsjobs.model.safety_verdict import Finding, SafetyVerdict
from opsjobs.model.selection import SelectionDraft
from opsjobs.model.target import HostKeyPolicy, Target
from opsjobs.remote.session import RemoteExit
from opsjobs.safety import SafetyQuestion
from opsjobs.store.transaction import Database

APPROVED: dict[str, Any] = {"approval": {"approvers": 1}}


def move(on: Harness, name: str = "web-1", **changed: Any) -> Target:
    """Change a machine as the inventory does."""
    (old,) = [target for target in on.targets.targets.values() if target.name == name]
    on.targets.targets[old.id] = new = replace(old, version=old.version + 1, **changed)
    return new


async def approve(on: Harness) -> None:
    """Approve the pending request."""
    (asked,) = await on.database.fetch("select id from approvals where status = 'pending'")
    await on.ledger.decide(asked["id"], says("ben", True, None))
    on.notify("default")


async def guarded(asked: SafetyQuestion) -> tuple[Finding, ...]:
    """Block in production; require an approval for `env=border`."""
    found = {"env=prod": SafetyVerdict.BLOCK, "env=border": SafetyVerdict.NEEDS_APPROVAL}
    return tuple(
        Finding("where", v, "It says so.", asked.text)
        for label, v in found.items()
        if label in asked.context.labels
    )


CHANGES: list[tuple[dict[str, Any], bool]] = [
    ({"host": "10.6.6.6"}, False),
    ({"port": 2222}, False),
    ({"credential": "7"}, False),
    ({"labels": {"env": "prod"}}, False),
    ({"host_keys": ["ssh-ed25519 AAAA"]}, False),
    ({"host_key_policy": HostKeyPolicy.UNCHECKED}, False),
    ({"platform": "windows"}, False),
    ({"jump": "2"}, False),
    ({"groups": ["web"], "slots": 3, "durable": "off"}, True),
]


async def test_an_approved_run_is_not_started_on_a_changed_target(
    database: Database,
) -> None:
    async with harness(database) as on:
        names = [f"web-{n}" for n, _ in enumerate(CHANGES, start=1)]
        machines = [on.machine(name) for name in names]
        execution = await on.launch("reboot", names, **APPROVED)
        await approve(on)
        for name, (changed, _) in zip(names, CHANGES, strict=True):
            move(on, name, **changed)
        async with on.worker():
            await on.ended(execution)
        rows = await on.rows(execution)
        good = [fine for _, fine in CHANGES]
        assert [(r["status"], r["error_code"]) for r in rows] == [
            ("succeeded", None) if fine else ("blocked", "target_changed") for fine in good
        ]
        assert [bool(machine.starts) for machine in machines] == good
        assert "version 1 then, 2 now" in rows[0]["error_message"]


async def test_a_changed_jump_host_blocks_an_approved_run(
    database: Database,
) -> None:
    async with harness(database) as on:
        web, gate = on.machine("web-1"), on.targets.add("web-9")
        on.targets.targets["1"] = replace(on.targets.targets["1"], jump=gate.id)
        execution = await on.launch("reboot", **APPROVED)
        await approve(on)
        move(on, "web-9", host="10.6.6.6")
        async with on.worker():
            await on.ended(execution)
        assert ((await on.row(execution))["error_code"], web.starts) == ("target_changed", [])


async def test_the_first_host_key_of_accept_new_is_no_change(
    database: Database,
) -> None:
    async with harness(database) as on:
        web = on.machine("web-1")
        on.targets.targets["1"] = replace(
            on.targets.targets["1"], host_key_policy=HostKeyPolicy.ACCEPT_NEW
        )
        execution = await on.launch("reboot", **APPROVED)
        await approve(on)
        move(on, host_keys=["ssh-ed25519 AAAA"])
        async with on.worker():
            assert (await on.ended(execution)).status is ExecutionStatus.COMPLETED
        assert len(web.starts) == 1


async def test_after_the_approval_of_a_step_nothing_starts_on_a_changed_target(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1")
        execution = await on.launch([step("before"), ApprovalAction(key="ask"), step("after")])
        await waits(on, execution, "approval")
        move(on, labels={"env": "prod"})
        await approve(on)
        await on.ended(execution)
        assert (await on.row(execution))["error_code"] == "target_changed"
        assert [start.command for start in web.starts] == ["before"]


@pytest.mark.parametrize("moved", [False, True])
async def test_a_child_job_runs_only_on_the_approved_targets(
    database: Database, moved: bool
) -> None:
    async with harness(database) as on, on.worker():
        gate = Gate(asyncio.Event())
        web = on.machine("web-1").reply([gate, RemoteExit(0)], to="before")
        await on.jobs.create(
            JobDraft.model_validate({"name": "inner", "actions": [{"command": "inner"}]}), by="ada"
        )
        execution = await on.launch([step("before"), JobAction(key="run", job="inner")], **APPROVED)
        await approve(on)
        await asyncio.wait_for(gate.reached.wait(), 60)
        # while the run that launches it is active: its own machine was compared with the pin long
        # before
        if moved:
            move(on, host="10.6.6.6")
        gate.event.set()
        await on.ended(execution)
        row = await on.row(execution)
        assert (row["status"], row["error_code"]) == (
            ("blocked", "target_changed") if moved else ("succeeded", None)
        )
        assert [start.command for start in web.starts] == (
            ["before"] if moved else ["before", "inner"]
        )


@pytest.mark.parametrize("how", ["unchanged", "moved", "another"])
async def test_a_step_with_its_own_targets_runs_on_the_pinned_ones(
    database: Database, how: str
) -> None:
    async with harness(database) as on:
        on.machine("web-1")
        db = on.machine("db-1")
        await on.jobs.create(
            JobDraft.model_validate({"name": "inner", "actions": [{"command": "inner"}]}), by="ada"
        )
        execution = await on.launch(
            [JobAction(key="run", job="inner", targets=SelectionDraft(ids=["db-1"]))], **APPROVED
        )
        await approve(on)
        if how == "moved":
            move(on, "db-1", host="10.6.6.6")
        elif how == "another":  # another machine matches the selection by now
            machine = on.targets.targets.pop("db-1")
            on.targets.targets["db-9"] = replace(machine, id="db-9")
        async with on.worker():
            await on.ended(execution)
        row = await on.row(execution)
        good = how == "unchanged"
        assert (row["status"], row["error_code"]) == (
            ("succeeded", None) if good else ("blocked", "target_changed")
        )
        assert [start.command for start in db.starts] == ["inner"] * good


async def test_a_child_job_of_an_approved_one_is_pinned_at_its_own_launch(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        on.machine("web-1")
        on.targets.add("web-2", zone="far")
        await on.jobs.create(
            JobDraft.model_validate({"name": "inner", "actions": [{"command": "inner"}]}), by="ada"
        )
        far = JobAction(key="run", job="inner", targets=SelectionDraft(ids=["web-2"]))
        execution = await on.launch([far], **APPROVED)
        await approve(on)
        await waits(on, execution, "child")
        move(on, "web-2", port=2222)
        async with on.worker("worker-2", zone="far"):
            await on.ended(execution)
        (row,) = await database.fetch("select error_code from target_runs where target_id = '2'")
        assert (row["error_code"], on.sessions.machine("web-2").starts) == ("target_changed", [])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"labels": {"env": "prod"}}, "the safety check blocks it"),
        ({"labels": {"env": "border"}}, "the safety check asks"),
        ({"labels": {"env": "staging"}}, None),
        ({"host": "10.0.0.7"}, None),
    ],
)
async def test_a_changed_target_is_judged_again_and_a_new_address_is_followed(
    database: Database, changed: dict[str, Any], words: str | None
) -> None:
    async with harness(database) as on:
        web = on.machine("web-1")
        on.launcher.safety = SafetyService(guarded, on.targets, on.clock)
        execution = await on.launch("ping ${target.host}")
        new = move(on, **changed)
        async with on.worker():
            await on.ended(execution)
        row = await on.row(execution)
        assert (row["error_code"], words is None or words in row["error_message"]) == (
            words and "target_changed",
            True,
        )
        assert [start.command for start in web.starts] == ([] if words else [f"ping '{new.host}'"])


async def test_firings_pin_their_targets(database: Database) -> None:
    scheduling = ScheduleHarness(database)
    scheduling.launcher.safety = SafetyService(guarded, scheduling.inventory, scheduling.clock)
    ask = [{"type": "approval", "key": "ask"}, {"type": "command", "command": "true"}]
    for name, actions in (("plain", ask[1:]), ("asked", ask)):
        await scheduling.schedule(
            await scheduling.job(name, actions=actions), name, overlap="allow"
        )
    await scheduling.turn(minutes=1)
    await scheduling.scheduler().run_once()
    specs = await scheduling.ledger.load_specs([1, 2])
    assert [(specs[n].pins.version(1), bool(specs[n].pins.digest(1))) for n in (1, 2)] == [
        (1, False),
        (1, True),
    ]
    assert [specs[n].total for n in (1, 2)] == [1, 1]


async def test_a_takeover_follows_a_running_command_and_starts_nothing_on_a_changed_target(
    database: Database,
) -> None:
    async with harness(database) as on:
        gate = Gate(asyncio.Event())
        web = on.machine("web-1").reply([gate, RemoteExit(0)], to="work")
        async with on.worker("worker-1"):
            execution = await on.launch(["work", "after"], durable="auto", **APPROVED)
            await approve(on)
            await asyncio.wait_for(gate.reached.wait(), 60)
        move(on, port=2222)
        gate.event.set()
        async with on.worker("worker-2"):
            await on.ended(execution)
        row = await on.row(execution)
        assert (row["status"], row["error_code"], row["worker"]) == (
            "blocked",
            "target_changed",
            "worker-2",
        )
        assert [start.command for start in web.starts] == ["work"]
        assert [result["status"] for result in await on.results(execution)] == [
            "succeeded",
            "blocked",
        ]


async def test_a_takeover_does_not_start_an_unstarted_command_on_a_changed_target(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker("worker-1", lease_seconds=600):
        web = on.machine("web-1").reply([RemoteExit(0)], to="before")
        await on.run("before", durable="auto")
        web.reboot()
        web.up_seconds = 3600.0
        web.connect_gate = gate = Gate(asyncio.Event())
        execution = await on.launch("work", durable="auto", **APPROVED)
        await approve(on)
        await asyncio.wait_for(gate.reached.wait(), 60)
        web.connect_gate = None
        move(on, port=2222)
        async with on.worker("worker-2"):
            await on.bury("worker-1")
            await on.ended(execution)
            gate.event.set()
        row = await on.row(execution)
        assert (row["status"], row["error_code"], row["worker"]) == (
            "blocked",
            "target_changed",
            "worker-2",
        )
        assert [start.command for start in web.starts] == ["before"]


async def test_a_transfer_is_blocked_on_a_changed_target_and_a_retry_needs_a_new_approval(
    database: Database,
) -> None:
    async with harness(database) as on:
        web = on.machine("web-1")
        fetch = FileTransferAction(key="fetch", direction="download", source="/etc/hosts")
        execution = await on.launch([fetch], **APPROVED)
        await approve(on)
        move(on, host="10.6.6.6")
        again = RetryService(on.launcher, database=database, ledger=on.ledger, targets=on.targets)
        async with on.worker():
            await on.ended(execution)
            assert ((await on.row(execution))["error_code"], web.connects) == ("target_changed", 0)
            retried = (
                await again.retry(
                    str(execution.id),
                    RetryDraft(which=Which.NOT_STARTED),
                    requested_by=Identity("api_key", "ada"),
                )
            ).execution
            assert retried is not None
            assert retried.status is ExecutionStatus.PENDING_APPROVAL
            await approve(on)
            await on.ended(retried)
            assert ((await on.row(retried))["error_code"], web.connects) == ("transfer", 1)
