"""Point 8: requesters do not approve; an approval is bound to a hash of what runs, and expires."""

from __future__ import annotations

from typing import Any

import pytest

from api.kit import problem
from opsjobs.engine.launching.approval_service import combine_terms
from opsjobs.engine.launching.safety_service import SafetyResult
from opsjobs.model.access import ApprovalPolicy, Principal, Requester, Scope
from opsjobs.model.action import FrozenApproval
from opsjobs.model.approval import Approval, ApprovalStatus, fingerprint, person_of
from opsjobs.model.errors import Forbidden
from opsjobs.model.safety_verdict import Finding, SafetyJudgement, SafetyVerdict
from opsjobs.model.secret import Secret
from opsjobs.model.target import HostKeyPolicy, Target, TargetDraft, Transport
from opsjobs.store.identities.api_keys import NewKey, role_grant
from opsjobs.store.transaction import Database
from security.app_with_approvers import app_with_approvers

POLICY = {"approval": {"approvers": 2, "expires": "4h"}}


async def test_a_job_that_asks_for_two_begins_when_two_others_have_approved(
    database: Database,
) -> None:
    async with app_with_approvers(database) as app:
        execution = await app.execute(await app.job(policy=POLICY))
        assert (execution["status"], execution["waiting_on"]["kind"]) == (
            "pending_approval",
            "approval",
        )
        path = f"/approvals/{execution['waiting_on']['approval']}"
        shown = (await app.http.get(path)).json()
        would = shown["would_run"]
        assert [target["name"] for target in would["targets"]] == ["web-1"]
        assert [action["command"] for action in would["actions"]] == ["uptime"]
        body = {"hash": shown["hash"], "reason": "looked at it"}
        own = problem(await app.http.post(f"{path}/approve", json=body), 403, "self_approval")
        assert "safety:override" in own["detail"]
        problem(
            await app.http.post(f"{path}/approve", json={"hash": "0" * 64}, headers=app.ben),
            409,
            "approval_changed",
        )
        first = (await app.http.post(f"{path}/approve", json=body, headers=app.ben)).json()
        assert (first["status"], [said["by"] for said in first["decisions"]]) == (
            "pending",
            ["ben"],
        )
        problem(
            await app.http.post(f"{path}/approve", json=body, headers=app.ben),
            409,
            "approved_already",
        )
        assert (await app.http.post(f"{path}/approve", json=body, headers=app.eve)).json()[
            "status"
        ] == "approved"
        assert (await app.http.get(f"/executions/{execution['id']}")).json()["status"] == "queued"
        assert await app.audited() == [
            ("ben", "approval.approved", "looked at it"),
            ("eve", "approval.approved", "looked at it"),
        ]


async def test_those_that_one_may_approve_are_listed_and_counted(database: Database) -> None:
    async with app_with_approvers(database) as app:
        for_all = await app.execute(await app.job(policy=POLICY))
        for_eve = await app.execute(
            await app.job("eves", policy={"approval": {"approvers": 1, "users": ["eve"]}})
        )

        async def waiting(headers: Any = None) -> list[int]:
            query = {"can": "approve", "page": 1, "sort": "id"}
            answer = await app.http.get("/approvals", params=query, headers=headers)
            body = answer.json()
            assert body["total"] == len(body["items"])
            return [item["execution_id"] for item in body["items"]]

        assert await waiting() == []  # the requester may not approve
        assert await waiting(app.ben) == [for_all["id"]]
        path = f"/approvals/{for_all['waiting_on']['approval']}"
        await app.http.post(f"{path}/approve", headers=app.ben)
        assert await waiting(app.ben) == []
        assert for_all["id"] in await waiting(app.eve)
        await app.http.post(f"/executions/{for_eve['id']}/cancel")
        await app.http.post(f"{path}/approve", headers=app.eve)
        assert await waiting(app.eve) == []
        problem(await app.http.get("/approvals?can=reject"), 422, "invalid")


async def test_an_approval_expires_when_what_would_run_where_has_changed(
    database: Database,
) -> None:
    async with app_with_approvers(database) as app:
        execution = await app.execute(await app.job(policy=POLICY))
        path = f"/approvals/{execution['waiting_on']['approval']}"
        await app.services.inventory.replace("1", TargetDraft(name="web-1", host="10.6.6.6"))
        problem(
            await app.http.post(f"{path}/approve", json={}, headers=app.ben),
            409,
            "approval_expired",
        )
        ended = (await app.http.get(f"/executions/{execution['id']}")).json()
        assert (ended["status"], "has changed" in ended["error"]) == ("rejected", True)


