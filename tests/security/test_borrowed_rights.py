"""Rights that were granted by another user, and what remains if that user loses them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from api.kit import problem
from opsjobs.model.access import Grant, Principal, Scope
from opsjobs.model.grants import within
from opsjobs.model.identity import Identity
from opsjobs.model.token_claims import ClaimRules, external
from opsjobs.store.identities import IdentityStore
from opsjobs.store.identities.api_keys import NewKey, role_grant
from opsjobs.store.transaction import Database
from security.app_with_approvers import app_with_approvers

ADMIN, VIEWER = role_grant("admin"), role_grant("viewer")


async def key(people: IdentityStore, name: str, by: Principal) -> str:
    """Create a key of an administrator; return its token."""
    issued = await people.issue_key(NewKey(name, [ADMIN]), None, by)
    assert isinstance(issued, tuple)
    return issued[1]


async def may(people: IdentityStore, token: str) -> dict[str, Any] | None:
    """Return a summary of the rights of its bearer."""
    who = await people.by_token(token)
    return who and {
        "admin": who.has_permission("system:admin"),
        "reads": who.has_permission("jobs:read"),
        "roles": who.roles,
    }


WHOLE = {"admin": True, "reads": True, "roles": ("admin",)}
LESS = {"admin": False, "reads": True, "roles": ()}


@pytest.mark.parametrize("kind", ["user", "external", "service"])
async def test_a_key_may_no_more_than_its_maker_may_now(database: Database, kind: Any) -> None:
    people = IdentityStore(database)
    if kind == "user":
        await people.users.create("root", "hash", [ADMIN])
        await people.users.create("chief", "hash", [ADMIN])
    elif kind == "service":
        await people.services.create("root", "pem", [ADMIN])
    else:
        await people.remember(None, Principal.of_role("root", "admin", "external", person="root"))
    maker = await people.current_principal(Identity(kind, "root"))
    assert maker is not None
    first = await key(people, "first", maker)
    bearer = await people.by_token(first)
    assert bearer is not None
    second = await key(people, "second", bearer)
    assert [await may(people, token) for token in (first, second)] == [WHOLE] * 2
    if kind == "user":
        await people.users.change("1", "user.updated", grants=[VIEWER])
    elif kind == "service":
        await people.services.replace("1", "pem", [VIEWER], disabled=False)
    else:
        await people.external_people.refresh(
            Principal.of_role("root", "viewer", "external", person="root")
        )
    assert [await may(people, token) for token in (first, second)] == [LESS] * 2
    later = await people.current_principal(Identity("api_key", "second"))
    assert later is not None
    assert not later.has_permission("system:admin")
    gone = {"user": "users", "service": "service_clients", "external": "external_people"}[kind]
    await database.fetch(f"delete from {gone} returning name")
    assert [await may(people, token) for token in (first, second)] == [None] * 2


async def test_an_older_token_does_not_undo_what_a_newer_one_said(database: Database) -> None:
    people = IdentityStore(database)

    async def roles() -> tuple[str, ...]:
        stands = await people.current_principal(Identity("external", "eva"))
        assert stands is not None
        return stands.roles

    admin, viewer = [
        Principal.of_role("eva", role, "external", person="eva") for role in ("admin", "viewer")
    ]
    await people.remember(
        None, external({"sub": "eva", "roles": ["admin"], "iat": 1_000}, ClaimRules())
    )
    assert await roles() == ("admin",)
    await people.external_people.refresh(replace(viewer, issued_at=2_000))
    for older in (replace(admin, issued_at=1_000), admin):
        await people.external_people.refresh(older)
        await people.remember(None, older)
        assert await roles() == ("viewer",)
    await people.external_people.refresh(replace(admin, issued_at=3_000))
    assert await roles() == ("admin",)


async def test_the_keys_of_the_installation_itself_answer_to_nobody(database: Database) -> None:
    people = IdentityStore(database)
    await people.ensure_key("admin", "admin", "a-token-of-16-characters-or-more")
    admin = await people.by_token("a-token-of-16-characters-or-more")
    assert admin is not None
    assert await may(people, await key(people, "its-key", admin)) == WHOLE


def test_what_is_left_of_a_grant_lies_within_both_scopes() -> None:
    held = Principal(
        "k", "api_key", (Grant.of_role("operator"), Grant.of_role("viewer")), ("operator", "viewer")
    )
    bound = Principal(
        "u",
        "user",
        (Grant.of_role("operator", Scope.parse("env=staging")), Grant.of_role("viewer")),
        (),
    )
    left = within(held, bound)
    assert left.roles == ("viewer",)
    assert left.reach("jobs:read").everywhere
    assert left.reach("jobs:execute").scopes == (Scope.parse("env=staging"),)


async def test_nobody_takes_over_who_holds_more(database: Database) -> None:
    async with app_with_approvers(database) as app:
        for name in ("boss", "chief"):
            await app.services.identities.users.create(name, "hash", [ADMIN])
        await app.services.identities.users.create(
            "clerk",
            "hash",
            [system := {"role": None, "permissions": ["system:admin"], "scope": ""}],
        )
        await app.services.identities.services.create("portal", "pem", [ADMIN])
        pem = (
            Ed25519PrivateKey.generate()
            .public_key()
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )
        made = await app.http.post(
            "/api-keys", json={"name": "keeper", "permissions": ["system:admin"]}
        )
        keeper = {"Authorization": f"Bearer {made.json()['token']}"}
        draft = {"name": "boss", "password": "my own secret pw 77", "grants": [system]}
        robot = {"name": "portal", "public_key": pem, "grants": [system]}
        for verb, path, body in (
            ("PUT", "/users/1", draft),
            ("POST", "/users/1/disable", None),
            ("POST", "/users/1/enable", None),
            ("DELETE", "/users/1", None),
            ("PUT", "/services/1", robot),
            ("DELETE", "/services/1", None),
        ):
            problem(
                await app.http.request(verb, path, json=body, headers=keeper), 403, "more_than_held"
            )
        assert (await app.http.post("/users/3/disable", headers=keeper)).status_code == 200
        assert (await app.http.put("/users/1", json=draft)).status_code == 200


async def test_a_service_may_no_more_than_whoever_registered_it_may_now(database: Database) -> None:
    people = IdentityStore(database)
    await people.users.create("root", "hash", [ADMIN])
    await people.users.create("chief", "hash", [ADMIN])
    maker, chief = (
        await people.current_principal(Identity("user", "root")),
        await people.current_principal(Identity("user", "chief")),
    )
    assert maker is not None
    bearer = await people.by_token(await key(people, "roots-key", maker))
    await people.services.create("direct", "pem", [ADMIN], by=maker)
    await people.services.create("by-key", "pem", [ADMIN], by=bearer)
    await people.services.create(
        "by-service",
        "pem",
        [ADMIN],
        by=await people.current_principal(Identity("service", "by-key")),
    )
    names = ("direct", "by-key", "by-service", "direct/user/chief")

    async def may_all() -> list[bool | None]:
        found = [await people.current_principal(Identity("service", name)) for name in names]
        return [who and who.has_permission("system:admin") for who in found]

    assert await may_all() == [True] * 4
    await people.users.change("1", "user.updated", grants=[VIEWER])
    assert await may_all() == [False] * 4
    await people.users.change("1", "user.updated", grants=[ADMIN])
    await people.users.change("1", "user.disabled", disabled=True)
    assert await may_all() == [None] * 4
    adopted = await people.services.replace("1", "pem", [ADMIN], disabled=False, by=chief)
    assert adopted.made_by == "chief"
    assert await may_all() == [True, None, None, True]


async def test_services_that_change_each_other_do_not_come_to_answer_to_each_other(
    database: Database,
) -> None:
    people = IdentityStore(database)
    for name in ("one", "two"):
        await people.services.create(name, "pem", [ADMIN])
    one, two = [
        await people.current_principal(Identity("service", name)) for name in ("one", "two")
    ]
    await people.services.replace("1", "pem", [ADMIN], disabled=False, by=two)
    await people.services.replace("2", "pem", [ADMIN], disabled=False, by=one)
    assert await people.current_principal(Identity("service", "one")) is not None


async def test_system_admin_alone_neither_deletes_an_administrators_key_nor_begins_the_audit_log_anew(
    database: Database,
) -> None:
    async with app_with_approvers(database) as app:
        boss = (await app.http.post("/api-keys", json={"name": "boss", "role": "admin"})).json()
        made = await app.http.post(
            "/api-keys", json={"name": "keeper", "permissions": ["system:admin"]}
        )
        keeper = {"Authorization": f"Bearer {made.json()['token']}"}
        problem(
            await app.http.delete(f"/api-keys/{boss['id']}", headers=keeper), 403, "more_than_held"
        )
        problem(
            await app.http.post("/audit/anchor", json={"reason": "x"}, headers=keeper),
            403,
            "forbidden",
        )
        assert (await app.http.delete(f"/api-keys/{boss['id']}")).status_code == 204
        assert (
            await app.http.delete(f"/api-keys/{made.json()['id']}", headers=keeper)
        ).status_code == 204
