"""Safety check of firings and child jobs: blocked ones fail, others wait for an approval."""

from __future__ import annotations

import asyncio

import pytest

from engine.harness import harness, until
from engine.test_workflows import step
from kit.ledger_fixtures import says
from kit.schedule_fixtures import ScheduleHarness
from opsjobs.engine.firing import schedule_launch
from opsjobs.engine.launching.safety_service import SafetyService
from opsjobs.model.access import Principal
from opsjobs.model.action import JobAction
from opsjobs.model.approval import ApprovalStatus
from opsjobs.model.errors import Forbidden
from opsjobs.model.execution import ExecutionStatus
from opsjobs.model.job import JobDraft
from opsjobs.model.safety_verdict import Finding, SafetyVerdict
from opsjobs.safety import SafetyQuestion
from opsjobs.sandbox.pool import SafetyCheckPool
from opsjobs.store.executions import Executions
from opsjobs.store.ledger.approvals import Ruling
from opsjobs.store.transaction import Database

SECONDS = 60


async def findings_of(asked: SafetyQuestion) -> tuple[Finding, ...]:
    """Return the verdict that the text contains."""
    found = [
        verdict
        for verdict in (SafetyVerdict.BLOCK, SafetyVerdict.NEEDS_APPROVAL)
        if verdict.value in asked.text
    ]
    return tuple(
        Finding(f"is-{v.value.replace('_', '-')}", v, "It says so.", asked.text) for v in found
    )


async def test_a_firing_blocked_by_the_safety_check_fails_and_one_that_needs_an_approval_waits(
    database: Database,
) -> None:
    scheduling = ScheduleHarness(database)
    scheduling.launcher.safety = SafetyService(findings_of, scheduling.inventory, scheduling.clock)
    for verdict in ("block", "needs_approval", "allow"):
        job = await scheduling.job(
            verdict, actions=[{"type": "command", "command": f"echo {verdict}"}]
        )
        await scheduling.schedule(job, verdict, overlap="allow")
    await scheduling.turn(minutes=1)
    await scheduling.scheduler().run_once()
    rows = await database.fetch(
        "select s.name, f.status, f.rule, f.reason, e.status as execution, e.id from schedule_executions f "
        "join job_schedules s on s.id = f.schedule_id left join job_executions e on e.id = f.execution_id order by s.id"
    )
    assert [(r["name"], r["status"], r["execution"]) for r in rows] == [
        ("block", "failed", None),
        ("needs_approval", "triggered", "pending_approval"),
        ("allow", "triggered", "queued"),
    ]
    assert (rows[0]["rule"], rows[0]["reason"].startswith("safety_blocked: ")) == ("refused", True)
    waiting = await Executions(database).get(rows[1]["id"])
    assert (waiting.judgement or {})["verdict"] == "needs_approval"
    await scheduling.ledger.decide((waiting.waiting_on or {})["approval"], says("ben"))
    assert (await Executions(database).get(waiting.id)).status is ExecutionStatus.QUEUED


async def test_the_owner_of_a_schedule_cannot_approve_its_executions(database: Database) -> None:
    scheduling = ScheduleHarness(database)
    job = await scheduling.job(policy={"approval": {"approvers": 1}})
    await scheduling.schedule(job, owner="ada")
    await scheduling.turn(minutes=1)
    await scheduling.scheduler().run_once()
    (row,) = await database.fetch("select id from approvals")
    with pytest.raises(Forbidden):
        await scheduling.ledger.decide(row["id"], Ruling(Principal("ada", "api_key", ()), True))
    assert (
        await scheduling.ledger.decide(row["id"], says("ben"))
    ).status is ApprovalStatus.APPROVED


