"""Point 8: different people approve, however many tokens one has; a role counts in its scope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from api.kit import problem
from opsjobs.model.access import Grant, Principal, Requester, Scope
from opsjobs.model.approval import Approval, ApprovalStatus
from opsjobs.model.errors import Conflict, Forbidden
from opsjobs.model.grants import both, both_roles
from opsjobs.model.identity import Identity
from opsjobs.model.token_claims import ClaimRules, external
from opsjobs.store.identities import IdentityStore
from opsjobs.store.identities.api_keys import NewKey, role_grant
from opsjobs.store.transaction import Database
from security.app_with_approvers import AppWithApprovers, app_with_approvers

ADA = Requester("ada", "user", "ada")
TWO = {"approval": {"approvers": 2}}


def asked(**fields: Any) -> Approval:
    return Approval(1, "", 1, "", "", ApprovalStatus.PENDING, *([None] * 5), **fields)  # type: ignore[arg-type]


async def approve(
    app: AppWithApprovers, execution: Mapping[str, Any], by: Mapping[str, str]
) -> Any:
    return await app.http.post(
        f"/approvals/{execution['waiting_on']['approval']}/approve", json={}, headers=by
    )


async def test_who_asked_for_an_ad_hoc_execution_does_not_approve_its_retry(
    database: Database,
) -> None:
    async with app_with_approvers(database) as app:
        path, body = await app.launch_request("run", 0, policy={"approval": {"approvers": 1}})
        first = (await app.http.post(path, json=body, headers=app.ben)).json()
        await app.http.post(f"/executions/{first['id']}/cancel")
        again = (
            await app.http.post(
                f"/executions/{first['id']}/retry", json={"which": "unsuccessful"}, headers=app.ada
            )
        ).json()
        shown = (await app.http.get(f"/approvals/{again['waiting_on']['approval']}")).json()
        assert shown["would_run"]["authors"] == [
            {"name": "ben", "wrote": f"the ad-hoc execution {first['id']}"}
        ]
        told = problem(await approve(app, again, app.ben), 403, "author_approval")
        assert "ben wrote the ad-hoc execution" in told["detail"]
        assert (await approve(app, again, app.eve)).json()["status"] == "approved"


@pytest.mark.parametrize("spelling", [str.lower, str.upper])
async def test_a_step_is_known_by_its_uuid_in_any_case(database: Database, spelling: Any) -> None:
    async with app_with_approvers(database) as app:
        inner = await app.http.post(
            "/jobs",
            json={"name": "inner", "actions": [{"type": "command", "command": "uptime"}]},
            headers=app.ben,
        )
        step = {"type": "job", "job": spelling(inner.json()["uuid"])}
        execution = await app.execute(
            await app.job(actions=[step], policy={"approval": {"approvers": 1}})
        )
        problem(await approve(app, execution, app.ben), 403, "author_approval")
        assert (await approve(app, execution, app.eve)).json()["status"] == "approved"


async def test_a_maker_and_the_key_that_they_made_count_once(database: Database) -> None:
    async with app_with_approvers(database) as app:
        for name in ("zoe", "mgr"):
            await app.services.identities.users.create(
                name, "hash", [{"role": "admin", "permissions": [], "scope": ""}]
            )
        root = Principal.of_role("ben", "admin", "api_key")
        _, token = await app.services.identities.issue_key(
            NewKey("spare", [role_grant("manager")], None, "mgr"), None, root
        )
        spare = {"Authorization": f"Bearer {token}"}
        execution = await app.execute(await app.job(policy=TWO))
        assert (await approve(app, execution, app.ben)).json()["status"] == "pending"
        told = problem(await approve(app, execution, spare), 409, "approved_already")
        assert "spare and ben" in told["detail"]
        assert (await approve(app, execution, app.eve)).json()["status"] == "approved"


async def test_a_service_and_whoever_registered_it_count_once(database: Database) -> None:
    people, manager = IdentityStore(database), [{"role": "manager", "permissions": [], "scope": ""}]
    for name in ("mia", "ben"):
        await people.users.create(name, "hash", [{"role": "admin", "permissions": [], "scope": ""}])
    mia = await people.current_principal(Identity("user", "mia"))
    assert mia is not None
    await people.services.create("portal", "pem", manager, by=mia)
    approval, said = asked(users=["ben"]), {"approve": True, "override": False, "reason": None}
    for name in ("portal", "portal/user/ben"):
        service = await people.current_principal(Identity("service", name))
        assert service is not None
        with pytest.raises(Forbidden, match="may be the same person"):
            asked().check(service, Requester.from_principal(mia), **said)
        asked().check(service, ADA, **said)
    assert service is not None
    approval.check(service, ADA, **said)  # it still acts for ben


async def test_whoever_changed_a_service_may_sign_for_it(database: Database) -> None:
    people, manager = IdentityStore(database), [{"role": "manager", "permissions": [], "scope": ""}]
    await people.users.create("mia", "hash", [{"role": "admin", "permissions": [], "scope": ""}])
    mia = await people.current_principal(Identity("user", "mia"))
    assert mia is not None
    for name in ("portal", "mail"):
        await people.services.create(name, "pem", manager)
    mail = await people.current_principal(Identity("service", "mail"))
    said = {"approve": True, "override": False, "reason": None}
    for changer in (mail, mia):
        assert changer is not None
        before = await people.current_principal(Identity("service", "portal"))
        assert before is not None
        asked().check(before, Requester.from_principal(changer), **said)
        await people.services.replace("1", "another pem", manager, disabled=False, by=changer)
        after = await people.current_principal(Identity("service", "portal"))
        assert after is not None
        with pytest.raises(Forbidden, match="may be the same person"):
            asked().check(after, Requester.from_principal(changer), **said)


async def test_the_person_behind_a_makers_key_and_the_keys_that_it_made_count_once(
    database: Database,
) -> None:
    people = IdentityStore(database)
    for name in ("ada", "ben", "cid"):
        await people.users.create(name, "hash", [{"role": "admin", "permissions": [], "scope": ""}])
    maker = Principal.of_role("admin", "admin", "api_key")
    made: dict[str, Principal] = {}
    for name, person in (("first", "ada"), ("second", "ben"), ("third", "cid")):
        await people.issue_key(NewKey(name, [role_grant("admin")], None, person), None, maker)
        key = await people.by_key_name(name)
        assert key is not None
        maker = made[name] = key
    user = await people.current_principal(Identity("user", "ada"))
    assert user is not None
    said = {"approve": True, "override": False, "reason": None}
    for asker, key in (
        (user, made["second"]),
        (user, made["third"]),
        (made["first"], made["third"]),
    ):
        with pytest.raises(Forbidden, match="may be the same person"):
            asked().check(key, Requester.from_principal(asker), **said)
    asked().check(made["third"], Requester("dan", "user", "dan"), **said)


PORTALS = [
    Principal.of_role("portal", "manager", "service"),
    Principal.of_role("portal/user/mgr", "manager", "service", person="mgr"),
    Principal.of_role("portal/user/eve", "manager", "service", person="eve"),
]


@pytest.mark.parametrize("first", PORTALS, ids=lambda p: p.name)
@pytest.mark.parametrize("second", PORTALS, ids=lambda p: p.name)
def test_a_service_counts_once_for_whomever_it_speaks(first: Principal, second: Principal) -> None:
    approval, said = asked(needed=2), {"approve": True, "override": False, "reason": None}
    with pytest.raises(Conflict, match="approve"):
        approval.check(second, ADA, approvers=[Requester.from_principal(first)], **said)
    other = Principal.of_role("portals/user/eve", "manager", "service", person="eve")
    if first.person != "eve":
        approval.check(other, ADA, approvers=[Requester.from_principal(first)], **said)


async def test_a_service_passes_by_a_role_only_if_the_user_has_it_too(
    database: Database,
) -> None:
    people = IdentityStore(database)
    await people.users.create("op", "hash", [{"role": "operator", "permissions": [], "scope": ""}])
    await people.users.create(
        "chief", "hash", [{"role": "manager", "permissions": [], "scope": ""}]
    )
    await people.services.create(
        "portal", "pem", [{"role": "manager", "permissions": [], "scope": ""}]
    )
    operator = await people.current_principal(Identity("service", "portal/user/op"))
    chief = await people.current_principal(Identity("service", "portal/user/chief"))
    assert operator is not None
    assert chief is not None
    approval, said = asked(roles=["manager"]), {"approve": True, "override": False, "reason": None}
    with pytest.raises(Forbidden, match="the role manager to decide"):
        approval.check(operator, ADA, **said)
    approval.check(chief, ADA, **said)


DEV = Scope.parse("env=dev")
SCOPED = [
    Principal(
        "eve",
        "user",
        (Grant.of_role("manager", DEV), Grant.of_role("operator")),
        ("manager", "operator"),
        "eve",
    ),
    external(
        {"sub": "eve", "username": "eve", "roles": ["manager"], "scope_labels": "env=dev"},
        ClaimRules(),
    ),
]
SERVICE = Principal.of_role("portal", "manager", "service")
SCOPED.append(
    Principal(
        "portal/user/eve",
        "service",
        both(SERVICE, SCOPED[0]),
        both_roles(SERVICE, SCOPED[0]),
        "eve",
    )
)


@pytest.mark.parametrize("principal", SCOPED, ids=lambda p: p.kind)
def test_a_role_within_a_scope_counts_inside_of_it_only(principal: Principal) -> None:
    approval, said = asked(roles=["manager"]), {"approve": True, "override": False, "reason": None}
    approval.check(principal, ADA, labels={"env": "dev"}, **said)
    for labels in ({"env": "prod"}, {}):
        with pytest.raises(Forbidden, match="within a scope counts only"):
            approval.check(principal, ADA, labels=labels, **said)