@pytest.mark.parametrize("door", ["execute", "run", "retry", "trigger"])
async def test_every_door_asks_and_an_override_with_a_reason_passes(
    database: Database, door: str
) -> None:
    async with app_with_approvers(database) as app:
        job = await app.job(policy=POLICY)
        path, body = await app.launch_request(door, job, policy=POLICY)
        asked = (await app.http.post(path, json=body)).json()
        assert asked["status"] == "pending_approval", asked
        problem(
            await app.http.post(path, json={**body, "override_safety": True}), 422, "reason_missing"
        )
        over = {**body, "override_safety": True, "reason": "alone on call"}
        problem(await app.http.post(path, json=over, headers=app.ben), 403, "forbidden")
        assert (await app.http.post(path, json=over)).json()["status"] == "queued"
        assert await app.audited() == [("ada", "safety.overridden", "alone on call")]


async def test_who_is_alone_passes_by_an_override_with_a_reason(
    database: Database,
) -> None:
    async with app_with_approvers(database) as app:
        execution = await app.execute(await app.job(policy=POLICY))
        path = f"/approvals/{execution['waiting_on']['approval']}/approve"
        problem(await app.http.post(path, json={"override_safety": True}), 422, "reason_missing")
        over = {"override_safety": True, "reason": "alone on call"}
        problem(await app.http.post(path, json=over, headers=app.ben), 403, "forbidden")
        assert (await app.http.post(path, json=over)).json()["status"] == "approved"
        assert await app.audited() == [("ada", "approval.overridden", "alone on call")]


async def test_only_those_named_may_decide(database: Database) -> None:
    async with app_with_approvers(database) as app:
        for name in ("eve", "zoe"):
            await app.services.identities.users.create(
                name, "hash", [{"role": "admin", "permissions": [], "scope": ""}]
            )
        zoe = Principal.of_role("zoe", "admin", "user", person="zoe")
        eve = Principal.of_role("eve", "admin", "user", person="eve")
        _, token = await app.services.identities.issue_key(
            NewKey("laptop", [role_grant("manager")], None, "eve"), None, eve
        )
        _, token_of_zoe = await app.services.identities.issue_key(
            NewKey("tower", [role_grant("manager")], None, "eve"), None, zoe
        )
        hers, not_hers = ({"Authorization": f"Bearer {one}"} for one in (token, token_of_zoe))
        execution = await app.execute(await app.job(policy={"approval": {"users": ["eve"]}}))
        path = f"/approvals/{execution['waiting_on']['approval']}/approve"
        problem(await app.http.post(path, json={}, headers=app.ben), 403, "not_an_approver")
        by_name = problem(
            await app.http.post(path, json={}, headers=app.eve), 403, "not_an_approver"
        )
        assert "an API key" in by_name["detail"], "whoever may make a key could give it her name"
        by_person = problem(
            await app.http.post(path, json={}, headers=not_hers), 403, "not_an_approver"
        )
        assert "only if this person has made it" in by_person["detail"], "zoe knows its token"
        assert (await app.http.post(path, json={}, headers=hers)).json()["status"] == "approved"
        bad = {"approval": {"approvers": 2, "users": ["eve"]}}
        body = {"name": "x", "actions": [{"type": "command", "command": "true"}], "policy": bad}
        problem(await app.http.post("/jobs", json=body), 422, "too_few_approvers")


EVES = [
    Principal.of_role("eve", "manager", "user", person="eve"),
    Principal.of_role("eve", "manager", "external"),
    Principal.of_role("laptop", "manager", "api_key", person="eve"),
    Principal.of_role("portal/user/eve", "manager", "service", person="eve"),
]
NOT_EVE = [
    Principal.of_role("eve", "manager", "api_key"),
    Principal.of_role("eve", "manager", "api_key", person="ben"),
    Principal.of_role("eve", "manager", "service"),
    Principal.of_role("ben", "manager", "user", person="ben"),
]