async def test_a_child_job_is_blocked_or_waits_for_an_approval_by_the_safety_check(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        on.machine("web-1")
        on.launcher.safety = SafetyService(findings_of, on.targets, on.clock)
        for verdict in ("block", "needs_approval"):
            actions = [{"type": "command", "command": f"echo {verdict}"}]
            await on.jobs.create(
                JobDraft.model_validate(
                    {"name": verdict, "actions": actions, "targets": {"ids": ["web-1"]}}
                ),
                "ada",
            )
        blocked = await on.launch([JobAction(key="inner", job="block")])
        assert (await on.ended(blocked, SECONDS)).counts == {"blocked": 1}
        outer = await on.launch([JobAction(key="inner", job="needs_approval"), step("after")])

        async def asked() -> bool:
            return bool(await database.fetch("select from approvals"))

        await until(asked, SECONDS)
        (row,) = await database.fetch("select id from approvals")
        await on.ledger.decide(row["id"], says("ben", False, "not today"))
        ended = await on.ended(outer, SECONDS)
        assert ended.counts == {"cancelled": 1}


async def test_a_firing_with_an_unjudged_text_fails_and_is_not_retried(
    database: Database,
) -> None:
    scheduling = ScheduleHarness(database)
    judged: list[str] = []

    async def unable(asked: SafetyQuestion) -> tuple[Finding, ...]:
        judged.append(asked.text)
        return (
            Finding(
                "unjudged",
                SafetyVerdict.NEEDS_APPROVAL,
                "Checking it takes more time than one text may take.",
                asked.text,
            ),
        )

    scheduling.launcher.safety = SafetyService(unable, scheduling.inventory, scheduling.clock)
    schedule = await scheduling.schedule(
        await scheduling.job(actions=[{"type": "command", "command": "echo x"}])
    )
    await scheduling.turn(minutes=1)
    await scheduling.scheduler().run_once()
    (row,) = await scheduling.rows(schedule)
    assert (row["status"], row["rule"], row["execution_id"]) == ("failed", "refused", None)
    assert (
        row["reason"]
        == "the safety check has no result for it: unjudged: Checking it takes more time than one text may take (echo x)"
    )
    assert await scheduling.scheduler().run_once() == {}
    assert judged == ["echo x"]


async def test_a_firing_with_a_hostile_parameter_fails_alone(
    database: Database,
) -> None:
    scheduling = ScheduleHarness(database)
    pool = SafetyCheckPool()
    try:
        scheduling.launcher.safety = SafetyService(
            pool.check, scheduling.inventory, scheduling.clock
        )
        wipe = await scheduling.job(
            "wipe",
            actions=[{"type": "command", "command": "rm -f $OPSJOBS_PARAM_P"}],
            parameters=[{"name": "p", "type": "string", "default": "x"}],
        )
        hostile = await scheduling.schedule(wipe, "hostile", parameters={"p": "*" * 1_500})
        plain = await scheduling.schedule(await scheduling.job("plain"), "plain")
        await scheduling.turn(minutes=1)
        scheduler = scheduling.scheduler()
        await scheduler.run_once()
        if any(
            row["status"] == "pending" for row in await scheduling.rows()
        ):  # a busy machine: there was no time left for them
            await scheduling.turn(seconds=20)
            await scheduler.run_once()
        assert [row["status"] for row in await scheduling.rows(plain)] == ["triggered"]
        (row,) = await scheduling.rows(hostile)
        assert row["status"] in ("triggered", "failed")
        if row["status"] == "triggered":
            assert (
                await Executions(database).get(row["execution_id"])
            ).status is ExecutionStatus.PENDING_APPROVAL
    finally:
        await asyncio.to_thread(pool.close)


async def test_a_slow_firing_defers_only_those_of_its_job(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule_launch, "PREPARE_SECONDS", 8.0)
    scheduling = ScheduleHarness(database)
    never = asyncio.Event()

    async def slow(asked: SafetyQuestion) -> tuple[Finding, ...]:
        if "slow" in asked.text:
            await never.wait()
        return ()

    scheduling.launcher.safety = SafetyService(slow, scheduling.inventory, scheduling.clock)
    for name in ("slow", "first", "last"):
        job = await scheduling.job(name, actions=[{"type": "command", "command": name}])
        await scheduling.schedule(job, name)
        if name != "last":
            await scheduling.schedule(job, f"{name} again")
    await scheduling.turn(minutes=1)
    await scheduling.scheduler().run_once()
    rows = await database.fetch(
        "select s.name, f.status, f.reason from schedule_executions f join job_schedules s on s.id = f.schedule_id order by s.id"
    )
    words = "it was not prepared within 8 s"
    assert [tuple(row.values()) for row in rows] == [
        ("slow", "pending", words),
        ("slow again", "pending", words),
        ("first", "triggered", None),
        ("first again", "triggered", None),
        ("last", "triggered", None),
    ]
