"""Launches that wait for an approval.

They hold nothing, start once, and end once, whatever is decided concurrently.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import psycopg
import pytest

from kit.ledger_fixtures import Owner, faults, launch, machines, read, says
from opsjobs.model.access import Grant, Principal, Requester, Scope
from opsjobs.model.approval import Approval, ApprovalStatus, ApprovalTerms, Author
from opsjobs.model.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from opsjobs.model.execution import ExecutionStatus
from opsjobs.model.identity import Identity
from opsjobs.model.policy import Policy, Strategy
from opsjobs.model.run_views import Execution
from opsjobs.store.approvals import Approvals
from opsjobs.store.execution_log import ExecutionLog
from opsjobs.store.ledger import Ledger, approvals
from opsjobs.store.ledger.approval_rows import PendingApproval, load_all_authors
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.transaction import Connection, Database

HASH = "ab" * 32


async def asked(
    database: Database, count: int = 3, *, needed: int = 1, **more: Any
) -> tuple[Execution, Approval]:
    """Return an execution that waits for this many approvers."""
    approval = PendingApproval(ApprovalTerms("the job asks for it", needed, 60), HASH, b"salt")
    execution = await launch(
        database,
        machines(count),
        approval=approval,
        requester=Requester("ada", "user", "ada"),
        **more,
    )
    (approval,) = [a for a in await all_of(database) if a.execution_id == execution.id]
    return execution, approval


async def all_of(database: Database) -> list[Approval]:
    """Return every approval."""
    rows = await database.fetch("select id from approvals order by id")
    return [await Approvals(database).get(row["id"]) for row in rows]


async def turn(database: Database, seconds: float) -> None:
    """Advance the clock that all processes share."""
    async with database.connection() as connection:
        await connection.execute(
            "update opsjobs_clock set shift = shift + make_interval(secs => %s)", [seconds]
        )


async def row(database: Database, execution: Execution) -> dict[str, Any]:
    """Return the row of the execution."""
    found = await database.fetch_one("select * from job_executions where id = %s", [execution.id])
    assert found is not None
    return dict(found)


async def test_a_pending_launch_holds_no_slots_and_starts_with_its_approval(
    database: Database,
) -> None:
    names = {"names": ["web-lb"]}
    execution, approval = await asked(
        database, window=2, timeout_seconds=100, hold_seconds=5, **names
    )
    other = await launch(database, machines(1), **names)
    assert (execution.status, (execution.waiting_on or {})["approval"]) == (
        ExecutionStatus.PENDING_APPROVAL,
        approval.id,
    )
    owner, ledger = Owner(database), Ledger(database)
    await Reconciler(database).run_once()
    await Reconciler(database).recount()
    claimed = (await owner.claim()).runs
    assert [run.execution_id for run in claimed] == [other.id], (
        "neither is its name held, nor is a run of it ready"
    )
    await owner.finish(claimed)
    assert (await row(database, execution))["deadline_at"] is None
    await turn(database, 50)
    decided = await ledger.decide(approval.id, says("ben", hash=HASH))
    assert (decided.status, [d.by for d in decided.decisions]) == (ApprovalStatus.APPROVED, ["ben"])
    begun = await row(database, execution)
    left = (begun["deadline_at"] - begun["created_at"]).total_seconds()
    assert (begun["status"], begun["window"], begun["named"], left > 145) == (
        "queued",
        2,
        True,
        True,
    )
    assert begun["hold_until"] is not None
    while runs := (await owner.claim()).runs:
        await owner.finish(runs)
    assert (await read(database, execution)).status is ExecutionStatus.COMPLETED
    entries = [
        e.body
        for e in await ExecutionLog(database).read(execution.id)
        if e.event == "status" and e.body is not None
    ]
    assert [body["status"] for body in entries if "execution" in body] == [
        "pending_approval",
        "queued",
        "running",
        "completed",
    ]
    assert await faults(database) == []


async def test_waves_of_an_approved_launch_open_as_of_any_other(database: Database) -> None:
    policy = Policy.model_validate({"waves": [1, "100%"], "max_fail": 0})
    execution, approval = await asked(database, 3, strategy=Strategy.from_policy(policy, [1, 3]))
    owner, ledger = Owner(database), Ledger(database)
    await Reconciler(database).recount()
    assert (await read(database, execution)).waves == {"open": 1, "total": 2}
    await ledger.decide(approval.id, says("ben"))
    for size in (1, 2):
        runs = (await owner.claim()).runs
        assert len(runs) == size
        await owner.finish(runs)
    assert (await read(database, execution)).status is ExecutionStatus.COMPLETED
    assert await faults(database) == []


@pytest.mark.parametrize("how", ["reject", "expire", "cancel", "die"])
async def test_a_launch_that_is_not_approved_ends_without_starting(
    database: Database, how: str
) -> None:
    execution, approval = await asked(database)
    ledger = Ledger(database)
    if how == "reject":
        await ledger.decide(approval.id, says("ben", False, "not today"))
    elif how == "expire":
        await turn(database, 61)
        assert (await Reconciler(database).run_once())["approvals_expired"] == 1
    elif how == "cancel":
        await ledger.cancel(execution.id, by="ada", reason=None)
        await Reconciler(database).run_once()
    else:  # the process that rejected it died before the end
        async with database.connection() as connection:
            await connection.execute(
                "update approvals set status = 'rejected', decided_at = now(), decided_by = 'ben'"
            )
        assert (await Reconciler(database).run_once())["unbegun_ended"] == 1
    ended = await read(database, execution)
    status, count = ("cancelled", "cancelled") if how == "cancel" else ("rejected", "skipped")
    assert (ended.status.value, ended.counts, ended.started_at) == (status, {count: 3}, None)
    (decided,) = await all_of(database)
    assert (
        decided.status.value
        == {"reject": "rejected", "expire": "expired", "cancel": "cancelled", "die": "rejected"}[
            how
        ]
    )
    if how == "reject":
        assert ended.halt_reason == "the execution was rejected by ben: not today"
    with pytest.raises(Conflict) as refused:
        await ledger.decide(approval.id, says("eve"))
    assert refused.value.code == "approval_decided"
    events = [
        r["type"]
        for r in await database.fetch(
            "select type from events where execution_id = %s", [execution.id]
        )
    ]
    assert (f"execution.{status}" in events, "execution.queued" in events) == (True, False)
    assert await faults(database) == []


async def test_an_approval_counts_different_people_once_each(database: Database) -> None:
    execution, approval = await asked(database, needed=2)
    ledger = Ledger(database)
    with pytest.raises(Forbidden) as own:
        await ledger.decide(approval.id, says("ada"))
    assert (own.value.code, "safety:override" in own.value.detail) == ("self_approval", True)
    assert (await ledger.decide(approval.id, says("ben"))).status is ApprovalStatus.PENDING
    with pytest.raises(Conflict) as twice:
        await ledger.decide(approval.id, says("ben"))
    assert twice.value.code == "approved_already"
    with pytest.raises(Conflict) as other:
        await ledger.decide(approval.id, says("eve", hash="cd" * 32))
    assert other.value.code == "approval_changed"
    assert (await read(database, execution)).status is ExecutionStatus.PENDING_APPROVAL
    assert (await ledger.decide(approval.id, says("eve"))).status is ApprovalStatus.APPROVED
    with pytest.raises(NotFound):
        await ledger.decide(10**9, says("eve"))
    with pytest.raises(Forbidden):
        await ledger.decide(
            (await asked(database))[1].id, says("ada", True, "alone here", override=True)
        )
    kept = await database.fetch(
        "select actor, action, thing_id, after -> 'hash' as hash from audit_log where thing = "
        "'approval' order by id"
    )
    assert [(k["action"], k["hash"]) for k in kept] == [("approval.approved", HASH)] * 2


async def test_an_approver_may_change_to_a_rejection(database: Database) -> None:
    execution, approval = await asked(database, needed=2)
    ledger = Ledger(database)
    await ledger.decide(approval.id, says("ben"))
    assert (
        await ledger.decide(approval.id, says("ben", False, "on second thoughts"))
    ).status is ApprovalStatus.REJECTED
    assert (await read(database, execution)).status is ExecutionStatus.REJECTED


async def test_an_approved_launch_of_a_paused_job_does_not_start(database: Database) -> None:
    execution, approval = await asked(database)
    async with database.connection() as connection:
        job = (
            "insert into jobs (uuid, name, state, created_by) values (gen_random_uuid(), 'a', "
            "'paused', 'ada') returning id"
        )
        await connection.execute(
            f"with job as ({job}) update job_executions e set job_id = job.id from job"
        )
    with pytest.raises(Conflict) as refused:
        await Ledger(database).decide(approval.id, says("ben"))
    assert refused.value.code == "job_is_paused"
    assert (await read(database, execution)).status is ExecutionStatus.PENDING_APPROVAL
    assert (await Approvals(database).get(approval.id)).decisions == ()


async def test_a_database_check_refuses_running_before_the_approval(database: Database) -> None:
    execution, _ = await asked(database)
    for change in ('"window" = 5', "started_at = now()", "ready = 1, waiting = 2"):
        with pytest.raises(psycopg.errors.CheckViolation):
            async with database.connection() as connection:
                await connection.execute(
                    f"update job_executions set {change} where id = {execution.id}"
                )  # type: ignore[call-overload]
    with pytest.raises(Conflict) as refused:
        await Ledger(database).pause(execution.id, by="ada", reason=None)
    assert refused.value.code == "execution_pending"


async def outcome(verb: Awaitable[Any]) -> str:
    """Return the outcome: a status, the code of a refusal, or done."""
    try:
        done = await verb
    except (Conflict, Forbidden, Invalid) as refused:
        return refused.code
    return str(done.status.value) if isinstance(done, Approval) else "done"


async def test_two_concurrent_approvals_count_as_two_and_start_it_once(database: Database) -> None:
    for _ in range(10):
        execution, approval = await asked(database, needed=2)
        ledger = Ledger(database)
        said = await asyncio.gather(
            *(outcome(ledger.decide(approval.id, says(name))) for name in ("ben", "eve", "ben"))
        )
        assert sorted(said) in (
            ["approved", "approved_already", "pending"],
            ["approval_decided", "approved", "pending"],
        ), said
        entries = [
            e.body
            for e in await ExecutionLog(database).read(execution.id)
            if e.event == "status" and e.body is not None
        ]
        assert [body["status"] for body in entries] == ["pending_approval", "queued"]
    told = await database.fetch(
        "select count(*) as n from events where type = 'approval.decided' group by subject"
    )
    assert [t["n"] for t in told] == [1] * 10
    assert await faults(database) == []


async def test_of_concurrent_approve_reject_expire_and_cancel_one_wins(database: Database) -> None:
    seen = set()
    for n in range(16):
        execution, approval = await asked(database)
        ledger, owner = Ledger(database), Owner(database)
        if n % 2:
            await turn(database, 60 if n % 4 == 1 else 61)
        approve = ledger.decide(approval.id, says("ben"))
        others = [
            ledger.decide(approval.id, says("eve", False)),
            ledger.cancel(execution.id, by="ada", reason=None),
        ]
        said = await asyncio.gather(
            *map(outcome, [approve, others[n // 2 % 2], Reconciler(database).run_once()])
        )  # type: ignore[list-item]
        others[1 - n // 2 % 2].close()
        while runs := (await owner.claim()).runs:
            await owner.finish(runs)
        await Reconciler(database).run_once()
        ended, decided = await read(database, execution), await Approvals(database).get(approval.id)
        begun = said[0] == "approved"
        seen.add((ended.status.value, decided.status.value))
        assert (ended.started_at is not None) <= begun, (said, ended)
        assert ended.status.final, (said, ended)
        assert (decided.status is ApprovalStatus.APPROVED) == begun, (said, decided)
        if not begun:
            assert set(ended.counts) <= {"skipped", "cancelled"}
    assert len(seen) > 1, "the race has more than one winner"
    assert await faults(database) == []


async def test_only_what_is_within_reach_counts_for_the_limit_of_a_list(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approvals, "PENDING_READ_MAX", 1)
    (staging, wanted), (other, _) = await asked(database), await asked(database)
    async with database.connection() as connection:
        await connection.execute(
            "update execution_specs set labels = jsonb_build_object('env', "
            "case execution_id when %s then 'staging' when %s then 'prod' end)",
            [staging.id, other.id],
        )
    grant = Grant.of_role("manager", Scope.parse("env=staging"))
    ben = Principal("ben", "user", (grant,), ("manager",), "ben")
    assert await Ledger(database).find_approvable(ben, no_person) == [wanted.id]


async def test_authors_and_approvers_of_all_pending_approvals_are_read_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []

    async def load(connection: Connection, executions: Sequence[int]) -> dict[int, list[Author]]:
        reads.append(len(executions))
        return await load_all_authors(connection, executions)

    monkeypatch.setattr(approvals, "load_all_authors", load)
    script = await launch(database, machines(1), requester=Requester("ben", "user", "ben"))
    (part, written), (_, second), (_, free) = [
        await asked(database),
        await asked(database, needed=2),
        await asked(database),
    ]
    async with database.connection() as connection:
        await connection.execute(
            "update execution_specs set parent_id = %s where execution_id = %s",
            [script.id, part.id],
        )
    ledger = Ledger(database)
    await ledger.decide(second.id, says("eve"))
    assert await ledger.find_approvable(says("ben").principal, no_person) == [free.id, second.id]
    assert await ledger.find_approvable(says("eve").principal, no_person) == [free.id, written.id]
    assert reads == [3, 3]


async def no_person(identity: Identity) -> None:
    """A requester without a person."""


async def test_a_requester_that_cannot_be_looked_up_hides_only_its_approvals(
    database: Database,
) -> None:
    for _ in range(2):
        first, _ = await asked(database)
        async with database.connection() as connection:
            await connection.execute(
                "update execution_specs set requester = null where execution_id = %s", [first.id]
            )
    _, known = await asked(database)
    open_transactions = []

    async def find(identity: Identity) -> Requester | None:
        open_transactions.extend(
            await database.fetch(
                "select pid from pg_stat_activity where datname = current_database() "
                "and state = 'idle in transaction'"
            )
        )
        calls.append(identity.name)
        raise Unavailable("the User Service does not answer")

    calls = list[str]()
    ben = says("ben").principal
    assert await Ledger(database).find_approvable(ben, find) == [known.id]
    assert (calls, open_transactions) == (["ada"], [])
