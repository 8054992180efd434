"""`can` and `cannot` of single objects: just what the request itself would say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2

from opsjobs.store.transaction import Database
from security.app_with_approvers import Stage, stage

REQUESTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "approve": ("approve", {}),
    "reject": ("reject", {}),
    "override": ("approve", {"override_safety": True, "reason": "alone tonight"}),
    "cancel": ("cancel", {}),
    "pause": ("pause", {}),
    "resume": ("resume", {}),
    "retry": ("retry", {"which": "unsuccessful"}),
}


async def told(on: Stage, path: str, who: Mapping[str, str]) -> dict[str, str | None]:
    """Each action of `can` and `cannot`, with the code of its refusal."""
    answer = await on.http.get(path, headers=who)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert not {*body["can"]} & {*body["cannot"]}
    refused = {action: why["code"] for action, why in body["cannot"].items()}
    return {**dict.fromkeys(body["can"]), **refused}


async def attempt(on: Stage, path: str, action: str, who: Mapping[str, str]) -> httpx2.Response:
    verb, body = REQUESTS[action]
    return await on.http.post(f"{path}/{verb}", json=body, headers=who)


async def change_machine(on: Stage, **change: Any) -> None:
    """Change web-1, on which everything runs."""
    (target,) = (await on.http.get("/targets?name=web-1")).json()["items"]
    answer = await on.http.patch(f"/targets/{target['id']}", json=change)
    assert answer.status_code == 200, answer.text


async def refusals_agree(on: Stage, path: str, who: Mapping[str, str]) -> None:
    """Send what is told to be refused: it is, by this code and in these words."""
    body = (await on.http.get(path, headers=who)).json()
    for action, why in body["cannot"].items():
        answer = (await attempt(on, path, action, who)).json()
        assert (answer["code"], answer["detail"]) == (why["code"], why["detail"]), action


async def test_who_may_decide_an_approval_is_told_as_the_decision_would_be(
    database: Database,
) -> None:
    async with stage(database) as on:
        job = await on.job(policy={"approval": {"approvers": 2}})
        await on.execute(job)
        path = "/approvals/1"
        viewer = {
            "Authorization": "Bearer " + await on.services.identities.create_key("vic", "viewer")
        }
        assert await told(on, path, on.ada) == {
            "approve": "self_approval", "reject": None, "override": None,
        }  # fmt: skip
        assert await told(on, path, on.ben) == {"approve": None, "reject": None}
        assert await told(on, path, viewer) == {}, "what a role never may is in neither"
        for who in (on.ada, on.ben, viewer):
            await refusals_agree(on, path, who)
        assert (await attempt(on, path, "approve", on.ben)).status_code == 200
        assert await told(on, path, on.ben) == {"approve": "approved_already", "reject": None}
        await refusals_agree(on, path, on.ben)
        assert await told(on, path, on.eve) == {"approve": None, "reject": None}
        assert (await attempt(on, path, "approve", on.eve)).status_code == 200
        for who in (on.ada, on.ben, on.eve):
            assert set((await told(on, path, who)).values()) == {"approval_decided"}
            await refusals_agree(on, path, who)


async def test_an_approval_of_what_has_changed_is_told_to_have_expired_and_is_not_closed_by_that(
    database: Database,
) -> None:
    async with stage(database) as on:
        await on.execute(await on.job(policy={"approval": {}}))
        await change_machine(on, host="10.0.0.2")
        found = await told(on, "/approvals/1", on.ben)
        assert found == {"approve": "approval_expired", "reject": None}
        assert (await on.http.get("/approvals/1")).json()["status"] == "pending"
        await refusals_agree(on, "/approvals/1", on.ben)
        assert (await on.http.get("/approvals/1")).json()["status"] == "expired"


async def test_what_may_be_done_with_an_execution_is_told_as_the_request_would_be(
    database: Database,
) -> None:
    async with stage(database) as on:
        await change_machine(on, labels={"env": "dev"})
        job = await on.job(tags=["env=dev"])
        execution = await on.execute(job)
        path = f"/executions/{execution['id']}"
        grants = [{"role": "viewer"}, {"role": "operator", "scope": "env=prod"}]
        made = await on.http.post("/api-keys", json={"name": "pat", "grants": grants})
        pat = {"Authorization": f"Bearer {made.json()['token']}"}
        running = dict.fromkeys(("cancel", "pause", "resume")) | {"retry": "execution_not_ended"}
        assert await told(on, path, on.ben) == running
        assert set((await told(on, path, pat)).values()) == {"out_of_reach"}
        for who in (on.ben, pat):
            await refusals_agree(on, path, who)
        assert (await attempt(on, path, "cancel", on.ben)).status_code == 202
        ended = await told(on, path, on.ben)
        assert ended == dict.fromkeys(("cancel", "pause", "resume"), "execution_ended") | {
            "retry": None
        }
        await refusals_agree(on, path, on.ben)