@pytest.mark.parametrize("principal", EVES + NOT_EVE, ids=lambda p: f"{p.kind}-{p.name}-{p.person}")
def test_users_are_people(principal: Principal) -> None:
    approval = Approval(1, "", 1, "", "", ApprovalStatus.PENDING, *([None] * 5), users=["eve"])  # type: ignore[arg-type]
    for approve in (True, False):
        if principal in EVES:
            approval.check(principal, ADA, approve=approve, override=False, reason=None)
        else:
            with pytest.raises(Forbidden, match="for eve to decide"):
                approval.check(principal, ADA, approve=approve, override=False, reason=None)


async def test_a_workflows_step_is_not_approved_by_who_launched_it(
    database: Database,
) -> None:
    async with app_with_approvers(database) as app:
        actions = [
            {"type": "approval", "key": "go", "message": "May we?"},
            {"type": "command", "command": "uptime"},
        ]
        execution = await app.execute(await app.job(actions=actions))
        asked = await app.services.approval_service.ask(
            execution["id"], FrozenApproval.model_validate(actions[0])
        )
        assert asked.hash is not None
        path = f"/approvals/{asked.id}/approve"
        problem(await app.http.post(path, json={}), 403, "self_approval")
        assert (await app.http.post(path, json={"hash": asked.hash}, headers=app.ben)).json()[
            "status"
        ] == "approved"


ADA = Requester("ada", "user", "ada")


def key_of(person: str | None, maker: str) -> Principal:
    """Return an API key that `maker` made for this person."""
    return Principal("a-key", "api_key", (), ("manager",), person, (maker,))


SAME = [
    (ADA, Principal.of_role("ada", "manager", "user", person="ada")),
    (ADA, Principal.of_role("ada-s-key", "manager", "api_key", person="ada")),
    (
        Requester("ada-s-key", "api_key", "ada"),
        Principal.of_role("ada", "manager", "user", person="ada"),
    ),
    (Requester("ada"), Principal.of_role("ada", "manager", "external")),
    (Requester("ada"), Principal.of_role("key", "manager", "api_key", person="ada")),
    (ADA, key_of("eve", "user/ada")),  # its maker has seen its token
    (
        Requester("eves-key", "api_key", "eve", ["user/ada"]),
        Principal.of_role("ada", "manager", "user", person="ada"),
    ),
    (ADA, key_of(None, "admin")),  # its owner is not known
    (
        Requester("a-key", "api_key", None, ["admin"]),
        Principal.of_role("eve", "manager", "user", person="eve"),
    ),
    (
        Requester("a-key", "api_key", None, ["admin"]),
        Principal.of_role("admin", "admin", "api_key"),
    ),
    (
        Requester("portal/user/ada", "service", "ada"),
        Principal.of_role("portal", "manager", "service"),
    ),
    (
        Requester("portal", "service"),
        Principal.of_role("portal/user/ada", "manager", "service", person="ada"),
    ),
]
ANYBODY = Requester("a-key", "api_key", None, ["admin"])


@pytest.mark.parametrize(("requester", "approver"), SAME)
def test_one_person_is_not_four_eyes(requester: Requester, approver: Principal) -> None:
    approval = Approval(1, "", 1, "", "", ApprovalStatus.PENDING, *([None] * 5))  # type: ignore[arg-type]
    with pytest.raises(Forbidden):
        approval.check(approver, requester, approve=True, override=False, reason=None)
    approval.check(approver, requester, approve=False, override=False, reason=None)
    if requester != ANYBODY:
        other = Principal.of_role("ben", "manager", "user", person="ben")
        approval.check(other, requester, approve=True, override=False, reason=None)


