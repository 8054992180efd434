"""Pause, resume and approvals over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from api.kit import problem
from api.live import live_api
from kit.scripted_worker import target
from opsjobs.model.approval import ApprovalTerms
from opsjobs.model.errors import Unavailable
from opsjobs.model.execution import RunStatus, WaitingFor
from opsjobs.store.ledger.flush import Flush, RunMove
from opsjobs.store.transaction import Database


async def test_a_paused_execution_starts_nothing_until_it_is_resumed(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.launch(2)
        paused = await api.http.post("/executions/1/pause", json={"reason": "too loud"})
        assert (paused.status_code, paused.json()["status"]) == (200, "paused")
        assert (paused.json()["paused_by"], paused.json()["pause_reason"]) == ("ada", "too loud")
        assert (await api.http.post("/executions/1/pause")).json()["pause_reason"] == "too loud"
        assert await api.scripted.claim() == {}
        assert [
            e["id"] for e in (await api.http.get("/executions?status=paused")).json()["items"]
        ] == [1]
        resumed = await api.http.post("/executions/1/resume")
        assert (resumed.status_code, resumed.json()["status"]) == (200, "queued")
        assert (resumed.json()["paused_by"], resumed.json()["pause_reason"]) == (None, None)
        assert api.notified == ["default"]
        assert set(await api.scripted.claim()) == {"web-1", "web-2"}
        assert (await api.http.post("/executions/1/resume")).json()["status"] == "running"


async def test_an_ended_or_cancelling_execution_is_neither_paused_nor_resumed(
    database: Database,
) -> None:
    async with live_api(database) as api:
        await api.scripted.start()
        await api.http.post("/executions/1/cancel")
        for verb in ("pause", "resume"):
            problem(await api.http.post(f"/executions/1/{verb}"), 409, "execution_cancelling")
        await api.scripted.finish("web-1")
        for verb in ("pause", "resume"):
            problem(await api.http.post(f"/executions/1/{verb}"), 409, "execution_ended")
            problem(
                await api.http.post(f"/executions/9/{verb}", json={"x": 1}),
                404,
                "execution_not_found",
            )


async def test_an_approval_is_listed_and_decided_once(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.launch([target(1)])
        asked = await api.services.ledger.request_approval(
            1, "go", ApprovalTerms("May we?", expires_seconds=3_600)
        )
        pending = (await api.http.get("/approvals?status=pending")).json()["items"]
        assert [
            (a["id"], a["execution_id"], a["action"], a["message"], a["status"]) for a in pending
        ] == [(asked.id, 1, "go", "May we?", "pending")]
        shown = (await api.http.get(f"/approvals/{asked.uuid}")).json()
        assert pending[0] == {field: shown[field] for field in pending[0]}
        assert shown.keys() - pending[0].keys() == {"would_run", "can", "cannot"}
        manager, said = await api.as_role("manager"), {"reason": "all is well"}
        decided = await api.http.post(
            f"/approvals/{asked.uuid}/approve", json=said, headers=manager
        )
        assert (decided.status_code, decided.json()["status"]) == (200, "approved")
        assert (decided.json()["decided_by"], decided.json()["reason"]) == (
            "ben-manager",
            "all is well",
        )
        assert api.notified == ["default"]
        problem(await api.http.post(f"/approvals/{asked.id}/reject"), 409, "approval_decided")
        assert (await api.http.get("/approvals?status=pending")).json()["items"] == []
        assert (await api.http.get("/approvals?execution_id=1&decided_by=ben-manager")).json()[
            "items"
        ] == [decided.json()]


async def test_runs_that_wait_for_a_rejected_approval_are_cancelled(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.launch([target(1)], commands=["a", "b"])
        run = (await api.scripted.claim())["web-1"]
        asked = await api.services.ledger.request_approval(1, "step-1", ApprovalTerms("May we?"))
        waits = RunMove(
            run.id,
            run.execution_id,
            run.target_id,
            run.fence,
            RunStatus.WAITING,
            waiting_for=WaitingFor.APPROVAL,
            awaits="step-1",
        )
        await api.services.ledger.settle(Flush(api.scripted._owner, "worker-1", 1, [waits]))
        assert (
            await api.http.post(f"/approvals/{asked.id}/reject", json={"reason": "not today"})
        ).json()["status"] == "rejected"
        (found,) = (await api.http.get("/executions/1/targets")).json()["items"]
        assert (found["status"], found["error"]["code"]) == ("cancelled", "cancelled")
        assert "not today" in found["error"]["message"]


@pytest.mark.parametrize("path", ["/approvals/9", "/approvals/x"])
async def test_a_missing_approval_is_404(database: Database, path: str) -> None:
    async with live_api(database) as api:
        problem(await api.http.get(path), 404, "approval_not_found")
        problem(
            await api.http.post(f"{path}/approve", json={"nonsense": 1}), 404, "approval_not_found"
        )


async def test_pause_resume_and_approvals_require_permissions(database: Database) -> None:
    async with live_api(database) as api:
        await api.scripted.launch()
        asked = await api.services.ledger.request_approval(1, "go", ApprovalTerms("May we?"))
        viewer, operator, manager = [
            await api.as_role(role) for role in ("viewer", "operator", "manager")
        ]
        for verb in ("pause", "resume"):
            problem(await api.http.post(f"/executions/1/{verb}", headers=viewer), 403, "forbidden")
            assert (
                await api.http.post(f"/executions/1/{verb}", headers=operator)
            ).status_code == 200
        assert (await api.http.get("/approvals", headers=viewer)).status_code == 200
        problem(
            await api.http.post(f"/approvals/{asked.id}/approve", headers=operator),
            403,
            "forbidden",
        )
        assert (
            await api.http.post(f"/approvals/{asked.id}/approve", headers=manager)
        ).status_code == 200


async def test_a_resume_returns_the_failures_that_it_accepts(database: Database) -> None:
    async with live_api(database) as api:
        await api.targets("web-1", "web-2", "web-3")
        policy = {"max_fail": 0, "waves": [2, "100%"], "gate": {"pause_on_fail": True}}
        body = {
            "actions": [{"command": "true"}],
            "targets": {"ids": ["web-1", "web-2", "web-3"]},
            "policy": policy,
        }
        api.scripted.execution_id = (await api.http.post("/run", json=body)).json()["id"]
        await api.scripted.claim()
        await api.scripted.finish("web-1", 3)
        await api.scripted.finish("web-2", 3)
        await api.http.post(
            "/executions/1/resume"
        )  # it checks the results that arrived: it stops because of the failures
        assert (await api.http.get("/executions/1")).json()["waiting_on"]["kind"] == "max_fail"
        resumed = (await api.http.post("/executions/1/resume")).json()
        assert (resumed["status"], resumed["accepted"]) == (
            "running",
            {"failures": 2, "max_fail": 0},
        )
        assert (await api.http.post("/executions/1/resume")).json()["accepted"] is None
        log = (await api.http.get("/executions/1/log")).json()["items"]
        assert [
            (e["data"]["accepts"], e["data"]["max_fail"]) for e in log if "accepts" in e["data"]
        ] == [(2, 0)]


async def test_an_approval_is_shown_while_the_targets_cannot_be_read(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with live_api(database) as api:
        await api.scripted.launch([target(1)])
        terms = ApprovalTerms("May we?", expires_seconds=3_600)
        await api.services.ledger.request_approval(1, "go", terms, hash_="0" * 64, salt=bytes(16))
        reads = []

        async def get_many(ids: Any, **_: Any) -> Any:
            reads.append(ids)
            raise Unavailable("down", detail="The Target Service does not answer now.")

        monkeypatch.setattr(api.services.inventory, "get_many", get_many)
        shown = (await api.http.get("/approvals/1", headers=await api.as_role("admin"))).json()
        gone = {"code": "unavailable", "detail": "The Target Service does not answer now."}
        assert (shown["cannot"]["approve"], shown["cannot"]["override"]) == (gone, gone)
        assert (shown["can"], len(reads)) == (["reject"], 1)
