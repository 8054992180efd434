"""`can` and `cannot` of single objects agree with the responses to the requests themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2

from opsjobs.store.transaction import Database
from security.app_with_approvers import AppWithApprovers, app_with_approvers

REQUESTS: Mapping[str, tuple[str, str, Mapping[str, Any] | None]] = {
    "approve": ("POST", "/approve", {}),
    "reject": ("POST", "/reject", {}),
    "override": ("POST", "/approve", {"override_safety": True, "reason": "alone tonight"}),
    "cancel": ("POST", "/cancel", {}),
    "pause": ("POST", "/pause", {}),
    "resume": ("POST", "/resume", {}),
    "retry": ("POST", "/retry", {"which": "unsuccessful"}),
    "execute": ("POST", "/execute", {}),
    "update": ("PATCH", "", {}),
    "clone": ("POST", "/clone", {}),
    "delete": ("DELETE", "", None),
    "add_schedule": ("POST", "/schedules", {"type": "cron", "cron": "0 3 * * *"}),
    "add_trigger": ("POST", "/triggers", {"name": "from-ci"}),
    "trigger": ("POST", "/trigger", {}),
    "test": ("POST", "/test", None),
    "scan_host_keys": ("POST", "/scan-host-keys", None),
    "maintain": ("POST", "/maintenance", {}),
    "rotate": ("POST", "/rotate", {"password": "another of-the-canary"}),
    "bind": ("PUT", "/bound-to", {"targets": ["web-1"]}),
    "enable": ("POST", "/enable", None),
    "disable": ("POST", "/disable", None),
}
"""The method, the path below the object, and the body of each action."""
ELSEWHERE = {"reset_circuits"}
"""Actions whose URL is not below the object."""


async def action_codes(
    on: AppWithApprovers, path: str, who: Mapping[str, str]
) -> dict[str, str | None]:
    """Return each action of `can` and `cannot`, with the code of its refusal."""
    answer = await on.http.get(path, headers=who)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert not {*body["can"]} & {*body["cannot"]}
    refused = {action: why["code"] for action, why in body["cannot"].items()}
    return {**dict.fromkeys(body["can"]), **refused}


async def attempt(
    on: AppWithApprovers, path: str, action: str, who: Mapping[str, str]
) -> httpx2.Response:
    method, below, body = REQUESTS[action]
    return await on.http.request(method, path + below, json=body, headers=who)


async def change_machine(on: AppWithApprovers, **change: Any) -> None:
    """Change web-1, on which everything runs."""
    (target,) = (await on.http.get("/targets?name=web-1")).json()["items"]
    answer = await on.http.patch(f"/targets/{target['id']}", json=change)
    assert answer.status_code == 200, answer.text


async def refusals_agree(on: AppWithApprovers, path: str, who: Mapping[str, str]) -> None:
    """Send the refused actions: each is refused, with the same code and message."""
    body = (await on.http.get(path, headers=who)).json()
    for action, why in body["cannot"].items():
        if action in ELSEWHERE:
            continue
        answer = (await attempt(on, path, action, who)).json()
        assert (answer["code"], answer["detail"]) == (why["code"], why["detail"]), action


async def test_who_may_decide_an_approval_is_told_as_the_decision_would_be(
    database: Database,
) -> None:
    async with app_with_approvers(database) as on:
        job = await on.job(policy={"approval": {"approvers": 2}})
        await on.execute(job)
        path = "/approvals/1"
        viewer = {
            "Authorization": "Bearer " + await on.services.identities.create_key("vic", "viewer")
        }
        assert await action_codes(on, path, on.ada) == {
            "approve": "self_approval", "reject": None, "override": None,
        }  # fmt: skip
        assert await action_codes(on, path, on.ben) == {"approve": None, "reject": None}
        assert await action_codes(on, path, viewer) == {}, "what a role never may is in neither"
        for who in (on.ada, on.ben, viewer):
            await refusals_agree(on, path, who)
        assert (await attempt(on, path, "approve", on.ben)).status_code == 200
        assert await action_codes(on, path, on.ben) == {
            "approve": "approved_already",
            "reject": None,
        }
        await refusals_agree(on, path, on.ben)
        assert await action_codes(on, path, on.eve) == {"approve": None, "reject": None}
        assert (await attempt(on, path, "approve", on.eve)).status_code == 200
        for who in (on.ada, on.ben, on.eve):
            assert set((await action_codes(on, path, who)).values()) == {"approval_decided"}
            await refusals_agree(on, path, who)


async def test_an_approval_of_what_has_changed_is_told_to_have_expired_and_is_not_closed_by_that(
    database: Database,
) -> None:
    async with app_with_approvers(database) as on:
        await on.execute(await on.job(policy={"approval": {}}))
        await change_machine(on, host="10.0.0.2")
        found = await action_codes(on, "/approvals/1", on.ben)
        assert found == {"approve": "approval_expired", "reject": None}
        assert (await on.http.get("/approvals/1")).json()["status"] == "pending"
        await refusals_agree(on, "/approvals/1", on.ben)
        assert (await on.http.get("/approvals/1")).json()["status"] == "expired"


async def test_what_may_be_done_with_an_execution_is_told_as_the_request_would_be(
    database: Database,
) -> None:
    async with app_with_approvers(database) as on:
        await change_machine(on, labels={"env": "dev"})
        job = await on.job(tags=["env=dev"])
        execution = await on.execute(job)
        path = f"/executions/{execution['id']}"
        grants = [{"role": "viewer"}, {"role": "operator", "scope": "env=prod"}]
        made = await on.http.post("/api-keys", json={"name": "pat", "grants": grants})
        pat = {"Authorization": f"Bearer {made.json()['token']}"}
        running = dict.fromkeys(("cancel", "pause", "resume")) | {"retry": "execution_not_ended"}
        assert await action_codes(on, path, on.ben) == running
        assert set((await action_codes(on, path, pat)).values()) == {"out_of_reach"}
        for who in (on.ben, pat):
            await refusals_agree(on, path, who)
        assert (await attempt(on, path, "cancel", on.ben)).status_code == 202
        ended = await action_codes(on, path, on.ben)
        assert ended == dict.fromkeys(("cancel", "pause", "resume"), "execution_ended") | {
            "retry": None
        }
        await refusals_agree(on, path, on.ben)


async def within_prod(on: AppWithApprovers, role: str) -> Mapping[str, str]:
    """Return a viewer of everything who has this role for env=prod only."""
    grants = [{"role": "viewer"}, {"role": role, "scope": "env=prod"}]
    made = await on.http.post("/api-keys", json={"name": f"pat-{role}", "grants": grants})
    return {"Authorization": f"Bearer {made.json()['token']}"}


async def as_viewer(on: AppWithApprovers) -> Mapping[str, str]:
    return {"Authorization": "Bearer " + await on.services.identities.create_key("vic", "viewer")}


async def test_what_may_be_done_with_a_job_is_told_by_its_state_and_its_tags(
    database: Database,
) -> None:
    async with app_with_approvers(database) as on:
        await change_machine(on, labels={"env": "dev"})
        job = await on.job(tags=["env=dev"])
        path = f"/jobs/{job}"
        pat, viewer = await within_prod(on, "manager"), await as_viewer(on)
        every = dict.fromkeys(
            ("execute", "update", "pause", "resume", "clone", "delete", "add_schedule")
        ) | {"add_trigger": None}
        assert await action_codes(on, path, on.ada) == every
        assert await action_codes(on, path, viewer) == {}
        assert set((await action_codes(on, path, pat)).values()) == {"out_of_reach"}
        await refusals_agree(on, path, pat)
        await on.execute(job)
        assert await action_codes(on, path, on.ada) == {**every, "delete": "job_running"}
        await on.http.post(f"{path}/pause")
        assert (await action_codes(on, path, on.ada))["execute"] == "job_is_paused"
        await refusals_agree(on, path, on.ada)
        draft = await on.http.patch(path, json={"state": "draft"}, headers={"If-Match": "*"})
        assert draft.status_code == 200, draft.text
        states = dict.fromkeys(("execute", "pause", "resume"), "job_is_draft")
        assert await action_codes(on, path, on.ada) == {**every, **states, "delete": "job_running"}
        await refusals_agree(on, path, on.ada)


async def test_what_may_be_done_with_a_schedule_and_a_trigger_is_told_by_their_job(
    database: Database,
) -> None:
    async with app_with_approvers(database) as on:
        job = await on.job(tags=["env=dev"])
        paths = []
        for noun, action in (("schedules", "add_schedule"), ("triggers", "add_trigger")):
            made = await attempt(on, f"/jobs/{job}", action, on.ada)
            assert made.status_code == 201, made.text
            paths.append(f"/{noun}/{made.json()['id']}")
        schedule, trigger = paths
        pat, viewer = await within_prod(on, "manager"), await as_viewer(on)
        ways = dict.fromkeys(("update", "pause", "resume", "trigger", "delete"))
        assert await action_codes(on, schedule, on.ada) == ways
        doors = dict.fromkeys(("update", "enable", "rotate", "disable", "delete"))
        assert await action_codes(on, trigger, on.ada) == doors
        for path in paths:
            assert await action_codes(on, path, viewer) == {}
            assert set((await action_codes(on, path, pat)).values()) == {"out_of_reach"}
            await refusals_agree(on, path, pat)
        await on.http.post(f"/jobs/{job}/pause")
        assert await action_codes(on, schedule, on.ada) == {**ways, "trigger": "job_is_paused"}
        await refusals_agree(on, schedule, on.ada)


async def test_what_may_be_done_with_a_target_and_a_credential_is_told_by_what_uses_them(
    database: Database,
) -> None:
    async with app_with_approvers(database) as on:
        body = {
            "name": "deploy",
            "type": "password",
            "username": "ada",
            "password": "of-the-canary",
        }
        made = await on.http.post("/credentials", json=body)
        credential = f"/credentials/{made.json()['id']}"
        (web,) = (await on.http.get("/targets?name=web-1")).json()["items"]
        target = f"/targets/{web['id']}"
        pat, viewer = await within_prod(on, "manager"), await as_viewer(on)
        free = dict.fromkeys(("update", "test", "bind", "rotate", "delete"))
        ways = ("update", "test", "scan_host_keys", "maintain", "reset_circuits", "delete")
        assert await action_codes(on, credential, on.ada) == free
        assert await action_codes(on, target, on.ada) == dict.fromkeys(ways)
        assert await action_codes(on, target, viewer) == {}
        assert set((await action_codes(on, target, pat)).values()) == {"out_of_reach"}
        await refusals_agree(on, target, pat)
        await change_machine(on, credential="deploy")
        await on.machine("behind", host="10.0.0.2", jump="web-1")
        assert await action_codes(on, credential, on.ada) == {**free, "delete": "credential_in_use"}
        assert (await action_codes(on, target, on.ada))["delete"] == "target_in_use"
        for path in (credential, target):
            await refusals_agree(on, path, on.ada)


async def test_a_webhook_that_is_disabled_can_be_enabled_and_sends_no_test(
    database: Database,
) -> None:
    async with app_with_approvers(database) as on:
        body = {"name": "chat", "url": "https://chat.example.com/hook", "events": ["job.*"]}
        made = await on.http.post("/webhooks", json=body)
        assert made.status_code == 201, made.text
        path = f"/webhooks/{made.json()['id']}"
        every = dict.fromkeys(("update", "rotate", "delete", "test", "redeliver"))
        assert await action_codes(on, path, on.ada) == every
        shown = (await on.http.get(path)).json()
        put = await on.http.put(path, json={**shown, "enabled": False})
        assert put.status_code == 200, put.text
        refused = dict.fromkeys(("test", "redeliver"), "webhook_disabled")
        assert await action_codes(on, path, on.ada) == {**every, **refused}
        answer = await attempt(on, path, "test", on.ada)
        assert answer.json()["code"] == "webhook_disabled"