async def test_a_key_is_of_whom_it_was_made_for(database: Database) -> None:
    async with app_with_approvers(database) as app:
        for name in ("mallory", "zoe"):
            await app.services.identities.users.create(
                name, "hash", [{"role": "manager", "permissions": [], "scope": ""}]
            )
        body = {
            "name": "j",
            "actions": [{"type": "command", "command": "uptime"}],
            "targets": {"ids": ["web-1"]},
        }
        made = await app.http.post(
            "/jobs", json={**body, "policy": {"approval": {"approvers": 1}}}, headers=app.ben
        )
        job = made.json()["id"]

        async def key(name: str, **fields: Any) -> dict[str, str]:
            made = await app.http.post(
                "/api-keys", json={"name": name, "role": "manager", **fields}
            )
            assert made.status_code == 201, made.text
            return {"Authorization": f"Bearer {made.json()['token']}"}

        async def approve(asked: dict[str, str], by: Any) -> Any:
            execution = (await app.http.post(f"/jobs/{job}/execute", json={}, headers=asked)).json()
            return await app.http.post(
                f"/approvals/{execution['waiting_on']['approval']}/approve", json={}, headers=by
            )

        laptop, tower = await key("laptop", person="mallory"), await key("tower", person="mallory")
        zoe, whose = await key("zoe", person="zoe"), await key("whose")
        problem(await approve(laptop, tower), 403, "self_approval")
        assert (await approve(laptop, zoe)).status_code == 200
        problem(await approve(laptop, app.ada), 403, "self_approval")  # ada made it
        told = problem(await approve(whose, zoe), 403, "self_approval")
        assert "--person" in told["detail"]
        problem(await approve(zoe, whose), 403, "self_approval")
        body = {"name": "x", "role": "viewer", "person": "nobody"}
        problem(await app.http.post("/api-keys", json=body), 422, "unknown_person")


def test_an_override_takes_a_grant_without_a_scope() -> None:
    approval = Approval(1, "", 1, "", "", ApprovalStatus.PENDING, *([None] * 5))  # type: ignore[arg-type]
    for scope, ok in (("env=staging", False), ("", True)):
        chief = Principal.of_role("ada", "admin", "user", scope=Scope.parse(scope), person="ada")
        try:
            approval.check(chief, ADA, approve=True, override=True, reason="alone")
        except Forbidden:
            assert not ok
        else:
            assert ok


def test_a_person_with_two_identities_counts_once() -> None:
    user, key = [
        Principal.of_role(n, "manager", k, person="ben")
        for n, k in (("ben", "user"), ("bens-key", "api_key"))
    ]
    assert person_of(user) == person_of(key)
    assert person_of(Principal.of_role("ben", "manager", "user")) != person_of(
        Principal.of_role("ben", "manager", "api_key")
    )


WEB = Target("1", "web-1", "10.0.0.1", 22, Transport.SSH)
WHAT: dict[str, Any] = {
    "actions": [{"command": "uptime"}],
    "parameters": {"n": 1, "p": Secret("x")},
    "policy": {"a": 1.0},
}


@pytest.mark.parametrize(
    "changed",
    [
        {"actions": [{"command": "reboot"}]},
        {"parameters": {"n": 2, "p": Secret("x")}},
        {"parameters": {"n": 1, "p": Secret("y")}},
        {"policy": {"a": 2.0}},
        {"targets": []},
        {"targets": [Target("1", "web-1", "10.0.0.2", 22, Transport.SSH)]},
        {"targets": [Target("1", "web-1", "10.0.0.1", 22, Transport.SSH, credential="7")]},
        {"targets": [Target("1", "web-1", "10.0.0.1", 22, Transport.SSH, labels={"dir": "/"})]},
        {
            "targets": [
                Target("1", "web-1", "10.0.0.1", 22, Transport.SSH, host_keys=["ssh-ed25519 AAAA"])
            ]
        },
        {
            "targets": [
                Target(
                    "1",
                    "web-1",
                    "10.0.0.1",
                    22,
                    Transport.SSH,
                    host_key_policy=HostKeyPolicy.UNCHECKED,
                )
            ]
        },
        {"salt": b"other"},
    ],
)
def test_the_hash_is_of_actions_values_policy_and_machines(
    changed: dict[str, Any],
) -> None:
    def of(**given: Any) -> str:
        return fingerprint("job", **{"targets": [WEB], "salt": b"salt", **WHAT, **given})

    assert of() == of(policy={"a": 1}), "as it comes back from the database"
    assert of() != of(**changed)


def test_the_author_does_not_displace_those_whom_the_safety_policy_names() -> None:
    dangerous = SafetyJudgement(
        (Finding("delete", SafetyVerdict.NEEDS_APPROVAL, "why", "rm -rf /srv"),)
    )
    asked = combine_terms(
        ApprovalPolicy(users=["pal", "bob"], approvers=2),
        SafetyResult(dangerous, [ApprovalPolicy(roles=["security"])]),
    )
    assert asked is not None
    assert (asked.roles, asked.users, asked.needed) == (("security",), (), 2)
